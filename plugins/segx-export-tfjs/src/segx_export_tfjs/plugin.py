"""Declares TensorFlow.js as a format that models are exported to."""

from __future__ import annotations

from segx import hookimpl
from segx.plugin.specs import ExporterSpec, default_tolerances, lazy
from segx_export_tfjs.options import TfjsOptions

SEGX_API = (1, 0)


@hookimpl
def segx_exporters() -> list[ExporterSpec]:
    """Declare the format."""
    return [
        ExporterSpec(
            name="tfjs",
            summary="a folder for browsers: TensorFlow.js, and a page that uses the model",
            load=lazy("segx_export_tfjs.exporter:TfjsExporter"),
            suffix="_web_model",
            source="onnx",
            options=TfjsOptions,
            precisions=("fp32", "fp16", "int8"),
            tolerance=default_tolerances("fp32", "fp16", "int8"),
            axes=frozenset(),
            metadata="folder",
            requires=("segx-tensorflow>=0.1.0", "segx-tfjs>=0.1.0"),
        )
    ]
