"""Appends suppression (NMS) to a graph that ends in boxes, with ONNX's own operators.

What comes out is what segx itself would find with the same ``conf``, ``iou`` and ``max_det``: of each anchor its best
class, suppressed within classes, the best rows first. Each image has ``max_det`` rows; those that are not needed are
zero. Sizes and batch may be open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from segx.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from segx_export_onnx.options import OnnxOptions

CORNERS = 4
_PREFIX = "suppression/"


def append(model: onnx.ModelProto, classes: int, outputs: Sequence[str], options: OnnxOptions) -> None:
    """Rewrite a graph in place: (N, 4 + nc + nm, A) and prototypes become rows (N, max_det, 6 + nm) and prototypes.

    Args:
        model: The graph; of its two outputs the first holds boxes (centre, size), scores and coefficients.
        classes: Number of classes, nc.
        outputs: The names of the new outputs.
        options: ``conf``, ``iou`` and ``max_det``.

    Raises:
        ExportError: The graph does not end so.
    """
    graph = model.graph
    if len(graph.output) != len(outputs):
        raise ExportError(f"a graph with {len(graph.output)} outputs cannot suppress", hint="nms=False")
    predictions, prototypes = graph.output
    channels = predictions.type.tensor_type.shape.dim[1].dim_value
    factors = channels - CORNERS - classes
    if factors < 1:
        raise ExportError(f"{channels} rows of outputs hold no {classes} classes", hint="nms=False")
    opset = next(item.version for item in model.opset_import if item.domain in {"", "ai.onnx"})
    _Writer(graph, opset).run(predictions.name, outputs[0], classes, factors, options)
    batch = predictions.type.tensor_type.shape.dim[0]
    rows = helper.make_tensor_value_info(outputs[0], TensorProto.FLOAT, [0, options.max_det, CORNERS + 2 + factors])
    rows.type.tensor_type.shape.dim[0].CopyFrom(batch)
    maps = type(prototypes)()
    maps.CopyFrom(prototypes)
    maps.name = outputs[1]
    graph.node.append(helper.make_node("Identity", [prototypes.name], [maps.name], name=_PREFIX + "prototypes"))
    graph.ClearField("output")
    graph.output.extend([rows, maps])


class _Writer:
    """Adds nodes to a graph, each with a name of its own."""

    def __init__(self, graph: onnx.GraphProto, opset: int) -> None:
        self.graph = graph
        self.opset = opset
        self.count = 0

    def run(self, predictions: str, rows: str, classes: int, factors: int, options: OnnxOptions) -> None:
        """Write the nodes from predictions to rows."""
        centre, size, scores, coefficients = self.split(predictions, [2, 2, classes, factors])
        half = self.add("Mul", size, self.constant(np.float32(0.5)))
        corners = self.add("Concat", self.add("Sub", centre, half), self.add("Add", centre, half), axis=1)
        best = self.reduce_max(scores)  # (N, 1, A)
        category = self.add("ArgMax", scores, axis=1, keepdims=1)
        numbers = self.constant(np.arange(classes, dtype=np.int64).reshape(1, -1, 1))
        own = self.add("Where", self.add("Equal", category, numbers), scores, self.constant(np.float32(0)))
        chosen = self.add(
            "NonMaxSuppression",
            self.add("Transpose", corners, perm=[0, 2, 1]),
            own,
            self.constant(np.int64(options.max_det)),
            self.constant(np.float32(options.iou)),
            self.constant(np.float32(options.conf)),
        )  # (M, 3): image, class, anchor
        place = self.add("Gather", chosen, self.constant(np.array([0, 2], np.int64)), axis=1)
        flat = self.squeeze(best)  # (N, A)
        shape = self.add("Shape", flat)
        nothing = self.add("ConstantOfShape", shape, value=numpy_helper.from_array(np.zeros(1, np.float32)))
        kept = self.add("ScatterND", nothing, place, self.add("GatherND", flat, place))
        # As many rows as are wanted, also where there are fewer anchors.
        images = self.add("Gather", shape, self.constant(np.array([0], np.int64)), axis=0)
        most = self.constant(np.array([options.max_det], np.int64))
        spare = self.add(
            "ConstantOfShape",
            self.add("Concat", images, most, axis=0),
            value=numpy_helper.from_array(np.zeros(1, np.float32)),
        )
        score, anchor = self.add("TopK", self.add("Concat", kept, spare, axis=1), most, axis=1, outputs=2)
        anchors = self.add("Gather", shape, self.constant(np.array([1], np.int64)), axis=0)
        anchor = self.add("Where", self.add("Less", anchor, anchors), anchor, self.constant(np.int64(0)))
        whole = self.add(
            "Concat", corners, best, self.add("Cast", category, to=TensorProto.FLOAT), coefficients, axis=1
        )
        length = self.constant(np.array([CORNERS + 2 + factors], np.int64))
        index = self.add("Expand", self.unsqueeze(anchor), self.add("Concat", images, most, length, axis=0))
        found = self.add("GatherElements", self.add("Transpose", whole, perm=[0, 2, 1]), index, axis=1)
        there = self.add("Greater", self.unsqueeze(score), self.constant(np.float32(0)))
        self.add("Where", there, found, self.constant(np.float32(0)), outputs=(rows,))

    def add(self, kind: str, *inputs: str, outputs: int | tuple[str, ...] = 1, **attributes: Any) -> Any:
        """Append a node and return the name of its output, or the names."""
        self.count += 1
        name = f"{_PREFIX}{self.count}_{kind}"
        names = outputs if isinstance(outputs, tuple) else tuple(f"{name}_{index}" for index in range(outputs))
        self.graph.node.append(helper.make_node(kind, list(inputs), list(names), name=name, **attributes))
        return names[0] if len(names) == 1 else names

    def constant(self, value: Any) -> str:
        """Return the name of a number, or of several, in the graph."""
        self.count += 1
        name = f"{_PREFIX}{self.count}_constant"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    # Lengths and axes were attributes once, and are inputs since.

    def split(self, source: str, lengths: list[int]) -> tuple[str, ...]:
        """Cut a tensor along its channels."""
        if self.opset < 13:
            parts = self.add("Split", source, outputs=len(lengths), axis=1, split=lengths)
        else:
            parts = self.add("Split", source, self.constant(np.array(lengths)), outputs=len(lengths), axis=1)
        return tuple(parts)

    def reduce_max(self, source: str) -> str:
        """Return the largest value along the channels, which stay an axis."""
        if self.opset < 18:
            return str(self.add("ReduceMax", source, axes=[1], keepdims=1))
        return str(self.add("ReduceMax", source, self.constant(np.array([1], np.int64)), keepdims=1))

    def squeeze(self, source: str) -> str:
        """Drop the axis of channels, of length 1."""
        if self.opset < 13:
            return str(self.add("Squeeze", source, axes=[1]))
        return str(self.add("Squeeze", source, self.constant(np.array([1], np.int64))))

    def unsqueeze(self, source: str) -> str:
        """Add a last axis of length 1."""
        if self.opset < 13:
            return str(self.add("Unsqueeze", source, axes=[2]))
        return str(self.add("Unsqueeze", source, self.constant(np.array([2], np.int64))))
