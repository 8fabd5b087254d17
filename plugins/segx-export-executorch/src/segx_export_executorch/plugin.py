"""Declares ExecuTorch as a format that models are exported to."""

from __future__ import annotations

from segx import hookimpl
from segx.options.verbs import ExportOptions
from segx.plugin.specs import ExporterSpec, default_tolerances, lazy

SEGX_API = (1, 0)


@hookimpl
def segx_exporters() -> list[ExporterSpec]:
    """Declare the format."""
    return [
        ExporterSpec(
            name="executorch",
            summary="a program for ExecuTorch with XNNPACK: phones and other devices on CPUs",
            load=lazy("segx_export_executorch.exporter:ExecuTorchExporter"),
            suffix="_executorch_model",
            options=ExportOptions,
            tolerance=default_tolerances("fp32"),
            axes=frozenset(),
            metadata="folder",
            requires=("executorch>=1.5", "torch>=2.11"),
        )
    ]
