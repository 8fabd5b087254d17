"""Declares MNN as what opens ``.mnn`` files."""

from __future__ import annotations

from segx import hookimpl
from segx.plugin.specs import BackendSpec, lazy

SEGX_API = (1, 0)


@hookimpl
def segx_backends() -> list[BackendSpec]:
    """Declare the runtime."""
    return [
        BackendSpec(
            name="mnn",
            summary="MNN models on the CPU, without torch",
            load=lazy("segx_backend_mnn.backend:MnnBackend"),
            formats={"mnn": (".mnn",)},
            requires=("MNN>=3.4", "numpy>=1.26"),
            apart=True,  # it writes on standard output as soon as it is imported
        )
    ]
