"""Declares TensorRT engines as a format that models are exported to."""

from __future__ import annotations

from segx import hookimpl
from segx.plugin.specs import Demands, ExporterSpec, default_tolerances, lazy
from segx.runtime import nvidia
from segx_export_tensorrt.options import EngineOptions

SEGX_API = (1, 0)

TENSORRT = " | ".join(f"{name}>=10.0" for name in ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"))
"""Distributions that bring the module ``tensorrt``; any one will do."""


def _demands(options: EngineOptions) -> Demands:
    """Ask for a graph that says itself in what precision it computes: TensorRT 11 takes no other."""
    return Demands(source={"half": options.half, "int8": options.int8})


@hookimpl
def segx_exporters() -> list[ExporterSpec]:
    """Declare the format."""
    return [
        ExporterSpec(
            name="engine",
            summary="a TensorRT engine for the NVIDIA GPU that it is built on",
            load=lazy("segx_export_tensorrt.exporter:EngineExporter"),
            suffix=".engine",
            source="onnx",
            options=EngineOptions,
            precisions=("fp32", "fp16", "int8"),
            tolerance=default_tolerances("fp32", "fp16", "int8"),
            demands=_demands,
            problem=nvidia.problem,
            metadata="beside",
            requires=(TENSORRT, "onnx>=1.17"),
        )
    ]
