"""What is written anew computes the same, in other operators; what is not understood stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from segx.artifact import ArtifactInfo
from segx.options.verbs import SessionOptions
from segx_backend_onnxruntime import rewriting
from segx_backend_onnxruntime import session as session_module
from segx_backend_onnxruntime.rewriting import quicker
from segx_backend_onnxruntime.session import OnnxRuntimeSession, start

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CPU = SessionOptions(device="cpu", threads=1)
IMAGES = np.random.default_rng(1).normal(size=(2, 3, 16, 16)).astype(np.float32)


def tensor(name: str, *shape: int, kind: Any = np.float32) -> onnx.TensorProto:
    numbers = np.random.default_rng(len(name)).normal(size=shape)
    return numpy_helper.from_array(numbers.astype(kind), name)


def whole(opset: int = 18, *, sizes: tuple[int, ...] = (8, 24), bias: bool = True) -> onnx.ModelProto:
    """A convolution split behind SiLU, its parts joined with a third, and means of a softmax over 16 channels."""
    parts = [f"part{number}" for number in range(len(sizes))]
    given = ["images", "w", "b"] if bias else ["images", "w"]
    nodes = [
        helper.make_node("Conv", given, ["maps"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], name="first"),
        helper.make_node("Sigmoid", ["maps"], ["gate"]),
        helper.make_node("Mul", ["gate", "maps"], ["silu"]),
        helper.make_node("Split", ["silu", "sizes"], parts, axis=1),
        helper.make_node("Conv", [parts[-1], "w2"], ["more"], kernel_shape=[1, 1]),
        helper.make_node("Concat", [*parts, "more"], ["output0"], axis=1),
        helper.make_node("Softmax", ["more"], ["bins"], axis=1),
        helper.make_node("Conv", ["bins", "mean"], ["output1"], kernel_shape=[1, 1]),
    ]
    weights = [
        tensor("w", 32, 3, 3, 3),
        *([tensor("b", 32)] if bias else []),
        tensor("w2", 16, sizes[-1], 1, 1),
        tensor("mean", 1, 16, 1, 1),
        numpy_helper.from_array(np.array(sizes, np.int64), "sizes"),
    ]
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", kind, ["batch", 3, 16, 16])],
        [
            helper.make_tensor_value_info("output0", kind, ["batch", sum(sizes) + 16, 16, 16]),
            helper.make_tensor_value_info("output1", kind, ["batch", 1, 16, 16]),
        ],
        weights,
        doc_string="of a test",
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, {"a key": "a value"})
    if opset >= 13:
        onnx.checker.check_model(model, full_check=True)
    return model


def kinds(model: onnx.ModelProto) -> list[str]:
    return sorted(node.op_type for node in model.graph.node)


def run(model: onnx.ModelProto | bytes, images: np.ndarray = IMAGES) -> list[np.ndarray]:
    data = model if isinstance(model, bytes) else model.SerializeToString()
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    return onnxruntime.InferenceSession(data, settings, ["CPUExecutionProvider"]).run(None, {"images": images})


@pytest.fixture
def save(tmp_path: Path) -> Callable[[onnx.ModelProto], Path]:
    def saved(model: onnx.ModelProto) -> Path:
        path = tmp_path / "m.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return saved


def prototypes(opset: int = 18, *, height: int = 6, batch: int | str = "batch") -> onnx.ModelProto:
    """Maps that are doubled, convolved and pointed, as a prototypes' branch does; its bias shows at the edges."""
    usual = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("ConvTranspose", ["images", "d", "d bias"], ["up"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["up", "c", "c bias"], ["maps"], **usual, auto_pad="NOTSET", dilations=[1, 1]),
        helper.make_node("Sigmoid", ["maps"], ["gate"]),
        helper.make_node("Mul", ["maps", "gate"], ["silu"]),
        helper.make_node("Conv", ["silu", "p", "p bias"], ["points"], kernel_shape=[1, 1]),
        helper.make_node("Sigmoid", ["points"], ["last gate"]),
        helper.make_node("Mul", ["points", "last gate"], ["output0"]),
        helper.make_node("ReduceMean", ["output0"], ["output1"]),
    ]
    weights = [tensor("d", 3, 8, 2, 2), tensor("d bias", 8), tensor("c", 24, 8, 3, 3), tensor("c bias", 24)]
    weights += [tensor("p", 16, 24, 1, 1), tensor("p bias", 16)]
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", kind, [batch, 3, height, "width"])],
        [
            helper.make_tensor_value_info("output0", kind, [batch, 16, 2 * height, None]),
            helper.make_tensor_value_info("output1", kind, [1, 1, 1, 1]),
        ],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize("opset", [13, 17, 18, 20])
