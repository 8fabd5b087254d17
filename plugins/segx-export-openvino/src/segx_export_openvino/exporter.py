"""Writes ``_openvino_model`` folders: the ONNX graph as OpenVINO's IR, with numbers of 32, 16 or 8 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx.errors import ExportError, UsageError
from segx.plugin.base import FormatExporter
from segx.runtime import child
from segx_export_openvino.options import OpenvinoOptions

if TYPE_CHECKING:
    from segx.artifact import Artifact, ArtifactInfo
    from segx.plugin.jobs import ExportJob


class OpenvinoExporter(FormatExporter[OpenvinoOptions]):
    """Folders that OpenVINO opens, the benchmark and the samples of OpenVINO's makers among it."""

    title = "OpenVINO"
    format = "openvino"
    options = OpenvinoOptions
    source = "onnx"

    def made_by(self, options: OpenvinoOptions) -> tuple[str, ...]:
        """Return the packages whose versions travel with the file."""
        return ("openvino", "nncf") if options.int8 else ("openvino",)

    def _check(self, info: ArtifactInfo, options: OpenvinoOptions) -> None:  # noqa: ARG002 - OpenVINO holds any model
        asked = [name for name in ("half", "bf16", "int8") if getattr(options, name)]
        if len(asked) > 1:
            msg = f"{'=True and '.join(asked)}=True are {len(asked)} precisions"
            raise UsageError(msg, hint="leave all but one of them out")
        if options.bf16 and options.verify:
            from segx_export_openvino.graph import cpu_has_bf16

            if not cpu_has_bf16():
                msg = "bf16=True: this CPU does not compute in bfloat16, so that the result cannot be proven"
                raise UsageError(msg, hint="half=True, or verify=False and prove it where it is to run: segx verify")

    def _export(self, source: Artifact, job: ExportJob, options: OpenvinoOptions) -> None:
        from segx_export_openvino import graph

        job.destination.mkdir(parents=True)
        stem = job.destination.name.removesuffix("_openvino_model") or "model"
        destination, about = job.destination / f"{stem}.xml", job.info.to_metadata()
        model = graph.read(source.path)
        if not options.int8 or graph.is_quantised(model):  # an ONNX file in 8 bits stays as it was calibrated
            graph.save(model, destination, about, small=options.half or options.bf16)
            return
        if job.images is None:
            raise ExportError("int8=True: there are no images to calibrate on", hint="data=coco8-seg.yaml")
        del model
        child.call(
            "segx_export_openvino.quantise:convert",
            {
                "source": str(source.path),
                "destination": str(destination),
                "metadata": about,
                "images": job.images.to_dict(),
            },
            what="NNCF",
            environment={"NNCF_CI": "1"},  # else it reports its use
            notify=job.notify,
        )
