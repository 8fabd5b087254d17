"""ONNX operators as TensorFlow operations, channels last."""

# ruff: noqa: D102, N802 - methods are named as the operators of ONNX, whose reference describes them

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import tensorflow as tf

from segx.errors import ExportError
from segx_onnx_graph import REPEATS, Translator, fill_value, is_number, reshaped, settled, sized
from segx_tensorflow.values import Value, as_in_onnx, channels_last

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from segx_onnx_graph import Graph

_LEAST = float(np.finfo(np.float32).min)
"""What a maximum never takes from the padding."""

_KINDS = {1: tf.float32, 6: tf.int32, 7: tf.int32, 9: tf.bool, 10: tf.float32, 11: tf.float32}
"""``TensorProto.DataType`` to what is computed with here; lengths of axes need no 64 bits."""


def is_depthwise(kernel: np.ndarray[Any, Any], group: int) -> bool:
    """Return True if a convolution takes each channel by itself, once."""
    return bool(group == kernel.shape[0] > 1 == kernel.shape[1])


def turned(kernel: np.ndarray[Any, Any], group: int) -> np.ndarray[Any, Any]:
    """Return the kernel of a Conv or ConvTranspose as TensorFlow holds it: height and width first."""
    return np.ascontiguousarray(kernel.transpose((2, 3, 0, 1) if is_depthwise(kernel, group) else (2, 3, 1, 0)))


