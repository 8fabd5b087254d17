"""Has torch trace a model into a file that the converting process reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from segx.plugin import tracing

if TYPE_CHECKING:
    from pathlib import Path

    from segx.plugin.jobs import ExportModule


def trace(source: ExportModule, path: Path) -> None:
    """Write the traced model into a file.

    Raises:
        ExportError: torch cannot trace it.
    """
    device = next((tensor.device for tensor in source.module.parameters()), torch.device("cpu"))
    tracing.trace(source.module, torch.from_numpy(source.example).to(device), path)
