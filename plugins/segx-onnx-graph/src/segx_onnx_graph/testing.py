"""Models of one operator each, as old and new operator sets write it: what a translator's tests hold it against.

Each entry is what real files of YOLO models contain. Compare ``Translator(read(case.model)).run(case.images)`` with the
same model in ONNX Runtime.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx  # noqa: TID253 - only tests import this
from onnx import TensorProto, helper, numpy_helper  # noqa: TID253 - as above

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Case:
    """One operator.

    Attributes:
        name: Unique, for reports of tests.
        op: The operator.
        model: A model of it alone, from ``images`` to ``result`` (``result0``, ... where there are several).
        images: float32 (N, C, H, W), what the model is to be fed.
    """

    name: str
    op: str
    model: onnx.ModelProto
    images: np.ndarray[Any, Any]

    def __str__(self) -> str:
        return self.name


_NEWEST = 18
_SHAPE = (2, 8, 6, 10)


def _case(
    name: str,
    op: str,
    *inputs: Any,
    opset: int = _NEWEST,
    outputs: int = 1,
    shape: Sequence[int] = _SHAPE,
    positive: bool = False,
    **attributes: Any,
) -> Case:
    """Return a case; ``inputs`` are arrays, None for what is left out, and "images" for the images themselves."""
    generator = np.random.default_rng(3)
    images = generator.normal(0, 1, shape).astype(np.float32)
    names, weights = [], []
    for index, value in enumerate(inputs or ("images",)):
        if isinstance(value, str) or value is None:
            names.append(value or "")
            continue
        weights.append(numpy_helper.from_array(np.asarray(value), f"weight{index}"))
        names.append(f"weight{index}")
    results = ["result"] if outputs == 1 else [f"result{index}" for index in range(outputs)]
    node = helper.make_node(op, names, results, **attributes)
    given = helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)
    kinds = [helper.make_tensor_value_info(result, TensorProto.FLOAT, None) for result in results]
    graph = helper.make_graph([node], "one", [given], kinds, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    return Case(name, op, model, np.abs(images) if positive else images)


def _normal(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(5).normal(0, 0.5, shape).astype(np.float32)


def _whole(*numbers: int) -> np.ndarray[Any, Any]:
    return np.array(numbers, np.int64)


def _floats(*numbers: float) -> np.ndarray[Any, Any]:
    return np.array(numbers, np.float32)


def _resize(name: str, scales: np.ndarray[Any, Any] | None, sizes: Any = None, **how: Any) -> Case:
    inputs = ["images", None, scales] if sizes is None else ["images", None, None, sizes]
    return _case(name, "Resize", *inputs, mode="nearest", **how)


_DOUBLED = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
_POOL: dict[str, Any] = {"kernel_shape": [5, 5], "strides": [1, 1], "pads": [2, 2, 2, 2]}


def operator_cases() -> list[Case]:
    """Return the cases, made anew."""
    grid = _normal(1, 8, 1, 10)
    return [
        _case("add", "Add", "images", grid),
        _case("add_scalar", "Add", "images", np.float32(2.5)),
        _case("sub", "Sub", grid, "images"),
        _case("mul", "Mul", "images", "images"),
        _case("mul_broadcast", "Mul", "images", _normal(8, 1, 1)),
        _case("div", "Div", "images", _floats(4)),
        _case("pow", "Pow", "images", _floats(2), positive=True),
        _case("exp", "Exp"),
        _case("neg", "Neg"),
        _case("relu", "Relu"),
        _case("leaky_relu", "LeakyRelu", alpha=0.1),
        _case("sigmoid", "Sigmoid"),
        _case("clip_11", "Clip", "images", np.float32(-0.5), np.float32(0.5), opset=11),
        _case("clip_6", "Clip", "images", opset=10, min=-0.5, max=0.5),
        _case("clip_low", "Clip", "images", np.float32(0)),
        _case("softmax_last", "Softmax", axis=-1),
        _case("softmax_channels", "Softmax", axis=1),
        _case("softmax_11", "Softmax", opset=11, axis=3),
        _case("transpose", "Transpose", perm=[0, 2, 3, 1]),
        _case("transpose_default", "Transpose"),
        _case("concat_channels", "Concat", "images", "images", axis=1),
        _case("concat_last", "Concat", "images", _normal(2, 8, 6, 3), axis=-1),
        _case("split_sizes", "Split", "images", _whole(3, 5), outputs=2, axis=1),
        _case("split_count", "Split", "images", outputs=3, axis=3, num_outputs=3),
        _case("split_11", "Split", "images", opset=11, outputs=2, axis=1, split=[2, 6]),
        _case("split_default", "Split", "images", opset=13, outputs=2, axis=1),
        _case("slice", "Slice", "images", _whole(1, 2), _whole(5, 2**62), _whole(1, -1)),
        _case("slice_negative", "Slice", "images", _whole(-4), _whole(-1), _whole(1)),
        _case("slice_9", "Slice", opset=9, starts=[1, 0], ends=[7, 4], axes=[1, 2]),
        _case("slice_steps", "Slice", "images", _whole(0), _whole(100), _whole(2), _whole(2)),
        _case("reshape", "Reshape", "images", _whole(2, 4, 2, 60)),
        _case("reshape_rest", "Reshape", "images", _whole(0, 2, -1, 10)),
        _case("reshape_flat", "Reshape", "images", _whole(2, 8, -1)),
        _case("reshape_zero", "Reshape", "images", _whole(2, 480), allowzero=1),
        _case("flatten", "Flatten", axis=1),
        _case("unsqueeze", "Unsqueeze", "images", _whole(1)),
        _case("unsqueeze_11", "Unsqueeze", opset=11, axes=[1]),
        _case("squeeze", "Squeeze", "images", _whole(2), shape=(2, 8, 1, 10)),
        _case("squeeze_11", "Squeeze", opset=11, axes=[2], shape=(2, 8, 1, 10)),
        _case("gather", "Gather", "images", _whole(3, 1), axis=1),
        _case("gather_scalar", "Gather", "images", np.array(2), axis=1),
        _case("expand", "Expand", "images", _whole(2, 8, 6, 10), shape=(2, 8, 1, 10)),
        _case("matmul", "MatMul", "images", _normal(10, 4)),
        _case("reduce_sum", "ReduceSum", "images", _whole(1), keepdims=1),
        _case("reduce_sum_11", "ReduceSum", opset=11, axes=[1], keepdims=0),
        _case("conv", "Conv", "images", _normal(4, 8, 3, 3), _normal(4), pads=[1, 1, 1, 1], strides=[2, 2]),
        _case("conv_1x1", "Conv", "images", _normal(4, 8, 1, 1)),
        _case("conv_groups", "Conv", "images", _normal(8, 1, 3, 3), group=8, pads=[1, 1, 1, 1]),
        _case("conv_uneven", "Conv", "images", _normal(4, 8, 3, 3), pads=[0, 0, 1, 1], strides=[2, 2]),
        _case("conv_transpose", "ConvTranspose", "images", _normal(8, 4, 2, 2), _normal(4), strides=[2, 2]),
        _case("max_pool", "MaxPool", **_POOL),
        _case("max_pool_stride", "MaxPool", kernel_shape=[2, 2], strides=[2, 2]),
        _resize("resize_scales", _floats(1, 1, 2, 2), **_DOUBLED),
        _resize("resize_half_pixel", _floats(1, 1, 2, 2), nearest_mode="round_prefer_floor"),
        _resize("resize_sizes", None, _whole(2, 8, 12, 20), **_DOUBLED),
        _case("resize_10", "Resize", "images", _floats(1, 1, 2, 2), opset=10, mode="nearest"),
        _case("upsample_9", "Upsample", "images", _floats(1, 1, 2, 2), opset=9, mode="nearest"),
        _case("upsample_7", "Upsample", opset=8, mode="nearest", scales=[1.0, 1.0, 2.0, 2.0]),
    ]
