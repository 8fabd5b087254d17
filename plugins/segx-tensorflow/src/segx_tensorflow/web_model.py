"""A frozen graph of TensorFlow's as TensorFlow.js stores it: ``model.json``, and the weights in files of 4 MB.

Source: the format as TensorFlow.js reads it: ``modelTopology`` is the GraphDef as JSON, with constants that have a
shape and no content; ``weightsManifest`` names them in the order in which they lie in the files. Weights of float32
may be stored in 16 bits, or in 8 bits as ``value * scale + min``; they are float32 again once they are loaded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]  # it has no types

from segx.io.files import write_bytes, write_text
from segx_tensorflow.convert import frozen_graph

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

SHARD = 4 << 20
"""Bytes of a file of weights: what browsers still keep in their cache."""
_TYPES = {"float32": "float32", "int32": "int32", "int64": "int32", "bool": "bool"}
_FEW = 64
"""Numbers: as few are stored as they are, biases among them in 8 bits."""
_CHANNELS = {"Conv2D": 3, "Conv2DBackpropInput": 2}
"""Operator to the axis of its kernel that counts the channels it gives."""


def web_model(
    source: str,
    shape: Sequence[int | None],
    destination: str,
    scratch: str,
    *,
    precision: str = "fp32",
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write ``model.json`` and its weights, in a process of its own.

    Args:
        source: The ``.onnx`` file.
        shape: Lengths of its input (N, 3, H, W).
        destination: The folder to write into, which is there.
        scratch: A folder for what is written on the way.
        precision: Of the weights: ``"fp32"``, ``"fp16"`` or ``"int8"``.
        about: What the page is told of the model.

    Returns:
        ``versions`` of what made it, and ``outputs``, their names.

    Raises:
        ExportError: The graph has operators that are not translated.
    """
    frozen = Path(scratch) / "frozen.pb"
    made = frozen_graph(source, shape, str(frozen))
    definition = tf.compat.v1.GraphDef()
    definition.ParseFromString(frozen.read_bytes())
    frozen.unlink()
    write(definition, made["outputs"], Path(destination), precision=precision, about=about or {})
    return made


