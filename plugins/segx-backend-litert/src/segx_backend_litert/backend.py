"""Opens ``.tflite`` files with LiteRT: ours and those that other tools made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segx.errors import ModelError
from segx.plugin.base import FormatBackend, Graph

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from segx.artifact import Artifact, ArtifactInfo
    from segx.options.verbs import SessionOptions
    from segx_backend_litert.session import LiteRtSession


class LiteRtBackend(FormatBackend):
    """TensorFlow Lite models with LiteRT."""

    title = "TFLite"
    runtime = "LiteRT"

    def _read(self, path: Path) -> tuple[Mapping[str, Any] | None, Graph]:
        """Return what the archive at the end says, and the graph from the bytes of the header."""
        from segx_backend_litert.flatbuffer import channels_first, read_header, read_metadata

        header = read_header(path)
        images = len(header.shape) == 4 and 3 in {header.shape[1], header.shape[3]}
        if not images or header.type not in {"float32", "uint8", "int8"}:
            shape = "x".join(map(str, header.shape))
            msg = f"{path}: does not take images NxHxWx3 of float32, uint8 or int8; it takes {shape} of {header.type}"
            raise ModelError(msg, hint="export the model again with segx export format=tflite")
        lengths = header.shape
        if not channels_first(lengths):
            lengths = lengths[0], lengths[3], *lengths[1:3]
        return read_metadata(path), Graph(input=lengths, precision=header.precision)

    def _open(self, artifact: Artifact, info: ArtifactInfo, options: SessionOptions) -> LiteRtSession:
        from segx_backend_litert.session import LiteRtSession, start

        pool, device = start(artifact.path, info, options)
        return LiteRtSession(pool, path=artifact.path, info=info, device=device)

    def devices(self) -> list[str]:
        """Return what ``device=`` may be here; ``segx doctor`` shows it."""
        from segx_backend_litert.delegate import devices

        return devices()
