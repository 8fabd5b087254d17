"""Declares Coral's Edge TPU as a format that models are exported to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx import hookimpl
from segx.plugin.specs import Demands, ExporterSpec, default_tolerances, lazy
from segx_export_edgetpu.options import EdgeTpuOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

SEGX_API = (1, 0)


def _demands(options: EdgeTpuOptions) -> Demands:
    """The accelerator computes in 8 bits only, and is fed bytes."""
    return Demands(source={"int8": True, "values": "uint8"}, images=options.most)


@hookimpl
def segx_exporters() -> Iterable[ExporterSpec]:
    """Declare the format."""
    return [
        ExporterSpec(
            name="edgetpu",
            summary="one file for Coral's Edge TPU",
            load=lazy("segx_export_edgetpu.exporter:EdgeTpuExporter"),
            suffix="_edgetpu.tflite",
            source="tflite",
            options=EdgeTpuOptions,
            precisions=("int8",),
            tolerance=default_tolerances("int8"),
            demands=_demands,
            axes=frozenset(),
            metadata="embedded",
            requires=("ai-edge-litert>=2.0",),
        )
    ]
