"""Arrays of any runtime as NumPy's own, and what a runtime answers, checked before anything is read from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from segx.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from segx.interfaces import Images, Session

_NUMBERS = "biuf"
"""Kinds of NumPy types that hold real numbers."""


def to_numpy(array: Any) -> NDArray[Any]:
    """Return any array of any runtime as NumPy's own, on the CPU; copied only where it has to be.

    In order: an array in memory that speaks DLPack is shared; one on a device hands itself over by ``.cpu()`` or
    ``.get()``; what is left is for NumPy to read.

    Raises:
        ModelError: It is no array.
    """
    if isinstance(array, np.ndarray):
        return array
    array = array.detach() if hasattr(array, "detach") else array
    array = array.cpu() if hasattr(array, "cpu") else array
    try:
        return np.from_dlpack(array)
    except (AttributeError, TypeError, ValueError, RuntimeError, BufferError):
        pass  # it does not speak it, lies on a device, or holds numbers NumPy has no name for
    try:
        return np.asarray(array.get() if hasattr(array, "get") else array)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"a {type(array).__name__} cannot be read as an array ({reason})") from error


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
