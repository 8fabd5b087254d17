"""What is special to ONNX: operator sets, names other tools know, privacy, half precision."""

from __future__ import annotations

import ast
import functools
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from segx.artifact import ArtifactInfo, Parity
from segx.errors import ExportError, UsageError
from segx.testing.models import export_with, real_module, run_module, tiny_info
from segx_export_onnx import half as half_module
from segx_export_onnx.exporter import OnnxExporter
from segx_export_onnx.options import OnnxOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from segx.plugin.jobs import ExportModule

pytest.importorskip("segx_model_yolov8")

EXPORTER = OnnxExporter()
ALL_OPEN = frozenset({"batch", "height", "width"})


@pytest.fixture(scope="module")
def module() -> ExportModule:
    return real_module(tiny_info())


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Callable[..., Path]:
    """A tiny YOLOv8-seg as a file: one for each set of options, whoever asks."""

    @functools.cache
    def write(**options) -> Path:
        path = tmp_path_factory.mktemp("written") / "m.onnx"
        chosen = OnnxOptions.parse(options)
        module = real_module(tiny_info(dynamic=chosen.dynamic))
        EXPORTER.check(module.info, chosen)
        done = export_with(EXPORTER, module, module.info.replace(precision=chosen.precision), chosen, path)
        EXPORTER.write_info(path, done)
        return path

    return write


def shapes(values) -> dict[str, list[int | str]]:
    return {value.name: [dim.dim_param or dim.dim_value for dim in _dims(value)] for value in values}


def _dims(value):
    return value.type.tensor_type.shape.dim


@pytest.mark.parametrize("options", [{}, {"simplify": False}, {"opset": 17, "simplify": False}])
def test_nothing_of_this_machine_is_in_the_file(written, options):
    path = written(**options)
    content = path.read_bytes()
    home = Path.home()
    folders = {str(Path(__file__).parents[3]), sys.prefix, str(home), str(path.parent), "site-packages", "Traceback"}
    for folder in folders - {"/"}:
        assert folder.encode() not in content, folder


@pytest.mark.parametrize("options", [{}, {"opset": 17}, {"opset": 11}, {"opset": 27, "half": True}])
def test_operator_set_is_the_one_asked_for(written, options):
    model = onnx.load(written(**options))
    opset = options.get("opset", 18)
    assert [(item.domain, item.version) for item in model.opset_import] == [("", opset)]


@pytest.mark.parametrize("options", [{"opset": 17}, {}])
def test_names_and_axes_are_those_other_tools_know(written, options):
    model = onnx.load(written(**options, dynamic=True))
    assert shapes(model.graph.input) == {"images": ["batch", 3, "height", "width"]}
    assert shapes(model.graph.output) == {
        "output0": ["batch", 39, "anchors"],
        "output1": ["batch", 32, "mask_height", "mask_width"],
    }


def test_fixed_axes_have_lengths(written):
    model = onnx.load(written())
    assert shapes(model.graph.input) == {"images": [1, 3, 64, 96]}
    assert shapes(model.graph.output) == {"output0": [1, 39, 126], "output1": [1, 32, 16, 24]}


def test_metadata_are_what_other_tools_read(written):
    model = onnx.load(written())
    metadata = {item.key: item.value for item in model.metadata_props}
    assert ast.literal_eval(metadata["names"]) == {0: "red", 1: "green", 2: "blue"}
    assert ast.literal_eval(metadata["imgsz"]) == [64, 96]
    assert (metadata["task"], metadata["stride"], metadata["batch"]) == ("segment", "32", "1")
    assert metadata["author"] == "somebody's"


def test_the_info_is_appended_and_nothing_written_again(module, tmp_path):
    path = tmp_path / "m.onnx"
    done = export_with(EXPORTER, module, module.info, OnnxOptions(), path)
    bare = path.read_bytes()
    assert not onnx.load(path).metadata_props
    EXPORTER.write_info(path, done)
    assert path.read_bytes().startswith(bare)
    assert onnx.load(path).graph == onnx.load_from_string(bare).graph