def write(
    definition: Any, outputs: Sequence[str], folder: Path, *, precision: str = "fp32", about: Mapping[str, Any]
) -> None:
    """Write the files.

    Args:
        definition: A GraphDef with one placeholder, ``images``, and constants for weights; nothing else is needed by
            an output than is in it.
        outputs: Names of the nodes that are its outputs.
        folder: Where to; it is there.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``: how weights are stored.
        about: What whoever loads the model may want to know, as JSON can hold it.
    """
    graph = _with_biases_fused(definition)
    if precision == "int8":
        _scale_channels(graph)
    stored: list[tuple[dict[str, Any], bytes]] = []
    for node in graph.node:
        for key in [key for key in node.attr if key.startswith("_")]:
            del node.attr[key]
        if node.op == "Const":
            stored.append(_stored(node, precision))
    blob = b"".join(data for _, data in stored)
    count = max(1, -(-len(blob) // SHARD))
    paths = [f"group1-shard{number}of{count}.bin" for number in range(1, count + 1)]
    for number, path in enumerate(paths):
        write_bytes(folder / path, blob[number * SHARD : (number + 1) * SHARD])
    (images,) = (node for node in graph.node if node.op == "Placeholder")
    shape = {"dim": [{"size": str(axis.size)} for axis in images.attr["shape"].shape.dim]}
    document = {
        "format": "graph-model",
        "generatedBy": tf.__version__,
        "convertedBy": "segx",
        "signature": {
            "inputs": {images.name: {"name": f"{images.name}:0", "dtype": "DT_FLOAT", "tensorShape": shape}},
            "outputs": {name: {"name": f"{name}:0", "dtype": "DT_FLOAT"} for name in outputs},
        },
        "userDefinedMetadata": dict(about),
        "modelTopology": MessageToDict(graph),
        "weightsManifest": [{"paths": paths, "weights": [entry for entry, _ in stored]}],
    }
    write_text(folder / "model.json", json.dumps(document, separators=(",", ":")))


def _with_biases_fused(definition: Any) -> Any:
    """Return a graph in which a bias is part of its convolution: one step instead of two."""
    nodes = {node.name: node for node in definition.node}
    users: dict[str, int] = {}
    for node in definition.node:
        for source in node.input:
            users[_name(source)] = users.get(_name(source), 0) + 1
    fused = {
        _name(node.input[0])
        for node in definition.node
        if node.op == "BiasAdd" and nodes[_name(node.input[0])].op == "Conv2D" and users[_name(node.input[0])] == 1
    }
    graph = type(definition)(versions=definition.versions)
    for node in definition.node:
        if node.name in fused:
            continue
        new = graph.node.add()
        if node.op != "BiasAdd" or _name(node.input[0]) not in fused:
            new.CopyFrom(node)
            continue
        new.CopyFrom(nodes[_name(node.input[0])])
        new.name, new.op = node.name, "_FusedConv2D"
        new.input.append(node.input[1])
        new.attr["fused_ops"].list.s.append(b"BiasAdd")
        new.attr["num_args"].i = 1
        new.attr["epsilon"].f = 0.0
    return graph


def _scale_channels(graph: Any) -> None:
    """Give each channel of each kernel a scale of its own, which the graph multiplies it with.

    The format has one scale for a whole tensor, and channels of one kernel differ by a factor of a hundred: what is
    left of the weak ones is noise.
    """
    constants = {node.name: node for node in graph.node if node.op == "Const"}
    passed = {node.name: _name(node.input[0]) for node in graph.node if node.op == "Identity"}
    made: dict[str, str] = {}
    for node in list(graph.node):
        operator = node.op.removeprefix("_Fused")
        if operator not in _CHANNELS:
            continue
        kernel = _name(node.input[1])
        while kernel in passed:
            kernel = passed[kernel]
        if kernel not in constants:
            continue
        if kernel not in made:
            made[kernel] = _scaled(graph, constants[kernel], _CHANNELS[operator])
        node.input[1] = made[kernel]


def _scaled(graph: Any, constant: Any, axis: int) -> str:
    """Add the product of a kernel, brought to -1..1, and its scales; return its name."""
    kernel: NDArray[np.float32] = tf.make_ndarray(constant.attr["value"].tensor)
    others = tuple(place for place in range(kernel.ndim) if place != axis)
    scales = np.abs(kernel).max(axis=others, keepdims=True)
    scales[scales == 0] = 1
    constant.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(kernel / scales))
    scale = graph.node.add(name=f"{constant.name}/scale", op="Const")
    scale.attr["dtype"].type = constant.attr["dtype"].type
    scale.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(scales))
    product = graph.node.add(name=f"{constant.name}/scaled", op="Mul", input=[constant.name, scale.name])
    product.attr["T"].type = constant.attr["dtype"].type
    return str(product.name)


def _stored(node: Any, precision: str) -> tuple[dict[str, Any], bytes]:
    """Take the content out of a constant; return what is said of it, and its bytes."""
    value: NDArray[Any] = np.asarray(tf.make_ndarray(node.attr["value"].tensor))
    kind = _TYPES[str(value.dtype)]
    if value.dtype == np.int64:  # JavaScript has none
        value = value.astype(np.int32)
        node.attr["dtype"].type = tf.int32.as_datatype_enum
    entry: dict[str, Any] = {"name": node.name, "shape": list(value.shape), "dtype": kind}
    if value.dtype == np.float32 and value.size > _FEW and precision != "fp32":
        if precision == "int8" and value.ndim == 4 and not node.name.endswith("/scale"):
            low, step = _range(value)
            entry["quantization"] = {"dtype": "uint8", "original_dtype": "float32", "scale": step, "min": low}
            value = np.clip(np.round((value - low) / step), 0, 255).astype(np.uint8)
        else:
            entry["quantization"] = {"dtype": "float16", "original_dtype": "float32"}
            value = value.astype(np.float16)
    node.attr["value"].Clear()
    tensor = node.attr["value"].tensor
    tensor.dtype = node.attr["dtype"].type
    tensor.tensor_shape.SetInParent()
    for length in value.shape:
        tensor.tensor_shape.dim.add().size = length
    return entry, value.tobytes()


def _range(value: NDArray[np.float32]) -> tuple[float, float]:
    """Return the least value and the step of 255 of them, such that zero is one of the values."""
    low, high = min(float(value.min()), 0.0), max(float(value.max()), 0.0)
    step = (high - low) / 255 or 1.0
    return -round(-low / step) * step, step


def _name(source: str) -> str:
    return source.removeprefix("^").partition(":")[0]