class TensorFlowTranslator(Translator):
    """A method for each operator; what is TensorFlow's alone stands in the methods whose names begin with ``_``.

    Args:
        graph: What is translated.
        kernels: The kernel of each convolution by the ``id`` of its array in ``graph.constants``.
    """

    title: ClassVar[str] = "TensorFlow"

    def __init__(self, graph: Graph, kernels: Mapping[int, Any]) -> None:
        super().__init__(graph)
        self._kernels = kernels

    # How a value lies

    def shape(self, value: Value) -> list[Any]:
        """Return the lengths in ONNX's order: integers, and scalar tensors where they are open."""
        return [self._length(value, axis) for axis in range(value.rank)]

    def _length(self, value: Value, axis: int) -> Any:
        place = value.place(axis)
        known = value.tensor.shape[place]
        return known if known is not None else tf.shape(value.tensor)[place]

    def laid(self, value: Value, axes: Sequence[int]) -> Value:
        """Return a value in another layout; where only axes of length 1 move, that is a reshape."""
        order = value.moved_to(axes)
        if order == sorted(order):
            return value
        moving = [place for place in order if value.tensor.shape[place] != 1]
        if moving == sorted(moving):
            shape = sized([self._length(value, axis) for axis in axes])
            return Value(self._reshape(value.tensor, shape), tuple(axes))
        return Value(self._transpose(value.tensor, order), tuple(axes))

    def _lifted(self, value: Value, rank: int) -> Value:
        """Return a value with as many axes of length 1 in front as broadcasting adds."""
        more = rank - value.rank
        if not more:
            return value
        shape = sized([1] * more + [self._length(value, axis) for axis in value.axes])
        return Value(self._reshape(value.tensor, shape), (*range(more), *(axis + more for axis in value.axes)))

    def _plain(self, value: Any) -> Any:
        """Return a value, a constant or lengths as TensorFlow takes them, in ONNX's order."""
        if isinstance(value, Value):
            return self.laid(value, as_in_onnx(value.rank)).tensor
        value = settled(value)
        if value.dtype == object:
            return tf.stack(value.tolist()) if value.ndim else value.item()
        return value.astype(np.int32) if value.dtype == np.int64 else value

    def _value(self, value: Any) -> Value:
        """Return a value, also of a constant."""
        if isinstance(value, Value):
            return value
        return Value(tf.convert_to_tensor(self._plain(value)), as_in_onnx(value.ndim))

    # Arithmetic

    def _each(self, combine: Callable[[Any, Any], Any], left: Any, right: Any) -> Value:
        """Combine two values element by element, in the layout of the one with more axes."""
        both = (left, right)
        rank = max(item.rank if isinstance(item, Value) else item.ndim for item in both)
        widest = max((item for item in both if isinstance(item, Value)), key=lambda item: item.rank)
        axes = self._lifted(widest, rank).axes

        def same_layout(item: Any) -> Any:
            if isinstance(item, Value):
                return self.laid(self._lifted(item, rank), axes).tensor
            item = self._plain(item)
            if not isinstance(item, np.ndarray):
                return item
            if item.size == 1:
                return item.reshape(())
            return item.reshape((1,) * (rank - item.ndim) + item.shape).transpose(axes)

        return Value(combine(*map(same_layout, both)), axes)

    def Add(self, left: Any, right: Any) -> Value:
        return self._each(lambda a, b: a + b, left, right)

    def Sub(self, left: Any, right: Any) -> Value:
        return self._each(lambda a, b: a - b, left, right)

    def Mul(self, left: Any, right: Any) -> Value:
        return self._each(lambda a, b: a * b, left, right)

    def Div(self, left: Any, right: Any) -> Value:
        def divided(a: Any, b: Any) -> Any:
            kinds = [item.dtype for item in (a, b) if hasattr(item, "dtype")]
            return a // b if all(kind in (tf.int32, np.int32) for kind in kinds) else a / b

        return self._each(divided, left, right)

    def Sigmoid(self, value: Value) -> Value:
        return Value(self._sigmoid(value.tensor), value.axes)

    def Exp(self, value: Value) -> Value:
        return Value(self._exp(value.tensor), value.axes)

    def Relu(self, value: Value) -> Value:
        return Value(self._relu(value.tensor), value.axes)

    def LeakyRelu(self, value: Value, alpha: float = 0.01) -> Value:
        return Value(self._leaky_relu(value.tensor, alpha), value.axes)

    def Cast(self, value: Any, to: int, **_: Any) -> Value:
        value = self._value(value)
        return Value(self._cast(value.tensor, to), value.axes)

    def Softmax(self, value: Value, axis: int = -1) -> Value:
        last = axis % value.rank
        if value.axes[-1] != last:
            value = self.laid(value, [item for item in value.axes if item != last] + [last])
        return Value(self._softmax(value.tensor), value.axes)

    def MatMul(self, left: Any, right: Any) -> Value:
        product = self._matmul(self._plain(left), self._plain(right))
        return Value(product, as_in_onnx(len(product.shape)))

    # Layers

    def Conv(
        self,
        value: Value,
        kernel: np.ndarray[Any, Any],
        bias: np.ndarray[Any, Any] | None = None,
        *,
        auto_pad: str = "NOTSET",
        group: int = 1,
        strides: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        dilations: Sequence[int] | None = None,
        **_: Any,
    ) -> Value:
        if kernel.ndim != 4:
            raise ExportError(f"{self.title} has no translation of a Conv over {kernel.ndim - 2} axes")
        strides, dilations = list(strides or (1, 1)), list(dilations or (1, 1))
        pointwise = kernel.shape[2:] == (1, 1) and strides == [1, 1] and group == 1 and not any(pads or ())
        if not (pointwise and value.axes[-1] == 1):  # a 1x1 kernel takes the other axes in any order
            value = self.laid(value, channels_last(4))
        tensor, padding = self._padded(
            value.tensor, kernel=kernel.shape[2:], strides=strides, pads=pads, dilations=dilations, auto_pad=auto_pad
        )
        made = self._conv(tensor, kernel, bias, strides=strides, padding=padding, dilations=dilations, group=group)
        return Value(made, value.axes)

    def ConvTranspose(
        self,
        value: Value,
        kernel: np.ndarray[Any, Any],
        bias: np.ndarray[Any, Any] | None = None,
        *,
        group: int = 1,
        strides: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        output_padding: Sequence[int] | None = None,
        dilations: Sequence[int] | None = None,
        auto_pad: str = "NOTSET",
        **_: Any,
    ) -> Value:
        plain = group == 1 and not any(pads or ()) and not any(output_padding or ()) and auto_pad in ("NOTSET", "VALID")
        if not plain or kernel.ndim != 4 or set(dilations or (1,)) != {1}:
            raise ExportError(f"{self.title} has no translation of a ConvTranspose with padding, groups or dilation")
        value = self.laid(value, channels_last(4))
        return Value(self._conv_transpose(value, kernel, bias, list(strides or (1, 1))), value.axes)

    def MaxPool(
        self,
        value: Value,
        *,
        kernel_shape: Sequence[int],
        auto_pad: str = "NOTSET",
        ceil_mode: int = 0,
        strides: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        dilations: Sequence[int] | None = None,
        **_: Any,
    ) -> Value:
        if ceil_mode or set(dilations or (1,)) != {1} or len(kernel_shape) != 2:
            raise ExportError(f"{self.title} has no translation of a MaxPool with ceil_mode or dilation")
        value = self.laid(value, channels_last(4))
        steps = list(strides or (1, 1))
        tensor, padding = self._padded(
            value.tensor,
            kernel=kernel_shape,
            strides=steps,
            pads=pads,
            dilations=(1, 1),
            auto_pad=auto_pad,
            fill=_LEAST,
        )
        return Value(self._max_pool(tensor, list(kernel_shape), steps, padding), value.axes)

    def Resize(
        self,
        value: Value,
        _roi: Any = None,
        scales: Any = None,
        sizes: Any = None,
        *,
        mode: str = "nearest",
        coordinate_transformation_mode: str = "half_pixel",
        nearest_mode: str = "round_prefer_floor",
        **_: Any,
    ) -> Value:
        value = self.laid(value, channels_last(4))
        lengths = [self._length(value, axis) for axis in (2, 3)]
        if scales is not None and np.size(scales):
            factors = [float(scales[axis]) for axis in (2, 3)]
            known = [round(factor) for factor in factors]
            whole = [float(factor) for factor in known] == factors
        elif sizes is not None and all(map(is_number, lengths)) and all(map(is_number, sizes)):
            known = [int(sizes[axis]) // length for axis, length in zip((2, 3), lengths, strict=True)]
            whole = [factor * length for factor, length in zip(known, lengths, strict=True)] == list(
                map(int, sizes[2:])
            )
        else:
            whole, known = False, []
        # Where a pixel's place is rounded to decides above a factor of 2; up to there each is repeated in every way.
        how = (coordinate_transformation_mode, nearest_mode)
        if not whole or mode != "nearest" or how not in REPEATS or max(known) > 2:
            raise ExportError(
                f"{self.title} has no translation of a Resize that does not repeat each pixel ({mode}, {how})"
            )
        return Value(self._repeat(value, known), value.axes)

    def _padded(
        self,
        tensor: Any,
        *,
        kernel: Sequence[int],
        strides: Sequence[int],
        pads: Sequence[int] | None,
        dilations: Sequence[int],
        auto_pad: str,
        fill: float = 0.0,
    ) -> tuple[Any, str]:
        """Return the padding in one of TensorFlow's words, or the tensor padded beforehand.

        ``SAME`` of a stride of 2 pads other sides than ONNX says: only a stride of 1 may be called that.
        """
        before, after = (list(pads or [0] * 4)[:2], list(pads or [0] * 4)[2:])
        if auto_pad == "SAME_UPPER":
            return tensor, "SAME"
        if auto_pad not in ("NOTSET", "VALID"):
            raise ExportError(f"{self.title} has no translation of auto_pad={auto_pad}")
        if not any(before + after) or auto_pad == "VALID":
            return tensor, "VALID"
        sides = zip(kernel, strides, dilations, before, after, strict=True)
        if all(step == 1 and a == b and a + b == (side - 1) * apart for side, step, apart, a, b in sides):
            return tensor, "SAME"
        return self._pad(tensor, list(zip(before, after, strict=True)), fill), "VALID"

    # Axes

    def Concat(self, *values: Any, axis: int) -> Value:
        first = next(item for item in values if isinstance(item, Value))
        parts = [self.laid(self._value(item), first.axes).tensor for item in values]
        return Value(self._concat(parts, first.place(axis)), first.axes)

    def Split(self, value: Value, split: Any = None, *, axis: int = 0, num_outputs: int | None = None) -> list[Value]:
        whole = self._length(value, axis)
        if split is None:
            part = -(-whole // (num_outputs or 1))
            split = [min(part, whole - index * part) for index in range(num_outputs or 1)]
        ends = [0, *np.cumsum(split).tolist()]
        return [self._cut(value, {axis: (start, end)}) for start, end in pairwise(ends)]

    def Slice(self, value: Value, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Value:
        if steps is not None and set(steps.tolist()) != {1}:
            raise ExportError(f"{self.title} has no translation of a Slice with steps")
        where = range(len(starts)) if axes is None else axes.tolist()
        spans = {}
        for axis, start, end in zip(where, starts, ends, strict=True):
            length = self._length(value, axis)
            known = is_number(length)
            spans[axis] = slice(int(start), int(end)).indices(length)[:2] if known else (int(start), int(end))
        return self._cut(value, spans)

    def _cut(self, value: Value, spans: Mapping[int, tuple[int, int]]) -> Value:
        return Value(self._slice(value.tensor, {value.place(axis): span for axis, span in spans.items()}), value.axes)

    def Reshape(self, value: Any, shape: Any, allowzero: int = 0) -> Value:
        value = self._value(value)
        old = self.shape(value)
        groups, new = reshaped(old, list(shape), allow_zero=bool(allowzero), keeps_first=self.keeps_first)
        order: list[int] = []
        place = 0
        while place < value.rank:
            group = next((g for g in groups if g[0] and tuple(g[0]) == value.axes[place : place + len(g[0])]), None)
            if group is None:
                break
            order += group[1]
            place += len(group[0])
        if place < value.rank:  # axes that the reshape joins lie apart
            value, order = self.laid(value, as_in_onnx(value.rank)), list(range(len(new)))
        else:
            order += [axis for group in groups if not group[0] for axis in group[1]]
        return Value(self._reshape(value.tensor, sized([new[axis] for axis in order])), tuple(order))

    def Transpose(self, value: Value, perm: Sequence[int] | None = None) -> Value:
        order = list(perm) if perm is not None else list(as_in_onnx(value.rank))[::-1]
        return Value(value.tensor, tuple(order.index(axis) for axis in value.axes))

    def Unsqueeze(self, value: Value, axes: Any) -> Value:
        rank = value.rank + len(axes)
        new = sorted(int(axis) % rank for axis in axes)
        rest = [axis for axis in range(rank) if axis not in new]
        shape = sized([1] * len(new) + [self._length(value, axis) for axis in value.axes])
        return Value(self._reshape(value.tensor, shape), (*new, *(rest[axis] for axis in value.axes)))

    def Squeeze(self, value: Value, axes: Any) -> Value:
        gone = {int(axis) % value.rank for axis in axes}
        kept = [axis for axis in value.axes if axis not in gone]
        shape = sized([self._length(value, axis) for axis in kept])
        return Value(self._reshape(value.tensor, shape), tuple(sorted(kept).index(axis) for axis in kept))

    def Gather(self, value: Any, index: Any, axis: int = 0) -> Value:
        value = self._value(value)
        along = axis % value.rank
        index = self._plain(index)
        tensor = tf.gather(value.tensor, index, axis=value.place(axis))
        if np.ndim(index) == 1:
            return Value(tensor, value.axes)
        if np.ndim(index) > 1:
            raise ExportError(f"{self.title} has no translation of a Gather with a table of indices")
        return Value(tensor, tuple(item - (item > along) for item in value.axes if item != along))

    def Range(self, start: Any, limit: Any, delta: Any) -> Value:
        return Value(tf.range(*map(self._plain, (start, limit, delta))), (0,))

    def ConstantOfShape(self, shape: Any, value: Any = None) -> Value:
        return Value(tf.fill(self._plain(shape), fill_value(value)), as_in_onnx(len(shape)))

    def Expand(self, value: Any, shape: Any) -> Value:
        value = self._value(value)
        value = self._lifted(value, max(value.rank, len(shape)))
        wanted = [1] * (value.rank - len(shape)) + list(shape)
        lengths = [
            self._length(value, axis) if is_number(wanted[axis]) and wanted[axis] == 1 else wanted[axis]
            for axis in value.axes
        ]
        return Value(tf.broadcast_to(value.tensor, lengths), value.axes)

    # What is TensorFlow's alone

    def _reshape(self, tensor: Any, shape: list[Any]) -> Any:
        return tf.reshape(tensor, shape)

    def _transpose(self, tensor: Any, order: list[int]) -> Any:
        return tf.transpose(tensor, order)

    def _sigmoid(self, tensor: Any) -> Any:
        return tf.sigmoid(tensor)

    def _exp(self, tensor: Any) -> Any:
        return tf.exp(tensor)

    def _relu(self, tensor: Any) -> Any:
        return tf.nn.relu(tensor)

    def _leaky_relu(self, tensor: Any, alpha: float) -> Any:
        return tf.nn.leaky_relu(tensor, alpha)

    def _softmax(self, tensor: Any) -> Any:
        return tf.nn.softmax(tensor)

    def _matmul(self, left: Any, right: Any) -> Any:
        return tf.matmul(left, right)

    def _cast(self, tensor: Any, to: int) -> Any:
        return tf.cast(tensor, _KINDS[to])

    def _concat(self, parts: list[Any], axis: int) -> Any:
        return tf.concat(parts, axis)

    def _slice(self, tensor: Any, spans: Mapping[int, tuple[int, int]]) -> Any:
        sizes = list(tensor.shape)
        if None in sizes:
            return tensor[tuple(slice(*spans[i]) if i in spans else slice(None) for i in range(len(sizes)))]
        begin = [spans[place][0] if place in spans else 0 for place in range(len(sizes))]
        size = [spans[place][1] - spans[place][0] if place in spans else whole for place, whole in enumerate(sizes)]
        return tf.slice(tensor, begin, size)  # with sizes written out: TFLite's kernels take no -1

    def _pad(self, tensor: Any, sides: list[tuple[int, int]], fill: float) -> Any:
        return tf.pad(tensor, [[0, 0], *map(list, sides), [0, 0]], constant_values=fill)

    def _conv(
        self,
        tensor: Any,
        kernel: np.ndarray[Any, Any],
        bias: np.ndarray[Any, Any] | None,
        *,
        strides: list[int],
        padding: str,
        dilations: list[int],
        group: int,
    ) -> Any:
        weights = self._kernels[id(kernel)]
        if is_depthwise(kernel, group):
            made = tf.nn.depthwise_conv2d(tensor, weights, [1, *strides, 1], padding, dilations=dilations)
        else:
            made = tf.nn.conv2d(tensor, weights, strides, padding, dilations=dilations)
        return made if bias is None else tf.nn.bias_add(made, bias)

    def _conv_transpose(
        self, value: Value, kernel: np.ndarray[Any, Any], bias: np.ndarray[Any, Any] | None, strides: list[int]
    ) -> Any:
        sides = zip((2, 3), strides, kernel.shape[2:], strict=True)
        size = [self._length(value, axis) * step + side - step for axis, step, side in sides]
        shape = [self._length(value, 0), *size, kernel.shape[1]]
        made = tf.nn.conv2d_transpose(value.tensor, self._kernels[id(kernel)], shape, strides, "VALID")
        return made if bias is None else tf.nn.bias_add(made, bias)

    def _max_pool(self, tensor: Any, kernel: list[int], strides: list[int], padding: str) -> Any:
        return tf.nn.max_pool2d(tensor, kernel, strides, padding)

    def _repeat(self, value: Value, factors: list[int]) -> Any:
        size = [self._length(value, axis) * factor for axis, factor in zip((2, 3), factors, strict=True)]
        known = all(map(is_number, size))
        return tf.image.resize(value.tensor, size if known else tf.stack(size), "nearest")
