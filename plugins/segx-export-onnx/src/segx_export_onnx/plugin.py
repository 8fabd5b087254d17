"""Declares ONNX as a format that models are exported to."""

from __future__ import annotations

import os

from segx import hookimpl
from segx.plugin.specs import Demands, ExporterSpec, default_tolerances, lazy
from segx.runtime import process_taken
from segx_export_onnx.options import OnnxOptions

SEGX_API = (1, 0)


def _keep_quiet() -> None:
    """Keep ONNX Runtime from reporting, which onnxslim imports, in a process of segx's own."""
    if process_taken():
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def _demands(options: OnnxOptions) -> Demands:
    return Demands(makes="final" if options.nms else None, images=options.most if options.int8 else 0)


@hookimpl
def segx_exporters() -> list[ExporterSpec]:
    """Declare the format."""
    return [
        ExporterSpec(
            name="onnx",
            summary="one file for ONNX Runtime, OpenVINO, TensorRT and many others",
            load=lazy("segx_export_onnx.exporter:OnnxExporter"),
            prepare=_keep_quiet,
            suffix=".onnx",
            options=OnnxOptions,
            precisions=("fp32", "fp16", "int8"),
            tolerance=default_tolerances("fp32", "fp16", "int8"),
            demands=_demands,
            cuts=("raw",),
            metadata="embedded",
            requires=("onnx>=1.17", "onnxscript>=0.6.2", "onnxslim>=0.1.50", "torch>=2.6"),
            requires_for={"int8": ("onnxruntime>=1.20 | onnxruntime-gpu>=1.20",)},
        )
    ]
