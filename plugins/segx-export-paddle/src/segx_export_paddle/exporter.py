"""Writes Paddle's inference models: an ONNX graph, said in Paddle's operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segx.plugin.base import INPUT_AXES, FormatExporter
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

    def made_by(self, options: PaddleOptions) -> tuple[str, ...]:  # noqa: ARG002 - the same for all
        """Return the packages whose versions travel with the file."""
        return ("onnx", "paddlepaddle")

    def _export(self, source: Any, job: ExportJob, options: PaddleOptions) -> None:  # noqa: ARG002 - the info has them
        job.destination.mkdir(parents=True, exist_ok=True)
        lengths = dict(enumerate((job.info.batch, 3, *job.info.imgsz)))
        open_axes = {axis for axis, name in INPUT_AXES.items() if name in job.info.dynamic}
        shape = [None if axis in open_axes else length for axis, length in lengths.items()]
        arguments = {"source": str(source.path), "target": str(job.destination), "shape": shape}
        child.call("segx_export_paddle.translation:convert", arguments, what="Paddle", notify=job.notify)
