"""Writes ``.torchscript`` files: the model as torch traced it, with the info in the extra file ``config.txt``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from segx.errors import ExportError, UsageError
from segx.io.files import replacing
from segx.plugin.jobs import ExportModule
from segx.plugin.registry import device_kind
from segx_export_torchscript.archive import append, has_config, rewrite
from segx_export_torchscript.options import TorchScriptOptions

if TYPE_CHECKING:
    from pathlib import Path

    from segx.artifact import Artifact, ArtifactInfo
    from segx.options.verbs import ExportOptions


class TorchScriptExporter:
    """TorchScript files that torch and libtorch open."""

    def check(self, info: ArtifactInfo, options: ExportOptions) -> None:  # noqa: ARG002 - any model can be traced
        """Refuse wrong combinations of options before any work is done.

        Raises:
            UsageError: With the combination and what to type instead.
        """
        chosen = _own(options)
        if chosen.dynamic and chosen.batch > 1:
            msg = f"batch={chosen.batch} fixes what dynamic=True leaves open"
            raise UsageError(msg, hint="leave one of them out: a dynamic file takes any batch")
        if chosen.half and device_kind(chosen.device or "cpu") == "cpu":
            msg = "half=True is for GPUs: on a CPU torch runs 16-bit convolutions many times slower than 32-bit ones"
            raise UsageError(msg, hint="device=cuda, or leave half out; format=onnx half=True needs no GPU")

    def export(
        self, source: ExportModule | Artifact, info: ArtifactInfo, options: ExportOptions, destination: Path
    ) -> ArtifactInfo:
        """Write ``destination`` and return the info that describes it.

        Raises:
            ExportError: torch cannot trace the model.
        """
        if not isinstance(source, ExportModule):
            msg = f"TorchScript is made from a model, not from {source.path}"
            raise ExportError(msg, hint="segx export model=yolov8n-seg.pt format=torchscript")
        from segx_export_torchscript import tracing

        chosen = _own(options)
        done = info.replace(versions={**info.versions, "torch": tracing.torch_version()})
        traced = tracing.trace(source, half=chosen.half, freeze=chosen.optimize)
        with replacing(destination) as temporary:
            rewrite(traced, temporary)
        return done

    def write_info(self, path: Path, info: ArtifactInfo) -> None:
        """Append the metadata to a file; only one that has some already is written anew, atomically."""
        if has_config(path):
            with replacing(path) as temporary:
                rewrite(path, temporary, config=_config(info))
        else:
            append(path, _config(info))


def _own(options: ExportOptions) -> TorchScriptOptions:
    """Return the options as this format's own, so that a caller may hand over plain ``ExportOptions``."""
    return options if isinstance(options, TorchScriptOptions) else TorchScriptOptions.parse(options.as_dict())


def _config(info: ArtifactInfo) -> bytes:
    """Return the content of the extra file: one JSON document of the keys that other tools read too."""
    return json.dumps(info.to_metadata()).encode()
