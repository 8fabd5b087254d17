"""Reads ONNX as a list of nodes with NumPy constants; everything that the input's shape decides is folded away.

What reaches a translator has no ``Constant`` and no ``Shape`` or other arithmetic on known lengths. Attributes carry
their defaults, attributes that became inputs in later operator sets are inputs, ``Upsample`` is ``Resize``, and numbers
are float32 throughout: half precision is a matter of the target.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, inliner, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from segx.errors import ExportError, reason
from segx_onnx_graph.lengths import ARITHMETIC, BATCH, OPEN, is_number, settled, vector

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    Constant = np.ndarray[Any, Any]

_OWN_DOMAINS = ("", "ai.onnx")
_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_BECAME_INPUTS: Mapping[str, Sequence[str]] = {
    "Clip": ("min", "max"),
    "Pad": ("pads", "value"),
    "ReduceMax": ("axes",),
    "ReduceMean": ("axes",),
    "ReduceSum": ("axes",),
    "Slice": ("starts", "ends", "axes"),
    "Split": ("split",),
    "Squeeze": ("axes",),
    "Unsqueeze": ("axes",),
    "Upsample": ("scales",),
}
"""Attributes of older operator sets, in the order they have as inputs today, behind the first input."""
_MAX_KNOWN = 99
"""Constants of fewer elements are shown to the inference of shapes: lengths and axes, no weights."""
_LAST_FLATTENING_SOFTMAX = 12
_FIRST_RESIZE_WITH_REGION = 11
_INPUT_AXES = ("the batch", "the channels", "the height", "the width")
_EXPORT_ONNX = "segx export model=yolov8n-seg.pt format=onnx"


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        op: Its operator; for one that ONNX does not define with its domain: ``"com.microsoft.QuickGelu"``.
        inputs: Names of values; ``""`` for one that is left out.
        outputs: Names of values.
        attributes: By name; text as ``str``, tensors as ``onnx.TensorProto``.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Graph:
    """What a model computes.

    Attributes:
        nodes: In an order in which each finds its inputs.
        constants: Weights and other numbers, by name.
        input: Name of the images, float32 (N, 3, H, W).
        outputs: Names of the outputs, in the file's order.
        shapes: Lengths by name of a value: an integer, a name for an open one, None where nothing is known.
        metadata: What the file carries about itself.
        lengths: Names of values that are lengths of axes of which some are open: they are computed, not translated.
        keeps_first: Names of outputs of those Reshapes that leave the batch as it is.
    """

    nodes: list[Node]
    constants: dict[str, Constant]
    input: str
    outputs: list[str]
    shapes: dict[str, tuple[int | str | None, ...] | None]
    metadata: dict[str, str] = field(default_factory=dict)
    lengths: frozenset[str] = frozenset()
    keeps_first: frozenset[str] = frozenset()


def load(source: str | Path | onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with functions within it resolved; a model that has none is returned as it is.

    Raises:
        ExportError: The file cannot be read.
    """
    if isinstance(source, onnx.ModelProto):
        model = source
    else:
        try:
            model = onnx.load(Path(source))
        except OSError as error:
            raise ExportError(f"{source}: cannot be read ({error.strerror or error})", hint=_EXPORT_ONNX) from error
        except Exception as error:  # protobuf and checkers answer to damage with errors of every class
            raise ExportError(f"{source}: is damaged or no ONNX model ({reason(error)})", hint=_EXPORT_ONNX) from error
    if model.functions:
        model = inliner.inline_local_functions(model)
    return model