@pytest.mark.parametrize("size", [(2, 6, 9), (1, 1, 1), (1, 2, 1), (3, 1, 5)])
def test_what_is_doubled_and_convolved_is_convolved_over_cells(
    save: Callable[[onnx.ModelProto], Path], opset: int, size: tuple[int, int, int]
) -> None:
    model = prototypes(opset, height=size[1])
    found = quicker(save(model))
    assert found is not None
    anew = onnx.load_from_string(found)
    onnx.checker.check_model(anew, full_check=True)
    assert "ConvTranspose" not in kinds(anew)
    assert {item.name for item in anew.graph.initializer}.isdisjoint({"d", "c", "p", "c bias"})
    images = np.random.default_rng(2).normal(size=(size[0], 3, *size[1:])).astype(np.float32)
    for one, other in zip(run(found, images), run(model, images), strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5)


def test_no_numbers_of_one_image_reach_another_or_the_whole(save: Callable[[onnx.ModelProto], Path]) -> None:
    """Infinities stay where they were: the ones that stand for the bias are ones whatever the cells hold."""
    found = quicker(save(prototypes()))
    assert found is not None
    images = np.random.default_rng(2).normal(size=(2, 3, 6, 9)).astype(np.float32)
    whole_images = run(found, images)[0]
    images[0, 1, 2, 3] = np.inf
    hurt = run(found, images)[0]
    assert np.array_equal(hurt[1], whole_images[1])
    assert np.array_equal(hurt[0][:, :, 12:], whole_images[0][:, :, 12:])
    assert np.array_equal(hurt[0][:, 8:], whole_images[0][:, 8:])


@pytest.mark.parametrize(
    "change",
    [
        lambda nodes: nodes[0].attribute[1].ints.__setitem__(0, 1),
        lambda nodes: nodes[0].input.pop(),
        lambda nodes: nodes[1].input.pop(),
        lambda nodes: nodes[1].attribute[1].ints.__setitem__(0, 0),
        lambda nodes: nodes[1].attribute.append(helper.make_attribute("group", 2)),
        lambda nodes: nodes[1].attribute.append(helper.make_attribute("strides", [2, 2])),
        lambda nodes: nodes[4].attribute.append(helper.make_attribute("strides", [2, 2])),
        lambda nodes: nodes[4].attribute[0].ClearField("type"),
        lambda nodes: setattr(nodes[1].attribute[2], "type", onnx.AttributeProto.INT),
        lambda nodes: nodes[5].input.__setitem__(0, "maps"),
        lambda nodes: nodes[7].input.__setitem__(0, "silu"),
        lambda nodes: nodes[7].input.__setitem__(0, "up"),
    ],
)
def test_other_doublings_stay(save: Callable[[onnx.ModelProto], Path], change: Callable[[Any], None]) -> None:
    model = prototypes()
    change(model.graph.node)
    assert quicker(save(model)) is None


@pytest.mark.parametrize("opset", [13, 17, 18, 20])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sizes", [(8, 24), (16, 16), (4, 12, 16)])
def test_the_same_is_computed_in_other_operators(
    save: Callable[[onnx.ModelProto], Path], opset: int, bias: bool, sizes: tuple[int, ...]
) -> None:
    model = whole(opset, bias=bias, sizes=sizes)
    found = quicker(save(model))
    assert found is not None
    anew = onnx.load_from_string(found)
    onnx.checker.check_model(anew, full_check=True)
    assert "Split" not in kinds(anew)
    assert "Softmax" not in kinds(anew)
    assert kinds(anew).count("Conv") == kinds(model).count("Conv") + len(sizes) - 1
    assert {item.name for item in anew.graph.initializer}.isdisjoint({"w", "b"})  # cut up, and not there twice
    assert (anew.graph.doc_string, anew.metadata_props[0].value) == ("of a test", "a value")
    wanted, given = run(model), run(found)
    assert np.array_equal(wanted[0], given[0])
    np.testing.assert_allclose(given[1], wanted[1], rtol=1e-5, atol=1e-6)


def test_large_logits_do_not_overflow(save: Callable[[onnx.ModelProto], Path]) -> None:
    model = whole()
    for item in model.graph.initializer:
        if item.name == "w2":
            item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item) * 1e4, "w2"))
    found = quicker(save(model))
    assert found is not None
    assert np.abs(run(found)[0]).max() > 1e3
    np.testing.assert_allclose(run(found)[1], run(model)[1], rtol=1e-5, atol=1e-6)


