"""What is special to Paddle: each operator against ONNX Runtime, open axes, files of fixed size, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from segx.artifact import Artifact
from segx.errors import ExportError
from segx.options.verbs import SessionOptions
from segx.plugin.registry import get_registry
from segx.testing.interpreter import run_fresh
from segx.testing.models import export_file, export_with, real_module, tiny_info
from segx_export_paddle.exporter import PaddleExporter
from segx_export_paddle.options import PaddleOptions
from segx_onnx_graph.testing import operator_cases

EXPORTER = PaddleExporter()

_ALL_OPERATORS = """
    import json, sys
    import paddle
    import numpy as np
    from segx_export_paddle.translation import ToPaddle
    from segx_onnx_graph import read
    from segx_onnx_graph.testing import operator_cases
    for number, case in enumerate(operator_cases()):
        outputs = ToPaddle(read(case.model), lambda array: paddle.to_tensor(np.ascontiguousarray(array)))
        found = outputs.run(paddle.to_tensor(case.images))
        np.savez(f"{sys.argv[1]}/{number}.npz", *[output.numpy() for output in found])
    print(json.dumps(number))
"""


@pytest.fixture(scope="module")
def computed(tmp_path_factory) -> Path:
    """A folder with what Paddle makes of each operator."""
    folder = tmp_path_factory.mktemp("operators")
    run_fresh(_ALL_OPERATORS, str(folder), warnings="default")
    return folder


@pytest.mark.parametrize(("number", "case"), list(enumerate(operator_cases())), ids=str)
def test_each_operator_computes_the_same(number, case, computed):
    session = onnxruntime.InferenceSession(case.model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"images": case.images})
    with np.load(computed / f"{number}.npz") as found:
        got = list(found.values())
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def written(folder: Path, *, imgsz=(64, 96), batch=1, **options) -> tuple[Path, Artifact]:
    """Return a tiny YOLOv8-seg as an .onnx file and as Paddle's folder."""
    pytest.importorskip("segx_model_yolov8")
    pytest.importorskip("segx_export_onnx")
    info = tiny_info(imgsz=imgsz, batch=batch, dynamic=bool(options.get("dynamic")))
    source, info = export_file("onnx", folder, real_module(info), **options)
    target = folder / "m_paddle_model"
    info = export_with(EXPORTER, source, info, PaddleOptions(dynamic=bool(options.get("dynamic"))), target)
    return source.path, Artifact(path=target, format="paddle")


def compare(source: Path, target: Artifact, *shapes: tuple[int, ...]) -> None:
    from segx.io import sidecar

    registry = get_registry()
    backend = registry.backends.load(registry.backend_for("paddle"))
    assert sidecar.read(target.path) is not None
    session = backend.open(target, SessionOptions(device="cpu", threads=1))
    onnx_session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    try:
        for shape in shapes:
            images = np.random.default_rng(4).random(shape, dtype=np.float32)
            expected = onnx_session.run(None, {"images": images})
            for ours, theirs in zip(session.run(images), expected, strict=True):
                assert ours.shape == theirs.shape
                np.testing.assert_allclose(ours, theirs, rtol=0, atol=np.abs(theirs).max() * 2e-5)
    finally:
        session.close()


@pytest.mark.parametrize("opset", [11, 18])
def test_open_axes_take_any_size(tmp_path, opset):
    from segx.io import sidecar

    source, target = written(tmp_path, dynamic=True, opset=opset)
    sidecar.write(target.path, tiny_info(dynamic=True).replace(outputs=("output0", "output1")))
    compare(source, target, (1, 3, 64, 96), (2, 3, 96, 64), (3, 3, 32, 160))


def test_a_fixed_batch_is_kept(tmp_path):
    from segx.io import sidecar

    source, target = written(tmp_path, batch=2, simplify=False)
    sidecar.write(target.path, tiny_info(batch=2))
    compare(source, target, (2, 3, 64, 96))
    program = json.loads((target.path / "model.json").read_text())
    operations = program["program"]["regions"][0]["blocks"][0]["ops"]
    (images,) = [item for item in operations if item["#"].endswith(".data")]
    assert images["O"][0]["TT"]["D"][1] == [2, 3, 64, 96]


def test_nothing_of_this_machine_is_in_the_folder(tmp_path):
    _, target = written(tmp_path)
    content = b"".join(file.read_bytes() for file in target.path.iterdir())
    assert sorted(file.name for file in target.path.iterdir()) == ["model.json", "model.pdiparams"]
    for word in (str(tmp_path), str(Path(__file__).parents[3]), "site-packages", "Traceback", "translation.py"):
        assert word.encode() not in content, word


def test_operators_without_a_translation_are_named(tmp_path):
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, (1, 3, 64, 96))
    result = helper.make_tensor_value_info("output0", TensorProto.FLOAT, None)
    nodes = [helper.make_node("Det", ["images"], ["a"]), helper.make_node("Tan", ["a"], ["output0"])]
    model = helper.make_model(helper.make_graph(nodes, "g", [given], [result]))
    path = tmp_path / "odd.onnx"
    onnx.save(model, path)
    source, target = Artifact(path=path, format="onnx"), tmp_path / "odd_paddle_model"
    with pytest.raises(ExportError, match="Paddle has no translation of the operators Det, Tan"):
        export_with(EXPORTER, source, tiny_info(), PaddleOptions(), target)
    assert not target.exists() or not list(target.iterdir())


def test_a_size_that_is_computed_while_it_runs_is_refused_by_name(tmp_path):
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, (1, 3, "h", "w"))
    result = helper.make_tensor_value_info("output0", TensorProto.FLOAT, None)
    nodes = [
        helper.make_node("Shape", ["images"], ["s"]),
        helper.make_node("Add", ["s", "s"], ["twice"]),
        helper.make_node(
            "Resize",
            ["images", "", "", "twice"],
            ["output0"],
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
    ]
    path = tmp_path / "odd.onnx"
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", [given], [result])), path)
    info = tiny_info().replace(dynamic=frozenset({"height", "width"}))
    with pytest.raises(ExportError, match="no translation of Resize to a size that is computed"):
        export_with(EXPORTER, Artifact(path=path, format="onnx"), info, PaddleOptions(), tmp_path / "odd_paddle_model")
