"""Writes ``_ncnn_model`` folders: pnnx turns an ONNX file into a text of layers and a file of weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx.errors import UsageError
from segx.plugin.base import FormatExporter
from segx_export_ncnn.options import NcnnOptions

if TYPE_CHECKING:
    from segx.artifact import Artifact, ArtifactInfo
    from segx.plugin.jobs import ExportJob

TEXT, WEIGHTS = "model.ncnn.param", "model.ncnn.bin"
"""What the two files are called: as other tools call them."""


class NcnnExporter(FormatExporter[NcnnOptions]):
    """Folders that ncnn opens."""

    title = "ncnn"
    format = "ncnn"
    options = NcnnOptions
    source = "onnx"

    def made_by(self, options: NcnnOptions) -> tuple[str, ...]:
        """Return the packages whose versions travel with the folder."""
        return ("pnnx", "ncnn")

    def _check(self, info: ArtifactInfo, options: NcnnOptions) -> None:
        if info.batch > 1 and "batch" not in info.dynamic:
            msg = f"the source is fixed to batch {info.batch}, and ncnn is made from one that takes a single image"
            raise UsageError(msg, hint="export from the .pt it was made from, or from an .onnx of batch=1")
        if options.int8 and options.dynamic:
            raise UsageError("int8=True with dynamic=True: ranges are taken at one size", hint="leave one of them out")

    def _export(self, source: Artifact, job: ExportJob, options: NcnnOptions) -> None:
        from segx_export_ncnn import convert

        made = convert.convert(
            source.path,
            job.scratch,
            imgsz=job.info.imgsz,
            stride=job.info.stride,
            dynamic=bool(job.info.dynamic),
            half=options.half,
        )
        job.destination.mkdir()
        for path, name in zip(made, (TEXT, WEIGHTS), strict=True):
            path.replace(job.destination / name)
