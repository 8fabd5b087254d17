"""What is run in a child process: an ``.onnx`` file in, files of TensorFlow's out.

TensorFlow and other libraries that segx uses end each other's processes when they meet in one. So these functions take
and return plain values, and nothing of TensorFlow leaves them.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx  # noqa: TID253 - this module is imported in processes of its own
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from segx.errors import ExportError
from segx.io.files import write_bytes
from segx.plugin.calibration import Calibration
from segx.runtime import child
from segx_onnx_graph import boxes_as_fractions, raw_decoding, raw_form, read
from segx_tensorflow.functions import GraphModule
from segx_tensorflow.keras_model import write_keras
from segx_tensorflow.model_metadata import described
from segx_tensorflow.quantised import quantised

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

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
    graph = read(Path(source), tuple(shape))
    module = GraphModule(graph, anchors_first=False)
    serve = module.serve.get_concrete_function()
    # beside the signature of this name: other tools look for such a function, and take what it gives by its order
    module.serving_default = tf.function(
        lambda images: [*map(serve(images).get, graph.outputs)],
        input_signature=module.serve.input_signature,
        autograph=False,
    )
    tf.saved_model.save(module, destination, signatures={"serving_default": serve})
    folder = Path(destination)
    for item in folder.iterdir():
        if item.is_dir() and not any(item.iterdir()):  # assets: there are none
            item.rmdir()
    if keras:
        write_keras(graph, folder / "model.keras")
    return _made(graph)


def frozen_graph(source: str, shape: Sequence[int | None], destination: str) -> dict[str, Any]:
    """Write a frozen graph: a GraphDef with the weights in it as constants.

    Its input is the placeholder ``x``, which other tools look for, float32 (N, H, W, 3); its outputs are the nodes of
    ONNX's names, the flat one (N, channels, anchors), the maps (N, h, w, channels).

    Args:
        source: The ``.onnx`` file.
        shape: Lengths of its input (N, 3, H, W); None where it stays open.
        destination: The file to write.

    Returns:
        ``versions`` of what made it, and ``outputs``, their names.

    Raises:
        ExportError: The graph has operators that are not translated.
    """
    graph = read(Path(source), tuple(shape))
    module = GraphModule(graph, anchors_first=False, images="x")
    frozen = convert_variables_to_constants_v2(module.serve.get_concrete_function())
    definition = _only_for(graph.outputs, frozen.graph.as_graph_def())
    write_bytes(Path(destination), definition.SerializeToString(deterministic=True))
    return _made(graph)


def tflite(
    source: str,
    shape: Sequence[int | None],
    destination: str,
    scratch: str,
    *,
    precision: str = "fp32",
    raw: bool = False,
    fractions: bool = False,
    values: str = "float32",
    images: Mapping[str, Any] | None = None,
    name: str = "",
) -> dict[str, Any]:
    """Write a ``.tflite`` file.

    Args:
        source: The ``.onnx`` file.
        shape: Lengths of its input (N, 3, H, W); all are fixed.
        destination: The file to write.
        scratch: An empty folder, for the SavedModel on the way. From there weights are read as variables, which takes a
            quarter of the memory that a function with constants does.
        precision: ``"fp32"``, ``"fp16"`` or ``"int8"``.
        raw: End at the raw head, whose outputs are kept apart by their meaning, each with a scale of its own.
        fractions: Write boxes, where the graph ends in them, as fractions of the image.
        values: What an int8 file takes and gives: ``"float32"``, ``"int8"`` or ``"uint8"``.
        images: What :meth:`segx.plugin.calibration.Calibration.to_dict` wrote; needed for int8.
        name: Of the model, for tools that show the file's metadata.

    Returns:
        ``versions`` of what made it, ``outputs``, their names, and the ``decoding`` of a graph whose end was changed.

    Raises:
        ExportError: The graph has operators that are not translated, or does not end in a head that can be cut.
    """
    decoding: dict[str, Any] = {}
    if raw:
        model = onnx.load(source)
        cut = raw_form(model)
        decoding = raw_decoding(model) if cut is not model else {}
        graph = read(cut, tuple(shape))
    else:
        graph = read(Path(source), tuple(shape))
    if fractions and (scaled := boxes_as_fractions(graph)) is not graph:
        graph, decoding = scaled, {"boxes": "fractions"}
    module = GraphModule(graph, anchors_first=raw)
    folder = Path(scratch) / "saved_model"
    tf.saved_model.save(module, str(folder), signatures={"serving_default": module.serve.get_concrete_function()})
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=["serving_default"])
    if precision == "fp16":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    made = converter.convert()
    if precision == "int8":
        if images is None:
            raise ExportError("int8 takes images to calibrate on")
        made = quantised(made, _representative(images), getattr(tf, values))
    write_bytes(Path(destination), described(made, name=name))
    return {**_made(graph), **({"decoding": decoding} if decoding else {})}


def _representative(images: Mapping[str, Any]) -> Iterator[np.ndarray[Any, Any]]:
    """Yield what the ranges of all values are taken from, channels last.

    A black and a white image come first: with them the input's scale is 1/255, so that bytes are taken as they are.
    """
    calibration = Calibration.from_dict(images)
    total = 2 + -(-len(calibration) // calibration.batch)
    shape = (calibration.batch, *calibration.shape, 3)
    ends = (np.full(shape, value, np.float32) for value in (0, 1))
    photographs = (np.ascontiguousarray(batch.transpose(0, 2, 3, 1)) for batch in calibration)
    for done, batch in enumerate(itertools.chain(ends, photographs), start=1):
        yield batch
        child.notify("calibrating", done, total)


def _only_for(outputs: Iterable[str], definition: Any) -> Any:
    """Return a GraphDef with the nodes that some of them need, and no others, each behind those that it reads.

    TensorFlow's own order is another one each time.
    """
    nodes = {node.name: node for node in definition.node}
    kept = type(definition)(versions=definition.versions)
    done: set[str] = set()
    todo = [*outputs][::-1]
    while todo:
        sources = [source.removeprefix("^").partition(":")[0] for source in nodes[todo[-1]].input]
        if missing := [source for source in sources if source not in done]:
            todo += missing
        elif (name := todo.pop()) not in done:
            done.add(name)
            kept.node.append(nodes[name])
    return kept


def _made(graph: Graph) -> dict[str, Any]:
    return {"versions": {"tensorflow": tf.__version__}, "outputs": list(graph.outputs)}
