"""A graph written in the operators that ONNX Runtime computes well on a CPU; what it computes stays the same.

Three patterns of YOLO's graphs cost it a seventh of its time. A convolution's maps that are split in two leave the
blocked layout in which it computes, and come back to it: two convolutions with the same weights never leave it. A
softmax over an axis that is not the last is computed number by number, between two transpositions. And maps that are
doubled and convolved then are convolved quicker first (:mod:`segx.ops.convolutions`).

Source: the field numbers of ``onnx.proto3``.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from segx.io.protobuf import Message, begun, written
from segx.ops.convolutions import joined
from segx_backend_onnxruntime.nodes import Node, Tensor, new_node, new_tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from segx.ops.convolutions import Joined

_GRAPH, _OPSETS = 7, 8
_NODE, _INITIALIZER, _INPUT, _OUTPUT = 1, 5, 11, 12
_NESTED = frozenset({"If", "Loop", "Scan", "SequenceMap"})
"""Whose graphs take tensors of the one around them, unseen."""
_LARGEST = 512 << 20
"""Bytes from which on a file is not held in memory twice. For YOLOv8x it takes 0.5 s and saves 160 of 1,470 ms."""
_MOST_PARTS = 20_000
"""Nodes, or tensors. YOLOv8x has 500; of a file that is full of empty ones, each would take a kilobyte here."""
_FIRST_OPSET = 13
"""Since then axes of sums and sizes of parts are inputs."""
_AXES_ARE_INPUTS = 18
"""Of a maximum; and a split into equal parts says how many."""


def quicker(path: Path) -> bytes | None:
    """Return a model file written anew, or None where it is well as it is.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no ONNX file.
    """
    if path.stat().st_size > _LARGEST:
        return None
    model = Message.of(path)
    content = model.message(_GRAPH)
    if max(len(content.raw(number)) for number in (_NODE, _INITIALIZER)) > _MOST_PARTS:
        return None
    graph = _Graph(content, _opset(model))
    if not graph.is_understood or not graph.split_convolutions() + graph.softmaxes() + graph.doublings():
        return None
    pieces = list(graph.written())
    return b"".join([*written(model.fields(but={_GRAPH})), *begun(_GRAPH, sum(map(len, pieces))), *pieces])


def _opset(model: Message) -> int:
    return max((item.integer(2) for item in model.messages(_OPSETS) if item.text(1) in {"", "ai.onnx"}), default=0)


class _Graph:
    """A graph, and what is written in the place of some of its nodes.

    Args:
        message: The ``GraphProto``.
        opset: Of ONNX's own operators.
    """

    def __init__(self, message: Message, opset: int) -> None:
        self.opset = opset
        self._message = message
        self._nodes = [Node.of(content) for content in message.raw(_NODE)]
        self._tensors = {item.name: item for item in map(Tensor.of, message.raw(_INITIALIZER))}
        self._maker = {name: number for number, node in enumerate(self._nodes) for name in node.outputs}
        self._takers: Mapping[str, list[int]] = defaultdict(list)
        for number, node in enumerate(self._nodes):
            for name in node.inputs:
                self._takers[name].append(number)
        # Tensors are listed among the inputs, too, where others may be given in their place.
        self._kept = {item.text(1) for number in (_INPUT, _OUTPUT) for item in message.messages(number)}
        self._instead: dict[int, list[bytes]] = {}
        self._added: list[bytes] = []
        self._left: set[str] = set()  # tensors that no node takes any more

    @property
    def is_understood(self) -> bool:
        """Whether all that nodes take is seen here, once, and no numbers lie in a file found by this one's place."""
        elsewhere = any(tensor.is_elsewhere for tensor in self._tensors.values())
        once = len(self._tensors) == len(self._message.raw(_INITIALIZER))
        nested = any(node.kind in _NESTED for node in self._nodes)
        return self.opset >= _FIRST_OPSET and once and not elsewhere and not nested

    def written(self) -> Iterator[bytes | memoryview]:
        """Yield the pieces of the ``GraphProto``."""
        nodes = self._message.raw(_NODE)
        for number, node in enumerate(nodes):
            yield from written([(_NODE, piece) for piece in self._instead.get(number, [node])])
        yield from written([(_INITIALIZER, tensor) for tensor in self._added])
        tensors = zip(self._message.raw(_INITIALIZER), self._tensors, strict=True)
        yield from written([(_INITIALIZER, tensor) for tensor, name in tensors if name not in self._left])
        yield from written(self._message.fields(but={_NODE, _INITIALIZER}))

    def split_convolutions(self) -> int:
        """Write a convolution whose maps, after SiLU, are split along their channels as one for each part."""
        done = 0
        for number, convolution in enumerate(self._nodes):
            silu = self._silu(convolution) if convolution.kind == "Conv" else None
            split = silu and self._taker(silu[1].outputs[0], "Split")
            if not silu or not split or split.integer("axis", 0) != 1 or not all(split.outputs):
                continue
            parts = self._parts(convolution, split)
            if parts is None:
                continue
            self._instead[number] = []
            for node in silu:
                self._instead[self._maker[node.outputs[0]]] = []
            self._instead[self._maker[split.outputs[0]]] = parts
            self._leave(convolution)
            done += 1
        return done

    def _parts(self, convolution: Node, split: Node) -> list[bytes] | None:
        """Return the nodes for each output of a split, and keep their weights; None where these are not at hand."""
        tensors = [self._tensors.get(name) for name in convolution.inputs[1:]]
        weights = [tensor for tensor in tensors if tensor is not None and tensor.is_plain]
        if len(weights) != len(tensors) or convolution.integer("group", 1) != 1:
            return None
        channels = weights[0].shape[0]
        sizes = self._sizes(split, channels)
        if sizes is None or sum(sizes) != channels or min(sizes) < 1:
            return None
        parts: list[bytes] = []
        begin = 0
        for output, size in zip(split.outputs, sizes, strict=True):
            given = [convolution.inputs[0]]
            for order, tensor in enumerate(weights):
                given.append(f"{output}/segx/{order}")
                self._added.append(tensor.rows(begin, size, given[-1]))
            maps = f"{output}/segx/maps"
            parts += [convolution.renamed(given, [maps]), *_silu_of(maps, output)]
            begin += size
        return parts

    def _sizes(self, split: Node, channels: int) -> list[int] | None:
        if len(split.inputs) > 1 and split.inputs[1]:
            tensor = self._tensors.get(split.inputs[1])
            sizes = tensor and tensor.integers()
            return sizes if sizes is not None and len(sizes) == len(split.outputs) else None
        if self.opset >= _AXES_ARE_INPUTS and split.integer("num_outputs", 0) != len(split.outputs):
            return None
        size, left = divmod(channels, len(split.outputs))
        return None if left else [size] * len(split.outputs)

    def softmaxes(self) -> int:
        """Write a softmax over the channels, of which a convolution takes means, as what it is made of."""
        done = 0
        for number, softmax in enumerate(self._nodes):
            if softmax.kind != "Softmax" or softmax.integer("axis", -1) != 1:
                continue
            (found,) = softmax.outputs
            takers = self._takers[found]
            mean = self._nodes[takers[0]] if len(takers) == 1 else None
            is_mean = mean is not None and mean.kind == "Conv" and len(mean.inputs) == 2 and mean.inputs[0] == found
            if mean is None or not is_mean or found in self._kept or not mean.is_square(1):
                continue
            weights = self._tensors.get(mean.inputs[1])
            if weights is None or not weights.is_plain or takers[0] in self._instead:
                continue
            most, less, total, sums = (f"{found}/segx/{word}" for word in ("most", "less", "total", "sums"))
            axes = f"{found}/segx/axes"
            self._added.append(new_tensor(axes, np.array([1], np.int64)))
            self._instead[number] = [
                self._most(softmax.inputs[0], most, axes),
                new_node("Sub", [softmax.inputs[0], most], [less]),
                new_node("Exp", [less], [found]),
            ]
            self._instead[takers[0]] = [
                mean.renamed(mean.inputs, [sums]),
                new_node("ReduceSum", [found, axes], [total]),
                new_node("Div", [sums, total], mean.outputs),
            ]
            done += 1
        return done

    def doublings(self) -> int:
        """Write a transposed convolution of 2x2, one of 3x3 behind it, SiLU, and one of 1x1 with SiLU over cells.

        The four places of a pixel in its cell are channels until all is computed, and pixels in the end.
        """
        done = 0
        for number, doubling in enumerate(self._nodes):
            if doubling.kind != "ConvTranspose" or not doubling.is_square(2, stride=2):
                continue
            chain = self._behind(doubling)
            if not chain or any(self._maker[node.outputs[0]] in self._instead for node in chain):
                continue
            doubled, convolved, pointed = (self._weights(node) for node in (doubling, chain[0], chain[3]))
            if not (doubled and convolved and pointed) or not _is_less_over_cells(doubled[0], convolved[0]):
                continue
            both = joined(*doubled, convolved[0])
            if not all(np.abs(numbers).max() < np.finfo(np.float32).max for numbers in both):
                continue
            for node in chain[:-1]:
                self._instead[self._maker[node.outputs[0]]] = []
            self._instead[number] = []
            last = chain[-1]
            nodes = self._over_cells(doubling.inputs[0], last.outputs[0], both, convolved[1], pointed)
            self._instead[self._maker[last.outputs[0]]] = nodes
            self._leave(doubling, chain[0], chain[3])
            done += 1
        return done

    def _behind(self, doubling: Node) -> tuple[Node, Node, Node, Node, Node, Node] | None:
        """Return the convolution behind a doubling, its SiLU (two nodes), one of 1x1 and its SiLU; None: others."""
        convolution = self._taker(doubling.outputs[0], "Conv")
        if convolution is None or not convolution.is_square(3, padding=1):
            return None
        first = self._silu(convolution)
        pointed = first and self._taker(first[1].outputs[0], "Conv")
        if not first or pointed is None or not pointed.is_square(1):
            return None
        second = self._silu(pointed)
        return second and (convolution, *first, pointed, *second)

    def _silu(self, convolution: Node) -> tuple[Node, Node] | None:
        """Return the sigmoid and the product that are SiLU of what a convolution gives, if nothing else takes it."""
        (maps,) = convolution.outputs
        takers = [self._nodes[number] for number in self._takers[maps]]
        by_kind = {node.kind: node for node in takers}
        if len(takers) != 2 or set(by_kind) != {"Sigmoid", "Mul"} or maps in self._kept:
            return None
        sigmoid, product = by_kind["Sigmoid"], by_kind["Mul"]
        (gate,) = sigmoid.outputs
        alone = len(self._takers[gate]) == 1 and gate not in self._kept
        return (sigmoid, product) if alone and {*product.inputs} == {maps, gate} else None

    def _taker(self, name: str, kind: str) -> Node | None:
        """Return the only node that takes a tensor, as its images, if it is of a kind."""
        numbers = self._takers[name]
        node = self._nodes[numbers[0]] if len(numbers) == 1 and name not in self._kept else None
        return node if node is not None and node.kind == kind and node.inputs[0] == name else None

    def _weights(self, convolution: Node) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Return kernel and bias of a convolution, or None where they are not at hand."""
        tensors = [self._tensors.get(name) for name in convolution.inputs[1:]]
        found = [tensor.floats() for tensor in tensors if tensor is not None and tensor.is_plain]
        return (found[0], found[1]) if len(tensors) == len(found) == 2 else None

    def _over_cells(
        self,
        cells: str,
        pixels: str,
        both: Joined,
        bias: NDArray[np.float32],
        pointed: tuple[NDArray[np.float32], NDArray[np.float32]],
    ) -> list[bytes]:
        """Return the nodes from cells to pixels, and keep their weights.

        What the bias of the doubling adds is a convolution of ones; they are made of the cells, for a constant would be
        folded into a map that lies in another layout.
        """

        def keep(word: str, values: NDArray[Any]) -> str:
            self._added.append(new_tensor(name(word), values))
            return name(word)

        def name(word: str | int) -> str:
            return f"{pixels}/segx/{word}"

        ring = [1, 1, 1, 1]
        outputs, inputs = both.kernels.shape[2:4]
        given = pointed[0].shape[0]
        kernel = keep("kernel", both.kernels.reshape(4 * outputs, inputs, 2, 2).astype(np.float32))
        of_ones = keep("of ones", both.ones.reshape(4 * outputs, 1, 2, 2).astype(np.float32))
        biases = keep("bias", np.tile(bias, 4))
        points = keep("points", np.tile(pointed[0], (4, 1, 1, 1))), keep("points' bias", np.tile(pointed[1], 4))
        one, sizes = keep("one", np.array(1, np.float32)), keep("sizes", np.array([given] * 4, np.int64))
        axes = keep("axes", np.array([2, 3], np.int64))
        nodes = [
            self._most(cells, name("most"), keep("channels", np.array([1], np.int64))),
            new_node("Clip", [name("most"), one, one], [name("ones")]),
            new_node("Conv", [cells, kernel, biases], [name("seen")], pads=ring),
            new_node("Conv", [name("ones"), of_ones], [name("added")], pads=ring),
            new_node("Add", [name("seen"), name("added")], [name("sum")]),
            *_silu_of(name("sum"), name("windows")),
            new_node("Conv", [name("windows"), *points], [name("pointed")], group=4),
            *_silu_of(name("pointed"), name("found")),
            new_node("Split", [name("found"), sizes], [name(f"all {k}") for k in range(4)], axis=1),
        ]
        for k, place in enumerate(np.ndindex(2, 2)):
            begin = keep(f"begin {k}", np.array(place, np.int64))
            end = keep(f"end {k}", np.where(place, np.iinfo(np.int32).max, -1).astype(np.int64))
            nodes.append(new_node("Slice", [name(f"all {k}"), begin, end, axes], [name(k)]))
        nodes.append(new_node("Concat", [name(k) for k in range(4)], [name("places")], axis=1))
        nodes.append(new_node("DepthToSpace", [name("places")], [pixels], blocksize=2))
        return nodes

    def _most(self, given: str, found: str, axes: str) -> bytes:
        """Return the node of a maximum over channels."""
        if self.opset >= _AXES_ARE_INPUTS:
            return new_node("ReduceMax", [given, axes], [found])
        return new_node("ReduceMax", [given], [found], axes=[1])

    def _leave(self, *convolutions: Node) -> None:
        """Leave out the weights of convolutions that are written anew, where nothing else takes them."""
        names = {name for node in convolutions for name in node.inputs[1:]}
        self._left |= {name for name in names if len(self._takers[name]) == 1} - self._kept


def _silu_of(maps: str, output: str) -> list[bytes]:
    return [new_node("Sigmoid", [maps], [f"{maps}/gate"]), new_node("Mul", [maps, f"{maps}/gate"], [output])]


def _is_less_over_cells(doubled: NDArray[np.float32], convolved: NDArray[np.float32]) -> bool:
    """Return whether kernels are those of a doubling and of 3x3, and both in one take fewer products, and less memory.

    With few maps between them, of 1 MB together 100 GB would become.
    """
    (inputs, hidden, *two), (outputs, taken, *three) = doubled.shape, convolved.shape
    fits = two == [2, 2] and three == [3, 3] and hidden == taken
    return fits and 16 * inputs * outputs < doubled.size + 4 * convolved.size
