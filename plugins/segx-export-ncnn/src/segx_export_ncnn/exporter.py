"""Writes ``_ncnn_model`` folders: pnnx turns an ONNX file into a text of layers and a file of weights."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from segx.errors import ExportError, UsageError
from segx.plugin.base import FormatExporter
from segx.runtime import child
from segx_export_ncnn.options import NcnnOptions

if TYPE_CHECKING:
    from pathlib import Path

    from segx.artifact import Artifact, ArtifactInfo
    from segx.plugin.jobs import ExportJob


class NcnnExporter(FormatExporter[NcnnOptions]):
    """Folders that ncnn opens."""

    title = "ncnn"
    format = "ncnn"
    options = NcnnOptions
    source = "onnx"
    packages = ("pnnx", "ncnn")

    def _check(self, info: ArtifactInfo, options: NcnnOptions) -> None:
        if info.batch > 1 and "batch" not in info.dynamic:
            msg = f"the source is fixed to batch {info.batch}, and ncnn is made from one that takes a single image"
            raise UsageError(msg, hint="export from the .pt it was made from, or from an .onnx of batch=1")
        if options.int8 and options.dynamic:
            msg = "int8=True with dynamic=True: ranges are taken from images of one size"
            raise UsageError(msg, hint="leave one of them out")
        if options.int8 and options.half:
            raise UsageError("int8=True with half=True: weights are one or the other", hint="leave one of them out")

    def _export(self, source: Artifact, job: ExportJob, options: NcnnOptions) -> None:
        from segx_export_ncnn import model

        graph = job.scratch / "model.onnx"  # pnnx writes beside what it reads
        _put(source.path, graph, job.info)
        height, width = job.info.imgsz
        other = [height + job.info.stride, width + 2 * job.info.stride] if job.info.dynamic else None
        arguments = {"source": str(graph), "imgsz": [height, width], "other": other, "half": options.half}
        child.call("segx_export_ncnn.convert:convert", arguments, what="pnnx", notify=job.notify)
        text, weights = job.scratch / model.TEXT, job.scratch / model.WEIGHTS
        if options.int8:
            from segx_export_ncnn.quantise import quantise

            if job.images is None:
                raise ExportError("int8=True: there are no images to calibrate on", hint="data=NAME")
            total = len(job.images)
            layers = quantise(text, weights, job.images, notify=lambda done: job.notify("calibrating", done, total))
            model.write(layers, text, weights)
        job.destination.mkdir()
        for path in (text, weights):
            path.replace(job.destination / path.name)


def _put(source: Path, target: Path, info: ArtifactInfo) -> None:
    """Give pnnx its own copy of the graph, ended where the info says that it ends.

    Raises:
        ExportError: It ends elsewhere, and cannot be cut there.
    """
    import onnx

    ends = [item.name for item in onnx.load(source, load_external_data=False).graph.output]
    if ends == list(info.outputs):
        shutil.copyfile(source, target)
        return
    from segx_onnx_graph import raw_form

    onnx.save(raw_form(source), target)
