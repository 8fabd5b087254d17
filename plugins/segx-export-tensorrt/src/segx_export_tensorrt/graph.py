"""What TensorRT wants of an ONNX graph with 8-bit numbers that others do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

if TYPE_CHECKING:
    from segx.structures.types import Array

_KIND = "DequantizeLinear"


def with_float_biases(content: bytes) -> bytes:
    """Return a graph whose biases are numbers of 32 bits again.

    Runtimes for CPUs want the bias of an 8-bit layer as int32 with a scale; TensorRT dequantises 8 bits and fewer, adds
    the bias to its sums by itself, and refuses the graph otherwise. The values stay what they are.

    Args:
        content: The graph's file.
    """
    model = onnx.load_from_string(content)
    graph = model.graph
    constants = {item.name: item for item in graph.initializer}
    found = [
        node
        for node in graph.node
        if node.op_type == _KIND
        and node.input[0] in constants
        and constants[node.input[0]].data_type == TensorProto.INT32
        and all(name in constants for name in node.input if name)
    ]
    for node in found:
        axis = next((item.i for item in node.attribute if item.name == "axis"), 1)
        numbers, scale, *zero = (numpy_helper.to_array(constants[name]) for name in node.input if name)
        value = _dequantised(numbers, scale, zero[0] if zero else None, axis)
        graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    for item in [item for item in graph.initializer if item.name not in used]:
        graph.initializer.remove(item)
    changed: bytes = model.SerializeToString()
    return changed


def _dequantised(numbers: Array, scale: Array, zero: Array | None, axis: int) -> Array:
    """Return what ``DequantizeLinear`` gives for constants."""
    if scale.size > 1:
        shape = [1] * numbers.ndim
        shape[axis if numbers.ndim > 1 else 0] = scale.size
        scale = scale.reshape(shape)
        zero = None if zero is None else zero.reshape(shape)
    else:
        scale = scale.reshape(())
        zero = None if zero is None else zero.reshape(())
    shifted = numbers.astype(np.float64) - (0 if zero is None else zero)
    return np.asarray(shifted * scale, dtype=scale.dtype)
