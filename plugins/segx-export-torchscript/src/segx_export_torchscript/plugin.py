"""Declares TorchScript as a format that models are exported to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx import hookimpl
from segx.plugin.specs import ExporterSpec, Tolerance
from segx_export_torchscript.options import TorchScriptOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from segx.plugin.interfaces import Exporter

SEGX_API = (1, 0)


def _load() -> Exporter:
    from segx_export_torchscript.exporter import TorchScriptExporter

    return TorchScriptExporter()


@hookimpl
def segx_exporters() -> Iterable[ExporterSpec]:
    """Declare the format."""
    return [
        ExporterSpec(
            name="torchscript",
            summary="one file that torch and libtorch run without the model's code",
            load=_load,
            suffix=".torchscript",
            options=TorchScriptOptions,
            precisions=("fp32", "fp16"),
            tolerance={
                "fp32": Tolerance(box=0.1, score=0.001, mask_iou=0.99, matched=0.97, raw=0.001),
                "fp16": Tolerance(
                    box=5.0,
                    score=0.02,
                    mask_iou=0.9,
                    matched=0.95,
                    raw=0.15,
                    typical_box=0.5,
                    typical_mask_iou=0.95,
                ),
            },
            metadata="embedded",
            requires=("torch>=2.6",),
        )
    ]
