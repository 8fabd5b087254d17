"""Declares MNN as a format that models are exported to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx import hookimpl
from segx.plugin.specs import ExporterSpec, default_tolerances, lazy
from segx_export_mnn.options import MnnOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

SEGX_API = (1, 0)


@hookimpl
def segx_exporters() -> Iterable[ExporterSpec]:
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
