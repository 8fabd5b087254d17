"""Boxes of corners x1, y1, x2, y2: areas and overlaps, in the precision they are given in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def area(boxes: NDArray[Any]) -> NDArray[Any]:
    """Return (N,), the areas of boxes (N, 4)."""
    return np.asarray((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def intersection(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    """Return (N, M), the area that each of (N, 4) shares with each of (M, 4)."""
    ax1, ay1, ax2, ay2 = first.T[:, :, None]
    bx1, by1, bx2, by2 = second.T[:, None, :]
    width = np.minimum(ax2, bx2) - np.maximum(ax1, bx1)
    height = np.minimum(ay2, by2) - np.maximum(ay1, by1)
    return np.asarray(np.maximum(width, 0) * np.maximum(height, 0))


def iou(
    first: NDArray[Any],
    second: NDArray[Any],
    *,
    areas: tuple[NDArray[Any], NDArray[Any]] | None = None,
    crowd: NDArray[np.bool_] | None = None,
) -> NDArray[Any]:
    """Return (N, M), intersection over union of each of (N, 4) with each of (M, 4); 0 where nothing is shared.

    Args:
        first: (N, 4).
        second: (M, 4).
        areas: (N,) and (M,), where they are known more exactly than from the corners.
        crowd: bool (M,): over the area of ``first`` alone, as COCO counts for crowds.
    """
    shared = intersection(first, second)
    own, other = areas or (area(first), area(second))
    return over_union(shared, own, other, crowd)


def over_union(
    shared: NDArray[Any], own: NDArray[Any], other: NDArray[Any], crowd: NDArray[np.bool_] | None = None
) -> NDArray[Any]:
    """Return (N, M), shared areas (N, M) over those of the unions of what has these areas, for crowds over ``own``."""
    union = own[:, None] + other[None] - shared
    if crowd is not None:
        union = np.where(crowd, own[:, None], union)
    return np.asarray(np.divide(shared, union, out=np.zeros_like(union), where=shared > 0))
