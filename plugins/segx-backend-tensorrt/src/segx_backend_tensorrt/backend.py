"""Opens ``.engine`` files: ours, whose info lies beside, and those of other tools that begin with theirs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from segx.errors import ModelError
from segx.io.files import open_regular
from segx.plugin.base import FormatBackend

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from segx.artifact import Artifact, ArtifactInfo
    from segx.options.verbs import SessionOptions
    from segx.plugin.base import Graph
    from segx_backend_tensorrt.session import TensorRtSession

_LENGTH = 4
"""Bytes of the number before the metadata of other tools."""
_MAX_METADATA = 1 << 20
"""Bytes; the metadata of a model with a thousand classes have some ten thousand. Engines begin with a word, ``ftrt`` or
``vtrt``, which read as a number is far above it."""


class TensorRtBackend(FormatBackend):
    """TensorRT engines on GPUs."""

    title = "TensorRT"
    runtime = "TensorRT"

    def _read(self, path: Path) -> tuple[Mapping[str, Any] | None, Graph | None]:
        """Return the metadata in front of the engine; what it says of itself takes TensorRT and the right GPU."""
        return read_header(path)[0], None

    def _open(self, artifact: Artifact, info: ArtifactInfo, options: SessionOptions) -> TensorRtSession:
        from segx_backend_tensorrt.session import TensorRtSession, start

        engine = start(artifact.path, read_header(artifact.path)[1], info, options)
        return TensorRtSession(engine, path=artifact.path, info=info, device=engine.gpu.device)

    def devices(self) -> list[str]:
        """Return what ``device=`` may be; ``segx doctor`` shows it."""
        from segx_backend_tensorrt.gpu import devices

        return devices()


def read_header(path: Path) -> tuple[dict[str, Any] | None, int]:
    """Return the metadata before an engine, where there are any, and at which byte the engine begins.

    Raises:
        ModelError: They are cut short, or no JSON object.
        OSError: The file cannot be read.
    """
    with open_regular(path) as file:
        length = int.from_bytes(file.read(_LENGTH), "little")
        if not 0 < length <= _MAX_METADATA:
            return None, 0
        text = file.read(length)
        more = file.read(1)
    if len(text) < length or not more:
        raise ModelError(f"{path}: is damaged: it ends within its metadata", hint="copy or export it again")
    metadata = json.loads(text)
    if not isinstance(metadata, dict):
        raise ModelError(f"{path}: is damaged or no TensorRT engine: its metadata are no JSON object")
    return metadata, _LENGTH + length
