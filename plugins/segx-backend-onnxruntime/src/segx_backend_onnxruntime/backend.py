"""Opens ``.onnx`` files with ONNX Runtime: ours and those that other tools made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segx.errors import ModelError
from segx.plugin.base import FormatBackend, Graph
from segx_backend_onnxruntime.modelproto import FLOAT16, FLOAT32, read_header
from segx_backend_onnxruntime.providers import devices

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from segx.artifact import Artifact, ArtifactInfo
    from segx.options.verbs import SessionOptions
    from segx_backend_onnxruntime.session import OnnxRuntimeSession


class OnnxRuntimeBackend(FormatBackend):
    """ONNX models with ONNX Runtime."""

    title = "ONNX"
    runtime = "ONNX Runtime"

    def _read(self, path: Path) -> tuple[Mapping[str, Any], Graph]:
        """Return metadata and graph from the bytes of the header; ONNX Runtime is not even imported."""
        header = read_header(path)
        if len(header.inputs) != 1:
            names = ", ".join(item.name for item in header.inputs) or "none"
            raise ModelError(f"{path}: has {len(header.inputs)} inputs ({names}); segx runs models with one")
        source = header.inputs[0]
        if source.element_type not in {FLOAT32, FLOAT16} or len(source.shape) != 4 or source.shape[1] not in {3, ""}:
            shape = "x".join(str(length or "?") for length in source.shape) or "unknown"
            msg = f"{path}: input {source.name!r} does not take float images Nx3xHxW; its shape is {shape}"
            raise ModelError(msg, hint="export the model again with segx export format=onnx")
        precision = "fp16" if source.element_type == FLOAT16 else ""
        outputs = [item.name for item in header.outputs]
        return header.metadata, Graph(input=source.shape, outputs=outputs, precision=precision)

    def _open(self, artifact: Artifact, info: ArtifactInfo, options: SessionOptions) -> OnnxRuntimeSession:
        from segx_backend_onnxruntime.session import OnnxRuntimeSession, start

        session, device = start(artifact.path, options)
        return OnnxRuntimeSession(session, path=artifact.path, info=info, device=device)

    def devices(self) -> list[str]:
        """Return what ``device=`` may be with the installed ONNX Runtime; ``segx doctor`` shows it."""
        from segx_backend_onnxruntime.session import available_providers

        return devices(available_providers())
