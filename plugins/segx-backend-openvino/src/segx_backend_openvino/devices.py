"""Which of OpenVINO's devices a ``device`` means, in OpenVINO's own words, and whether it is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

CPU, AUTO = "CPU", "AUTO"

_COMBINE = (AUTO, "HETERO", "MULTI", "BATCH")
"""What spreads a model over devices, or chooses one of them: ``HETERO:GPU,CPU``."""
_VENDOR = "INTEL:"
"""Other tools write ``intel:gpu`` to tell OpenVINO's devices from those of CUDA."""


def choose(wanted: str | None, available: Sequence[str]) -> str:
    """Return the device as OpenVINO calls it: ``"CPU"``, ``"GPU.1"``, ``"HETERO:GPU,CPU"``.

    Args:
        wanted: What was typed, in any case: ``cpu``, ``GPU.1``, ``intel:gpu``, ``AUTO``, ``HETERO:GPU,CPU``; None: the
            CPU, where figures are the same on every machine.
        available: The devices that OpenVINO has found: ``["CPU", "GPU.0", "GPU.1"]``.

    Raises:
        UsageError: OpenVINO has no such device, or it is not there; the hint lists those that are.
    """
    if wanted is None:
        return CPU if CPU in available else AUTO
    name = "".join(wanted.split()).upper().removeprefix(_VENDOR)
    combining, _, rest = name.partition(":")
    if combining not in _COMBINE:
        parts = [name]
    elif rest:
        parts = [part.removeprefix("-").partition("(")[0] for part in rest.split(",")]
    elif combining == AUTO:
        parts = []
    else:
        raise UsageError(f"device={wanted} names no devices", hint=f"device={combining}:{','.join(available)}")
    for part in parts:
        if not any(part in {device, device.partition(".")[0]} for device in available):
            msg = f"device={wanted}: OpenVINO finds no {part} here"
            raise UsageError(msg, hint=f"devices here: {', '.join(names(available))}")
    return name


def names(available: Sequence[str]) -> list[str]:
    """Return what ``device=`` may be, in small letters."""
    return [*(device.lower() for device in available), AUTO.lower()]