def test_new_info_leaves_the_graph_as_it_is(module, written, tmp_path):
    path = Path(shutil.copy(written(), tmp_path))
    before = onnx.load(path)
    parity = Parity(images=1, raw={"output0": 0.5}, box=0.1, score=0.1, mask_iou=1.0, objects=2, matched=1.0)
    EXPORTER.write_info(path, module.info.replace(parity=parity, extra={}))
    after = onnx.load(path)
    metadata = {item.key: item.value for item in after.metadata_props}
    assert ArtifactInfo.from_metadata(metadata).parity == parity
    assert "author" not in metadata
    assert after.graph == before.graph
    assert [item.name for item in tmp_path.iterdir()] == ["m.onnx"]


def test_simplified_graph_is_smaller(written):
    plain = onnx.load(written(opset=17, dynamic=True, simplify=False))
    simple = onnx.load(written(opset=17, dynamic=True))
    assert len(simple.graph.node) < len(plain.graph.node)


def test_versions_say_what_made_it(module, tmp_path):
    done = export_with(EXPORTER, module, module.info, OnnxOptions(opset=17), tmp_path / "m.onnx")
    assert set(done.versions) == {"segx-core", "torch", "onnx", "onnxslim"}
    done = export_with(EXPORTER, module, module.info, OnnxOptions(opset=17, simplify=False), tmp_path / "m.onnx")
    assert "onnxslim" not in done.versions


def test_source_has_to_be_a_model(module, tmp_path):
    from segx.artifact import Artifact

    with pytest.raises(ExportError, match="made from a model"):
        export_with(EXPORTER, Artifact(path=tmp_path, format="pb"), module.info, OnnxOptions(), tmp_path / "m.onnx")


def test_opset_outside_what_works_is_refused():
    for opset in (10, 28):
        with pytest.raises(UsageError, match=rf"opset={opset} is outside 11\.\.27"):
            OnnxOptions(opset=opset)


def test_opset_newer_than_the_installed_onnx_is_refused(monkeypatch):
    monkeypatch.setattr(onnx.defs, "onnx_opset_version", lambda: 20)
    with pytest.raises(UsageError, match="opset=21 is newer") as caught:
        EXPORTER.check(tiny_info(), OnnxOptions(opset=21))
    assert "opset=20" in caught.value.hint


def test_torch_that_cannot_is_reported_in_one_line(module, tmp_path, monkeypatch):
    import torch

    def fail(*args, **kwargs):
        raise torch.onnx.OnnxExporterError("Failed to export\nmany more lines")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ExportError, match="cannot write opset 18") as caught:
        export_with(EXPORTER, module, module.info, OnnxOptions(), tmp_path / "m.onnx")
    assert "\n" not in caught.value.message
    assert not list(tmp_path.iterdir())


# Half precision


def test_half_has_16_bit_weights_and_32_bit_ends(written):
    full, model = onnx.load(written()), onnx.load(written(opset=27, half=True))
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    heavy = [item for item in model.graph.initializer if int(np.prod(item.dims)) >= 256]
    assert heavy
    floats = {TensorProto.FLOAT, TensorProto.FLOAT16}
    kinds = {item.name: item.data_type for item in heavy if item.data_type in floats}
    # The cells of the grid are float32: with 11 bits, x beyond 512 would step by half a pixel.
    assert {name for name, kind in kinds.items() if kind == TensorProto.FLOAT} <= {"points", "strides"}
    assert written(opset=27, half=True).stat().st_size < 0.65 * written().stat().st_size
    assert len(model.graph.node) <= len(full.graph.node) + 16, "casts only where the precision changes"


def test_half_says_nearly_the_same(module, written):
    session = onnxruntime.InferenceSession(written(opset=27, half=True), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).random((1, 3, 64, 96), dtype=np.float32)
    for ours, theirs in zip(session.run(None, {"images": images}), run_module(module, images), strict=True):
        scale = np.abs(theirs).max()
        difference = np.abs(ours - theirs).max()
        assert 0 < difference < 0.01 * scale


def make_graph(nodes, weights, outputs=("y",)) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 4, 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", "c", "h", "w"]) for name in outputs],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def weight(name, *shape, scale=0.1) -> TensorProto:
    values = np.random.default_rng(1).normal(0, scale, shape).astype(np.float32)
    return numpy_helper.from_array(values, name)


