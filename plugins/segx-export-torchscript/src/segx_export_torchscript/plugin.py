"""Declares TorchScript as a format that models are exported to."""

from __future__ import annotations

from segx import hookimpl
from segx.plugin.specs import ExporterSpec, default_tolerances, lazy
from segx_export_torchscript.options import TorchScriptOptions

SEGX_API = (1, 0)


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
            requires=("torch>=2.6",),
        )
    ]
