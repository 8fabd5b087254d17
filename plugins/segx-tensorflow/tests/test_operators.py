"""Each operator says in TensorFlow and in Keras what it says in ONNX Runtime.

TensorFlow does not share a process with torch, which other tests load: the graphs are run in one fresh interpreter.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from pathlib import Path

CHANCE = np.random.default_rng(3)
OPSET = 18

RUN_ALL = """
import sys
from pathlib import Path
from segx_tensorflow import quiet
quiet.prepare()
import numpy as np
import tensorflow as tf
from segx.errors import ExportError
from segx_onnx_graph import read
from segx_tensorflow.functions import GraphModule
from segx_tensorflow.keras_model import write_keras
import keras

folder = Path(sys.argv[1])
for path in sorted(folder.glob("*.onnx")):
    images = np.load(path.with_suffix(".npy"))
    shape = [None if word == "n" else int(word) for word in path.with_suffix(".shape").read_text().split(",")]
    try:
        graph = read(path, shape)
        module = GraphModule(graph, anchors_first=False)
        found = {name: value.numpy() for name, value in module.serve(tf.constant(images)).items()}
        np.savez(path.with_suffix(".npz"), **found)
        if path.with_suffix(".keras-too").exists():
            write_keras(graph, path.with_suffix(".keras"))
            model = keras.saving.load_model(path.with_suffix(".keras"))
            found = {name: np.asarray(value) for name, value in model(images).items()}
            np.savez(path.with_suffix(".keras.npz"), **found)
    except ExportError as error:
        path.with_suffix(".refused").write_text(error.message)
