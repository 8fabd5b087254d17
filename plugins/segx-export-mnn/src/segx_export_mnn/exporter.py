"""Writes ``.mnn`` files: MNN converts an ONNX file, and the info goes where the format has room for a text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from segx.errors import UsageError
from segx.plugin.base import FormatExporter
from segx.runtime import child
from segx_export_mnn import net
from segx_export_mnn.options import MnnOptions

if TYPE_CHECKING:
    from pathlib import Path

    from segx.artifact import Artifact, ArtifactInfo
    from segx.plugin.jobs import ExportJob


class MnnExporter(FormatExporter[MnnOptions]):
    """MNN files of an ONNX graph."""

    title = "MNN"
    format = "mnn"
    options = MnnOptions
    source = "onnx"
    packages = ("MNN",)

    def _check(self, info: ArtifactInfo, options: MnnOptions) -> None:  # noqa: ARG002 - any model
        if options.int8 and options.half:
            raise UsageError("int8=True with half=True: weights are one or the other", hint="leave one of them out")

    def _export(self, source: Artifact, job: ExportJob, options: MnnOptions) -> None:
        arguments = {"source": source.path, "destination": job.destination, "precision": options.precision}
        child.call("segx_export_mnn.convert:convert", arguments, what="MNN's converter")
        net.write_identity(job.destination)

    def write_info(self, path: Path, info: ArtifactInfo) -> None:
        """Put the info where MNN's own tools show it, behind the model; the model itself stays as it is."""
        net.write_text(path, json.dumps(info.to_metadata()))
