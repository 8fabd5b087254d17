"""Has torch trace a model into an archive in memory."""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from segx.errors import ExportError
from segx.plugin.base import reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segx.plugin.jobs import ExportModule

_NOISE = r".*`torch\.jit\.\w+` is deprecated.*"
"""torch would rather have its newer export used; whoever asks for this format knows why."""


def trace(source: ExportModule, *, half: bool, freeze: bool) -> io.BytesIO:
    """Return the traced model as an archive.

    Args:
        source: The model.
        half: Trace with 16-bit weights and inputs.
        freeze: Make constants of the weights.

    Raises:
        ExportError: torch cannot trace it.
    """
    module, example = _prepared(source, half=half)
    archive = io.BytesIO()
    try:
        with _quiet(), torch.no_grad():
            # Outputs are proven later, on images; tracing a second time to compare would prove less.
            script: Any = torch.jit.trace(module, example, strict=False, check_trace=False)  # type: ignore[no-untyped-call]
            script = torch.jit.freeze(script) if freeze else script
            torch.jit.save(script, archive)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ExportError(f"torch {torch.__version__} cannot trace this model ({reason(error)})") from error
    archive.seek(0)
    return archive


def _prepared(source: ExportModule, *, half: bool) -> tuple[nn.Module, torch.Tensor]:
    module: nn.Module = source.module
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    example = torch.from_numpy(source.example).to(device)
    return (copy.deepcopy(module).half(), example.half()) if half else (module, example)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_NOISE)
        yield
