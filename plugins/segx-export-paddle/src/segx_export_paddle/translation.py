"""A graph as Paddle operations; Paddle thinks as ONNX does, so there is little to translate.

Runs in an interpreter of its own: Paddle does not share a process with other frameworks.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper

from segx.errors import ExportError
from segx_onnx_graph import REPEATS, Graph, Translator, fill_value, is_number, read, reshaped, settled, sized
from segx_onnx_graph import lengths as lengths_module
from segx_onnx_graph import translator as translator_module

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of compilers that nothing here needs
    import paddle
    import paddle.nn.functional as F  # noqa: N812 - as everybody calls it

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MODEL = "model"
"""Stem of the two files in the folder: the program, ``.json``, and its weights, ``.pdiparams``."""

_KINDS: dict[int, Any] = {
    TensorProto.FLOAT: paddle.float32,
    TensorProto.INT32: paddle.int32,
    TensorProto.INT64: paddle.int64,
    TensorProto.BOOL: paddle.bool,
}
_FAR = 2**31 - 1
"""The end of an axis, in what Paddle takes for a slice."""


def convert(source: str, target: str, shape: Sequence[int | None]) -> list[str]:
    """Write a Paddle inference model, and return the names of its outputs.

    Args:
        source: An ``.onnx`` file.
        target: The folder to write; it is there and empty.
        shape: Lengths of the images, (N, 3, H, W); None: open.

    Raises:
        ExportError: The graph has operators that there is no translation of, or has fixed what is to be open.
    """
    graph = read(source, shape)
    layer = _Layer(graph)
    layer.eval()
    # Paddle would rewrite the syntax trees of what it meets, and these are made to run as they are.
    paddle.jit.ignore_module([sys.modules[__name__], lengths_module, translator_module])
    images = paddle.static.InputSpec([-1 if length is None else length for length in shape], "float32", "images")
    paddle.jit.save(layer, str(Path(target) / MODEL), input_spec=[images])
    return graph.outputs


class ToPaddle(Translator):
    """Paddle operations, recorded by ``paddle.jit`` or computed at once."""

    title = "Paddle"

    def __init__(self, graph: Graph, weight: Callable[[np.ndarray[Any, Any]], Any]) -> None:
        super().__init__(graph)
        self._weight = weight

    def shape(self, value: Any) -> list[Any]:
        lengths = [length if length >= 0 else None for length in value.shape]
        if None not in lengths:
            return lengths
        at_run_time = paddle.shape(value)
        return [at_run_time[axis] if length is None else length for axis, length in enumerate(lengths)]

    def Add(self, a: Any, b: Any) -> Any:
        a, b = self._pair(a, b)
        return a + b

    def Sub(self, a: Any, b: Any) -> Any:
        a, b = self._pair(a, b)
        return a - b

    def Mul(self, a: Any, b: Any) -> Any:
        a, b = self._pair(a, b)
        return a * b

    def Div(self, a: Any, b: Any) -> Any:
        a, b = self._pair(a, b)
        tensor = a if hasattr(a, "dtype") else b
        return a / b if "float" in str(tensor.dtype) else a // b

    def Pow(self, a: Any, b: Any) -> Any:
        return paddle.pow(*self._pair(a, b))

    def Exp(self, x: Any) -> Any:
        return paddle.exp(x)

    def Neg(self, x: Any) -> Any:
        return -x

    def Sigmoid(self, x: Any) -> Any:
        return F.sigmoid(x)

    def Relu(self, x: Any) -> Any:
        return F.relu(x)

    def LeakyRelu(self, x: Any, alpha: float) -> Any:
        return F.leaky_relu(x, alpha)

    def Clip(self, x: Any, low: Any = None, high: Any = None) -> Any:
        return paddle.clip(x, None if low is None else low.item(), None if high is None else high.item())

    def Softmax(self, x: Any, axis: int) -> Any:
        return F.softmax(x, axis)

    def Cast(self, x: Any, to: int, **_: Any) -> Any:
        return paddle.cast(self._value(x), _kind(to))

    def Transpose(self, x: Any, perm: Sequence[int] | None = None) -> Any:
        return paddle.transpose(x, perm or list(range(x.ndim))[::-1])

    def Unsqueeze(self, x: Any, axes: Any) -> Any:
        return paddle.unsqueeze(self._value(x), _whole(axes))

    def Squeeze(self, x: Any, axes: Any = None) -> Any:
        return paddle.squeeze(self._value(x), None if axes is None else _whole(axes))

    def MatMul(self, a: Any, b: Any) -> Any:
        product: Any = paddle.matmul
        return product(self._value(a), self._value(b))

    def ReduceSum(self, x: Any, axes: Any = None, *, keepdims: int, **_: Any) -> Any:
        return paddle.sum(x, None if axes is None else _whole(axes), keepdim=bool(keepdims))

    def Concat(self, *parts: Any, axis: int) -> Any:
        return paddle.concat([self._value(part) for part in parts], axis)

    def Flatten(self, x: Any, axis: int) -> Any:
        if axis == 0:
            return paddle.reshape(x, [1, -1])
        flat = paddle.flatten(x, axis)
        return flat if axis == 1 else paddle.flatten(flat, 0, axis - 1)

    def Conv(
        self,
        x: Any,
        weight: Any,
        bias: Any = None,
        *,
        auto_pad: str,
        group: int,
        strides: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        dilations: Sequence[int] | None = None,
        **_: Any,
    ) -> Any:
        padding, before = _padding(pads)
        if before:
            x = F.pad(x, before)
        if auto_pad != "NOTSET":
            padding = _automatic(auto_pad)
        return F.conv2d(
            x,
            self._value(weight),
            self._value(bias),
            stride=list(strides or (1, 1)),
            padding=padding,
            dilation=list(dilations or (1, 1)),
            groups=group,
        )

    def ConvTranspose(
        self,
        x: Any,
        weight: Any,
        bias: Any = None,
        *,
        auto_pad: str,
        group: int,
        strides: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        dilations: Sequence[int] | None = None,
        output_padding: Sequence[int] | None = None,
        output_shape: Sequence[int] | None = None,
        **_: Any,
    ) -> Any:
        padding, before = _padding(pads)
        if before or output_shape or auto_pad != "NOTSET":
            raise _unknown("ConvTranspose with padding of its own kind")
        return F.conv2d_transpose(
            x,
            self._value(weight),
            self._value(bias),
            stride=list(strides or (1, 1)),
            padding=padding,
            output_padding=list(output_padding or (0, 0)),
            groups=group,
            dilation=list(dilations or (1, 1)),
        )

    def MaxPool(
        self,
        x: Any,
        *,
        kernel_shape: Sequence[int],
        auto_pad: str,
        ceil_mode: int = 0,
        strides: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        dilations: Sequence[int] | None = None,
        **_: Any,
    ) -> Any:
        padding, before = _padding(pads)
        if before or set(dilations or (1,)) != {1} or auto_pad != "NOTSET":
            raise _unknown("MaxPool with dilation or uneven padding")
        return F.max_pool2d(x, list(kernel_shape), list(strides or (1, 1)), padding, ceil_mode=bool(ceil_mode))

    def Resize(
        self,
        x: Any,
        region: Any = None,
        scales: Any = None,
        sizes: Any = None,
        *,
        mode: str,
        coordinate_transformation_mode: str,
        nearest_mode: str,
        **_: Any,
    ) -> Any:
        del region  # of another mode
        way = (coordinate_transformation_mode, nearest_mode)
        factors = _factors(self.shape(x), sizes) if scales is None or not scales.size else scales.tolist()
        if mode != "nearest" or way not in REPEATS or any(factor != int(factor) for factor in factors):
            raise _unknown(f"Resize {mode} ({', '.join(way)}) by {', '.join(f'{f:g}' for f in factors)}")
        for axis, factor in enumerate(factors):  # oneDNN of paddle 3.3 fails on its own operation for it
            if factor != 1:
                x = paddle.repeat_interleave(x, int(factor), axis)
        return x

    def Split(self, x: Any, split: Any = None, *, axis: int, num_outputs: int | None = None) -> Any:
        if split is None and num_outputs:
            length = x.shape[axis]
            each = -(-length // num_outputs)
            parts = [min(each, length - each * index) for index in range(num_outputs)]
        else:
            parts = _whole(split)
        return paddle.split(x, parts, axis)

    def Slice(self, x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
        axes = list(range(len(starts))) if axes is None else [axis % x.ndim for axis in _whole(axes)]
        first, last = _bounds(starts), _bounds(ends)
        if steps is None or set(_whole(steps)) == {1}:
            return paddle.slice(x, axes, first, last)
        return paddle.strided_slice(x, axes, first, last, _whole(steps))

    def Reshape(self, x: Any, shape: Any, allowzero: int = 0) -> Any:
        x = self._value(x)
        _, new = reshaped(self.shape(x), list(shape), allow_zero=bool(allowzero), keeps_first=self.keeps_first)
        return paddle.reshape(x, sized(new))

    def Gather(self, x: Any, index: Any, axis: int) -> Any:
        if index.ndim == 1:
            return paddle.index_select(x, self._value(index), axis)
        if index.ndim:
            raise _unknown("Gather by a table")
        return x[(slice(None),) * (axis % x.ndim) + (int(index),)]

    def Range(self, start: Any, limit: Any, step: Any) -> Any:
        return paddle.arange(*(_scalar(value) for value in (start, limit, step)))

    def ConstantOfShape(self, shape: Any, value: Any = None) -> Any:
        number = fill_value(value)
        return paddle.full(list(shape), number.item(), _kind(helper.np_dtype_to_tensor_dtype(number.dtype)))

    def Expand(self, x: Any, shape: Any) -> Any:
        x = self._value(x)
        rank = max(x.ndim, len(shape))
        has = [1] * (rank - x.ndim) + self.shape(x)
        wanted = [1] * (rank - len(shape)) + list(shape)
        lengths = [old if is_number(new) and new == 1 else new for old, new in zip(has, wanted, strict=True)]
        return paddle.expand(x, [int(length) if is_number(length) else length for length in lengths])

    def _pair(self, a: Any, b: Any) -> tuple[Any, Any]:
        """Return two operands, of which one is a tensor; constants of a single number are plain numbers."""
        a, b = (_plain(value) for value in (a, b))
        return self._value(a), self._value(b)

    def _value(self, x: Any) -> Any:
        """Return a tensor for a constant or for lengths; what is one is returned as it is."""
        if not isinstance(x, np.ndarray):
            return x
        x = settled(x)
        if x.dtype != object:
            return self._weight(x)
        scalars = [paddle.full([], int(n), "int64") if is_number(n) else paddle.cast(n, "int64") for n in x.flat]
        return paddle.reshape(paddle.stack(scalars), list(x.shape)) if x.ndim else scalars[0]


class _Layer(paddle.nn.Layer):
    """The graph as what ``paddle.jit`` records: weights are parameters, so that they go into a file of their own."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self._names: dict[int, str] = {}
        # In a list: Paddle takes over what it meets as an attribute.
        self._translator = [ToPaddle(graph, self._weight)]
        floats = [array for array in graph.constants.values() if array.dtype == np.float32 and array.size > 1]
        for index, array in enumerate(floats):
            values = paddle.to_tensor(np.ascontiguousarray(array))
            parameter = self.create_parameter(list(array.shape), dtype=values.dtype)
            parameter.set_value(values)
            parameter.stop_gradient = True
            self.add_parameter(f"w{index}", parameter)
            self._names[id(array)] = f"w{index}"

    def forward(self, images: Any) -> tuple[Any, ...]:
        return tuple(self._translator[0].run(images))

    def _weight(self, array: np.ndarray[Any, Any]) -> Any:
        name = self._names.get(id(array))
        return paddle.assign(np.ascontiguousarray(array)) if name is None else getattr(self, name)


