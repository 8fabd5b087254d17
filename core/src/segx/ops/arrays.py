"""Arrays of any runtime as NumPy's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from segx.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray


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


def has_channels_last(images: NDArray[Any]) -> bool:
    """Return True if the channels of images (N, C, H, W) lie side by side in memory, and everything else in order."""
    return images.transpose(0, 2, 3, 1).flags.c_contiguous
