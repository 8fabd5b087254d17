"""Declares LiteRT as what opens ``.tflite`` files."""

from __future__ import annotations

from segx import hookimpl
from segx.plugin.specs import BackendSpec, lazy

SEGX_API = (1, 0)


@hookimpl
def segx_backends() -> list[BackendSpec]:
    """Declare the runtime."""
    return [
        BackendSpec(
            name="litert",
            summary="TensorFlow Lite models with LiteRT, without TensorFlow and torch",
            load=lazy("segx_backend_litert.backend:LiteRtBackend"),
            formats={"tflite": (".tflite",), "edgetpu": ("_edgetpu.tflite",)},
            devices=("cpu", "tpu"),
            requires=("ai-edge-litert>=2.0", "numpy>=1.26"),
            concurrent=True,
        )
    ]
