"""Walks a graph once and asks a target for each operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from segx.errors import ExportError
from segx_onnx_graph.lengths import ARITHMETIC, settled, vector

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from segx_onnx_graph.reading import Graph


class Translator:
    """A target: a subclass has a method for each operator, of the operator's name.

    Inputs are arguments (``None`` for one that is left out), attributes are keywords with their defaults filled in. A
    value is a NumPy array (a constant, or lengths of axes: see :mod:`segx_onnx_graph.lengths`) or whatever the target's
    methods return. An operator with several outputs returns a list.

    Attributes:
        title: What people call the target, for errors.
        graph: What is translated.
        keeps_first: While ``Reshape`` runs: the first axis is the batch and stays as it is.
    """

    title: ClassVar[str] = ""

    def __init__(self, graph: Graph) -> None:
        """Refuse a graph with operators that the target has not, before any work.

        Raises:
            ExportError: With all of their names.
        """
        self.graph = graph
        self.keeps_first = False
        missing = sorted({node.op for node in graph.nodes if not self._has(node.op, node.outputs[0])})
        if missing:
            title = self.title or type(self).__name__
            msg = f"{title} has no translation of the operators {', '.join(missing)}"
            raise ExportError(
                msg, hint="a model exported without NMS and other post-processing in it has none of these"
            )

    def run(self, image: Any) -> list[Any]:
        """Return the outputs, in the order of ``graph.outputs``, for a value that stands for the input."""
        graph = self.graph
        values: dict[str, Any] = {"": None, graph.input: image, **graph.constants}
        last = {name: position for position, node in enumerate(graph.nodes) for name in node.inputs if name}
        for position, node in enumerate(graph.nodes):
            arguments = [values[name] for name in node.inputs]
            if node.outputs[0] in graph.lengths and node.op != "Shape":
                results: Any = settled(ARITHMETIC[node.op](*arguments, **node.attributes))
            else:
                self.keeps_first = node.outputs[0] in graph.keeps_first
                results = getattr(self, node.op)(*arguments, **node.attributes)
            for name in node.inputs:  # what nobody reads any more need not be held
                if last.get(name) == position and name not in graph.outputs:
                    values.pop(name, None)
            values.update(zip(node.outputs, results if isinstance(results, list) else [results], strict=False))
        return [values[name] for name in graph.outputs]

    def shape(self, value: Any) -> Sequence[Any]:
        """Return the lengths of a value's axes in ONNX's order: integers, and scalars of the target where open.

        Only graphs with open height or width need it.
        """
        raise NotImplementedError

    def Identity(self, value: Any) -> Any:
        """Return the value."""
        return value

    def Dropout(self, value: Any, *_: Any, **__: Any) -> Any:
        """Return the value: nothing is dropped where nothing is trained."""
        return value

    def Shape(self, value: Any, start: int = 0, end: int | None = None) -> np.ndarray[Any, Any]:
        """Return the lengths as a vector."""
        return vector(list(self.shape(value))[start:end])

    def _has(self, op: str, output: str) -> bool:
        if op == "Shape":
            return type(self).shape is not Translator.shape
        return output in self.graph.lengths or (op[:1].isupper() and callable(getattr(self, op, None)))
