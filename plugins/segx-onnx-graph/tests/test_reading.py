"""What a file becomes when it is read: of every operator set, pinned and open, and what is refused."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from segx.errors import ExportError
from segx_onnx_graph import read

pytest.importorskip("segx_model_yolov8")
pytest.importorskip("segx_export_onnx")

PINNED = {
    *("Add", "Concat", "Conv", "ConvTranspose", "Div", "MaxPool", "Mul", "Reshape", "Resize", "Sigmoid", "Slice"),
    *("Softmax", "Split", "Sub", "Transpose"),
}
"""All operators that a YOLOv8-seg file has once its size is pinned."""
OPTIONS = [
    {},
    {"opset": 11},
    {"opset": 17, "simplify": False},
    {"half": True},
    {"dynamic": True},
    {"dynamic": True, "opset": 12},
    {"dynamic": True, "opset": 17, "half": True, "simplify": False},
]


def run(path, images) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).random(shape, dtype=np.float32)


def close(ours, theirs, *, half: bool) -> None:
    for one, other, names in zip(ours, theirs, ("rows", "prototypes"), strict=True):
        assert one.shape == other.shape, names
        scale = np.abs(other).max()
        np.testing.assert_allclose(one, other, rtol=0, atol=scale * (2e-2 if half else 2e-5), err_msg=names)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", [(1, 3, 64, 96), (None, 3, 64, 96)], ids=["pinned", "open batch"])
def test_a_pinned_size_leaves_few_operators_and_the_same_numbers(written, to_numpy, options, shape):
    path = written(**options)
    graph = read(path, shape)
    allowed = PINNED | ({"Cast"} if options.get("half") else set())
    assert {node.op for node in graph.nodes} <= allowed
    fed = images(shape[0] or 3, 3, 64, 96)
    one_by_one = [run(path, image[None]) for image in fed]
    close(
        to_numpy(graph).run(fed),
        [np.concatenate(parts) for parts in zip(*one_by_one, strict=True)],
        half="half" in options,
    )


@pytest.mark.parametrize("options", [o for o in OPTIONS if o.get("dynamic")], ids=str)
@pytest.mark.parametrize("size", [(64, 96), (96, 64), (32, 32)])
def test_open_sides_take_any_size(written, to_numpy, options, size):
    path = written(**options)
    graph = read(path, (None, 3, None, None))
    fed = images(2, 3, *size)
    close(to_numpy(graph).run(fed), run(path, fed), half="half" in options)


def test_one_open_side(written, to_numpy):
    path = written(dynamic=True)
    fed = images(1, 3, 64, 160)
    close(to_numpy(read(path, (1, 3, 64, None))).run(fed), run(path, fed), half=False)


def test_without_a_shape_it_is_as_the_file_has_it(written):
    assert read(written()).shapes["images"] == (1, 3, 64, 96)
    assert read(written(dynamic=True)).shapes["images"] == ("batch", 3, "height", "width")


def test_shapes_of_outputs_follow_the_batch(written):
    graph = read(written(), (None, 3, 64, 96))
    names = [graph.shapes[name][0] for name in graph.outputs]
    assert all(isinstance(name, str) for name in names)
    assert read(written(), (5, 3, 64, 96)).shapes["output0"][0] == 5


def test_half_precision_is_read_as_float32(written):
    graph = read(written(half=True))
    assert {array.dtype for array in graph.constants.values()} <= {np.dtype("f4"), np.dtype("i8"), np.dtype("i4")}
    assert not [node for node in graph.nodes if node.op == "Cast" and node.attributes["to"] != TensorProto.FLOAT]


def test_metadata_travel_and_the_model_is_left_as_it_is(written):
    model = onnx.load(written(half=True))
    before = model.SerializeToString(deterministic=True)
    graph = read(model, (None, 3, 64, 96))
    assert graph.metadata == {item.key: item.value for item in model.metadata_props}
    assert "names" in graph.metadata
    assert model.SerializeToString(deterministic=True) == before


def test_only_what_is_used_is_kept(written):
    graph = read(written(dynamic=True), (1, 3, 64, 96))
    read_names = {name for node in graph.nodes for name in node.inputs}
    assert set(graph.constants) <= read_names


@pytest.mark.parametrize(
    ("options", "shape", "said"),
    [
        ({}, (1, 3, None, 96), "cannot leave the height open: 64 is written into the file"),
        ({}, (1, 3, 64, 128), "cannot set the width to 128: 96"),
        ({}, (1, 4, 64, 96), "cannot set the channels to 4"),
        ({"batch": 2}, (None, 3, 64, 96), "cannot leave the batch open: 2"),
        ({"batch": 2}, (1, 3, 64, 96), "cannot set the batch to 1: 2"),
    ],
)
def test_what_the_file_has_fixed_is_refused(written, options, shape, said):
    path = written(**options)
    with pytest.raises(ExportError, match=said) as caught:
        read(path, shape)
    assert str(path) in str(caught.value)
    assert "dynamic=True" in str(caught.value)


def test_files_that_are_none_are_refused(tmp_path, written):
    with pytest.raises(ExportError, match=r"absent\.onnx: cannot be read"):
        read(tmp_path / "absent.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(written().read_bytes()[:5000])
    with pytest.raises(ExportError, match=r"broken\.onnx"):
        read(broken)
    broken.write_text("no model")
    with pytest.raises(ExportError, match=r"broken\.onnx"):
        read(broken)


def value(name, *shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def model(nodes, *, inputs=None, weights=(), opset=18, outputs=("y",), functions=()):
    given = inputs or [value("x", 1, 3, 8, 12)]
    kinds = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "g", given, kinds, [numpy_helper.from_array(np.array(w), n) for n, w in weights])
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("here", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=10)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (model([helper.make_node("Relu", ["x"], ["y"])], inputs=[value("x", 1, 3, 8, 8), value("z", 1)]), "takes x, z"),
        (model([helper.make_node("Relu", ["x"], ["y"])], inputs=[value("x", 1, 8)]), "has 2 axes"),
        (model([helper.make_node("Relu", ["q"], ["y"])]), "nothing in the graph gives q"),
        (model([helper.make_node("Relu", ["x"], ["y"])], opset=999), "opset 999"),
        (model([helper.make_node("Softmax", ["x"], ["y"], axis=1)], opset=11), "runs over all axes from 1"),
    ],
)
def test_graphs_that_are_none_of_ours_are_refused(made, said):
    with pytest.raises(ExportError, match=said):
        read(made)


def test_a_batch_that_is_moved_among_other_axes_is_not_opened():
    made = model([helper.make_node("Reshape", ["x", "s"], ["y"])], weights=[("s", [3, 8, 12])])
    with pytest.raises(ExportError, match="moves it among other axes"):
        read(made, (None, 3, 8, 12))
    assert read(made).shapes["y"] == (3, 8, 12)


def test_a_batch_that_was_moved_away_is_not_taken_for_the_first_axis(to_numpy):
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2, 3]),
        helper.make_node("Reshape", ["t", "s"], ["y"]),
    ]
    made = model(nodes, inputs=[value("x", "n", 3, 8, 12)], weights=[("s", [3, -1])])
    graph = read(made, (None, 3, 8, 12))
    assert not graph.keeps_first
    assert to_numpy(graph).run(images(2, 3, 8, 12))[0].shape == (3, 192)


def test_functions_within_a_model_are_resolved(to_numpy):
    twice = helper.make_function(
        "here", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 18)]
    )
    made = model([helper.make_node("Twice", ["x"], ["y"], domain="here")], functions=[twice])
    fed = images(1, 3, 8, 12)
    np.testing.assert_array_equal(to_numpy(read(made)).run(fed)[0], fed * 2)


def test_operators_of_other_domains_keep_their_whole_name():
    made = model([helper.make_node("QuickGelu", ["x"], ["y"], domain="here", alpha=1.0)])
    node = read(made).nodes[0]
    assert (node.op, node.attributes) == ("here.QuickGelu", {"alpha": 1.0})
