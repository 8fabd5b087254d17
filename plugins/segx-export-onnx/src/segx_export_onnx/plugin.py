"""Declares ONNX as a format that models are exported to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from segx import hookimpl
from segx.plugin.specs import ExporterSpec, Tolerance
from segx_export_onnx.options import OnnxOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from segx.plugin.interfaces import Exporter

SEGX_API = (1, 0)


def _keep_quiet() -> None:
    """Keep ONNX Runtime from reporting, which onnxslim imports where it is installed."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def _load() -> Exporter:
    from segx_export_onnx.exporter import OnnxExporter

    return OnnxExporter()


@hookimpl
def segx_exporters() -> Iterable[ExporterSpec]:
    """Declare the format."""
    return [
        ExporterSpec(
            name="onnx",
            summary="one file for ONNX Runtime, OpenVINO, TensorRT and many others",
            load=_load,
            prepare=_keep_quiet,
            suffix=".onnx",
            options=OnnxOptions,
            precisions=("fp32", "fp16"),
            tolerance={
                "fp32": Tolerance(box=0.1, score=0.001, mask_iou=0.99, matched=0.97, raw=0.001),
                "fp16": Tolerance(
                    box=5.0,
                    score=0.02,
                    mask_iou=0.9,
                    matched=0.95,
                    raw=0.15,
                    typical_box=0.5,
                    typical_mask_iou=0.95,
                ),
            },
            metadata="embedded",
            requires=("onnx>=1.17", "onnxscript>=0.6.2", "onnxslim>=0.1.50", "torch>=2.6"),
        )
    ]
