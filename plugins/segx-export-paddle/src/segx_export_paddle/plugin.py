"""Declares PaddlePaddle's inference models as a format that models are exported to."""

from __future__ import annotations

from segx import hookimpl
from segx.plugin.specs import ExporterSpec, default_tolerances, lazy
from segx_export_paddle.options import PaddleOptions

SEGX_API = (1, 0)


@hookimpl
def segx_exporters() -> list[ExporterSpec]:
    """Declare the format."""
    return [
        ExporterSpec(
            name="paddle",
            summary="a folder for Paddle Inference: program and weights",
            load=lazy("segx_export_paddle.exporter:PaddleExporter"),
            suffix="_paddle_model",
            source="onnx",
            options=PaddleOptions,
            tolerance=default_tolerances("fp32"),
            metadata="folder",
            requires=("paddlepaddle>=3.0 | paddlepaddle-gpu>=3.0", "setuptools>=70", "onnx>=1.17"),
        )
    ]
