"""Declares ONNX Runtime as what opens ``.onnx`` files."""

from __future__ import annotations

import os

from segx import hookimpl
from segx.plugin.specs import BackendSpec, lazy
from segx.runtime import process_taken

SEGX_API = (1, 0)

_BUILDS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-qnn")
"""Distributions that bring the module ``onnxruntime``; any one will do."""


def _keep_quiet() -> None:
    """Keep ONNX Runtime from reporting, in a process of segx's own; in a program the import itself is guarded."""
    if process_taken():
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


@hookimpl
def segx_backends() -> list[BackendSpec]:
    """Declare the runtime."""
    return [
        BackendSpec(
            name="onnxruntime",
            summary="ONNX models with ONNX Runtime, without torch",
            load=lazy("segx_backend_onnxruntime.backend:OnnxRuntimeBackend"),
            prepare=_keep_quiet,
            formats={"onnx": (".onnx",)},
            devices=("cpu", "cuda", "mps", "dml"),
            requires=(" | ".join(f"{build}>=1.20" for build in _BUILDS), "numpy>=1.26"),
            priority=10,
            concurrent=True,
        )
    ]
