"""Declares TensorFlow's SavedModel as a format that models are exported to."""

from __future__ import annotations

from segx import hookimpl
from segx.plugin.specs import ExporterSpec, default_tolerances, lazy
from segx_export_saved_model.options import SavedModelOptions

SEGX_API = (1, 0)


@hookimpl
def segx_exporters() -> list[ExporterSpec]:
    """Declare the format."""
    return [
        ExporterSpec(
            name="saved_model",
            summary="a folder for TensorFlow, TensorFlow Serving and Keras",
            load=lazy("segx_export_saved_model.exporter:SavedModelExporter"),
            suffix="_saved_model",
            source="onnx",
            options=SavedModelOptions,
            tolerance=default_tolerances("fp32"),
            metadata="folder",
            requires=("segx-tensorflow>=0.1.0",),  # which brings TensorFlow, and is imported in a process of its own
        )
    ]
