"""The devices torch finds on this machine, and the one that is meant."""

from __future__ import annotations

import torch

from segx.runtime import choose_device


def resolve_device(name: str | None) -> torch.device:
    """Return the device meant by ``cpu``, ``cuda``, ``0``, ``cuda:1``, ``mps``; for None, the best there is.

    Raises:
        UsageError: The name is not a device, or the device is not there; the hint lists those that are.
    """
    return torch.device(choose_device(name, available_devices(), why_no_gpu=_why_no_gpu()))


def available_devices() -> tuple[str, ...]:
    """Return the names of the devices of this machine, the best first."""
    cuda = tuple(f"cuda:{index}" for index in range(torch.cuda.device_count())) if torch.cuda.is_available() else ()
    mps = ("mps",) if torch.backends.mps.is_available() else ()
    return (*cuda, *mps, "cpu")


def _why_no_gpu() -> str:
    return f"torch {torch.__version__} is built without CUDA" if torch.version.cuda is None else "torch finds no GPU"
