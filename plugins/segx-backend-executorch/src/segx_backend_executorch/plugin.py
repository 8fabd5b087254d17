"""Declares ExecuTorch as what opens ``_executorch_model`` folders."""

from __future__ import annotations

from segx import hookimpl
from segx.plugin.specs import BackendSpec, lazy

SEGX_API = (1, 0)


@hookimpl
def segx_backends() -> list[BackendSpec]:
    """Declare the runtime."""
    return [
        BackendSpec(
            name="executorch",
            summary="programs of ExecuTorch on the CPU; its runtime for Python stands on torch",
            load=lazy("segx_backend_executorch.backend:ExecuTorchBackend"),
            formats={"executorch": ("_executorch_model",)},
            requires=("executorch>=1.5", "torch>=2.11"),
            apart=True,  # its threads are those of a process, and it logs and warns of itself
        )
    ]
