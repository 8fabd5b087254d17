"""A ``.tflite`` graph in 8 bits, by the ranges that its values take on images."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from tensorflow.lite.python import schema_py_generated as schema
from tensorflow.lite.python.convert import mlir_quantize
from tensorflow.lite.python.interpreter import Interpreter
from tensorflow.lite.tools.flatbuffer_utils import convert_bytearray_to_object, convert_object_to_bytearray

from segx.runtime import cores

if TYPE_CHECKING:
    from collections.abc import Iterable


def quantised(model: bytes, batches: Iterable[np.ndarray[Any, Any]], values: Any) -> bytes:
    """Return a graph in 8 bits.

    The converter would measure the ranges itself: on one core, by kernels that take five times as long an image; and
    six of the values of YOLOv8n-seg got the range of the sum that they are part of.

    Args:
        model: The ``.tflite`` file with 32-bit numbers.
        batches: What it is run on, float32 (N, H, W, 3).
        values: What the graph takes and gives, of TensorFlow's types.
    """
    tree = convert_bytearray_to_object(model)
    (graph,) = tree.subgraphs
    _measure(tree, graph, batches)
    ranged = convert_object_to_bytearray(tree)
    return bytes(mlir_quantize(ranged, input_data_type=values, output_data_type=values))


def _measure(tree: Any, graph: Any, batches: Iterable[np.ndarray[Any, Any]]) -> None:
    """Write into each tensor of a graph the least and the greatest number that it holds over all batches."""
    (image,) = map(int, graph.inputs)
    computed = [int(index) for node in graph.operators for index in node.outputs]
    computed = [index for index in computed if graph.tensors[index].type == schema.TensorType.FLOAT32]
    kept = graph.outputs, tree.signatureDefs
    graph.outputs, tree.signatureDefs = np.array(computed, np.int32), []  # what is no output shares its memory
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is a package of it alone
        run = Interpreter(model_content=convert_object_to_bytearray(tree), num_threads=cores())
    graph.outputs, tree.signatureDefs = kept
    run.allocate_tensors()
    ranges = dict.fromkeys((image, *computed), (np.inf, -np.inf))
    for batch in batches:
        run.set_tensor(image, batch)
        run.invoke()
        for index, (least, greatest) in ranges.items():
            value = run.tensor(index)()
            ranges[index] = min(least, float(value.min())), max(greatest, float(value.max()))
            del value  # a view, beside which nothing may be run
    for index, (least, greatest) in ranges.items():
        tensor = graph.tensors[index]
        tensor.quantization = tensor.quantization or schema.QuantizationParametersT()
        tensor.quantization.min, tensor.quantization.max = [least], [greatest]
