"""Declares TensorRT as what opens ``.engine`` files."""

from __future__ import annotations

from segx import hookimpl
from segx.plugin.specs import BackendSpec, lazy
from segx.runtime import nvidia

SEGX_API = (1, 0)

TENSORRT = " | ".join(f"{name}>=10.0" for name in ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"))
"""Distributions that bring the module ``tensorrt``; any one will do."""


@hookimpl
def segx_backends() -> list[BackendSpec]:
    """Declare the runtime."""
    return [
        BackendSpec(
            name="tensorrt",
            summary="TensorRT engines on GPUs of NVIDIA's, without torch",
            load=lazy("segx_backend_tensorrt.backend:TensorRtBackend"),
            formats={"engine": (".engine",)},
            devices=("cuda",),
            problem=nvidia.problem,
            requires=(TENSORRT, "cuda-bindings>=12.6", "numpy>=1.26"),
            priority=10,
            concurrent=True,
        )
    ]
