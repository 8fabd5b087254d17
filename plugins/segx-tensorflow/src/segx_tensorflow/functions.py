"""An ONNX graph as a TensorFlow function."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow as tf

from segx_tensorflow.operators import TensorFlowTranslator, turned
from segx_tensorflow.values import Value, as_in_onnx, channels_last

if TYPE_CHECKING:
    from segx_onnx_graph import Graph


class GraphModule(tf.Module):  # type: ignore[misc]  # TensorFlow has no types
    """A module whose ``serve`` takes float32 images (N, H, W, 3) and returns a dictionary of the outputs.

    Kernels are variables: as constants of the graph they would be copied at every step of a conversion (YOLOv8x-seg:
    11 GB instead of 3).

    Args:
        graph: What is translated; the lengths that it leaves open are open here.
        anchors_first: Outputs of three axes are (N, anchors, channels), as they come about; else (N, channels,
            anchors), as in ONNX. Maps, of four axes, are (N, h, w, channels) either way.
        images: What the input is called.
    """

    def __init__(self, graph: Graph, *, anchors_first: bool, images: str = "images") -> None:
        super().__init__(name="model")
        self._graph_read = graph
        self._anchors_first = anchors_first
        found = {
            id(graph.constants[node.inputs[1]]): turned(
                graph.constants[node.inputs[1]], node.attributes.get("group", 1)
            )
            for node in graph.nodes
            if node.op in {"Conv", "ConvTranspose"}
        }
        self._places = {key: place for place, key in enumerate(found)}
        self.kernels = [tf.Variable(kernel, trainable=False, name="kernel") for kernel in found.values()]
        batch, channels, height, width = (
            length if isinstance(length, int) else None for length in graph.shapes[graph.input] or ()
        )
        shape = tf.TensorSpec((batch, height, width, channels), tf.float32, name=images)
        # autograph would rewrite the translator's own Python, which takes ten seconds and is of no use
        self.serve = tf.function(self._outputs, input_signature=[shape], autograph=False)

    def _outputs(self, images: Any) -> dict[str, Any]:
        graph = self._graph_read
        kernels = {key: self.kernels[place] for key, place in self._places.items()}
        translator = TensorFlowTranslator(graph, kernels)
        made = translator.run(Value(images, channels_last(4)))
        return {
            name: tf.identity(translator.laid(value, self._order(value.rank)).tensor, name)
            for name, value in zip(graph.outputs, made, strict=True)
        }

    def _order(self, rank: int) -> tuple[int, ...]:
        return channels_last(rank) if rank != 3 or self._anchors_first else as_in_onnx(rank)
