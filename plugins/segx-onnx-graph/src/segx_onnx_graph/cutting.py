"""The same graph with another end, whoever wrote the file: at the raw head, or with boxes as fractions of the image.

The tensors are found by structure, since names mean nothing between tools: the flat output is a concatenation of boxes,
scores and coefficients; the scores come from a Sigmoid; the boxes from a Softmax over bins, and what goes into that,
taken back to (N, 4 * bins, A), is the raw boxes.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from segx.errors import ExportError
from segx_onnx_graph.reading import Graph, Node, image_input, load, read

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

RAW_OUTPUTS = ("boxes", "scores", "coefficients", "prototypes")
"""Names and order of the outputs of the raw head: (N, 4 * bins, A), (N, nc, A), (N, nm, A) and (N, nm, h, w)."""

_MOVES = frozenset({"Reshape", "Transpose", "Unsqueeze", "Squeeze", "Identity", "Flatten", "Cast"})
"""Operators that change where numbers stand, not the numbers."""
_STAND_INS = (1, 3, 96, 160)
"""Lengths for open axes while tensors are sought; names are the same in both. No square: axes cannot be confused."""


def raw_form(source: str | Path | onnx.ModelProto) -> onnx.ModelProto:
    """Return the model ended at its raw head; one that ends there is returned as it is.

    The outputs are ``boxes``, logits of the distances before their softmax; ``scores`` after the sigmoid;
    ``coefficients``; and ``prototypes``: see :data:`RAW_OUTPUTS`. The metadata still tell of the head that was cut off.

    Raises:
        ExportError: The graph does not end in a YOLOv8 segmentation head, or the file cannot be read.
    """
    model = load(source)
    if tuple(item.name for item in model.graph.output) == RAW_OUTPUTS:
        return model
    where = "the model" if isinstance(source, onnx.ModelProto) else str(source)
    graph = read(model, _stand_ins(model))
    found = _tensors(graph, where)
    return _ended_at(model, graph, found)


def raw_decoding(source: str | Path | onnx.ModelProto) -> dict[str, Any]:
    """Return what decodes the raw head of a model, whole or cut: ``{"strides": [8, 16, 32], "bins": 16}``.

    Strides stand in the order in which their anchors do.

    Raises:
        ExportError: The graph does not end in a YOLOv8 segmentation head, or the file cannot be read.
    """
    model = load(source)
    where = "the model" if isinstance(source, onnx.ModelProto) else str(source)
    graph = read(model, _stand_ins(model))
    raw = tuple(graph.outputs) == RAW_OUTPUTS
    boxes = "boxes" if raw else _tensors(graph, where)["boxes"]
    _, channels, anchors = _known(graph, boxes)
    _, _, height, width = _known(graph, graph.input)
    maps = [_known(graph, name)[2:] for name in _maps(boxes, _makers(graph), graph)]
    strides = [height // rows for rows, _ in maps]
    sides = [(rows * stride, columns * stride) for (rows, columns), stride in zip(maps, strides, strict=True)]
    if not maps or set(sides) != {(height, width)} or sum(rows * columns for rows, columns in maps) != anchors:
        raise _no_head(where, f"{boxes} is not made of maps that divide the image")
    return {"strides": strides, "bins": channels // 4}


def boxes_as_fractions(graph: Graph) -> Graph:
    """Return a graph whose boxes are fractions of the image's width and height, for one whose boxes are in pixels.

    They are found as the four rows that the flat output (N, channels, A) begins with; a graph that puts none together
    so, or takes images of any size, is returned as it is. One over a size is the sum of two numbers of 16 bits: where
    constants become such, a single one would move the far edge of an image by a seventh of a pixel.
    """
    makers = _makers(graph)
    flat = next((name for name in graph.outputs if len(_shape(graph, name)) == 3), "")
    boxes = next(_leaves(flat, makers))
    height, width = _shape(graph, graph.input)[2:]
    if boxes == flat or _shape(graph, boxes)[1:2] != (4,) or not isinstance(height, int) or not isinstance(width, int):
        return graph
    scaled = f"{boxes}/fractions"
    size = np.array([[1 / width], [1 / height]] * 2)
    coarse = size.astype(np.float16).astype(np.float32)
    constants = {f"{boxes}/size": coarse, f"{boxes}/rest": (size - coarse).astype(np.float32)}
    parts = {name: f"{name}/part" for name in constants}
    nodes = []
    for node in graph.nodes:
        nodes.append(dataclasses.replace(node, inputs=tuple(scaled if name == boxes else name for name in node.inputs)))
        if boxes in node.outputs:
            nodes += [Node("Mul", (boxes, name), (part,), {}) for name, part in parts.items()]
            nodes.append(Node("Add", tuple(parts.values()), (scaled,), {}))
    shapes = {**graph.shapes, **dict.fromkeys([scaled, *parts.values()], graph.shapes[boxes])}
    return dataclasses.replace(graph, nodes=nodes, constants={**graph.constants, **constants}, shapes=shapes)


def _stand_ins(model: onnx.ModelProto) -> list[int]:
    dims = image_input(model).type.tensor_type.shape.dim
    return [dim.dim_value or length for dim, length in zip(dims, _STAND_INS, strict=True)]


def _tensors(graph: Graph, where: str) -> dict[str, str]:
    """Return the names of the four tensors, by their role."""
    ranks = {name: len(graph.shapes.get(name) or ()) for name in graph.outputs}
    if sorted(ranks.values()) != [3, 4]:
        shown = ", ".join(f"{name} {graph.shapes.get(name)}" for name in graph.outputs)
        raise _no_head(where, f"its outputs are {shown}")
    flat, prototypes = sorted(graph.outputs, key=ranks.__getitem__)
    masks = _shape(graph, prototypes)[1]
    makers = _makers(graph)
    leaves = list(_leaves(flat, makers))
    scores = next((name for name in leaves if name in makers and makers[name].op == "Sigmoid"), None)
    if scores is None:
        raise _no_head(where, f"no Sigmoid goes into {flat}")
    others = [name for name in leaves if name != scores]
    coefficients = next((name for name in reversed(others[1:]) if _shape(graph, name)[1] == masks), None)
    if coefficients is None:
        raise _no_head(where, f"nothing of {masks} channels, as {prototypes} has, goes into {flat}")
    boxes = _boxes(leaves[0], makers, graph, where)
    found = {"boxes": boxes, "scores": scores, "coefficients": coefficients, "prototypes": prototypes}
    if len({_shape(graph, found[role])[-1] for role in RAW_OUTPUTS[:3]}) != 1:
        raise _no_head(where, "boxes, scores and coefficients are not of the same anchors")
    return found


def _boxes(decoded: str, makers: Mapping[str, Node], graph: Graph, where: str) -> str:
    """Return the name of the logits, (N, 4 * bins, A), that decoded boxes are computed from."""
    softmax = next((node for node in _upwards(decoded, makers) if node.op == "Softmax"), None)
    if softmax is None:
        raise _no_head(where, "its boxes come from no Softmax over distances")
    bins = _shape(graph, softmax.inputs[0])[softmax.attributes["axis"]]
    name = softmax.inputs[0]
    while not _is_logits(_shape(graph, name), bins):
        node = makers.get(name)
        if node is None or node.op not in _MOVES:
            raise _no_head(where, f"{name} has shape {graph.shapes.get(name)}, not (N, 4 * {bins}, A)")
        name = node.inputs[0]
    return name


def _is_logits(shape: Sequence[int | str | None], bins: int | str | None) -> bool:
    return len(shape) == 3 and isinstance(bins, int) and shape[1] == 4 * bins


def _upwards(name: str, makers: Mapping[str, Node]) -> Iterator[Node]:
    """Yield the nodes that a value comes from, the nearest first."""
    seen, todo = {name}, [name]
    while todo:
        node = makers.get(todo.pop(0))
        if node is None:
            continue
        yield node
        new = [item for item in dict.fromkeys(node.inputs) if item not in seen]
        seen.update(new)
        todo += new


def _leaves(name: str, makers: Mapping[str, Node]) -> Iterator[str]:
    """Yield the names of what is put side by side, along the channels, in a value (N, channels, A)."""
    node = makers.get(name)
    if node is not None and (node.op in ("Identity", "Cast") or (node.op == "Concat" and _along(node, 1, -2))):
        for part in node.inputs:
            yield from _leaves(part, makers)
    else:
        yield name


def _along(node: Node, *axes: int) -> bool:
    return node.attributes["axis"] in axes


def _maps(name: str, makers: Mapping[str, Node], graph: Graph) -> Iterator[str]:
    """Yield the names of the maps (N, channels, h, w) whose rows, one after the other, are the anchors of a value."""
    node = makers.get(name)
    if node is None or len(_shape(graph, name)) == 4:
        if node is not None:
            yield name
    elif node.op == "Concat" and _along(node, 2, -1):
        for part in node.inputs:
            yield from _maps(part, makers, graph)
    elif node.op in _MOVES or (node.op in ("Split", "Slice")):
        yield from _maps(node.inputs[0], makers, graph)


def _makers(graph: Graph) -> dict[str, Node]:
    return {name: node for node in graph.nodes for name in node.outputs}


def _shape(graph: Graph, name: str) -> tuple[int | str | None, ...]:
    return graph.shapes.get(name) or ()


def _known(graph: Graph, name: str) -> list[int]:
    """Return lengths that are all numbers, or none."""
    lengths = _shape(graph, name)
    return [length for length in lengths if isinstance(length, int)]


def _no_head(where: str, why: str) -> ExportError:
    msg = f"{where}: does not end in a YOLOv8 segmentation head ({why})"
    return ExportError(msg, hint="start from the .pt, or from an .onnx exported without NMS in it")


def _ended_at(model: onnx.ModelProto, graph: Graph, found: Mapping[str, str]) -> onnx.ModelProto:
    """Return a model whose outputs are these tensors, by the names of their roles, float32."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    kinds = _kinds(model)
    names = {}
    for role, name in found.items():
        if kinds.get(name, TensorProto.FLOAT) == TensorProto.FLOAT and name not in names:
            names[name] = role
        else:
            result.graph.node.append(helper.make_node("Cast", [name], [role], to=TensorProto.FLOAT))
    nodes = _needed_nodes(result.graph.node, {*found, *found.values()})
    for node in nodes:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]
    wanted = {name for node in nodes for name in _reads(node)}
    weights = [item for item in result.graph.initializer if item.name in wanted]
    inputs = [item for item in result.graph.input if item.name in wanted]
    outputs = [
        helper.make_tensor_value_info(role, TensorProto.FLOAT, _output(model, graph, found, role)) for role in found
    ]
    fields = {"node": nodes, "initializer": weights, "input": inputs, "output": outputs, "value_info": []}
    for field, items in fields.items():
        kept = [_own(item) for item in items]
        result.graph.ClearField(field)
        getattr(result.graph, field).extend(kept)
    return result


