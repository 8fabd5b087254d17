"""Opens ``.onnx`` files with the DNN module of OpenCV: ours and those that other tools made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segx.errors import ModelError
from segx.plugin.base import FormatBackend, FormatSession, Graph
from segx.runtime import choose_device, cores

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from segx.artifact import Artifact, ArtifactInfo
    from segx.options.verbs import SessionOptions
    from segx.structures.types import Array, Images


class OpencvBackend(FormatBackend):
    """ONNX models with OpenCV."""

    title = "ONNX"
    runtime = "OpenCV"

    def _read(self, path: Path) -> tuple[Mapping[str, Any], Graph]:
        """Return the metadata of a file, and what its graph says of itself."""
        import onnx

        model = onnx.load(path)
        onnx.checker.check_model(model)
        weights = {item.name for item in model.graph.initializer}
        inputs = [item for item in model.graph.input if item.name not in weights]
        if len(inputs) != 1:
            names = ", ".join(item.name for item in inputs) or "none"
            raise ModelError(f"{path}: has {len(inputs)} inputs ({names}); segx runs models with one")
        kind = inputs[0].type.tensor_type
        lengths = [axis.dim_value if axis.HasField("dim_value") else None for axis in kind.shape.dim]
        if kind.elem_type != onnx.TensorProto.FLOAT or len(lengths) != 4 or lengths[1] not in {3, None}:
            shape = "x".join(str(length or "?") for length in lengths) or "unknown"
            msg = f"{path}: input {inputs[0].name!r} does not take float32 images Nx3xHxW; its shape is {shape}"
            raise ModelError(msg, hint="export the model again with segx export format=onnx")
        outputs = [item.name for item in model.graph.output]
        return {item.key: item.value for item in model.metadata_props}, Graph(input=lengths, outputs=outputs)

    def _open(self, artifact: Artifact, info: ArtifactInfo, options: SessionOptions) -> OpencvSession:
        device = choose_device(options.device, ("cpu",))
        import cv2

        cv2.setNumThreads(options.threads or cores())  # of this process, which has no other work
        net = cv2.dnn.readNetFromONNX(str(artifact.path))
        return OpencvSession(net, path=artifact.path, info=info, device=device)


class OpencvSession(FormatSession[Any]):
    """An ONNX model that is ready to run."""

    runtime = "OpenCV"

    def _run(self, model: Any, images: Images) -> list[Array]:
        model.setInput(images)
        outputs: tuple[Array, ...] = model.forward(list(self.info.outputs))
        return [output.copy() for output in outputs]  # the net's own memory, which the next run fills anew
