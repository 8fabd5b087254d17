"""Declares the PyTorch backend; imports nothing heavy."""

from __future__ import annotations

from segx import hookimpl
from segx.plugin.specs import BackendSpec, lazy

SEGX_API = (1, 0)


@hookimpl
def segx_backends() -> list[BackendSpec]:
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
