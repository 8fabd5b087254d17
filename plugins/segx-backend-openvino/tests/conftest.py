"""Small models written node by node, as ONNX and as IR, so that the runtime is tested without any exporter."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from segx.artifact import Artifact, ArtifactInfo
from segx.io import sidecar

if TYPE_CHECKING:
    from pathlib import Path

OURS = ArtifactInfo(names={0: "disc", 1: "it's a bar"}, imgsz=(64, 96), date="2026-11-23")
WEIGHTS = np.random.default_rng(3).normal(0, 1, (4, 3, 1, 1)).astype(np.float32)


class MakeModel(Protocol):
    """What the fixtures ``make_onnx`` and ``make_folder`` give."""

    def __call__(
        self,
        shape: tuple[int | str | None, ...] = (1, 3, 64, 96),
        *,
        metadata: dict[str, Any] | None = None,
        element: int = TensorProto.FLOAT,
        name: str = "m",
        seed: int = 3,
    ) -> Artifact: ...


@pytest.fixture
def make_onnx(tmp_path: Path) -> MakeModel:
    """A model of two outputs: a convolution to four channels, and the mean over the image's channels."""

    def make(
        shape: tuple[int | str | None, ...] = (1, 3, 64, 96),
        *,
        metadata: dict[str, Any] | None = None,
        element: int = TensorProto.FLOAT,
        name: str = "m",
        seed: int = 3,
    ) -> Artifact:
        kind: Any = helper.tensor_dtype_to_np_dtype(element)
        weights = np.random.default_rng(seed).normal(0, 1, (4, 3, 1, 1)).astype(kind)
        nodes = [
            helper.make_node("Conv", ["images", "weights"], ["output0"]),
            helper.make_node("ReduceMean", ["images"], ["output1"], axes=[1], keepdims=1),
        ]
        graph = helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("images", element, shape)],
            [helper.make_tensor_value_info(f"output{i}", element, None) for i in (0, 1)],
            [onnx.numpy_helper.from_array(weights, "weights")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        helper.set_model_props(model, OURS.to_metadata() if metadata is None else metadata)
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(model.SerializeToString())
        return Artifact(path=path, format="onnx")

    return make


@pytest.fixture
def make_folder(make_onnx: MakeModel) -> MakeModel:
    """The same as a folder; its metadata.yaml is segx's own, or holds the keys given."""

    def make(*arguments: Any, metadata: dict[str, Any] | None = None, name: str = "m", **more: Any) -> Artifact:
        import openvino as ov
        import yaml

        source = make_onnx(*arguments, metadata={}, name=name, **more).path
        folder = source.with_name(f"{name}_openvino_model")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        ov.save_model(ov.Core().read_model(str(source)), str(folder / f"{name}.xml"), compress_to_fp16=False)
        source.unlink()
        if metadata is None:
            sidecar.write(folder, OURS)
        elif metadata:
            (folder / "metadata.yaml").write_text(yaml.safe_dump(metadata))
        return Artifact(path=folder, format="openvino")

    return make
