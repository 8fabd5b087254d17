"""Opens OpenVINO's IR, a folder or its XML, and ``.onnx`` files: ours and those that other tools made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segx.io import sidecar
from segx.plugin.base import FormatBackend, Graph, describe
from segx_backend_openvino import devices, ir

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from segx.artifact import Artifact, ArtifactInfo
    from segx.options.verbs import SessionOptions
    from segx_backend_openvino.session import OpenvinoSession


class OpenvinoBackend(FormatBackend):
    """OpenVINO and ONNX models with OpenVINO."""

    title = "OpenVINO or ONNX"
    runtime = "OpenVINO"

    def _read(self, path: Path) -> tuple[Mapping[str, Any] | None, Graph | None]:
        """Return metadata and graph: of IR from its XML, without OpenVINO, of ONNX as OpenVINO reads it."""
        if path.suffix.lower() == ".onnx" and not path.is_dir():
            from segx_backend_openvino.session import read_header

            return read_header(path)
        file = ir.graph_file(path)
        inside, graph = ir.read(file)
        metadata = sidecar.read_metadata(file.parent)
        if metadata is not None and not path.is_dir():
            describe(metadata, file.parent).check_files(file.parent)  # of a folder, core does it
        return metadata or inside, graph

    def _open(self, artifact: Artifact, info: ArtifactInfo, options: SessionOptions) -> OpenvinoSession:
        from segx_backend_openvino.session import start

        path = artifact.path
        return start(path if path.suffix.lower() == ".onnx" else ir.graph_file(path), path, info, options)

    def devices(self) -> list[str]:
        """Return what ``device=`` may be with the installed OpenVINO; ``segx doctor`` shows it."""
        from segx_backend_openvino.session import available

        return devices.names(available())
