"""Writes Paddle's inference models: an ONNX graph, said in Paddle's operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segx.plugin.base import FormatExporter, open_shape
from segx.runtime import child
from segx_export_paddle.options import PaddleOptions

if TYPE_CHECKING:
    from segx.plugin.jobs import ExportJob


class PaddleExporter(FormatExporter[PaddleOptions]):
    """Folders that Paddle Inference opens: ``model.json`` and ``model.pdiparams``."""

    title = "Paddle"
    format = "paddle"
    options = PaddleOptions
    source = "onnx"
    packages = ("onnx", "paddlepaddle")

    def _export(self, source: Any, job: ExportJob, options: PaddleOptions) -> None:  # noqa: ARG002 - the info has them
        job.destination.mkdir(parents=True, exist_ok=True)
        arguments = {"source": str(source.path), "target": str(job.destination), "shape": open_shape(job.info)}
        child.call("segx_export_paddle.translation:convert", arguments, what="Paddle", notify=job.notify)
