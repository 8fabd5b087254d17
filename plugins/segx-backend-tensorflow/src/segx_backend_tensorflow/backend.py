"""Opens SavedModels and frozen graphs with TensorFlow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segx.errors import ModelError
from segx.io import sidecar
from segx.plugin.base import FormatBackend, Graph
from segx_backend_tensorflow.protobuf import read_graph, read_saved_model

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from segx.artifact import Artifact, ArtifactInfo
    from segx.options.verbs import SessionOptions
    from segx_backend_tensorflow.session import TensorFlowSession


class TensorFlowBackend(FormatBackend):
    """SavedModels and frozen graphs with TensorFlow."""

    title = "TensorFlow"
    runtime = "TensorFlow"

    def _read(self, path: Path) -> tuple[Mapping[str, Any] | None, Graph | None]:
        """Return the graph from the bytes of the file; the metadata lie in the folder, or beside the file.

        Other tools write frozen graphs along with a SavedModel, and the metadata of both into that.
        """
        metadata = None
        if path.is_dir():
            header = read_saved_model(path / "saved_model.pb")
        else:
            header = read_graph(path)
            if not sidecar.location(path).exists():
                metadata = sidecar.read_metadata(path.with_name(f"{path.stem}_saved_model"))
        if not header.shape:
            return metadata, None
        if len(header.shape) != 4 or header.shape[3] not in {3, None}:
            shape = "x".join(str(length or "?") for length in header.shape)
            msg = f"{path}: input {header.input!r} does not take float images NxHxWx3; its shape is {shape}"
            raise ModelError(msg, hint="export the model again with segx export")
        batch, height, width, channels = header.shape
        return metadata, Graph(input=(batch, channels, height, width))

    def _open(self, artifact: Artifact, info: ArtifactInfo, options: SessionOptions) -> TensorFlowSession:
        from segx_backend_tensorflow.session import TensorFlowSession, start

        model, device = start(artifact.path, info, options)
        return TensorFlowSession(model, path=artifact.path, info=info, device=device)

    def devices(self) -> list[str]:
        """Return what ``device=`` may be with the installed TensorFlow; ``segx doctor`` shows it."""
        from segx_backend_tensorflow.session import devices

        return devices()
