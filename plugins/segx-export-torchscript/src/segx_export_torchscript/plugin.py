"""Declares TorchScript as a format that models are exported to."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from segx import hookimpl
from segx.plugin.specs import ExporterSpec, default_tolerances, lazy
from segx.runtime import nvidia
from segx_export_torchscript.options import FOR_GPUS, TorchScriptOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

SEGX_API = (1, 0)


def _missing() -> Mapping[str, str]:
    return {} if sys.platform == "darwin" or not nvidia.problem() else {"fp16": f"half=True {FOR_GPUS}"}


@hookimpl
def segx_exporters() -> list[ExporterSpec]:
    """Declare the format."""
    return [
        ExporterSpec(
            name="torchscript",
            summary="one file that torch and libtorch run without the model's code",
            load=lazy("segx_export_torchscript.exporter:TorchScriptExporter"),
            suffix=".torchscript",
            options=TorchScriptOptions,
            precisions=("fp32", "fp16"),
            tolerance=default_tolerances("fp32", "fp16"),
            metadata="embedded",
            missing=_missing,
            requires=("torch>=2.6",),
        )
    ]
