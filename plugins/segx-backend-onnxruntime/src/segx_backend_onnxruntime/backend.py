"""Opens ``.onnx`` files with ONNX Runtime: ours and those that other tools made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segx.artifact import ArtifactInfo
from segx.errors import ModelError, UsageError
from segx.io import sidecar
from segx_backend_onnxruntime.modelproto import FLOAT16, FLOAT32, ModelHeader, ValueHeader, read_header
from segx_backend_onnxruntime.providers import devices

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from segx.artifact import Artifact
    from segx.options.verbs import SessionOptions
    from segx_backend_onnxruntime.session import OnnxRuntimeSession

_AXES: Mapping[int, str] = {0: "batch", 2: "height", 3: "width"}


class OnnxRuntimeBackend:
    """ONNX models with ONNX Runtime."""

    def read_info(self, artifact: Artifact) -> ArtifactInfo:
        """Return what is known of a model, from the bytes of its header; ONNX Runtime is not even imported.

        The graph itself says which axes are open and how long the others are; the metadata say the rest.

        Raises:
            ModelError: The file is missing, damaged, takes something else than images, or carries no metadata.
        """
        header = read_header(artifact.path)
        return _describe(header, _image_input(header, artifact.path), artifact.path)

    def open(self, artifact: Artifact, options: SessionOptions) -> OnnxRuntimeSession:
        """Return a session that runs the model.

        Raises:
            ModelError: The file is missing, damaged or uses what this ONNX Runtime does not know.
            UsageError: The device is not there, or half precision is asked of a file that has it not.
        """
        from segx_backend_onnxruntime.session import OnnxRuntimeSession, start

        path = artifact.path
        header = read_header(path)
        source = _image_input(header, path)
        info = _describe(header, source, path)
        if options.half and info.precision != "fp16":
            msg = f"half=True: {path} was exported with {info.precision} and ONNX Runtime runs it as it is"
            raise UsageError(msg, hint="segx export model=... format=onnx half=True")
        session, device = start(path, options)
        return OnnxRuntimeSession(session=session, info=info, device=device, source=source, path=path)

    def devices(self) -> list[str]:
        """Return what ``device=`` may be with the installed ONNX Runtime; ``segx doctor`` shows it."""
        from segx_backend_onnxruntime.session import available_providers

        return devices(available_providers())


def _image_input(header: ModelHeader, path: Path) -> ValueHeader:
    """Return the one input that takes images."""
    if len(header.inputs) != 1:
        names = ", ".join(item.name for item in header.inputs) or "none"
        raise ModelError(f"{path}: has {len(header.inputs)} inputs ({names}); segx runs models with one")
    source = header.inputs[0]
    if source.element_type not in {FLOAT32, FLOAT16} or len(source.shape) != 4 or source.shape[1] not in {3, ""}:
        shape = "x".join(str(length or "?") for length in source.shape) or "unknown"
        msg = f"{path}: input {source.name!r} does not take float images Nx3xHxW; its shape is {shape}"
        raise ModelError(msg, hint="export the model again with segx export format=onnx")
    return source


def _describe(header: ModelHeader, source: ValueHeader, path: Path) -> ArtifactInfo:
    metadata: Mapping[str, Any] = header.metadata
    if "task" not in metadata:
        metadata = sidecar.read_metadata(path) or {}
    if "task" not in metadata:
        msg = f"{path}: carries no metadata: task, names, stride and head (NMS inside?) are unknown"
        raise ModelError(msg, hint=f"export it with segx, or write them as JSON into {sidecar.sidecar_path(path).name}")
    info = ArtifactInfo.from_metadata(metadata, where=str(path))
    halved = "segx" not in metadata and source.element_type == FLOAT16
    graph = info.replace(
        imgsz=_static(source.shape[2:], info.imgsz),
        batch=source.shape[0] if isinstance(source.shape[0], int) else 1,
        dynamic=frozenset(name for axis, name in _AXES.items() if isinstance(source.shape[axis], str)),
        outputs=tuple(item.name for item in header.outputs),
        precision="fp16" if halved else info.precision,
    )
    return graph.checked(where=str(path))


def _static(shape: tuple[int | str, ...], otherwise: tuple[int, int]) -> tuple[int, int]:
    """Return the input size: the graph's own lengths where it has them."""
    height, width = (
        length if isinstance(length, int) else noted for length, noted in zip(shape, otherwise, strict=True)
    )
    return height, width
