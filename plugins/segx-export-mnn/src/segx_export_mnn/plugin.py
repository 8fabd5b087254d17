"""Declares MNN as a format that models are exported to."""

from __future__ import annotations

from segx import hookimpl
from segx.plugin.specs import ExporterSpec, default_tolerances, lazy
from segx_export_mnn.options import MnnOptions

SEGX_API = (1, 0)


@hookimpl
def segx_exporters() -> list[ExporterSpec]:
    """Declare the format."""
    precisions = ("fp32", "fp16", "int8")
    return [
        ExporterSpec(
            name="mnn",
            summary="one file for MNN: phones, small boards, any CPU",
            load=lazy("segx_export_mnn.exporter:MnnExporter"),
            suffix=".mnn",
            source="onnx",
            options=MnnOptions,
            precisions=precisions,
            tolerance=default_tolerances(*precisions),
            metadata="embedded",
            requires=("MNN>=3.4",),
        )
    ]
