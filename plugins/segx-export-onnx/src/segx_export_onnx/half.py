"""Turns a float32 graph into one that computes in half precision where that costs no accuracy that matters.

Everything up to the last layers with weights becomes 16-bit: weights, and the activations between them. What follows
(softmax over distances, anchors, boxes in pixels) stays 32-bit: it is a thousandth of the work, and 16 bits leave steps
of half a pixel beyond x = 512. Inputs and outputs stay 32-bit, so that whoever feeds the file need not know.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from segx.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Iterator

HALF_OPERATORS = frozenset(
    {
        *("Conv", "ConvTranspose", "Gemm", "MatMul"),
        *("Add", "Sub", "Mul", "Div", "Max", "Min", "Neg", "Sqrt", "Pow", "Sum"),
        *("Sigmoid", "Relu", "LeakyRelu", "PRelu", "Clip", "Tanh", "HardSigmoid", "HardSwish", "Elu", "Softplus"),
        *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"),
        *("Concat", "Split", "Slice", "Gather", "Pad", "Resize", "Upsample", "Expand", "Tile"),
        *("Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity", "DepthToSpace", "SpaceToDepth"),
    }
)
"""Operators that every runtime has in 16 bits; others stay in 32, with casts around them."""

_HEAVY_OPERATORS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_FEW_WEIGHTS = 256
"""A layer of fewer weights is arithmetic in disguise, like the expectation over 16 bins of a box's side."""

_FULL_PRECISION_INPUTS = {"Resize": {1, 2}, "Upsample": {1}}
"""Inputs that are float32 by the operator's own definition, whatever it computes in."""

_SUFFIX = "_fp16"


def convert(model: onnx.ModelProto) -> None:
    """Rewrite the graph in place.

    Every float32 tensor keeps its name; its half-precision twin has ``_fp16`` added, and casts connect the two only
    where both are needed.

    Raises:
        ExportError: A weight is too large for half precision.
    """
    lift_constants(model.graph)
    _Converter(model).run()
    model.graph.ClearField("value_info")  # it speaks of 32-bit tensors


class _Converter:
    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = model.graph
        self.weights = {item.name: item for item in self.graph.initializer}
        self.floats = _float_tensors(model)
        self.halved = {
            position
            for position in nodes_before_weights(model)
            for node in [self.graph.node[position]]
            if node.op_type in HALF_OPERATORS and any(name in self.floats for name in node.output)
        }
        self.twins: dict[str, str] = {}
        self.twin_weights: list[onnx.TensorProto] = []
        self.nodes: list[onnx.NodeProto] = []
        self.wanted_in_full = self._wanted_in_full()

    def run(self) -> None:
        for position, node in enumerate(self.graph.node):
            if position in self.halved:
                self._halve(node)
            else:
                self.nodes.append(node)
        self.graph.ClearField("node")
        self.graph.node.extend(self.nodes)
        still_used = self.wanted_in_full
        kept = [item for item in self.graph.initializer if item.name in still_used or item.name not in self.twins]
        self.graph.ClearField("initializer")
        self.graph.initializer.extend([*kept, *self.twin_weights])

    def _wanted_in_full(self) -> set[str]:
        """Return the names that someone reads in 32 bits: other nodes, graphs within nodes, the caller."""
        wanted = {item.name for item in self.graph.output}
        for index, node in enumerate(self.graph.node):
            if index not in self.halved:
                wanted |= set(_reads(node))
            else:
                positions = _FULL_PRECISION_INPUTS.get(node.op_type, set())
                wanted |= {name for position, name in enumerate(node.input) if position in positions}
        return wanted

    def _halve(self, node: onnx.NodeProto) -> None:
        keep = _FULL_PRECISION_INPUTS.get(node.op_type, set())
        for position, name in enumerate(node.input):
            if name in self.floats and position not in keep:
                node.input[position] = self._twin(name)
        self.nodes.append(node)
        for position, name in enumerate(node.output):
            if name not in self.floats:
                continue
            node.output[position] = self.twins[name] = name + _SUFFIX
            if name in self.wanted_in_full:
                self.nodes.append(_cast(name + _SUFFIX, name, TensorProto.FLOAT))

    def _twin(self, name: str) -> str:
        """Return the name of a tensor's half-precision twin, made when it is first needed."""
        if name not in self.twins:
            self.twins[name] = name + _SUFFIX
            if name in self.weights:
                self.twin_weights.append(_halve_weight(self.weights[name]))
            else:
                self.nodes.append(_cast(name, name + _SUFFIX, TensorProto.FLOAT16))
        return self.twins[name]


def nodes_before_weights(model: onnx.ModelProto) -> set[int]:
    """Return the positions of the nodes from which a layer with weights is still to come, that layer included."""
    graph = model.graph
    weights = {item.name: item for item in graph.initializer}
    before_weights: set[str] = set()
    found = set()
    for position in reversed(range(len(graph.node))):
        node = graph.node[position]
        if _is_heavy(node, weights) or any(name in before_weights for name in node.output):
            before_weights.update(_reads(node))
            found.add(position)
    return found


def _is_heavy(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> bool:
    if node.op_type not in _HEAVY_OPERATORS:
        return False
    known = [weights[name] for name in node.input if name in weights]
    return not known or max(int(np.prod(item.dims)) for item in known) >= _FEW_WEIGHTS


def _halve_weight(weight: onnx.TensorProto) -> onnx.TensorProto:
    values = numpy_helper.to_array(weight)
    largest = float(np.abs(values).max()) if values.size else 0.0
    if not largest <= float(np.finfo(np.float16).max):
        raise ExportError(f"weight {weight.name} reaches {largest:g}, beyond half precision's 65504", hint="half=False")
    return numpy_helper.from_array(values.astype(np.float16), weight.name + _SUFFIX)


def lift_constants(graph: onnx.GraphProto) -> None:
    """Make weights of Constant nodes, so that there is one way to hold a number."""
    nodes = []
    for node in graph.node:
        value = next((item.t for item in node.attribute if item.name == "value"), None)
        if node.op_type != "Constant" or value is None:
            nodes.append(node)
            continue
        weight = graph.initializer.add()
        weight.CopyFrom(value)
        weight.name = node.output[0]
    graph.ClearField("node")
    graph.node.extend(nodes)


def _float_tensors(model: onnx.ModelProto) -> set[str]:
    """Return the names of all float32 tensors of the graph."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*graph.input, *graph.output, *graph.value_info)
    names = {item.name for item in values if item.type.tensor_type.elem_type == TensorProto.FLOAT}
    return names | {item.name for item in graph.initializer if item.data_type == TensorProto.FLOAT}


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names a node reads, those of the graphs within it included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _reads(inner)
            yield from (item.name for item in graph.output)


def _cast(source: str, target: str, kind: int) -> onnx.NodeProto:
    return helper.make_node("Cast", [source], [target], name=f"cast_to_{target}", to=kind)
