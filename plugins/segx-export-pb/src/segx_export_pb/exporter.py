"""Writes frozen graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx.plugin.base import FormatExporter, open_shape
from segx.runtime import child
from segx_export_pb.options import PbOptions

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
        made = child.call(
            "segx_tensorflow.convert:frozen_graph",
            {"source": source.path, "shape": open_shape(job.info), "destination": job.destination},
            what="TensorFlow",
            prepare="segx_tensorflow.quiet:prepare",
            notify=job.notify,
        )
        return job.info.replace(versions={**job.info.versions, **made["versions"]}, outputs=tuple(made["outputs"]))
