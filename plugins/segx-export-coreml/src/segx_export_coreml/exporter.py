"""Writes ``.mlpackage`` folders: the model as torch traced it, converted by coremltools in a process of its own."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from segx.plugin.base import FormatExporter
from segx_export_coreml.options import CoreMLOptions

if TYPE_CHECKING:
    from segx.artifact import ArtifactInfo
    from segx.plugin.jobs import ExportJob, ExportModule


class CoreMLExporter(FormatExporter[CoreMLOptions]):
    """Core ML packages (ML programs) that Xcode, Core ML and coremltools open."""

    title = "Core ML"
    format = "coreml"
    options = CoreMLOptions

    def _export(self, source: ExportModule, job: ExportJob, options: CoreMLOptions) -> ArtifactInfo:
        from segx.runtime import child
        from segx_export_coreml import tracing

        traced, made = job.scratch / "traced.pt", job.scratch / "made.mlpackage"
        job.notify("tracing", 0, None)
        tracing.trace(source, traced)
        job.notify("converting", 0, None)
        versions = child.call(
            "segx_export_coreml.convert:convert",
            {
                "traced": str(traced),
                "destination": str(made),
                "scratch": str(job.scratch),
                "shape": list(source.example.shape),
                "outputs": list(job.info.outputs),
                "precision": options.precision,
                "suppression": _suppression(job.info, options) if options.nms else None,
                "metadata": job.info.to_metadata(),
                "about": {"short_description": f"{job.info.variant or job.info.architecture}, exported by segx"},
            },
            what="coremltools",
            prepare="segx_export_coreml.convert:without_tensorflow",
            notify=job.notify,
        )
        shutil.move(made, job.destination)
        return job.info.replace(versions={**job.info.versions, **versions})


def _suppression(info: ArtifactInfo, options: CoreMLOptions) -> dict[str, Any]:
    return {
        "classes": len(info.names),
        "side": max(info.imgsz),
        "conf": options.conf,
        "iou": options.iou,
        "most": options.max_det,
    }
