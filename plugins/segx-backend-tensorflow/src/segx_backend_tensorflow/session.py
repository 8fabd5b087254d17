"""Runs a SavedModel or a frozen graph: what TensorFlow is told, and what it is fed."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from segx.ops.images import channels_last
from segx.plugin.base import FormatSession, paired_outputs
from segx.runtime import choose_device, cores, variables
from segx_backend_tensorflow.protobuf import SIGNATURE, read_graph

_ABSENT = {name: sys.modules.get(name) for name in ("matplotlib",)}
sys.modules["matplotlib"] = None  # type: ignore[assignment]  # Keras imports it, and it writes a list of fonts
with variables(TF_CPP_MIN_LOG_LEVEL="3", KERAS_HOME=f"{os.devnull}/keras"):  # Keras makes a folder where it can
    import tensorflow as tf
if (_found := _ABSENT["matplotlib"]) is None:
    del sys.modules["matplotlib"]
else:
    sys.modules["matplotlib"] = _found

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from segx.artifact import ArtifactInfo
    from segx.options.verbs import SessionOptions
    from segx.structures.types import Array, Images

    Model = Callable[[Any], Mapping[str, Any]]

logger = logging.getLogger(__name__)

_RAW = ("boxes", "scores", "coefficients")
"""Outputs of a raw head that lie (N, anchors, channels) in files of TensorFlow's."""


class TensorFlowSession(FormatSession[Any]):
    """A model that is ready to run.

    TensorFlow wants channels last. OpenCV turns the images round in less time than TensorFlow; the maps stay as they
    lie, with their axes in the order of ONNX.
    """

    runtime: ClassVar[str] = "TensorFlow"
    _turned: NDArray[np.float32] | None = None

    def _run(self, model: Model, images: Images) -> Mapping[str, Array]:
        self._turned = channels_last(images, self._turned)  # one run at a time
        found = {name: output.numpy() for name, output in model(self._turned).items()}
        return {
            name: np.moveaxis(output, -1, 1) if output.ndim == 4 or name in _RAW else output
            for name, output in found.items()
        }


def devices() -> list[str]:
    """Return the devices that TensorFlow finds, the best first."""
    return [*(f"cuda:{index}" for index, _ in enumerate(tf.config.list_physical_devices("GPU"))), "cpu"]


def start(path: Path, info: ArtifactInfo, options: SessionOptions) -> tuple[Model, str]:
    """Return a function from images (N, H, W, 3) to the outputs by name, and the device that it runs on.

    Raises:
        UsageError: The device is not there.
        ModelError: The model has other outputs than its metadata say.
    """
    device = choose_device(options.device, devices())
    _set_threads(options.threads or cores())
    kind, _, number = device.partition(":")
    place = f"/GPU:{number}" if kind == "cuda" else "/CPU:0"
    with tf.device(place):
        model = _load_folder(path) if path.is_dir() else _load_graph(path)
    ranks = {name: output.shape.rank for name, output in model.structured_outputs.items()}
    own = paired_outputs(ranks, info.outputs, path)

    def run(images: Any) -> Mapping[str, Any]:
        with tf.device(place):
            outputs = model(tf.experimental.dlpack.from_dlpack(images.__dlpack__()))  # the memory itself, no copy
        return {name: outputs[its] for name, its in own.items()}

    return run, device


def _load_folder(path: Path) -> Any:
    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures[SIGNATURE]
    signature.owner = loaded  # its variables die with it
    (name,) = signature.structured_input_signature[1]
    return _Named(signature, name)


class _Named:
    """A signature that is called with the images alone."""

    def __init__(self, signature: Any, name: str) -> None:
        self._signature, self._name = signature, name
        self.structured_outputs = signature.structured_outputs

    def __call__(self, images: Any) -> Mapping[str, Any]:
        outputs: Mapping[str, Any] = self._signature(**{self._name: images})
        return outputs


def _load_graph(path: Path) -> Any:
    header = read_graph(path)
    definition = tf.compat.v1.GraphDef()
    definition.ParseFromString(path.read_bytes())
    imported = tf.compat.v1.wrap_function(lambda: tf.graph_util.import_graph_def(definition, name=""), [])
    return imported.prune(f"{header.input}:0", {name: f"{name}:0" for name in header.outputs})


def _set_threads(threads: int) -> None:
    """Set how many threads TensorFlow takes; it can be told once in a process, before it computes anything."""
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError as error:
        logger.debug("threads=%d: %s", threads, error)
