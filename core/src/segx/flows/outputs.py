"""What a runtime answers, checked before anything is read from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from segx.errors import ModelError
from segx.ops.arrays import to_numpy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from segx.plugin.interfaces import Session
    from segx.structures.types import Images

_NUMBERS = "biuf"
"""Kinds of NumPy types that hold real numbers."""


def run(session: Session, images: Images) -> tuple[NDArray[np.float32], ...]:
    """Run a network: its outputs, float32, as many as its info names, each with one entry for each image.

    Whether the numbers mean anything is the task's to say: it drops what is not finite.

    Args:
        session: An open model.
        images: float32 (N, 3, H, W) in 0..1, RGB.

    Raises:
        ModelError: The shape is not one the model takes, or its runtime answers something else than it says.
    """
    answer: Any = session.run(images)  # what it really is, not what it is declared to be
    names = session.info.outputs
    if not isinstance(answer, tuple | list) or len(answer) != len(names):
        count = len(answer) if isinstance(answer, tuple | list) else f"a {type(answer).__name__}, not"
        raise ModelError(f"the model gave {count} outputs; its metadata name {len(names)}: {', '.join(names)}")
    return tuple(_output(output, name, len(images)) for output, name in zip(answer, names, strict=True))


def _output(output: Any, name: str, count: int) -> NDArray[np.float32]:
    array = to_numpy(output)
    if array.dtype.kind not in _NUMBERS:
        raise ModelError(f"output {name!r} of the model holds {array.dtype.name}, not numbers")
    if array.ndim == 0 or len(array) != count:
        raise ModelError(f"output {name!r} of the model has shape {array.shape} for {count} images")
    with np.errstate(over="ignore"):  # larger than a float32: infinite, and dropped
        return np.asarray(array, dtype=np.float32)
