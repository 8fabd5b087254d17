"""Declares TensorFlow's frozen graph as a format that models are exported to."""

from __future__ import annotations

from segx import hookimpl
from segx.plugin.specs import ExporterSpec, default_tolerances, lazy
from segx_export_pb.options import PbOptions

SEGX_API = (1, 0)


@hookimpl
def segx_exporters() -> list[ExporterSpec]:
    """Declare the format."""
    return [
        ExporterSpec(
            name="pb",
            summary="one file for TensorFlow: a frozen graph (GraphDef)",
            load=lazy("segx_export_pb.exporter:PbExporter"),
            suffix=".pb",
            source="onnx",
            options=PbOptions,
            tolerance=default_tolerances("fp32"),
            metadata="beside",
            requires=("segx-tensorflow>=0.1.0",),  # which brings TensorFlow, and is imported in a process of its own
        )
    ]
