"""Every way of naming a device leads to it, or to a line that says which there are."""

from __future__ import annotations

import pytest

from segx.errors import UsageError
from segx.runtime import choose_device

GPUS = ("cuda:0", "cuda:1", "cpu")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [(None, "cuda:0"), ("cuda", "cuda:0"), ("0", "cuda:0"), ("1", "cuda:1"), ("CUDA:1", "cuda:1"), (" cpu ", "cpu")],
)
def test_names(typed: str | None, meant: str) -> None:
    assert choose_device(typed, GPUS) == meant


@pytest.mark.parametrize("typed", ["2", "cuda:2", "mps"])
def test_what_is_not_there_is_reported(typed: str) -> None:
    with pytest.raises(UsageError, match=f"device={typed} is not there\n") as refusal:
        choose_device(typed, GPUS, why_no_gpu="no driver")
    assert refusal.value.hint == "devices here: cuda:0, cuda:1, cpu"


def test_reason_is_reported_where_there_is_no_gpu() -> None:
    with pytest.raises(UsageError, match=r"device=0 is not there \(no driver\)"):
        choose_device("0", ("cpu",), why_no_gpu="no driver")


@pytest.mark.parametrize("typed", ["warp9", "cuda:x", "cuda:-1", "", "cpu:0x", "²"])
def test_what_is_no_device_is_reported(typed: str) -> None:
    with pytest.raises(UsageError, match="is not a device"):
        choose_device(typed, GPUS)


def test_several_are_reported() -> None:
    with pytest.raises(UsageError, match="one device"):
        choose_device("0,1", GPUS)
