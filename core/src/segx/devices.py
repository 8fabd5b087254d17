"""Turns what users type as ``device`` into the name of a device that is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence


def choose_device(name: str | None, available: Sequence[str], *, why_no_gpu: str = "") -> str:
    """Return the device meant, as a runtime names it: ``"cpu"``, ``"cuda:0"``, ``"mps"``.

    Args:
        name: What was typed: ``cpu``, ``cuda``, ``0``, ``cuda:1``, ``mps``; None: the best there is.
        available: The devices of this machine that the runtime can use, the best first.
        why_no_gpu: Why the runtime finds no GPU, where it knows; shown when one is asked for.

    Raises:
        UsageError: The name is not a device, or the device is not there; the hint lists those that are.
    """
    if name is None:
        return available[0]
    typed = name.strip().lower()
    hint = f"devices here: {', '.join(available)}"
    if "," in typed:
        raise UsageError(f"device={name}: an open model runs on one device", hint=hint)
    kind, _, index = (f"cuda:{typed}" if typed.isdecimal() else typed).partition(":")
    is_gpu = kind == "cuda" and (index.isdecimal() or typed == "cuda")
    meant = f"cuda:{int(index or 0)}" if is_gpu else typed
    if meant in available:
        return meant
    if not is_gpu and meant not in {"cpu", "mps"}:
        raise UsageError(f"device={name} is not a device; write cpu, cuda, 0, cuda:1 or mps", hint=hint)
    no_gpu = is_gpu and not any(item.startswith("cuda") for item in available)
    reason = f" ({why_no_gpu})" if no_gpu and why_no_gpu else ""
    raise UsageError(f"device={name} is not there{reason}", hint=hint)
