"""Small ONNX models written node by node, so that the runtime is tested without any exporter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from segx.artifact import Artifact, ArtifactInfo

if TYPE_CHECKING:
    from pathlib import Path

OURS = ArtifactInfo(names={0: "disc", 1: "it's a bar"}, imgsz=(64, 96), date="2026-11-23")


class MakeModel(Protocol):
    """What the fixture ``make_model`` gives."""

    def __call__(
        self,
        shape: tuple[int | str | None, ...] = (1, 3, 64, 96),
        *,
        metadata: dict[str, str] | None = None,
        element: int = TensorProto.FLOAT,
        opset: int = 17,
        name: str = "m.onnx",
    ) -> Artifact: ...


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    """A model of two outputs: twice the images, and their mean over the channels plus 1000 weights of no effect."""

    def make(
        shape: tuple[int | str | None, ...] = (1, 3, 64, 96),
        *,
        metadata: dict[str, str] | None = None,
        element: int = TensorProto.FLOAT,
        opset: int = 17,
        name: str = "m.onnx",
    ) -> Artifact:
        kind: Any = helper.tensor_dtype_to_np_dtype(element)
        weights = [
            onnx.numpy_helper.from_array(np.array(2, kind), "two"),
            onnx.numpy_helper.from_array(np.zeros(1000, kind), "ballast"),
        ]
        nodes = [
            helper.make_node("Mul", ["images", "two"], ["output0"]),
            helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1], keepdims=1),
            helper.make_node("ReduceMax", ["ballast"], ["nothing"]),
            helper.make_node("Add", ["mean", "nothing"], ["output1"]),
        ]
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("images", element, shape)],
            [helper.make_tensor_value_info(f"output{i}", element, None) for i in (0, 1)],
            weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        helper.set_model_props(model, OURS.to_metadata() if metadata is None else metadata)
        path = tmp_path / name
        path.write_bytes(model.SerializeToString())
        return Artifact(path=path, format="onnx")

    return make