def nodes_of(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {node.op_type: node for node in reversed(model.graph.node)}


def take_twice(model: onnx.ModelProto) -> None:
    model.graph.node.extend(helper.make_node("Abs", [name], [f"{name}2"]) for name in ("silu", "bins"))


def give_out(model: onnx.ModelProto) -> None:
    model.graph.output.extend(helper.make_tensor_value_info(name, 1, None) for name in ("silu", "bins"))


def name_the_axis_otherwise(model: onnx.ModelProto) -> None:
    for kind in ("Split", "Softmax"):
        nodes_of(model)[kind].attribute[0].i = -3


def take_operators_of_others(model: onnx.ModelProto) -> None:
    for kind in ("Split", "Softmax"):
        nodes_of(model)[kind].domain = "somebody"


def look_from_an_inner_graph(model: onnx.ModelProto) -> None:
    out = [helper.make_tensor_value_info("in", 1, None)]
    inner = helper.make_graph([helper.make_node("Identity", ["silu"], ["in"])], "inner", [], out)
    model.graph.node.append(helper.make_node("If", ["yes"], ["if"], then_branch=inner, else_branch=inner))


def keep_weights_elsewhere(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL


def list_numbers(model: onnx.ModelProto) -> None:
    for item in model.graph.initializer:
        if item.data_type == onnx.TensorProto.FLOAT:
            values = numpy_helper.to_array(item)
            item.ClearField("raw_data")
            item.float_data.extend(values.ravel().tolist())


def halve(model: onnx.ModelProto) -> None:
    for item in model.graph.initializer:
        if item.data_type == onnx.TensorProto.FLOAT:
            item.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(item).astype(np.float16), item.name))


def damage_sizes(model: onnx.ModelProto) -> None:
    """The mean gets a bias too, which is no part of a quotient."""
    model.graph.initializer[-1].CopyFrom(numpy_helper.from_array(np.array([8, 23], np.int64), "sizes"))
    model.graph.node[-1].input.append("b")


def take_types_off(model: onnx.ModelProto) -> None:
    for kind in ("Split", "Softmax"):
        nodes_of(model)[kind].attribute[0].ClearField("type")


def leave_numbers_out(model: onnx.ModelProto) -> None:
    """Of parts where they have to be said, and of a mean's kernel."""
    nodes_of(model)["Split"].input.pop()
    model.graph.node[-1].ClearField("attribute")


@pytest.mark.parametrize(
    "change",
    [
        *(take_types_off, leave_numbers_out),
        *(take_twice, give_out, name_the_axis_otherwise, take_operators_of_others, look_from_an_inner_graph),
        *(keep_weights_elsewhere, list_numbers, halve, damage_sizes),
    ],
)
def test_what_is_not_understood_stays(
    save: Callable[[onnx.ModelProto], Path], change: Callable[[onnx.ModelProto], None]
) -> None:
    model = whole()
    change(model)
    assert quicker(save(model)) is None


def list_tensors_as_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    for item in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(item.name, item.data_type, list(item.dims)))
    return model


@pytest.mark.parametrize("make", [whole, prototypes])
def test_tensors_that_are_inputs_too_stay_there(
    save: Callable[[onnx.ModelProto], Path], make: Callable[[], onnx.ModelProto]
) -> None:
    """As exporters write them that keep initializers as inputs: one that is gone would have to be given."""
    model = list_tensors_as_inputs(make())
    images = IMAGES if make is whole else IMAGES[:, :, :6]
    path = save(model)
    assert quicker(path) is not None
    opened, _ = start(path, CPU)
    assert [item.name for item in opened.get_inputs()] == ["images"]
    for one, other in zip(opened.run(None, {"images": images}), run(model, images), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-4)


def test_tensors_of_one_name_stay_as_they_are(save: Callable[[onnx.ModelProto], Path]) -> None:
    """ONNX Runtime takes the last one."""
    model = whole()
    model.graph.initializer.insert(0, tensor("w", 32, 3, 3, 3))
    assert quicker(save(model)) is None


@pytest.mark.parametrize("change", [("strides", [16, 16]), ("strides", [2, 2]), ("pads", [1, 1, 1, 1])])
def test_means_of_fewer_or_more_places_stay(save: Callable[[onnx.ModelProto], Path], change: tuple[str, Any]) -> None:
    model = whole()
    model.graph.node[-1].attribute.append(helper.make_attribute(*change))
    found = quicker(save(model))
    assert found is not None  # for the parts
    assert "Softmax" in kinds(onnx.load_from_string(found))


