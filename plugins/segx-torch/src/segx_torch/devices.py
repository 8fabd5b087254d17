"""Turns what a user types as ``device`` into a torch device that is there."""

from __future__ import annotations

import torch

from segx.errors import UsageError


def resolve_device(name: str | None) -> torch.device:
    """Return the device meant.

    Args:
        name: ``cpu``, ``cuda``, ``0``, ``cuda:1``, ``mps``; None: the best there is.

    Raises:
        UsageError: The name is not a device, or the device is not there; the error lists those that are.
    """
    if name is None:
        return torch.device(available_devices()[0])
    text = name.strip().lower()
    if "," in text:
        raise UsageError(f"device={name}: one model runs on one device", hint=f"devices here: {_listed()}")
    full = f"cuda:{text}" if text.isdecimal() else {"cuda": "cuda:0", "gpu": "cuda:0"}.get(text, text)
    if full in available_devices():
        return torch.device(full)
    kind, _, index = full.partition(":")
    known = kind == "cuda" and (not index or index.isdecimal()) or full in {"cpu", "mps"}
    reason = f"is not there{_why_absent(kind)}" if known else "is not a device; write cpu, cuda, 0, cuda:1 or mps"
    raise UsageError(f"device={name} {reason}", hint=f"devices here: {_listed()}")


def available_devices() -> tuple[str, ...]:
    """Return the names of the devices of this machine, the best first."""
    cuda = tuple(f"cuda:{index}" for index in range(torch.cuda.device_count())) if torch.cuda.is_available() else ()
    mps = ("mps",) if torch.backends.mps.is_available() else ()
    return (*cuda, *mps, "cpu")


def _listed() -> str:
    return ", ".join(available_devices())


def _why_absent(kind: str) -> str:
    if kind == "cuda" and torch.version.cuda is None:
        return f" (torch {torch.__version__} is built without CUDA)"
    return " (torch finds no CUDA GPU)" if kind == "cuda" and not torch.cuda.is_available() else ""
