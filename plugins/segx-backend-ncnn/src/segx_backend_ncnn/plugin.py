"""Declares ncnn as what opens ``_ncnn_model`` folders."""

from __future__ import annotations

from segx import hookimpl
from segx.plugin.specs import BackendSpec, lazy

SEGX_API = (1, 0)


@hookimpl
def segx_backends() -> list[BackendSpec]:
    """Declare the runtime."""
    return [
        BackendSpec(
            name="ncnn",
            summary="ncnn models, on the CPU or with Vulkan, without torch",
            load=lazy("segx_backend_ncnn.backend:NcnnBackend"),
            formats={"ncnn": ("_ncnn_model",)},
            devices=("cpu", "vulkan"),
            requires=("ncnn>=1.0.20250916", "numpy>=1.26"),
            concurrent=True,
        )
    ]
