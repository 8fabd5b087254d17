"""Declares what runs Core ML models: Core ML itself on a Mac, and an executor in NumPy anywhere."""

from __future__ import annotations

from segx import hookimpl
from segx.plugin.specs import BackendSpec, lazy

SEGX_API = (1, 0)
_FORMATS = {"coreml": (".mlpackage",)}


@hookimpl
def segx_backends() -> list[BackendSpec]:
    """Declare both; where Core ML is there it comes first."""
    return [
        BackendSpec(
            name="coreml",
            summary="Core ML models with Core ML: CPU, GPU and Neural Engine of a Mac",
            load=lazy("segx_backend_coreml.backend:CoreMLBackend"),
            requires=("coremltools>=8.0",),
            platforms=("darwin",),
            formats=_FORMATS,
            devices=("npu", "gpu", "mps", "cpu"),
            priority=10,
            apart=True,  # coremltools and TensorFlow bring each other down
        ),
        BackendSpec(
            name="coreml-reference",
            summary="Core ML models in NumPy, on any system: to prove and to measure, not to be fast",
            load=lazy("segx_backend_coreml.backend:ReferenceBackend"),
            requires=("numpy>=1.26", "threadpoolctl>=3.1"),
            formats=_FORMATS,
            priority=-10,
            concurrent=True,
        ),
    ]
