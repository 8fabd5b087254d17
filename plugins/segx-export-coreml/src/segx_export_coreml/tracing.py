"""Has torch trace a model into a file that the converting process reads."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch

from segx.errors import ExportError
from segx.plugin.base import reason

if TYPE_CHECKING:
    from pathlib import Path

    from segx.plugin.jobs import ExportModule

_NOISE = r".*`torch\.jit\.\w+` is deprecated.*"
"""torch would rather have its newer export used; coremltools reads what it traces with fewer surprises."""


def trace(source: ExportModule, path: Path) -> None:
    """Write the traced model into a file.

    Raises:
        ExportError: torch cannot trace it.
    """
    example = torch.from_numpy(source.example)
    device = next((tensor.device for tensor in source.module.parameters()), torch.device("cpu"))
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.filterwarnings("ignore", message=_NOISE)
            # Outputs are proven later, on images; tracing a second time to compare would prove less.
            script: Any = torch.jit.trace(source.module, example.to(device), strict=False, check_trace=False)  # type: ignore[no-untyped-call]
            script.save(str(path))
    except (RuntimeError, ValueError, TypeError) as error:
        raise ExportError(f"torch {torch.__version__} cannot trace this model ({reason(error)})") from error
