"""What is run in a process of its own: an ``.onnx`` file in, a folder for TensorFlow.js out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from segx_export_tfjs.writer import write

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def web_model(
    source: str,
    shape: Sequence[int | None],
    destination: str,
    scratch: str,
    *,
    precision: str = "fp32",
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write ``model.json`` and its weights.

    Args:
        source: The ``.onnx`` file.
        shape: Lengths of its input (N, 3, H, W).
        destination: The folder to write into, which is there.
        scratch: A folder for what is written on the way.
        precision: Of the weights: ``"fp32"``, ``"fp16"`` or ``"int8"``.
        about: What the page is told of the model.

    Returns:
        ``versions`` of what made it, and ``outputs``, their names.

    Raises:
        ExportError: The graph has operators that are not translated.
    """
    import tensorflow as tf

    from segx_tensorflow.convert import frozen_graph

    frozen = Path(scratch) / "frozen.pb"
    made = frozen_graph(source, shape, str(frozen))
    definition = tf.compat.v1.GraphDef()
    definition.ParseFromString(frozen.read_bytes())
    frozen.unlink()
    write(definition, made["outputs"], Path(destination), precision=precision, about=about or {})
    return made
