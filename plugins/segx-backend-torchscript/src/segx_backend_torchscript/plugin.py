"""Declares the TorchScript backend; imports nothing heavy."""

from __future__ import annotations

from segx import hookimpl
from segx.plugin.specs import BackendSpec, lazy

SEGX_API = (1, 0)


@hookimpl
def segx_backends() -> list[BackendSpec]:
    """Declare TorchScript."""
    return [
        BackendSpec(
            name="torchscript",
            summary="TorchScript models with PyTorch; needs no model code",
            load=lazy("segx_backend_torchscript.backend:TorchScriptBackend"),
            requires=("torch>=2.6",),
            concurrent=True,
            formats={"torchscript": (".torchscript",)},
            devices=("cpu", "cuda", "mps"),
            caution="is a program that can read and write files: open it only if you trust who made it",
        )
    ]
