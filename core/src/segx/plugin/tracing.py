"""Has torch trace a module into an archive, without the process growing by each."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segx.errors import ExportError, reason
from segx.runtime import child

if TYPE_CHECKING:
    from torch import Tensor, nn

_NOISE = r".*`torch\.jit\.\w+` is deprecated.*"
"""torch would rather have its newer export used; whoever asks for this knows why."""

here = 1
"""How many traces this process still makes itself."""


def trace(module: nn.Module, example: Tensor, target: Path, *, freeze: bool = False) -> None:
    """Write a traced module as an archive.

    torch keeps types and graphs of a trace for as long as the process lives, some 10 MB each, and offers no way to drop
    them without those of everybody else. So only the first trace of a process is made in it; those that follow have a
    process of their own, where the module can be sent to one.

    Args:
        module: What is traced.
        example: What it is called with.
        target: Where to, in a scratch folder; the module is packed beside it.
        freeze: Make constants of the weights.

    Raises:
        ExportError: torch cannot trace it.
    """
    global here  # noqa: PLW0603 - of the process
    if here < 1 and _trace_apart(module, example, target, freeze=freeze):
        return
    here -= 1
    _trace(module, example, target, freeze=freeze)


def _trace_apart(module: nn.Module, example: Tensor, target: Path, *, freeze: bool) -> bool:
    """Trace in a new process; False where the module's classes cannot be had there."""
    import torch

    packed = target.with_name("module")
    try:
        torch.save((module, example), packed)
    except (pickle.PicklingError, AttributeError, TypeError):  # of a function, a lambda in it
        return False
    arguments = {"packed": packed, "target": target, "freeze": freeze}
    done: bool = child.call("segx.plugin.tracing:trace_packed", arguments, what="torch.jit.trace")
    return done


def trace_packed(packed: str, target: str, *, freeze: bool) -> bool:
    """Trace what the parent has packed; False where it cannot be unpacked here."""
    import torch

    try:
        module, example = torch.load(packed, weights_only=False)  # ours, in a folder nobody else may write
    except (AttributeError, ImportError, pickle.UnpicklingError):
        return False
    _trace(module, example, Path(target), freeze=freeze)
    return True


def _trace(module: nn.Module, example: Tensor, target: Path, *, freeze: bool) -> None:
    import torch

    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.filterwarnings("ignore", message=_NOISE)
            # Outputs are proven later, on images; tracing a second time to compare would prove less.
            script: Any = torch.jit.trace(module, example, strict=False, check_trace=False)  # type: ignore[no-untyped-call]
            script = torch.jit.freeze(script) if freeze else script
            torch.jit.save(script, target)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ExportError(f"torch {torch.__version__} cannot trace this model ({reason(error)})") from error
