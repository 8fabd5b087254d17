"""The raw head, found by structure in files of several tools' making: what it decodes to is what was cut off."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from segx.errors import ExportError
from segx.testing.models import export_file, real_module, tiny_info, tiny_module
from segx_onnx_graph import RAW_OUTPUTS, boxes_as_fractions, raw_decoding, raw_form, read

pytest.importorskip("segx_model_yolov8")
pytest.importorskip("segx_export_onnx")

OPTIONS = [
    {},
    {"opset": 11},
    {"opset": 17, "simplify": False},
    {"half": True},
    {"dynamic": True},
    {"dynamic": True, "opset": 17, "half": True, "simplify": False},
]


def run(model, images) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_outputs()]
    return dict(zip(names, session.run(None, {session.get_inputs()[0].name: images}), strict=True))


def decode(raw, decoding, size) -> np.ndarray:
    """The decoded head by its definition: the mean over the bins is a distance from the anchor, in strides."""
    strides, bins = decoding["strides"], decoding["bins"]
    logits = raw["boxes"].astype(np.float64)
    n, _, anchors = logits.shape
    share = np.exp(logits.reshape(n, 4, bins, anchors))
    distances = (share * np.arange(bins)[:, None]).sum(2) / share.sum(2)
    centres, scale = [], []
    for stride in strides:
        rows, columns = size[0] // stride, size[1] // stride
        y, x = np.mgrid[:rows, :columns] + 0.5
        centres.append(np.stack([x.ravel(), y.ravel()]))
        scale += [stride] * rows * columns
    centre = np.concatenate(centres, 1)
    low, high = centre - distances[:, :2], centre + distances[:, 2:]
    boxes = np.concatenate([(low + high) / 2, high - low], 1) * scale
    return np.concatenate([boxes, raw["scores"], raw["coefficients"]], 1)


def agree(model, size=(64, 96), batch=1, half=False) -> onnx.ModelProto:
    """Hold a cut model against the whole one."""
    raw = raw_form(model)
    onnx.checker.check_model(raw, full_check=True)
    assert tuple(item.name for item in raw.graph.output) == RAW_OUTPUTS
    decoding = raw_decoding(model)
    assert decoding == raw_decoding(raw)
    fed = np.random.default_rng(1).random((batch, 3, *size), dtype=np.float32)
    outputs = run(raw, fed)
    assert {array.dtype for array in outputs.values()} == {np.dtype("f4")}
    rows, prototypes = run(model, fed).values()
    np.testing.assert_array_equal(outputs["prototypes"], prototypes)
    np.testing.assert_allclose(decode(outputs, decoding, size), rows, rtol=0, atol=5e-2 if half else 1e-3)
    return raw


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_cut_and_decoded_by_definition_it_is_the_whole_model(written, options):
    model = onnx.load(written(**options))
    raw = agree(model, half="half" in options)
    assert raw_decoding(model) == {"strides": [8, 16, 32], "bins": 16}
    assert list(raw.metadata_props) == list(model.metadata_props)
    assert not {"Softmax", "Range"} & {node.op_type for node in raw.graph.node}
    used = {name for node in raw.graph.node for name in node.input}
    assert {item.name for item in raw.graph.initializer} <= used


@pytest.mark.parametrize("dynamic", [False, True])
def test_it_is_the_raw_head_bit_for_bit(tmp_path, written, dynamic):
    """What is cut from a file and what the model is exported with are the same graph."""
    asked = tiny_info(dynamic=dynamic).replace(head="yolov8-seg-raw/1", outputs=RAW_OUTPUTS)
    path = export_file("onnx", tmp_path, real_module(asked), dynamic=dynamic)[0].path
    cut = raw_form(written(dynamic=True) if dynamic else written())
    fed = np.random.default_rng(3).random((1, 3, 64, 96), dtype=np.float32)
    theirs, ours = run(onnx.load(path), fed), run(cut, fed)
    assert list(theirs) == list(ours) == list(RAW_OUTPUTS)
    for name in RAW_OUTPUTS:
        np.testing.assert_array_equal(ours[name], theirs[name])


def test_boxes_as_fractions(written, to_numpy):
    graph = read(onnx.load(written()))
    scaled = boxes_as_fractions(graph)
    fed = np.random.default_rng(4).random((1, 3, 64, 96), dtype=np.float32)
    (pixels, _), (fractions, _) = to_numpy(graph).run(fed), to_numpy(scaled).run(fed)
    np.testing.assert_allclose(fractions[:, :4] * np.array([[96], [64]] * 2), pixels[:, :4], rtol=1e-5)
    np.testing.assert_array_equal(fractions[:, 4:], pixels[:, 4:])
    added = [value for name, value in scaled.constants.items() if name not in graph.constants]
    in_half = sum(value.astype(np.float16).astype(np.float64) for value in added)  # as a file of 16 bits holds them
    np.testing.assert_allclose(in_half, np.array([[1 / 96], [1 / 64]] * 2), rtol=3e-5)
    for other in (read(written(dynamic=True)), read(raw_form(written()))):  # of no one size; no boxes
        assert boxes_as_fractions(other) is other


def test_open_axes_stay_open(written):
    model = onnx.load(written(dynamic=True))
    raw = agree(model, size=(96, 32), batch=3)
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in raw.graph.output}
    assert shapes == {
        "boxes": ["batch", 64, "anchors"],
        "scores": ["batch", 3, "anchors"],
        "coefficients": ["batch", 32, "anchors"],
        "prototypes": ["batch", 32, "mask_height", "mask_width"],
    }


def test_fixed_axes_are_written_down(written):
    raw = raw_form(written(batch=2))
    shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in raw.graph.output}
    assert shapes == {
        "boxes": (2, 64, 126),
        "scores": (2, 3, 126),
        "coefficients": (2, 32, 126),
        "prototypes": (2, 32, 16, 24),
    }


def test_a_raw_model_is_returned_as_it_is_and_the_whole_one_is_left_alone(written):
    model = onnx.load(written())
    before = model.SerializeToString(deterministic=True)
    raw = raw_form(model)
    assert model.SerializeToString(deterministic=True) == before
    assert raw_form(raw) is raw


def older(classes: int, *, bins: int = 16) -> onnx.ModelProto:
    """A head as older files of other tools have it: boxes and classes side by side, then split; coefficients apart."""
    draw = np.random.default_rng(2)
    weights, nodes = {}, []

    def weight(name, array):
        weights[name] = np.asarray(array)
        return name

    def add(op, inputs, name, outputs=None, **attributes):
        nodes.append(helper.make_node(op, inputs, outputs or [name], name=name, **attributes))
        return name

    def conv(source, name, channels, of, stride):
        kernel = weight(f"{name}.w", draw.normal(0, 0.4, (channels, of, stride, stride)).astype(np.float32))
        return add("Conv", [source, kernel], name, strides=[stride, stride])

    levels, last, of = [], "in", 3
    for index, stride in enumerate((8, 2, 2)):
        last, of = conv(last, f"map{index}", 8, of, stride), 8
        levels.append(last)
    both, masks, anchors = [], [], []
    for index, (level, (rows, columns)) in enumerate(zip(levels, ((8, 12), (4, 6), (2, 3)), strict=True)):
        parts = [conv(level, f"box{index}", 4 * bins, 8, 1), conv(level, f"cls{index}", classes, 8, 1)]
        side = add("Concat", parts, f"side{index}", axis=1)
        both.append(add("Reshape", [side, weight(f"f{index}", [1, 4 * bins + classes, -1])], f"flat{index}"))
        coefficients = conv(level, f"coef{index}", 32, 8, 1)
        masks.append(add("Reshape", [coefficients, weight(f"g{index}", [1, 32, -1])], f"mask{index}"))
        y, x = np.mgrid[:rows, :columns] + 0.5
        anchors.append(np.stack([x.ravel(), y.ravel()]))
    add("Concat", both, "all", axis=2)
    add("Concat", masks, "mc", axis=2)
    add("Split", ["all", weight("sizes", [4 * bins, classes])], "split", ["dist", "logits"], axis=1)
    add("Sigmoid", ["logits"], "probabilities")
    add("Reshape", ["dist", weight("s4", [1, 4, bins, 126])], "dist4")
    add("Transpose", ["dist4"], "dist5", perm=[0, 2, 1, 3])
    add("Softmax", ["dist5"], "shares", axis=1)
    add("Conv", ["shares", weight("steps", np.arange(bins, dtype=np.float32).reshape(1, bins, 1, 1))], "mean")
    add("Reshape", ["mean", weight("s3", [1, 4, 126])], "sides")
    for name, start, end in (("lt", 0, 2), ("rb", 2, 4)):
        add("Slice", ["sides", weight(f"{name}0", [start]), weight(f"{name}1", [end]), weight(f"{name}2", [1])], name)
    centre = weight("centre", np.concatenate(anchors, 1)[None].astype(np.float32))
    add("Sub", [centre, "lt"], "low")
    add("Add", [centre, "rb"], "high")
    add("Add", ["low", "high"], "sum")
    add("Div", ["sum", weight("two", np.float32(2))], "xy")
    add("Sub", ["high", "low"], "wh")
    add("Concat", ["xy", "wh"], "xywh", axis=1)
    stride = np.repeat([8, 16, 32], [96, 24, 6]).astype(np.float32)[None, None]
    add("Mul", ["xywh", weight("stride", stride)], "pixels")
    add("Concat", ["pixels", "probabilities"], "detections", axis=1)
    add("Concat", ["detections", "mc"], "rows", axis=1)
    up = weight("up", draw.normal(0, 0.4, (8, 32, 2, 2)).astype(np.float32))
    add("ConvTranspose", ["map0", up], "p", strides=[2, 2])
    graph = helper.make_graph(
        nodes,
        "older",
        [helper.make_tensor_value_info("in", TensorProto.FLOAT, (1, 3, 64, 96))],
        [
            helper.make_tensor_value_info("p", TensorProto.FLOAT, (1, 32, 16, 24)),
            helper.make_tensor_value_info("rows", TensorProto.FLOAT, (1, 36 + classes, 126)),
        ],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


@pytest.mark.parametrize("classes", [1, 32, 80])
def test_heads_of_other_tools_are_found_too(classes):
    model = older(classes)
    swapped = onnx.ModelProto()
    swapped.CopyFrom(model)
    swapped.graph.ClearField("output")
    swapped.graph.output.extend(reversed(model.graph.output))
    raw = agree(swapped)
    assert raw.graph.output[1].type.tensor_type.shape.dim[1].dim_value == classes
    assert raw_form(model).graph.output[0].name == "boxes"


def test_other_numbers_of_bins():
    assert raw_decoding(older(2, bins=8)) == {"strides": [8, 16, 32], "bins": 8}


def test_models_of_other_heads_are_refused(tmp_path):
    path = export_file("onnx", tmp_path, tiny_module(tiny_info()))[0].path
    with pytest.raises(ExportError, match="come from no Softmax") as caught:
        raw_form(path)
    assert str(path) in str(caught.value)
    assert "start from the .pt" in str(caught.value)


def test_models_with_suppression_in_them_are_refused():
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 64, 64))
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 3, 64, 64))
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [given], [result])
    with pytest.raises(ExportError, match="does not end in a YOLOv8 segmentation head"):
        raw_form(helper.make_model(graph))
    with pytest.raises(ExportError, match="does not end in a YOLOv8 segmentation head"):
        raw_decoding(helper.make_model(graph))


def test_a_cut_model_is_read_like_any_other(written):
    graph = read(raw_form(written(dynamic=True)), (None, 3, 64, 96))
    assert tuple(graph.outputs) == RAW_OUTPUTS
    assert "Softmax" not in {node.op for node in graph.nodes}
