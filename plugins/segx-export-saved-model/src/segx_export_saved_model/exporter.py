"""Writes SavedModel folders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx.errors import UsageError
from segx.plugin.base import FormatExporter, open_shape
from segx.runtime import child
from segx_export_saved_model.options import SavedModelOptions

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
        made = child.call(
            "segx_tensorflow.convert:saved_model",
            {
                "source": source.path,
                "shape": open_shape(job.info),
                "destination": job.destination,
                "keras": options.keras,
            },
            what="TensorFlow",
            prepare="segx_tensorflow.quiet:prepare",
            notify=job.notify,
        )
        return job.info.replace(versions={**job.info.versions, **made["versions"]}, outputs=tuple(made["outputs"]))
