"""What is run in a child process: an ``.onnx`` file in, files of TensorFlow's out.

TensorFlow and other libraries that segx uses end each other's processes when they meet in one. So these functions take
and return plain values, and nothing of TensorFlow leaves them.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segx.io.files import write_bytes
from segx_onnx_graph import raw_form, read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segx_onnx_graph import Graph


def prepare() -> None:
    """Keep TensorFlow from the graphics card, from talking, and from writing into the home folder; imports nothing."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    # Keras makes a folder and writes its settings as soon as it is imported.
    os.environ.setdefault("KERAS_HOME", os.path.join(tempfile.gettempdir(), "segx-no-keras"))  # noqa: PTH118


def versions() -> dict[str, str]:
    """Return the versions of what converts."""
    import tensorflow as tf

    return {"tensorflow": tf.__version__}


def saved_model(source: str, shape: Sequence[int | None], destination: str, *, keras: bool = False) -> dict[str, Any]:
    """Write a SavedModel.

    Args:
        source: The ``.onnx`` file.
        shape: Lengths of its input (N, 3, H, W); None where it stays open.
        destination: The folder to write.
        keras: Also write the model for Keras, as ``model.keras`` in the folder.

    Returns:
        The versions of what made it.

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
    return versions()


def frozen_graph(source: str, shape: Sequence[int | None], destination: str) -> dict[str, str]:
    """Write a frozen graph: a GraphDef with the weights in it as constants.

    Its input is the placeholder ``images``, float32 (N, H, W, 3); its outputs are the nodes of ONNX's names, the flat
    one (N, channels, anchors), the maps (N, h, w, channels).

    Args:
        source: The ``.onnx`` file.
        shape: Lengths of its input (N, 3, H, W); None where it stays open.
        destination: The file to write.

    Returns:
        The versions of what made it.

    Raises:
        ExportError: The graph has operators that are not translated.
    """
    from tensorflow.compat.v1.graph_util import extract_sub_graph
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    from segx_tensorflow.functions import GraphModule

    graph = _graph(source, shape)
    module = GraphModule(graph, anchors_first=False)
    frozen = convert_variables_to_constants_v2(module.serve.get_concrete_function())
    definition = extract_sub_graph(frozen.graph.as_graph_def(), list(graph.outputs))
    write_bytes(Path(destination), definition.SerializeToString(deterministic=True))
    return versions()


def _graph(source: str, shape: Sequence[int | None], *, raw: bool = False) -> Graph:
    if raw:
        import onnx

        return read(raw_form(onnx.load(source)), tuple(shape))
    return read(Path(source), tuple(shape))
