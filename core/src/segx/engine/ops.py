"""The few functions on results that libraries call by their name elsewhere: ``segx.utils.ops``.

Everything else is in :mod:`segx.ops`.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from segx.elsewhere import asked_by_python
from segx.ops.arrays import to_numpy
from segx.structures.arrays import ResultArray
from segx.structures.batch import place

__all__ = ["scale_masks", "xywh2xyxy", "xyxy2xywh"]


def scale_masks(masks: Any, shape: tuple[int, int], *_ratio_pad: Any, padding: bool = True) -> ResultArray:
    """Return masks at the size of an image; masks of results have it already and come back as they are.

    Args:
        masks: (N, C, H, W), any array.
        shape: (height, width) of the image in pixels.
        padding: The masks lie in a letterboxed input, whose border is cut off.

    Returns:
        (N, C, height, width): the same numbers where the size is the same, else float32, between the pixels
        interpolated.

    Raises:
        ValueError: The masks have other than four axes.
    """
    dense = np.asarray(to_numpy(masks))
    if dense.ndim != 4:
        raise ValueError(f"masks have the shape (N, C, H, W), not {dense.shape}")
    height, width = int(shape[0]), int(shape[1])
    if dense.shape[2:] == (height, width):
        return ResultArray.of(dense)
    if padding:
        spot = place((height, width), (dense.shape[2], dense.shape[3]))
        dense = dense[..., spot.top : spot.top + spot.height, spot.left : spot.left + spot.width]
    flat = dense.reshape(-1, *dense.shape[2:]).astype(np.float32)
    scaled = [cv2.resize(mask, (width, height), interpolation=cv2.INTER_LINEAR) for mask in flat]
    whole = np.stack(scaled) if scaled else np.zeros((0, height, width), np.float32)
    return ResultArray.of(whole.reshape(*dense.shape[:2], height, width))


def xyxy2xywh(boxes: Any) -> ResultArray:
    """Return boxes (..., 4) of two corners as centre x, centre y, width, height."""
    low, high = np.split(np.asarray(to_numpy(boxes)), 2, axis=-1)
    return ResultArray.of(np.concatenate([(low + high) / 2, high - low], axis=-1))


def xywh2xyxy(boxes: Any) -> ResultArray:
    """Return boxes (..., 4) of centre x, centre y, width, height as two corners."""
    centre, size = np.split(np.asarray(to_numpy(boxes)), 2, axis=-1)
    return ResultArray.of(np.concatenate([centre - size / 2, centre + size / 2], axis=-1))


def __getattr__(name: str) -> Any:
    msg = f"{name} is not there: {', '.join(__all__)} are, and segx.ops computes on boxes and polygons"
    raise asked_by_python(__name__, name) or ImportError(msg)