def test_a_mean_that_is_split_is_written_anew_once(save: Callable[[onnx.ModelProto], Path]) -> None:
    nodes = [
        helper.make_node("Softmax", ["images"], ["bins"], axis=1),
        helper.make_node("Conv", ["bins", "v"], ["maps"], kernel_shape=[1, 1]),
        helper.make_node("Sigmoid", ["maps"], ["gate"]),
        helper.make_node("Mul", ["maps", "gate"], ["silu"]),
        helper.make_node("Split", ["silu"], ["output0", "output1"], axis=1),
        helper.make_node("Conv", ["images", "v"], ["output2"], kernel_shape=[1, 1]),
    ]
    outputs = [helper.make_tensor_value_info(f"output{number}", 1, None) for number in range(3)]
    images = helper.make_tensor_value_info("images", 1, [2, 3, 16, 16])
    graph = helper.make_graph(nodes, "g", [images], outputs, [tensor("v", 4, 3, 1, 1)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    found = quicker(save(model))
    assert found is not None
    for one, other in zip(run(found), run(model), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shapes", [((3, 8, 3, 3), (24, 8, 3, 3)), ((3, 1, 2, 2), (24, 1, 3, 3)), ((3, 8, 2, 2),) * 2])
def test_doublings_that_would_grow_or_are_damaged_stay(
    save: Callable[[onnx.ModelProto], Path], shapes: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    """With one map between 2000 and 2000 others, 160 KB became 256 MB."""
    model = prototypes()
    for item in model.graph.initializer:
        if item.name in {"d", "c"}:
            item.CopyFrom(tensor(item.name, *shapes[item.name == "c"]))
    assert quicker(save(model)) is None


@pytest.mark.parametrize("number", [3e38, np.inf, np.nan])
def test_doublings_whose_kernels_would_overflow_stay(save: Callable[[onnx.ModelProto], Path], number: float) -> None:
    model = prototypes()
    for item in model.graph.initializer:
        if item.name in {"d", "c"}:
            numbers = numpy_helper.to_array(item).copy()
            numbers[0, 0] = number if item.name == "d" else 2
            item.CopyFrom(numpy_helper.from_array(numbers, item.name))
    assert quicker(save(model)) is None


def test_graphs_of_very_many_nodes_stay(save: Callable[[onnx.ModelProto], Path], monkeypatch: Any) -> None:
    path = save(whole())
    assert quicker(path) is not None
    monkeypatch.setattr(rewriting, "_MOST_PARTS", len(whole().graph.node) - 1)
    assert quicker(path) is None


def test_old_operators_stay(save: Callable[[onnx.ModelProto], Path]) -> None:
    assert quicker(save(whole(12))) is None


def test_grouped_convolutions_stay_one(save: Callable[[onnx.ModelProto], Path]) -> None:
    model = whole()
    first = next(node for node in model.graph.node if node.name == "first")
    first.attribute.append(helper.make_attribute("group", 3))
    found = quicker(save(model))
    assert found is not None  # for the softmax
    assert "Split" in kinds(onnx.load_from_string(found))


def test_large_files_are_not_written_anew(save: Callable[[onnx.ModelProto], Path], monkeypatch: Any) -> None:
    path = save(whole())
    monkeypatch.setattr(rewriting, "_LARGEST", path.stat().st_size - 1)
    assert quicker(path) is None


def test_a_session_runs_what_is_quicker(save: Callable[[onnx.ModelProto], Path], monkeypatch: Any) -> None:
    model = whole()
    path, given = save(model), []
    monkeypatch.setattr(session_module, "quicker", lambda file: given.append(quicker(file)) or given[-1])
    opened, device = start(path, CPU)
    info = ArtifactInfo(outputs=("output0", "output1"), dynamic=frozenset({"batch"}), imgsz=(16, 16), stride=16)
    session = OnnxRuntimeSession(opened, path=path, info=info, device=device)
    assert given[0] is not None
    for one, other in zip(session.run(IMAGES), run(given[0]), strict=True):
        assert np.array_equal(one, other)


def test_where_the_runtime_refuses_it_the_file_itself_runs(
    save: Callable[[onnx.ModelProto], Path], monkeypatch: Any
) -> None:
    path = save(whole())
    for wrong in (lambda _: b"no model", lambda _: 1 / 0):
        monkeypatch.setattr(session_module, "quicker", wrong)
        opened, _ = start(path, CPU)
        assert np.array_equal(opened.run(None, {"images": IMAGES})[0], run(whole())[0])


def test_a_damaged_file_is_told_of_as_ever(save: Callable[[onnx.ModelProto], Path], monkeypatch: Any) -> None:
    path = save(whole())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(Exception, match=r"(?i)protobuf|invalid"):
        start(path, CPU)
