"""Writes ``.onnx`` files: torch's graph, simplified, halved if asked, with the info embedded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segx.errors import UsageError
from segx.io.files import write_bytes
from segx.plugin.base import FormatExporter
from segx_export_onnx.options import OnnxOptions

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
        return ("torch", "onnx", "onnxslim") if options.simplify else ("torch", "onnx")

    def _check(self, info: ArtifactInfo, options: OnnxOptions) -> None:  # noqa: ARG002 - ONNX holds any model
        import onnx

        newest: int = onnx.defs.onnx_opset_version()
        if options.opset > newest:
            msg = f"opset={options.opset} is newer than the installed onnx knows ({newest})"
            raise UsageError(msg, hint=f'opset={newest}, or pip install -U "onnx"')

    def _export(self, source: ExportModule, job: ExportJob, options: OnnxOptions) -> None:
        from segx_export_onnx import graph, half, tracing

        model = tracing.trace(source, opset=options.opset, dynamic=bool(job.info.dynamic))
        graph.strip(model)
        if options.simplify:
            model = graph.simplify(model)
        if options.half:
            half.convert(model)
        graph.name_axes(model, source, job.info)
        graph.check(model)
        write_bytes(job.destination, _serialise(model))

    def write_info(self, path: Path, info: ArtifactInfo) -> None:
        """Append the metadata to a file; only one that has some already is written anew, atomically.

        The fields of a message may stand in any order, so that neither graph nor weights are written again.
        """
        import onnx

        from segx_export_onnx import graph

        model = onnx.load(path, load_external_data=False)
        if model.metadata_props:
            graph.embed(model, info)
            write_bytes(path, _serialise(model))
            return
        rest = onnx.ModelProto()
        graph.embed(rest, info)
        with path.open("ab") as file:
            file.write(_serialise(rest))


def _serialise(model: Any) -> bytes:
    """Return the file's bytes; the same model gives the same bytes."""
    content: bytes = model.SerializeToString(deterministic=True)
    return content
