"""An ONNX graph as a Keras model of Keras' own layers and operations, which loads without any code of ours."""

# ruff: noqa: D102, N802 - methods are named as the operators of ONNX, whose reference describes them

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np

from segx_onnx_graph import is_number
from segx_tensorflow.operators import TensorFlowTranslator, is_depthwise, turned
from segx_tensorflow.values import Value, as_in_onnx, channels_last

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from segx_onnx_graph import Graph


class _Open:
    """A length that only the images decide."""


class KerasTranslator(TensorFlowTranslator):
    """A method for each operator that makes symbolic tensors of Keras'."""

    title = "Keras"

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph, {})
        self._layers = 0

    def _length(self, value: Value, axis: int) -> Any:
        known = value.tensor.shape[value.place(axis)]
        return _Open() if known is None else known

    def _value(self, value: Any) -> Value:
        if isinstance(value, Value):
            return value
        return Value(keras.ops.convert_to_tensor(self._plain(value)), as_in_onnx(value.ndim))

    def Add(self, left: Any, right: Any) -> Value:
        return self._each(keras.ops.add, left, right)

    def Sub(self, left: Any, right: Any) -> Value:
        return self._each(keras.ops.subtract, left, right)

    def Mul(self, left: Any, right: Any) -> Value:
        return self._each(keras.ops.multiply, left, right)

    def Div(self, left: Any, right: Any) -> Value:
        return self._each(keras.ops.divide, left, right)

    def _each(self, combine: Callable[[Any, Any], Any], left: Any, right: Any) -> Value:
        """Combine two values; a number stays one, so that the file holds it as such."""

        def plain(tensor: Any) -> Any:
            return float(tensor) if isinstance(tensor, np.ndarray) and tensor.ndim == 0 else tensor

        return super()._each(lambda a, b: combine(plain(a), plain(b)), left, right)

    def _reshape(self, tensor: Any, shape: list[Any]) -> Any:
        return keras.ops.reshape(tensor, tuple(shape))

    def _transpose(self, tensor: Any, order: list[int]) -> Any:
        return keras.ops.transpose(tensor, tuple(order))

    def _sigmoid(self, tensor: Any) -> Any:
        return keras.ops.sigmoid(tensor)

    def _exp(self, tensor: Any) -> Any:
        return keras.ops.exp(tensor)

    def _relu(self, tensor: Any) -> Any:
        return keras.ops.relu(tensor)

    def _leaky_relu(self, tensor: Any, alpha: float) -> Any:
        return keras.ops.leaky_relu(tensor, negative_slope=alpha)

    def _softmax(self, tensor: Any) -> Any:
        return keras.ops.softmax(tensor, axis=-1)

    def _matmul(self, left: Any, right: Any) -> Any:
        return keras.ops.matmul(left, right)

    def _cast(self, tensor: Any, to: int) -> Any:
        return keras.ops.cast(tensor, "float32" if to in {1, 10, 11} else "int32")

    def _concat(self, parts: list[Any], axis: int) -> Any:
        return keras.layers.Concatenate(axis=axis)(parts)

    def _slice(self, tensor: Any, spans: Mapping[int, tuple[int, int]]) -> Any:
        rank = len(tensor.shape)
        return tensor[tuple(slice(*spans[place]) if place in spans else slice(None) for place in range(rank))]

    def _pad(self, tensor: Any, sides: list[tuple[int, int]], fill: float) -> Any:
        if not fill:
            return keras.layers.ZeroPadding2D(tuple(sides), data_format="channels_last")(tensor)
        return keras.ops.pad(tensor, [(0, 0), *sides, (0, 0)], mode="constant", constant_values=fill)

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
        common = {
            "strides": tuple(strides),
            "padding": padding.lower(),
            "dilation_rate": tuple(dilations),
            "use_bias": bias is not None,
            "data_format": "channels_last",
        }
        size = kernel.shape[2:]
        layer = (
            keras.layers.DepthwiseConv2D(size, **common)
            if is_depthwise(kernel, group)
            else keras.layers.Conv2D(kernel.shape[0], size, groups=group, **common)
        )
        return _with_weights(layer, tensor, turned(kernel, group), bias)

    def _conv_transpose(
        self, value: Value, kernel: np.ndarray[Any, Any], bias: np.ndarray[Any, Any] | None, strides: list[int]
    ) -> Any:
        layer = keras.layers.Conv2DTranspose(
            kernel.shape[1],
            kernel.shape[2:],
            strides=tuple(strides),
            padding="valid",
            use_bias=bias is not None,
            data_format="channels_last",
        )
        return _with_weights(layer, value.tensor, turned(kernel, 1), bias)

    def _max_pool(self, tensor: Any, kernel: list[int], strides: list[int], padding: str) -> Any:
        layer = keras.layers.MaxPooling2D(
            tuple(kernel), strides=tuple(strides), padding=padding.lower(), data_format="channels_last"
        )
        return layer(tensor)

    def _repeat(self, value: Value, factors: list[int]) -> Any:
        layer = keras.layers.UpSampling2D(tuple(factors), interpolation="nearest", data_format="channels_last")
        return layer(value.tensor)


def write_keras(graph: Graph, destination: Path) -> None:
    """Write a ``.keras`` file: images (N, H, W, 3) in, a dictionary of outputs by ONNX's names out.

    Outputs of three axes are (N, channels, anchors), maps (N, h, w, channels).

    Args:
        graph: What is translated; its height and width are fixed.
        destination: The file.
    """
    batch, channels, *sides = (length if is_number(length) else None for length in graph.shapes[graph.input] or ())
    images = keras.Input(shape=(*sides, channels), batch_size=batch, dtype="float32", name="images")
    translator = KerasTranslator(graph)
    made = translator.run(Value(images, channels_last(4)))
    outputs = {
        name: keras.layers.Identity(name=name)(translator.laid(value, _order(value.rank)).tensor)
        for name, value in zip(graph.outputs, made, strict=True)
    }
    keras.Model(inputs=images, outputs=outputs, name="model").save(destination)


def _order(rank: int) -> tuple[int, ...]:
    return as_in_onnx(rank) if rank == 3 else channels_last(rank)


def _with_weights(layer: Any, tensor: Any, kernel: np.ndarray[Any, Any], bias: np.ndarray[Any, Any] | None) -> Any:
    made = layer(tensor)
    layer.set_weights([kernel] if bias is None else [kernel, bias])
    return made
