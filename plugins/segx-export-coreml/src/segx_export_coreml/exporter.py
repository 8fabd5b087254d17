"""Writes ``.mlpackage`` folders: the model as torch traced it, converted by coremltools in a process of its own."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from segx.errors import UsageError
from segx.plugin.base import FormatExporter
from segx_export_coreml.options import CoreMLOptions

if TYPE_CHECKING:
    from segx.artifact import ArtifactInfo
    from segx.plugin.jobs import ExportJob, ExportModule

_DECODED, _FINAL = "yolov8-seg/1", "yolov8-seg-final/1"
_FINAL_OUTPUTS = ("detections", "prototypes")
_WITH_NMS = ("conf", "iou", "max_det")


class CoreMLExporter(FormatExporter[CoreMLOptions]):
    """Core ML packages (ML programs) that Xcode, Core ML and coremltools open."""

    title = "Core ML"
    format = "coreml"
    options = CoreMLOptions

    def _check(self, info: ArtifactInfo, options: CoreMLOptions) -> None:
        plain = CoreMLOptions()
        given = [name for name in _WITH_NMS if getattr(options, name) != getattr(plain, name)]
        if given and not options.nms:
            said = " ".join(f"{name}={getattr(options, name)}" for name in given)
            raise UsageError(f"{said}: without nms nothing is suppressed in the file", hint=f"nms=True {said}")
        if options.nms and info.head != _DECODED:
            msg = f"nms=True: suppression is known for models that end in {_DECODED}, not in {info.head}"
            raise UsageError(msg, hint="leave nms out")

    def _export(self, source: ExportModule, job: ExportJob, options: CoreMLOptions) -> ArtifactInfo:
        from segx.runtime import child
        from segx_export_coreml import tracing

        info = _final(job.info, options) if options.nms else job.info
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
                "outputs": list(info.outputs),
                "precision": options.precision,
                "suppression": _suppression(source.info, options) if options.nms else None,
                "metadata": info.to_metadata(),
                "about": {"short_description": f"{info.variant or info.architecture}, exported by segx"},
            },
            what="coremltools",
            prepare="segx_export_coreml.convert:without_tensorflow",
            notify=job.notify,
        )
        shutil.move(made, job.destination)
        return info.replace(versions={**info.versions, **versions})


def _final(info: ArtifactInfo, options: CoreMLOptions) -> ArtifactInfo:
    """Return the info of a file that ends in its detections."""
    decoding = {name: getattr(options, name) for name in _WITH_NMS}
    return info.replace(head=_FINAL, outputs=_FINAL_OUTPUTS, decoding=decoding)


def _suppression(info: ArtifactInfo, options: CoreMLOptions) -> dict[str, Any]:
    return {
        "classes": len(info.names),
        "side": max(info.imgsz),
        "conf": options.conf,
        "iou": options.iou,
        "most": options.max_det,
    }
