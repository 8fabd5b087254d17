"""Writes SavedModel folders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx.errors import UsageError
from segx.plugin.base import FormatExporter
from segx_export_saved_model.options import SavedModelOptions
from segx_tensorflow.apart import convert

if TYPE_CHECKING:
    from segx.artifact import Artifact, ArtifactInfo
    from segx.plugin.jobs import ExportJob


class SavedModelExporter(FormatExporter[SavedModelOptions]):
    """SavedModel folders of an ONNX graph."""

    title = "SavedModel"
    format = "saved_model"
    options = SavedModelOptions
    source = "onnx"

    def _check(self, info: ArtifactInfo, options: SavedModelOptions) -> None:  # noqa: ARG002 - any model
        if options.keras and options.dynamic:
            msg = "keras=True: a Keras model has a fixed height and width, which dynamic=True leaves open"
            raise UsageError(msg, hint="leave one of them out")

    def _export(self, source: Artifact, job: ExportJob, options: SavedModelOptions) -> ArtifactInfo:
        return convert("convert:saved_model", source, job, keras=options.keras)
