"""Declares OpenVINO as a format that models are exported to."""

from __future__ import annotations

import math
import sys

from segx import hookimpl
from segx.plugin.specs import Demands, ExporterSpec, Tolerance, default_tolerances, lazy
from segx_export_openvino.options import OpenvinoOptions

SEGX_API = (1, 0)

# bfloat16 has three bits less than float16. On drawn images and photographs good files had 91 to 96 % of the objects,
# a median box of 0.2 to 0.4 pixels, the worst one 12, and a mask AP as in 32 bits (103 photographs).
_BF16 = Tolerance(
    box=math.inf, score=0.1, mask_iou=0.0, matched=0.8, raw=math.inf, typical_box=1.0, typical_mask_iou=0.9
)


def _keep_quiet() -> None:
    """Keep OpenVINO from reporting its use and from writing into ``~/intel``: it does without the module."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: importing it fails


def _demands(options: OpenvinoOptions) -> Demands:
    return Demands(images=options.most if options.int8 else 0)


@hookimpl
def segx_exporters() -> list[ExporterSpec]:
    """Declare the format."""
    return [
        ExporterSpec(
            name="openvino",
            summary="a folder for OpenVINO: CPUs of any maker, GPUs and NPUs of Intel's",
            load=lazy("segx_export_openvino.exporter:OpenvinoExporter"),
            prepare=_keep_quiet,
            suffix="_openvino_model",
            source="onnx",
            options=OpenvinoOptions,
            precisions=("fp32", "fp16", "bf16", "int8"),
            tolerance={**default_tolerances("fp32", "fp16", "int8"), "bf16": _BF16},
            demands=_demands,
            metadata="folder",
            requires=("openvino>=2025.0",),
            requires_for={"int8": ("nncf>=2.16",)},
        )
    ]
