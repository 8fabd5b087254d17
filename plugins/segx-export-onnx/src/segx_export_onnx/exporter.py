"""Writes ``.onnx`` files: torch's graph, simplified, halved if asked, with the info embedded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segx.errors import ExportError, UsageError
from segx.io.files import write_bytes
from segx.plugin.jobs import ExportModule
from segx_export_onnx.options import OnnxOptions

if TYPE_CHECKING:
    from pathlib import Path

    from segx.artifact import Artifact, ArtifactInfo
    from segx.options.verbs import ExportOptions


class OnnxExporter:
    """ONNX files that other tools can open."""

    def check(self, info: ArtifactInfo, options: ExportOptions) -> None:  # noqa: ARG002 - ONNX holds any model
        """Refuse wrong combinations of options before any work is done.

        Raises:
            UsageError: With the combination and what to type instead.
        """
        chosen = _own(options)
        if chosen.dynamic and chosen.batch > 1:
            msg = f"batch={chosen.batch} fixes what dynamic=True leaves open"
            raise UsageError(msg, hint="leave one of them out: a dynamic file takes any batch")
        newest = _newest_opset()
        if chosen.opset > newest:
            msg = f"opset={chosen.opset} is newer than the installed onnx knows ({newest})"
            raise UsageError(msg, hint=f'opset={newest}, or pip install -U "onnx"')

    def export(
        self, source: ExportModule | Artifact, info: ArtifactInfo, options: ExportOptions, destination: Path
    ) -> ArtifactInfo:
        """Write ``destination`` and return the info that describes it.

        Raises:
            ExportError: torch cannot turn the model into such a graph, or it cannot be written in half precision.
        """
        if not isinstance(source, ExportModule):
            msg = f"ONNX is made from a model, not from {source.path}"
            raise ExportError(msg, hint="segx export model=yolov8n-seg.pt format=onnx")
        from segx_export_onnx import graph, half, tracing

        chosen = _own(options)
        model = tracing.trace(source, opset=chosen.opset, dynamic=bool(info.dynamic))
        graph.strip(model)
        if chosen.simplify:
            model = graph.simplify(model)
        if chosen.half:
            half.convert(model)
        graph.name_axes(model, source, info)
        done = info.replace(versions={**info.versions, **graph.versions(simplified=chosen.simplify)})
        graph.check(model)
        write_bytes(destination, _serialise(model))
        return done

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


def _own(options: ExportOptions) -> OnnxOptions:
    """Return the options as this format's own, so that a caller may hand over plain ``ExportOptions``."""
    return options if isinstance(options, OnnxOptions) else OnnxOptions.parse(options.as_dict())


def _newest_opset() -> int:
    import onnx

    newest: int = onnx.defs.onnx_opset_version()
    return newest


def _serialise(model: Any) -> bytes:
    """Return the file's bytes; the same model gives the same bytes."""
    content: bytes = model.SerializeToString(deterministic=True)
    return content
