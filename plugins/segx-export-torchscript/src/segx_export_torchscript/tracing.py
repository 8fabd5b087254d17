"""Makes what torch traces: the module and an example image, in 16 bits where that is asked for."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from segx.plugin.tracing import trace as traced

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from segx.plugin.jobs import ExportModule


def trace(source: ExportModule, target: Path, *, half: bool, freeze: bool) -> None:
    """Write the traced model as an archive.

    Args:
        source: The model.
        target: Where to, in a scratch folder.
        half: Trace with 16-bit weights and inputs.
        freeze: Make constants of the weights.

    Raises:
        ExportError: torch cannot trace it.
    """
    module: nn.Module = source.module
    device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
    example = torch.from_numpy(source.example).to(device)
    if half:
        module, example = copy.deepcopy(module).half(), example.half()
    traced(module, example, target, freeze=freeze)