def run(model: onnx.ModelProto) -> list[np.ndarray]:
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    x = np.random.default_rng(2).normal(0, 1, (1, 8, 4, 4)).astype(np.float32)
    return session.run(None, {"x": x})


def converted(model: onnx.ModelProto) -> onnx.ModelProto:
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    half_module.convert(twin)
    return twin


def test_what_follows_the_last_weights_stays_in_full_precision():
    model = make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Conv", ["b", "v"], ["c"]),
            helper.make_node("Softmax", ["c"], ["d"], axis=1),
            helper.make_node("Conv", ["d", "bins"], ["y"]),
        ],
        [weight("w", 8, 8, 3, 3), weight("v", 16, 8, 2, 2), weight("bins", 1, 16, 1, 1)],
    )
    twin = converted(model)
    kinds = {item.name: item.data_type for item in twin.graph.initializer}
    assert kinds == {"w_fp16": TensorProto.FLOAT16, "v_fp16": TensorProto.FLOAT16, "bins": TensorProto.FLOAT}
    assert [node.op_type for node in twin.graph.node] == ["Cast", "Conv", "Relu", "Conv", "Cast", "Softmax", "Conv"]
    np.testing.assert_allclose(run(twin)[0], run(model)[0], atol=2e-3)


def test_operators_that_have_no_half_stay_in_full_precision():
    model = make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["a"]),
            helper.make_node("LpNormalization", ["a"], ["b"], axis=1),
            helper.make_node("Conv", ["b", "w"], ["y"]),
        ],
        [weight("w", 8, 8, 1, 1), weight("unused", 300)],
    )
    model.graph.initializer[0].CopyFrom(weight("w", 8, 8, 2, 2))
    twin = converted(model)
    assert [node.op_type for node in twin.graph.node] == [
        *("Cast", "Conv", "Cast", "LpNormalization", "Cast", "Conv", "Cast")
    ]
    np.testing.assert_allclose(run(twin)[0], run(model)[0], atol=5e-3)


def test_graph_within_a_node_finds_what_it_reads():
    branch = helper.make_graph(
        [helper.make_node("Add", ["a", "a"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)],
    )
    model = make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
            helper.make_node("If", ["yes"], ["b"], then_branch=branch, else_branch=branch),
            helper.make_node("Conv", ["b", "w"], ["y"]),
        ],
        [weight("w", 8, 8, 3, 3), numpy_helper.from_array(np.array(True), "yes")],
    )
    twin = converted(model)
    np.testing.assert_allclose(run(twin)[0], run(model)[0], atol=5e-3)


def test_resize_keeps_its_scales_and_constants_are_weights():
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32))
    model = make_graph(
        [
            helper.make_node("Constant", [], ["scales"], value=scales),
            helper.make_node("Resize", ["x", "", "scales"], ["a"], mode="nearest"),
            helper.make_node("Conv", ["a", "w"], ["y"]),
        ],
        [weight("w", 8, 8, 3, 3)],
    )
    twin = converted(model)
    assert {item.name for item in twin.graph.initializer} == {"scales", "w_fp16"}
    np.testing.assert_allclose(run(twin)[0], run(model)[0], atol=5e-3)


def test_output_that_is_read_on_keeps_its_name():
    model = make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"]), helper.make_node("Conv", ["y", "v"], ["z"])],
        [weight("w", 8, 8, 2, 2), weight("v", 8, 8, 2, 2)],
        outputs=("y", "z"),
    )
    for ours, theirs in zip(run(converted(model)), run(model), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-3)


@pytest.mark.parametrize("value", [1e5, np.inf, np.nan])
def test_weight_beyond_half_is_refused(value):
    values = np.full((8, 8, 3, 3), 0.1, np.float32)
    values[0, 0, 0, 0] = value
    model = make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], [numpy_helper.from_array(values, "w")])
    with pytest.raises(ExportError, match="weight w reaches") as caught:
        half_module.convert(model)
    assert caught.value.hint == "half=False"
