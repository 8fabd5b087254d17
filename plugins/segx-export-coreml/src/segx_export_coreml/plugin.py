"""Declares Core ML as a format that models are exported to."""

from __future__ import annotations

from segx import hookimpl
from segx.plugin.specs import Demands, ExporterSpec, default_tolerances, lazy
from segx_export_coreml.options import CoreMLOptions

SEGX_API = (1, 0)


def _demands(options: CoreMLOptions) -> Demands:
    return Demands(makes="final" if options.nms else None)


@hookimpl
def segx_exporters() -> list[ExporterSpec]:
    """Declare the format."""
    return [
        ExporterSpec(
            name="coreml",
            summary="a package for iPhone, iPad and Mac: CPU, GPU and Neural Engine",
            load=lazy("segx_export_coreml.exporter:CoreMLExporter"),
            suffix=".mlpackage",
            options=CoreMLOptions,
            precisions=("fp32", "fp16", "int8"),
            tolerance=default_tolerances("fp32", "fp16", "int8"),
            demands=_demands,
            axes=frozenset(),
            metadata="folder",
            requires=("torch>=2.6", "coremltools>=8.0"),
        )
    ]