def _plain(value: Any) -> Any:
    alone = isinstance(value, np.ndarray) and value.size == 1 and value.dtype != object and value.ndim <= 1
    return value.item() if alone else value


def _whole(numbers: Any) -> list[int]:
    return [int(number) for number in numbers]


def _bounds(lengths: Any) -> list[Any]:
    return [max(-_FAR, min(int(length), _FAR)) if is_number(length) else length for length in lengths]


def _scalar(value: Any) -> Any:
    return settled(value).item() if isinstance(value, np.ndarray) else value


def _kind(number: int) -> Any:
    if number not in _KINDS:
        raise _unknown(f"Cast to {TensorProto.DataType.Name(number)}")
    return _KINDS[number]


def _padding(pads: Sequence[int] | None) -> tuple[list[int], list[int]]:
    """Return what a layer pads on both sides alike; or nothing, and what to pad before it, the last axis first."""
    half = len(pads or ()) // 2
    if not pads or list(pads[:half]) == list(pads[half:]):
        return list(pads[:half]) if pads else [0, 0], []
    return [0, 0], [side for axis in reversed(range(half)) for side in (pads[axis], pads[half + axis])]


def _automatic(word: str) -> Any:
    ways = {"VALID": [0, 0], "SAME_UPPER": "SAME"}
    if word not in ways:
        raise _unknown(f"padding of the kind {word}")
    return ways[word]


def _factors(shape: Sequence[Any], sizes: Any) -> list[float]:
    """Return how often each axis is repeated; the number of images is left as it is."""
    pairs = list(zip(shape, sizes, strict=True))[1:]
    if not all(is_number(length) for pair in pairs for length in pair):
        raise _unknown("Resize to a size that is computed while it runs")
    return [1.0, *(new / old for old, new in pairs)]


def _unknown(what: str) -> ExportError:
    return ExportError(f"Paddle has no translation of {what}", hint="format=onnx keeps it")
