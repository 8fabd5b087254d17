"""Every way of naming a device leads to it, or to a line that says which there are."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import cv2
import pytest

from segx.errors import UsageError
from segx.runtime import choose_device, opencv

if TYPE_CHECKING:
    from pathlib import Path

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


def test_what_other_programs_take_of_the_cores_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from segx.runtime import load

    def at(second: float, *, busy: int, mine: int, child: int) -> None:
        """Let the system say how many hundredths of a second were busy since it was started."""
        rows = [f"cpu {9 * busy} 0 0", f"cpu0 {busy} 0 0 7 0 0 0 0 99 0", f"cpu1 {9 * busy} 0 0 7 0 0 0 0 0 0"]
        (tmp_path / "stat").write_text("\n".join([*rows, "ctxt 5"]))
        for number, parent, ticks in ((os.getpid(), 1, mine), (77_777, os.getpid(), child), (88_888, 1, 10 * busy)):
            (tmp_path / str(number)).mkdir(exist_ok=True)
            text = f"{number} (a) b) S {parent} 0 0 0 0 0 0 0 0 0 {ticks} 0 0 0"
            (tmp_path / str(number) / "stat").write_text(text)
        monkeypatch.setattr(load.time, "perf_counter", lambda: second)

    monkeypatch.setattr(load, "_PROC", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    monkeypatch.setattr(os, "sysconf", lambda _: 100, raising=False)
    at(10, busy=1000, mine=200, child=100)
    others = load.Others()
    at(20, busy=1900, mine=600, child=200)
    assert others.cores() == pytest.approx(0.4), "900 of 1000, of which this process and its child took 500"
    at(20, busy=1500, mine=700, child=200)
    assert others.cores() == 0
    monkeypatch.setattr(load, "_PROC", tmp_path / "absent")
    assert load.Others()._busy == 0
    assert others.cores() == 0


def test_opencv_has_one_thread_until_the_last_wants_it_so() -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        with opencv.one_thread():
            with pytest.raises(ValueError, match="failed"), opencv.one_thread():
                raise ValueError("failed")
            assert cv2.getNumThreads() == 1
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)
