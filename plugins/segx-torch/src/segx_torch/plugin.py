"""Declares the PyTorch backend; imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx import hookimpl
from segx.plugin.specs import BackendSpec, lazy

if TYPE_CHECKING:
    from collections.abc import Iterable

SEGX_API = (1, 0)


@hookimpl
def segx_backends() -> Iterable[BackendSpec]:
    """Declare PyTorch, which opens checkpoints."""
    return [
        BackendSpec(
            name="torch",
            summary="PyTorch: opens, trains, saves and exports checkpoints, without executing what is in them",
            load=lazy("segx_torch.backend:TorchBackend"),
            requires=("torch>=2.6",),
            formats={"pt": (".pt", ".pth", ".safetensors")},
            devices=("cpu", "cuda", "mps"),
            concurrent=True,
        )
    ]
