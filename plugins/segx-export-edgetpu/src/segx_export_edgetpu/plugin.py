"""Declares Coral's Edge TPU as a format that models are exported to."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from segx import hookimpl
from segx.plugin.specs import Demands, ExporterSpec, default_tolerances, lazy
from segx_export_edgetpu.options import COMPILER, EdgeTpuOptions, compiler_is_missing

if TYPE_CHECKING:
    from collections.abc import Mapping

SEGX_API = (1, 0)

_EIGHT_BITS = replace(default_tolerances("int8")["int8"], typical_box=3.0)
"""TensorFlow Lite's quantiser corrects no biases, and masks pay for it: files that lose 0.010 of box AP and of mask AP
on 103 photographs had a median box of 2.6 pixels and a mask IoU of 0.64 on drawn images, 1.6 and 0.74 with
20 photographs."""


def _demands(_options: EdgeTpuOptions) -> Demands:
    """The accelerator computes in 8 bits only, and is fed bytes; the images are for the format that it is made from."""
    return Demands(source={"int8": True, "values": "uint8"})


def _missing() -> Mapping[str, str]:
    return {"int8": f"{COMPILER} is not on PATH; compile=False writes what it takes"} if compiler_is_missing() else {}


@hookimpl
def segx_exporters() -> list[ExporterSpec]:
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
            tolerance={"int8": _EIGHT_BITS},
            demands=_demands,
            axes=frozenset(),
            metadata="embedded",
            fallback={"compile": False},
            missing=_missing,
            requires=("ai-edge-litert>=2.0",),
        )
    ]