def _own(item: Any) -> Any:
    """Return a copy that outlives the list it is in."""
    copy = type(item)()
    copy.CopyFrom(item)
    return copy


def _kinds(model: onnx.ModelProto) -> dict[str, int]:
    """Return the types of all tensors that are no float32, which only files in half precision have."""
    if not any(item.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16) for item in model.graph.initializer):
        return {}
    inferred = onnx.shape_inference.infer_shapes(model).graph
    return {item.name: item.type.tensor_type.elem_type for item in (*inferred.value_info, *inferred.output)}


def _output(model: onnx.ModelProto, graph: Graph, found: Mapping[str, str], role: str) -> list[int | str | None]:
    """Return the lengths of an output: open where the images' are."""
    batch, _, *sides = image_input(model).type.tensor_type.shape.dim
    lengths: list[int | str | None] = list(_shape(graph, found[role]))
    lengths[0] = batch.dim_value or batch.dim_param or "batch"
    if all(side.dim_value for side in sides):
        return lengths
    return [*lengths[:2], "mask_height", "mask_width"] if role == "prototypes" else [*lengths[:2], "anchors"]


def _needed_nodes(nodes: Sequence[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(_reads(node))
    return kept[::-1]


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names a node reads, those of the graphs within it included."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                yield from _reads(inner)
            yield from (item.name for item in graph.output)
