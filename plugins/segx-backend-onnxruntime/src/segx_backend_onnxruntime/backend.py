"""Opens ``.onnx`` files with ONNX Runtime: ours and those that other tools made.

What is asked of a file before it is opened is read from its bytes, without ONNX Runtime and without the weights.

Source: the field numbers of ``onnx.proto3``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segx.errors import ModelError
from segx.io.protobuf import Message
from segx.plugin.base import FormatBackend, Graph
from segx.records import Record

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from segx.artifact import Artifact, ArtifactInfo
    from segx.options.verbs import SessionOptions
    from segx_backend_onnxruntime.session import OnnxRuntimeSession

_FLOAT32, _FLOAT16 = 1, 10
"""``TensorProto.DataType`` values of the element types segx feeds."""


class OnnxRuntimeBackend(FormatBackend):
    """ONNX models with ONNX Runtime."""

    title = "ONNX"
    runtime = "ONNX Runtime"

    def _read(self, path: Path) -> tuple[Mapping[str, Any], Graph]:
        """Return metadata and graph from the bytes of the header; ONNX Runtime is not even imported."""
        model = Message.of(path)
        if 7 not in model:
            raise ValueError("it holds no graph")
        graph = model.message(7)
        weights = {item.text(8) for item in graph.messages(5)}  # old files list them among the inputs
        inputs = [_Value.of(item) for item in graph.messages(11) if item.text(1) not in weights]
        if len(inputs) != 1:
            names = ", ".join(item.name for item in inputs) or "none"
            raise ModelError(f"{path}: has {len(inputs)} inputs ({names}); segx runs models with one")
        (source,) = inputs
        if source.element_type not in {_FLOAT32, _FLOAT16} or len(source.shape) != 4 or source.shape[1] not in {3, ""}:
            shape = "x".join(str(length or "?") for length in source.shape) or "unknown"
            msg = f"{path}: input {source.name!r} does not take float images Nx3xHxW; its shape is {shape}"
            raise ModelError(msg, hint="export the model again with segx export format=onnx")
        precision = "fp16" if source.element_type == _FLOAT16 else ""
        outputs = [item.text(1) for item in graph.messages(12)]
        metadata = {entry.text(1): entry.text(2) for entry in model.messages(14)}
        return metadata, Graph(input=source.shape, outputs=outputs, precision=precision)

    def _open(self, artifact: Artifact, info: ArtifactInfo, options: SessionOptions) -> OnnxRuntimeSession:
        from segx_backend_onnxruntime.session import OnnxRuntimeSession, start

        session, device = start(artifact.path, options)
        return OnnxRuntimeSession(session, path=artifact.path, info=info, device=device)

    def devices(self) -> list[str]:
        """Return what ``device=`` may be with the installed ONNX Runtime; ``segx doctor`` shows it."""
        from segx_backend_onnxruntime.session import devices

        return devices()


class _Value(Record):
    """An input of a graph.

    Attributes:
        name: Its name.
        element_type: ``TensorProto.DataType`` value.
        shape: Lengths; the name of an axis that takes any length, or an empty string where it has none.
    """

    name: str
    element_type: int
    shape: tuple[int | str, ...]

    @classmethod
    def of(cls, item: Message) -> _Value:
        """Return what a ``ValueInfoProto`` says."""
        tensor = item.message(2).message(1)  # empty for whatever is none
        shape = tuple(size.integer(1) if 1 in size else size.text(2) for size in tensor.message(2).messages(1))
        return cls(name=item.text(1), element_type=tensor.integer(1), shape=shape)
