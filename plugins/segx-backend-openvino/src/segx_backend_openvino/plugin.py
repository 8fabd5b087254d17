"""Declares OpenVINO as what opens ``_openvino_model`` folders, and ``.onnx`` files where it is asked to."""

from __future__ import annotations

import sys

from segx import hookimpl
from segx.plugin.specs import BackendSpec, lazy

SEGX_API = (1, 0)


def _keep_quiet() -> None:
    """Keep OpenVINO from reporting its use and from writing into ``~/intel``: it does without the module."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: importing it fails


@hookimpl
def segx_backends() -> list[BackendSpec]:
    """Declare the runtime."""
    return [
        BackendSpec(
            name="openvino",
            summary="OpenVINO and ONNX models with OpenVINO, without torch",
            load=lazy("segx_backend_openvino.backend:OpenvinoBackend"),
            prepare=_keep_quiet,
            formats={"openvino": ("_openvino_model", ".xml"), "onnx": (".onnx",)},
            devices=("cpu", "gpu", "npu", "auto", "hetero", "multi", "batch", "intel"),
            requires=("openvino>=2025.0", "numpy>=1.26"),
            concurrent=True,
            queue=2,
        )
    ]
