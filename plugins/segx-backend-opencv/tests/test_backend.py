"""What is special to OpenCV: the same numbers as ONNX Runtime of files of every kind, and that it has to be named."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from segx.artifact import Artifact
from segx.errors import ModelError, UsageError
from segx.options.verbs import SessionOptions
from segx.plugin.registry import get_registry
from segx.testing.models import export_file, real_module, tiny_info
from segx_backend_opencv.backend import OpencvBackend

BACKEND = OpencvBackend()


def opened(artifact: Artifact, **options):
    registry = get_registry()
    backend = registry.backends.load(registry.backend_for("onnx", name="opencv"))
    return backend.open(artifact, SessionOptions(device="cpu", **options))


@pytest.mark.parametrize(
    ("options", "shapes"),
    [
        ({"opset": 11}, [(1, 3, 64, 96)]),
        ({"half": True}, [(1, 3, 64, 96)]),
        ({"dynamic": True}, [(1, 3, 64, 96), (3, 3, 96, 64), (2, 3, 32, 160), (1, 3, 64, 96)]),
    ],
    ids=str,
)
def test_the_numbers_are_those_of_onnx_runtime(tmp_path, options, shapes):
    pytest.importorskip("segx_model_yolov8")
    pytest.importorskip("segx_export_onnx")
    module = real_module(tiny_info(dynamic=bool(options.get("dynamic"))))
    artifact, info = export_file("onnx", tmp_path, module, **options)
    reference = onnxruntime.InferenceSession(artifact.path, providers=["CPUExecutionProvider"])
    session = opened(artifact, threads=1)
    assert session.info.dynamic == info.dynamic
    for shape in shapes:
        images = np.random.default_rng(2).random(shape, dtype=np.float32)
        for ours, theirs in zip(session.run(images), reference.run(None, {"images": images}), strict=True):
            assert ours.shape == theirs.shape
            limit = np.abs(theirs).max() * (2e-2 if options.get("half") else 2e-5)
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=limit)
    session.close()


def test_it_is_taken_only_by_name():
    registry = get_registry()
    assert registry.backend_for("onnx", name="opencv").name == "opencv"
    pytest.importorskip("segx_backend_onnxruntime")
    assert registry.backend_for("onnx").name != "opencv"


def model(*inputs, nodes=None) -> onnx.ModelProto:
    given = [helper.make_tensor_value_info(f"x{number}", kind, shape) for number, (kind, shape) in enumerate(inputs)]
    result = helper.make_tensor_value_info("y", inputs[0][0], [None] * 4)
    graph = helper.make_graph(nodes or [helper.make_node("Relu", ["x0"], ["y"])], "g", given, [result])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


IMAGES = (TensorProto.FLOAT, (1, 3, 64, 96))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (model(IMAGES, IMAGES), r"has 2 inputs \(x0, x1\)"),
        (model((TensorProto.FLOAT, (1, 5, 64, 96))), "does not take float32 images Nx3xHxW; its shape is 1x5x64x96"),
        (model((TensorProto.FLOAT16, (1, 3, 64, 96))), "does not take float32 images"),
        (model((TensorProto.FLOAT, (3, 64, 96))), "its shape is 3x64x96"),
        (model(IMAGES), "carries no metadata"),
    ],
)
def test_files_that_are_no_models_of_ours_are_refused(tmp_path, made, said):
    path = tmp_path / "odd.onnx"
    onnx.save(made, path)
    with pytest.raises(ModelError, match=said):
        BACKEND.read_info(Artifact(path=path, format="onnx"))


def test_operators_that_opencv_has_not_are_an_error_of_one_line(tmp_path):
    made = model(IMAGES, nodes=[helper.make_node("StringNormalizer", ["x0"], ["y"])])
    helper.set_model_props(made, tiny_info().replace(outputs=("y",)).to_metadata())
    path = tmp_path / "odd.onnx"
    onnx.save(made, path)
    with pytest.raises(ModelError, match=r"odd\.onnx: OpenCV cannot open it") as caught:
        opened(Artifact(path=path, format="onnx"))
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("device", ["cuda", "0", "mps", "cpu:1"])
def test_devices_that_are_not_there(tmp_path, device):
    made = model(IMAGES)
    helper.set_model_props(made, tiny_info().replace(outputs=("y",)).to_metadata())
    path = tmp_path / "m.onnx"
    onnx.save(made, path)
    with pytest.raises(UsageError, match="device="):
        BACKEND.open(Artifact(path=path, format="onnx"), SessionOptions(device=device))
