"""Writes ``.torchscript`` files: the model as torch traced it, with the info in the extra file ``config.txt``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from segx.errors import UsageError
from segx.io.files import replacing
from segx.plugin.base import FormatExporter
from segx.runtime import device_kind
from segx_export_torchscript.archive import append, has_config, rewrite
from segx_export_torchscript.options import FOR_GPUS, TorchScriptOptions

if TYPE_CHECKING:
    from pathlib import Path

    from segx.artifact import ArtifactInfo
    from segx.plugin.jobs import ExportJob, ExportModule


class TorchScriptExporter(FormatExporter[TorchScriptOptions]):
    """TorchScript files that torch and libtorch open."""

    title = "TorchScript"
    format = "torchscript"
    options = TorchScriptOptions
    packages = ("torch",)

    def _check(self, info: ArtifactInfo, options: TorchScriptOptions) -> None:  # noqa: ARG002 - any model can be traced
        if options.half and device_kind(options.device or "cpu") == "cpu":
            raise UsageError(
                f"half=True {FOR_GPUS}", hint="device=cuda, or leave half out; format=onnx half=True needs no GPU"
            )

    def _export(self, source: ExportModule, job: ExportJob, options: TorchScriptOptions) -> None:
        from segx_export_torchscript import tracing

        traced = job.scratch / "traced"
        tracing.trace(source, traced, half=options.half, freeze=options.optimize)
        with replacing(job.destination) as temporary:
            rewrite(traced, temporary)

    def write_info(self, path: Path, info: ArtifactInfo) -> None:
        """Append the metadata to a file; only one that has some already is written anew, atomically."""
        if has_config(path):
            with replacing(path) as temporary:
                rewrite(path, temporary, config=_config(info))
        else:
            append(path, _config(info))


def _config(info: ArtifactInfo) -> bytes:
    """Return the content of the extra file: one JSON document of the keys that other tools read too."""
    return json.dumps(info.to_metadata()).encode()
