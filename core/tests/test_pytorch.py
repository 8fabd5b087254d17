"""A device is found by any of its names, or told with those that are there."""

from __future__ import annotations

import pytest
import torch

from segx.errors import UsageError
from segx.runtime.pytorch import available_devices, resolve_device


def test_cpu_is_always_there() -> None:
    assert available_devices()[-1] == "cpu"
    assert resolve_device("CPU ") == torch.device("cpu")


def test_best_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert available_devices() == ("cuda:0", "cuda:1", "mps", "cpu")
    assert resolve_device(None) == torch.device("cuda", 0)
    assert resolve_device("cuda") == resolve_device("0") == resolve_device("cuda:0") == torch.device("cuda", 0)
    assert resolve_device("1") == torch.device("cuda", 1)
    assert resolve_device("mps") == torch.device("mps")


@pytest.mark.parametrize("name", ["cuda", "0", "cuda:7"])
def test_absent_gpu_is_reported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=f"device={name} is not there") as refusal:
        resolve_device(name)
    assert "devices here: " in refusal.value.hint


def test_build_without_cuda_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(UsageError, match="built without CUDA"):
        resolve_device("0")
