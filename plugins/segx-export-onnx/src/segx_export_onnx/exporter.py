"""Writes ``.onnx`` files: torch's graph, simplified, halved if asked, with the info embedded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx.errors import UsageError
from segx.io.files import write_bytes
from segx.plugin.base import FormatExporter
from segx_export_onnx.options import OLDEST_INT8, OnnxOptions

if TYPE_CHECKING:
    from pathlib import Path

    from segx.artifact import ArtifactInfo
    from segx.plugin.jobs import ExportJob, ExportModule


class OnnxExporter(FormatExporter[OnnxOptions]):
    """ONNX files that other tools can open."""

    title = "ONNX"
    format = "onnx"
    options = OnnxOptions

    def made_by(self, options: OnnxOptions) -> tuple[str, ...]:
        """Return the packages whose versions travel with the file."""
        used = ("torch", "onnx", *(["onnxslim"] if options.simplify else []))
        return (*used, "onnxruntime") if options.int8 else used

    def _check(self, info: ArtifactInfo, options: OnnxOptions) -> None:  # noqa: ARG002 - ONNX holds any model
        import onnx

        newest: int = onnx.defs.onnx_opset_version()
        if options.opset > newest:
            msg = f"opset={options.opset} is newer than the installed onnx knows ({newest})"
            raise UsageError(msg, hint=f'opset={newest}, or pip install -U "onnx"')
        if options.int8 and options.half:
            raise UsageError("int8=True with half=True: a file is one or the other", hint="leave one of them out")
        if options.int8 and options.opset < OLDEST_INT8:
            msg = f"opset={options.opset} with int8=True: numbers of 8 bits for each channel are newer"
            raise UsageError(msg, hint=f"opset={OLDEST_INT8} or more")

    def _export(self, source: ExportModule, job: ExportJob, options: OnnxOptions) -> None:
        from segx_export_onnx import graph, half, quantise, suppression

        model = graph.trace(source, opset=options.opset, dynamic=bool(job.info.dynamic))
        graph.strip(model)
        if options.simplify:
            model = graph.simplify(model)
        if options.int8:
            model = quantise.quantised(model, job)
        elif options.half:
            half.convert(model)
        axes = dict(zip(source.info.outputs, source.output_axes, strict=True))
        if options.nms:
            suppression.append(model, len(job.info.names), job.info.outputs, options)
            axes = {job.info.outputs[0]: {0: "batch"}, job.info.outputs[1]: source.output_axes[1]}
        graph.name_axes(model, axes, job.info)
        graph.check(model)
        write_bytes(job.destination, graph.serialise(model))

    def write_info(self, path: Path, info: ArtifactInfo) -> None:
        """Append the metadata to a file; only one that has some already is written anew, atomically.

        The fields of a message may stand in any order, so that neither graph nor weights are written again.
        """
        from segx_export_onnx import graph

        graph.write_info(path, info)
