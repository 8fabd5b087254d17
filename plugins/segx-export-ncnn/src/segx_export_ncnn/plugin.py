"""Declares ncnn as a format that models are exported to."""

from __future__ import annotations

from segx import hookimpl
from segx.plugin.specs import Demands, ExporterSpec, default_tolerances, lazy
from segx_export_ncnn.options import NcnnOptions

SEGX_API = (1, 0)


def _demands(options: NcnnOptions) -> Demands:
    """Return what ncnn is made from: one image a run; and of open size, a graph that ends before boxes are made.

    What follows is a grid as large as the image, which ncnn can hold as numbers only.
    """
    return Demands(
        form="raw" if options.dynamic else "decoded",
        source={"batch": 1},
        images=options.most if options.int8 else 0,
    )


@hookimpl
def segx_exporters() -> list[ExporterSpec]:
    """Declare the format."""
    precisions = ("fp32", "fp16", "int8")
    return [
        ExporterSpec(
            name="ncnn",
            summary="a folder for ncnn: phones, small boards, any CPU, Vulkan",
            load=lazy("segx_export_ncnn.exporter:NcnnExporter"),
            suffix="_ncnn_model",
            source="onnx",
            options=NcnnOptions,
            precisions=precisions,
            tolerance=default_tolerances(*precisions),
            demands=_demands,
            axes=frozenset({"height", "width"}),
            metadata="folder",
            requires=("ncnn>=1.0.20250916", "numpy>=1.26", "onnx>=1.17", "pnnx>=20250916"),
        )
    ]
