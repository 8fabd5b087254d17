"""Declares ONNX Runtime as what opens ``.onnx`` files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from segx import hookimpl
from segx.plugin.specs import BackendSpec

if TYPE_CHECKING:
    from collections.abc import Iterable

    from segx.plugin.interfaces import Backend

SEGX_API = (1, 0)

_BUILDS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino", "onnxruntime-qnn")
"""Distributions that bring the module ``onnxruntime``; any one will do."""


def _keep_quiet() -> None:
    """Keep ONNX Runtime from reporting: it reads the variable when it is imported, and later is too late."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def _load() -> Backend:
    from segx_backend_onnxruntime.backend import OnnxRuntimeBackend

    return OnnxRuntimeBackend()


@hookimpl
def segx_backends() -> Iterable[BackendSpec]:
    """Declare the runtime."""
    return [
        BackendSpec(
            name="onnxruntime",
            summary="ONNX models with ONNX Runtime, without torch",
            load=_load,
            formats={"onnx": (".onnx",)},
            devices=("cpu", "cuda", "mps", "dml"),
            requires=(" | ".join(f"{build}>=1.20" for build in _BUILDS), "numpy>=1.26"),
            priority=10,
            concurrent=True,
        )
    ]
