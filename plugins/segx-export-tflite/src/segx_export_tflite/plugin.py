"""Declares TensorFlow Lite as a format that models are exported to."""

from __future__ import annotations

from dataclasses import replace

from segx import hookimpl
from segx.plugin.specs import Demands, ExporterSpec, default_tolerances, lazy
from segx_export_tflite.options import TfliteOptions

SEGX_API = (1, 0)

_EIGHT_BITS = replace(default_tolerances("int8")["int8"], typical_box=3.0)
"""TensorFlow Lite's quantiser corrects no biases, and masks pay for it: files that lose 0.010 of box AP and of mask AP
on 103 photographs had a median box of 2.6 pixels and a mask IoU of 0.64 on drawn images, 1.6 and 0.74 with
20 photographs."""


def _demands(options: TfliteOptions) -> Demands:
    """In 8 bits the graph ends before boxes are made.

    One scale for boxes, scores and coefficients together leaves nothing of the scores; and of boxes in pixels, 8 bits
    tell no more than 3 pixels apart. The distances before their softmax keep what there is.
    """
    return Demands(form="raw", images=options.most) if options.int8 else Demands()


@hookimpl
def segx_exporters() -> list[ExporterSpec]:
    """Declare the format."""
    return [
        ExporterSpec(
            name="tflite",
            summary="one file for LiteRT (TensorFlow Lite): phones, single-board computers, microcontrollers",
            load=lazy("segx_export_tflite.exporter:TfliteExporter"),
            suffix=".tflite",
            source="onnx",
            options=TfliteOptions,
            precisions=("fp32", "fp16", "int8"),
            tolerance={**default_tolerances("fp32", "fp16"), "int8": _EIGHT_BITS},
            demands=_demands,
            axes=frozenset(),
            metadata="embedded",
            requires=("segx-tensorflow>=0.1.0",),  # which brings TensorFlow, and is imported in a process of its own
        )
    ]
