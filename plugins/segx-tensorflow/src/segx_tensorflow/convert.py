"""What is run in a child process: an ``.onnx`` file in, files of TensorFlow's out.

TensorFlow and other libraries that segx uses end each other's processes when they meet in one. So these functions take
and return plain values, and nothing of TensorFlow leaves them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from segx.io.files import write_bytes
from segx_onnx_graph import raw_form, read

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from segx_onnx_graph import Graph


def saved_model(source: str, shape: Sequence[int | None], destination: str, *, keras: bool = False) -> dict[str, Any]:
    """Write a SavedModel.

    Args:
        source: The ``.onnx`` file.
        shape: Lengths of its input (N, 3, H, W); None where it stays open.
        destination: The folder to write.
        keras: Also write the model for Keras, as ``model.keras`` in the folder.

    Returns:
        ``versions`` of what made it, and ``outputs``, their names.

    Raises:
        ExportError: The graph has operators that are not translated.
    """
    import tensorflow as tf

    from segx_tensorflow.functions import GraphModule

    graph = _graph(source, shape)
    module = GraphModule(graph, anchors_first=False)
    signatures = {"serving_default": module.serve.get_concrete_function()}
    tf.saved_model.save(module, destination, signatures=signatures)
    folder = Path(destination)
    for item in folder.iterdir():
        if item.is_dir() and not any(item.iterdir()):  # assets: there are none
            item.rmdir()
    if keras:
        from segx_tensorflow.keras_model import write_keras

        write_keras(graph, folder / "model.keras")
    return _made(graph)


def frozen_graph(source: str, shape: Sequence[int | None], destination: str) -> dict[str, Any]:
    """Write a frozen graph: a GraphDef with the weights in it as constants.

    Its input is the placeholder ``images``, float32 (N, H, W, 3); its outputs are the nodes of ONNX's names, the flat
    one (N, channels, anchors), the maps (N, h, w, channels).

    Args:
        source: The ``.onnx`` file.
        shape: Lengths of its input (N, 3, H, W); None where it stays open.
        destination: The file to write.

    Returns:
        ``versions`` of what made it, and ``outputs``, their names.

    Raises:
        ExportError: The graph has operators that are not translated.
    """
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    from segx_tensorflow.functions import GraphModule

    graph = _graph(source, shape)
    module = GraphModule(graph, anchors_first=False)
    frozen = convert_variables_to_constants_v2(module.serve.get_concrete_function())
    definition = _only_for(graph.outputs, frozen.graph.as_graph_def())
    write_bytes(Path(destination), definition.SerializeToString(deterministic=True))
    return _made(graph)


def _only_for(outputs: Iterable[str], definition: Any) -> Any:
    """Return a GraphDef with the nodes that some of them need, and no others."""
    nodes = {node.name: node for node in definition.node}
    wanted: set[str] = set()
    todo = list(outputs)
    while todo:
        name = todo.pop()
        if name not in wanted:
            wanted.add(name)
            todo += [source.removeprefix("^").partition(":")[0] for source in nodes[name].input]
    kept = type(definition)(versions=definition.versions)
    kept.node.extend(node for node in definition.node if node.name in wanted)
    return kept


def _made(graph: Graph) -> dict[str, Any]:
    import tensorflow as tf

    return {"versions": {"tensorflow": tf.__version__}, "outputs": list(graph.outputs)}


def _graph(source: str, shape: Sequence[int | None], *, raw: bool = False) -> Graph:
    if raw:
        import onnx

        return read(raw_form(onnx.load(source)), tuple(shape))
    return read(Path(source), tuple(shape))
