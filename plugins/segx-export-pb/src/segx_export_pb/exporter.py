"""Writes frozen graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx.plugin.base import FormatExporter
from segx_export_pb.options import PbOptions
from segx_tensorflow.apart import convert

if TYPE_CHECKING:
    from segx.artifact import Artifact, ArtifactInfo
    from segx.plugin.jobs import ExportJob


class PbExporter(FormatExporter[PbOptions]):
    """Frozen TensorFlow graphs of an ONNX graph."""

    title = "pb"
    format = "pb"
    options = PbOptions
    source = "onnx"

    def _export(self, source: Artifact, job: ExportJob, options: PbOptions) -> ArtifactInfo:  # noqa: ARG002 - in the info
        return convert("convert:frozen_graph", source, job)