def image_input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """Return the input that takes the images.

    Raises:
        ExportError: There is not exactly one input, or it has not four axes.
    """
    weights = {item.name for item in model.graph.initializer}
    inputs = [item for item in model.graph.input if item.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(item.name for item in inputs) or "none"
        raise ExportError(f"the graph takes {names} where one input of images is wanted", hint=_EXPORT_ONNX)
    if (axes := len(inputs[0].type.tensor_type.shape.dim)) != len(_INPUT_AXES):
        msg = f"input {inputs[0].name} has {axes} axes where images have batch, channels, height and width"
        raise ExportError(msg, hint=_EXPORT_ONNX)
    image: onnx.ValueInfoProto = inputs[0]
    return image


def read(source: str | Path | onnx.ModelProto, shape: Sequence[int | None] | None = None) -> Graph:
    """Return the graph of a file or a model, which is left as it is.

    Args:
        source: The file, or the model.
        shape: Lengths of the images, (N, 3, H, W): a number pins an axis, None leaves it open. A batch of 1 that is
            written into a file can be opened; a larger one, and a size, cannot. Left out: as the file has it.

    Raises:
        ExportError: The file cannot be read, has fixed what is to be another length or open, or is not valid.
    """
    model = load(source)
    where = "the model" if isinstance(source, onnx.ModelProto) else str(source)
    return _Reader(model, shape, where).read()


class _Reader:
    def __init__(self, model: onnx.ModelProto, shape: Sequence[int | None] | None, where: str) -> None:
        self.model = model
        self.where = where
        self.opset = _opset(model)
        self.images = image_input(model)
        found = [_length(item) for item in self.images.type.tensor_type.shape.dim]
        asked = found if shape is None else [*shape]
        self._refuse_fixed(found, asked)
        self.batch_changes = isinstance(found[0], int) and found[0] != asked[0]
        names = [dim.dim_param or f"axis{axis}" for axis, dim in enumerate(self.images.type.tensor_type.shape.dim)]
        lengths = [name if length is None else length for name, length in zip(names, asked, strict=True)]
        kind = _full(self.images.type.tensor_type.elem_type)
        self.types = {self.images.name: helper.make_tensor_type_proto(kind, lengths)}
        self.constants = {item.name: _wide(numpy_helper.to_array(item)) for item in model.graph.initializer}
        self.nodes: list[Node] = []
        self.partly: dict[str, Constant] = {}
        self.batched = {self.images.name}
        self.keeps_first: set[str] = set()

    def read(self) -> Graph:
        for proto in self.model.graph.node:
            self._add(_full_casts(proto))
        outputs = [item.name for item in self.model.graph.output]
        nodes, wanted = _needed(self.nodes, outputs)
        given = {self.images.name, "", *self.constants, *(name for node in nodes for name in node.outputs)}
        if missing := sorted(wanted - given):
            raise ExportError(f"{self.where}: nothing in the graph gives {', '.join(missing[:9])}", hint=_EXPORT_ONNX)
        return Graph(
            nodes=nodes,
            constants={name: value for name, value in self.constants.items() if name in wanted},
            input=self.images.name,
            outputs=outputs,
            shapes={
                **{name: _lengths(item) for name, item in self.types.items()},
                **{name: value.shape for name, value in self.constants.items()},
            },
            metadata={item.key: item.value for item in self.model.metadata_props},
            lengths=frozenset(self.partly),
            keeps_first=frozenset(self.keeps_first),
        )

    def _refuse_fixed(self, found: Sequence[int | None], asked: Sequence[int | None]) -> None:
        for axis, (has, wanted, name) in enumerate(zip(found, asked, _INPUT_AXES, strict=True)):
            if has is None or has == wanted or (axis == 0 and has == 1):
                continue
            what = f"leave {name} open" if wanted is None else f"set {name} to {wanted}"
            msg = f"{self.where}: cannot {what}: {has} is written into the file"
            hint = "export the .onnx file again with dynamic=True, or start from the .pt"
            raise ExportError(msg, hint=hint)

    def _add(self, proto: onnx.NodeProto) -> None:
        own = proto.domain in _OWN_DOMAINS
        node = self._node(proto) if own else _foreign_node(proto)
        known = self._fold(node, proto) if own else None
        if known is not None:
            self.constants.update(zip(node.outputs, map(_wide, known), strict=False))
            return
        if node.op == "Reshape" and node.inputs[0] in self.batched:
            node = self._reshape(node)
        if own and node.outputs[0] not in self.partly:
            self._infer(node, proto)
        if self._is_batched(node):
            self.batched.update(node.outputs)
        self._refuse_flattening(node)
        self.nodes.append(node)

    def _node(self, proto: onnx.NodeProto) -> Node:
        """Return a node in the form of later operator sets."""
        try:
            schema = onnx.defs.get_schema(proto.op_type, self.opset, proto.domain)
        except onnx.defs.SchemaError:
            return _foreign_node(proto)
        given = {item.name: helper.get_attribute_value(item) for item in proto.attribute}
        defaults = {
            name: helper.get_attribute_value(item.default_value)
            for name, item in schema.attributes.items()
            if item.default_value.name
        }
        attributes = _as_text({**defaults, **given})
        op, inputs = proto.op_type, list(proto.input)
        for position, name in enumerate(_BECAME_INPUTS.get(op, ()), start=1):
            if name in attributes and len(inputs) <= position:
                inputs += [""] * (position - len(inputs)) + [f"{proto.output[0]}/{name}"]
                self.constants[inputs[-1]] = np.asarray(attributes.pop(name))
        if op == "Split" and len(inputs) == 1:
            attributes.setdefault("num_outputs", len(proto.output))
        if op == "Upsample" or (op == "Resize" and self.opset < _FIRST_RESIZE_WITH_REGION):
            op, inputs = "Resize", [inputs[0], "", *inputs[1:]]
            attributes |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return Node(op, tuple(inputs), tuple(proto.output), attributes)

    def _fold(self, node: Node, proto: onnx.NodeProto) -> Sequence[Any] | None:
        """Return what a node gives where that is known; ``partly`` takes lengths of which some are."""
        if node.op == "Shape" and node.inputs[0] not in self.constants:
            return self._shape_of(node)
        if any(item.HasField("g") or item.graphs for item in proto.attribute) or node.op.startswith("Random"):
            return None
        names = [name for name in node.inputs if name]
        if all(name in self.constants for name in names):
            return self._evaluate(node, proto)
        lengths = all(name in self.constants or name in self.partly for name in names)
        if lengths and node.op in ARITHMETIC:
            arguments = [self.partly.get(name, self.constants.get(name)) for name in node.inputs]
            return self._settle(node, ARITHMETIC[node.op](*arguments, **node.attributes))
        return None

    def _evaluate(self, node: Node, proto: onnx.NodeProto) -> Sequence[Any]:
        outputs = [helper.make_empty_tensor_value_info(name) for name in proto.output]
        graph = helper.make_graph([proto], "one", [], outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        try:
            found = ReferenceEvaluator(model).run(None, {name: self.constants[name] for name in proto.input if name})
        except Exception as error:  # NumPy and ONNX answer to what is invalid with errors of every class
            msg = f"{self.where}: {node.op} {node.outputs[0]} is not valid ONNX ({reason(error)})"
            raise ExportError(msg, hint=_EXPORT_ONNX) from error
        return list(found)

    def _shape_of(self, node: Node) -> Sequence[Any] | None:
        name = node.inputs[0]
        lengths = self.partly[name].shape if name in self.partly else _lengths(self.types.get(name))
        if lengths is None:
            return None
        known = [length if isinstance(length, int) else OPEN for length in lengths]
        if known and known[0] is OPEN and name in self.batched:
            known[0] = BATCH
        part = slice(node.attributes.get("start", 0), node.attributes.get("end"))
        return self._settle(node, vector(known[part]))

    def _settle(self, node: Node, result: Any) -> Sequence[Any] | None:
        if result is NotImplemented:
            return None
        result = settled(result)
        if result.dtype != object:
            return [result]
        self.partly[node.outputs[0]] = result
        return None

    def _reshape(self, node: Node) -> Node:
        """Return a Reshape that says that the batch stays, where it does.

        Raises:
            ExportError: It mixes images whose number is not the one written into the file.
        """
        wanted = self.partly.get(node.inputs[1], self.constants.get(node.inputs[1]))
        if wanted is None or not wanted.size:
            return node
        keeps = wanted[0] is BATCH or self._first_stays(node, list(wanted))
        if not keeps and self.batch_changes:
            msg = f"{self.where}: cannot open the batch of 1: {node.op} {node.outputs[0]} moves it among other axes"
            raise ExportError(msg, hint="export the .onnx file again with dynamic=True, or start from the .pt")
        if not keeps:
            return node
        self.keeps_first.add(node.outputs[0])
        rest = list(wanted[1:])
        if not all(map(is_number, rest)) or (node.attributes.get("allowzero") and 0 in rest):
            return node
        name = f"{node.outputs[0]}/shape"
        self.constants[name] = np.array([0, *rest], np.int64)
        return Node(node.op, (node.inputs[0], name), node.outputs, {"allowzero": 0})

    def _first_stays(self, node: Node, wanted: list[Any]) -> bool:
        """Return whether a known first length is the batch's: as it was, or what is left once all others are."""
        if not is_number(wanted[0]):
            return False
        if wanted[0] == 0:
            return not node.attributes.get("allowzero")
        if wanted[0] == 1 and self.batch_changes:
            return True
        old = _lengths(self.types.get(node.inputs[0])) or ()
        if old and isinstance(old[0], int) and wanted[0] == old[0]:
            return True
        rest = [
            old[axis + 1] if is_number(n) and n == 0 and axis + 1 < len(old) else n for axis, n in enumerate(wanted[1:])
        ]
        if wanted[0] != -1 or not all(isinstance(length, int | np.integer) for length in (*old[1:], *rest)):
            return False
        return bool(old) and int(np.prod([int(n) for n in old[1:] if n])) == int(np.prod([int(n) for n in rest]))  # type: ignore[arg-type]

    def _is_batched(self, node: Node) -> bool:
        """Return whether the first axis of what a node gives is the batch."""
        if node.op in ("Shape", "Size", "Range", "ConstantOfShape", "NonZero") or node.outputs[0] in self.partly:
            return False
        if node.op == "Reshape":
            return node.outputs[0] in self.keeps_first
        if node.op == "Transpose":
            moves = (node.attributes.get("perm") or [-1])[0] != 0
        elif node.op in ("Squeeze", "Unsqueeze") or node.op.startswith("Reduce"):
            axes = self.constants.get(node.inputs[1]) if len(node.inputs) > 1 else None
            moves = axes is None or 0 in axes
        else:
            moves = node.op in ("Concat", "Split", "Gather", "Flatten") and node.attributes.get("axis") == 0
        return not moves and any(name in self.batched for name in node.inputs)

    def _infer(self, node: Node, proto: onnx.NodeProto) -> None:
        """Note the types of a node's outputs, as far as ONNX can tell."""
        if node.op in ("Reshape", "Expand") and node.inputs[1] in self.partly:
            self._note_partly(node)
            return
        if node.op == "Reshape" and node.inputs[1] != proto.input[1]:
            proto = helper.make_node("Reshape", node.inputs, node.outputs)
        types = {name: self._type(name) for name in proto.input if name in self.types or name in self.constants}
        small = {
            name: numpy_helper.from_array(self.constants[name], name)
            for name in proto.input
            if name in self.constants and self.constants[name].size < _MAX_KNOWN
        }
        opsets = [helper.make_opsetid("", self.opset)]
        try:
            schema = onnx.defs.get_schema(proto.op_type, self.opset, proto.domain)
            found = shape_inference.infer_node_outputs(schema, proto, types, small, opset_imports=opsets)
        except (shape_inference.InferenceError, onnx.defs.SchemaError, KeyError, ValueError):
            return  # shapes are a help; whoever needs one that is missing says so
        self.types.update(found)

    def _note_partly(self, node: Node) -> None:
        """Note how many axes a value has, and what is known of them, that gets a shape of which some is open."""
        value, wanted = node.inputs[0], self.partly[node.inputs[1]]
        if value not in self.types and value not in self.constants:
            return
        kind = self._type(value)
        least = 1 if node.op == "Reshape" else 2  # Expand leaves an axis alone where a 1 is asked for
        lengths = [int(length) if is_number(length) and length >= least else None for length in wanted]
        if node.op == "Expand":
            lengths = [*itertools.repeat(None, len(_lengths(kind) or ()) - len(lengths)), *lengths]
        self.types[node.outputs[0]] = helper.make_tensor_type_proto(kind.tensor_type.elem_type, lengths)

    def _type(self, name: str) -> onnx.TypeProto:
        if name in self.types:
            return self.types[name]
        array = self.constants[name]
        return helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)

    def _refuse_flattening(self, node: Node) -> None:
        if node.op not in ("Softmax", "LogSoftmax") or self.opset > _LAST_FLATTENING_SOFTMAX:
            return
        lengths, axis = _lengths(self.types.get(node.inputs[0])), node.attributes["axis"]
        if axis != -1 and (lengths is None or axis != len(lengths) - 1):
            msg = f"{self.where}: {node.op} {node.outputs[0]} of opset {self.opset} runs over all axes from {axis} on"
            raise ExportError(msg, hint="export the .onnx file again with opset=13 or later")


def _opset(model: onnx.ModelProto) -> int:
    versions = [item.version for item in model.opset_import if item.domain in _OWN_DOMAINS]
    if not versions:
        raise ExportError("the model names no ONNX operator set", hint=_EXPORT_ONNX)
    newest = int(onnx.defs.onnx_opset_version())
    if versions[0] > newest:
        msg = f"opset {versions[0]} of the model is newer than onnx {onnx.__version__} knows ({newest})"
        raise ExportError(msg, hint='pip install -U "onnx"')
    return int(versions[0])


def _length(dim: Any) -> int | None:
    return int(dim.dim_value) if dim.HasField("dim_value") and dim.dim_value > 0 else None


def _lengths(kind: onnx.TypeProto | None) -> tuple[int | str | None, ...] | None:
    if kind is None or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    return tuple(int(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or None for dim in dims)


def _foreign_node(proto: onnx.NodeProto) -> Node:
    """Return an operator that ONNX does not define; a translator may have it under its whole name."""
    attributes = _as_text({item.name: helper.get_attribute_value(item) for item in proto.attribute})
    op = proto.op_type if proto.domain in _OWN_DOMAINS else f"{proto.domain}.{proto.op_type}"
    return Node(op, tuple(proto.input), tuple(proto.output), attributes)


def _as_text(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in attributes.items()}


def _full(kind: int) -> int:
    return TensorProto.FLOAT if kind in _HALVES else kind


def _wide(value: Any) -> Any:
    """Return half-precision numbers as float32."""
    if isinstance(value, np.ndarray | np.generic) and helper.np_dtype_to_tensor_dtype(value.dtype) in _HALVES:
        return value.astype(np.float32)
    return np.asarray(value)


def _full_casts(proto: onnx.NodeProto) -> onnx.NodeProto:
    """Return a node that casts to float32 where it cast to half precision."""
    if proto.op_type != "Cast" or not any(item.name == "to" and item.i in _HALVES for item in proto.attribute):
        return proto
    proto = _copy(proto)
    for item in proto.attribute:
        if item.name == "to":
            item.i = _full(item.i)
    return proto


def _copy(proto: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(proto)
    return copy


def _needed(nodes: Sequence[Node], outputs: Iterable[str]) -> tuple[list[Node], set[str]]:
    """Return the nodes that the outputs need, and all names that these read."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.outputs):
            kept.append(node)
            wanted.update(_reads(node))
    return kept[::-1], wanted


def _reads(node: Node) -> Iterator[str]:
    yield from node.inputs
    for value in node.attributes.values():
        graphs = value if isinstance(value, list) else [value]
        for graph in graphs:
            if isinstance(graph, onnx.GraphProto):
                yield from _captured(graph)


def _captured(graph: onnx.GraphProto) -> set[str]:
    """Return the names that a graph within a node takes from around it."""
    inner = {item.name for item in (*graph.input, *graph.initializer)}
    inner.update(name for node in graph.node for name in node.output)
    read = {name for node in graph.node for name in node.input if name} | {item.name for item in graph.output}
    for node in graph.node:
        for attribute in node.attribute:
            for deeper in (attribute.g, *attribute.graphs):
                read |= _captured(deeper)
    return read - inner