"""


@dataclass
class Case:
    """A graph from ``x`` to ``y``."""

    nodes: list[Any]
    weights: dict[str, Any] = field(default_factory=dict)
    shape: tuple[int, int, int, int] = (2, 4, 8, 12)
    opened: str = ""
    keras: bool = True
    refused: str = ""
    rank: int = 4


def node(op: str, *inputs: str, to: str | list[str] = "y", **attributes: Any) -> Any:
    return helper.make_node(op, list(inputs), [to] if isinstance(to, str) else to, **attributes)


def weight(*shape: int) -> Any:
    return CHANCE.normal(0, 0.4, shape).astype(np.float32)


def whole(*numbers: int) -> Any:
    return np.array(numbers, np.int64)


def conv(*shape: int, **attributes: Any) -> Case:
    weights = {"w": weight(*shape), "b": weight(shape[0])}
    return Case([node("Conv", "x", "w", "b", **attributes)], weights)


CASES = {
    "conv": conv(6, 4, 3, 3, pads=[1, 1, 1, 1]),
    "conv-stride": conv(6, 4, 3, 3, pads=[1, 1, 1, 1], strides=[2, 2]),
    "conv-uneven-pads": conv(6, 4, 3, 5, pads=[0, 2, 1, 1]),
    "conv-dilated": conv(6, 4, 3, 3, pads=[2, 2, 2, 2], dilations=[2, 2]),
    "conv-groups": conv(6, 2, 3, 3, pads=[1, 1, 1, 1], group=2),
    "conv-depthwise": conv(4, 1, 3, 3, pads=[1, 1, 1, 1], group=4),
    "conv-same-upper": conv(6, 4, 3, 3, auto_pad="SAME_UPPER", strides=[2, 2]),
    "conv-valid": conv(6, 4, 2, 2),
    "conv-no-bias": Case([node("Conv", "x", "w")], {"w": weight(5, 4, 1, 1)}),
    "conv-same-lower": Case(
        [node("Conv", "x", "w", auto_pad="SAME_LOWER")], {"w": weight(5, 4, 2, 2)}, refused="auto_pad=SAME_LOWER"
    ),
    "conv-shared-kernel": Case([node("Conv", "x", "w", to="a"), node("Conv", "a", "w")], {"w": weight(4, 4, 3, 3)}),
    "transposed": Case(
        [node("ConvTranspose", "x", "w", "b", strides=[2, 2])], {"w": weight(4, 5, 2, 2), "b": weight(5)}
    ),
    "transposed-wide": Case([node("ConvTranspose", "x", "w", strides=[2, 2])], {"w": weight(4, 5, 3, 3)}),
    "transposed-pads": Case(
        [node("ConvTranspose", "x", "w", strides=[2, 2], pads=[1, 1, 1, 1])],
        {"w": weight(4, 5, 4, 4)},
        refused="ConvTranspose with padding",
    ),
    "pool-same": Case([node("MaxPool", "x", kernel_shape=[5, 5], pads=[2, 2, 2, 2], strides=[1, 1])]),
    "pool-stride": Case([node("MaxPool", "x", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])]),
    "pool-ceil": Case([node("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)], refused="ceil_mode"),
    "resize": Case(
        [
            node(
                "Resize",
                "x",
                "",
                "s",
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        ],
        {"s": np.array([1, 1, 2, 2], np.float32)},
    ),
    "resize-to-sizes": Case([node("Resize", "x", "", "", "s", mode="nearest")], {"s": whole(2, 4, 16, 24)}),
    "resize-linear": Case(
        [node("Resize", "x", "", "s", mode="linear")], {"s": np.array([1, 1, 2, 2], np.float32)}, refused="Resize"
    ),
    "resize-by-a-fraction": Case(
        [node("Resize", "x", "", "s", mode="nearest")], {"s": np.array([1, 1, 1.5, 1.5], np.float32)}, refused="Resize"
    ),
    "arithmetic": Case(
        [
            *(node("Add", "x", "c", to="a"), node("Sub", "one", "a", to="s"), node("Mul", "s", "x", to="m")),
            *(node("Div", "m", "d", to="v"), node("Sigmoid", "v", to="g"), node("Exp", "g", to="e")),
            *(node("Relu", "v", to="r"), node("LeakyRelu", "v", to="l", alpha=0.2)),
            *(node("Add", "e", "r", to="er"), node("Add", "er", "l")),
        ],
        {"c": weight(4, 1, 1), "one": np.float32(1), "d": np.abs(weight(12)) + 1},
    ),
    "concat": Case(
        [node("Concat", "x", "x", to="a", axis=1), node("Concat", "a", "a", axis=-1)],
    ),
    "concat-constant": Case([node("Concat", "x", "c", axis=1)], {"c": weight(2, 3, 8, 12)}, keras=False),
    "split": Case(
        [node("Split", "x", "s", to=["p", "q"], axis=1), node("Mul", "q", "p", to="m"), node("Add", "m", "q")],
        {"s": whole(2, 2)},
    ),
    "split-unequal": Case(
        [node("Split", "x", to=["p", "q"], axis=3, num_outputs=2), node("Concat", "q", "p", axis=3)],
    ),
    "slice": Case([node("Slice", "x", "a", "b", "c")], {"a": whole(-3, 1), "b": whole(2**40, -1), "c": whole(1, 3)}),
    "slice-steps": Case(
        [node("Slice", "x", "a", "b", "c", "d")],
        {"a": whole(0), "b": whole(8), "c": whole(2), "d": whole(2)},
        refused="Slice with steps",
    ),
    "softmax": Case([node("Softmax", "x", axis=1)]),
    "softmax-last": Case([node("Softmax", "x")]),
    "reshape-maps-to-anchors": Case([node("Reshape", "x", "s")], {"s": whole(0, 4, -1)}, rank=3),
    "reshape-splits-channels": Case(
        [node("Reshape", "x", "s", to="a"), node("Softmax", "a", axis=2)], {"s": whole(2, 2, 2, 96)}
    ),
    "reshape-mixes": Case([node("Reshape", "x", "s")], {"s": whole(2, 8, 4, 12)}),
    "transpose": Case(
        [node("Transpose", "x", to="a", perm=[0, 3, 1, 2]), node("Mul", "a", "a", to="m"), node("Softmax", "m")]
    ),
    "dfl": Case(
        [
            *(node("Reshape", "x", "s", to="a"), node("Reshape", "a", "t", to="b")),
            *(node("Transpose", "b", to="c", perm=[0, 2, 1, 3]), node("Softmax", "c", to="d", axis=1)),
            *(node("Conv", "d", "w", to="e"), node("Reshape", "e", "u")),
        ],
        {"s": whole(2, 16, 24), "t": whole(2, 4, 4, 24), "u": whole(2, 4, 24), "w": weight(1, 4, 1, 1)},
        rank=3,
        shape=(2, 4, 8, 12),
    ),
    "unsqueeze-squeeze": Case(
        [node("Unsqueeze", "x", "i", to="a"), node("Mul", "a", "a", to="b"), node("Squeeze", "b", "i")],
        {"i": whole(2)},
    ),
    "gather": Case(
        [node("Gather", "x", "i", to="a", axis=1), node("Unsqueeze", "a", "o")],
        {"i": np.int64(2), "o": whole(1)},
        keras=False,
    ),
    "gather-some": Case([node("Gather", "x", "i", axis=3)], {"i": whole(5, 0, 5)}, keras=False),
    "expand": Case(
        [node("Slice", "x", "a", "b", "c", to="p"), node("Expand", "p", "s")],
        {"a": whole(0), "b": whole(1), "c": whole(1), "s": whole(2, 3, 8, 12)},
        keras=False,
    ),
    "matmul": Case([node("MatMul", "x", "w")], {"w": weight(12, 5)}),
    "unknown": Case([node("Einsum", "x", equation="nchw->nhwc")], refused="no translation of the operators Einsum"),
    "open-batch": Case(
        [node("Conv", "x", "w", to="a"), node("Reshape", "a", "s")],
        {"w": weight(6, 4, 3, 3), "s": whole(1, 6, -1)},
        shape=(1, 4, 8, 12),
        opened="n,4,8,12",
        rank=3,
    ),
}


def _model(case: Case) -> Any:
    opened = case.opened.split(",") if case.opened else []
    lengths = [1 if word == "n" else int(word) for word in opened] or list(case.shape)
    graph = helper.make_graph(
        case.nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, lengths)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * case.rank)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in case.weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with each graph, its images and what came out."""
    folder = tmp_path_factory.mktemp("graphs")
    for name, case in CASES.items():
        path = folder / f"{name}.onnx"
        onnx.save(_model(case), path)
        images = np.random.default_rng(len(name)).normal(0, 1, case.shape).astype(np.float32)
        if case.opened:
            images = np.concatenate([images, images[::-1] * 0.5, images + 1])
        np.save(path.with_suffix(".npy"), np.ascontiguousarray(images.transpose(0, 2, 3, 1)))
        path.with_suffix(".shape").write_text(case.opened or ",".join(map(str, case.shape)))
        if case.keras:
            path.with_suffix(".keras-too").touch()
    done = subprocess.run([sys.executable, "-c", RUN_ALL, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def _wanted(ran: Path, name: str) -> Any:
    images = np.load(ran / f"{name}.npy").transpose(0, 3, 1, 2)
    session = onnxruntime.InferenceSession(ran / f"{name}.onnx", providers=["CPUExecutionProvider"])
    count = session.get_inputs()[0].shape[0]
    parts = [images[start : start + count] for start in range(0, len(images), count)]
    wanted = np.concatenate([session.run(["y"], {"x": np.ascontiguousarray(part)})[0] for part in parts])
    return wanted.transpose(0, 2, 3, 1) if wanted.ndim == 4 else wanted


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.refused])
def test_says_in_tensorflow_what_it_says_in_onnx(ran: Path, name: str) -> None:
    refused = ran / f"{name}.refused"
    assert not refused.exists(), refused.read_text()
    found = np.load(ran / f"{name}.npz")["y"]
    wanted = _wanted(ran, name)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.keras and not case.refused])
def test_says_in_keras_what_it_says_in_onnx(ran: Path, name: str) -> None:
    found = np.load(ran / f"{name}.keras.npz")["y"]
    np.testing.assert_allclose(found, _wanted(ran, name), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.refused])
def test_what_has_no_translation_is_refused_by_name(ran: Path, name: str) -> None:
    refused = ran / f"{name}.refused"
    assert refused.exists()
    assert CASES[name].refused in refused.read_text()
