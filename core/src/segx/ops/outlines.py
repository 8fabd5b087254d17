"""What an outline encloses, and the part of it inside a frame: by geometry, before there are pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEVELS = 64
"""Heights of corners at most between which an outline whose lobes cancel is looked at."""
_BETWEEN = np.array([0.31, 0.73])
"""Where between them: at two places, for at one of them its lobes may meet."""


def area(ring: NDArray[np.floating[Any]]) -> float:
    """Return the area that a ring (points, 2) encloses once (shoelace formula); lobes that turn otherwise lessen it."""
    x, y = (np.asarray(ring, np.float64) - ring[:1]).T
    return abs(float(x @ np.roll(y, -1) - np.roll(x, -1) @ y)) / 2


def encloses(ring: NDArray[np.floating[Any]]) -> bool:
    """Return True if a ring (points, 2) encloses anything, even-odd: equal lobes do, a line there and back does not."""
    points = np.asarray(ring, np.float64)
    width, height = np.ptp(points, axis=0).tolist()
    least = 1e-9 * width * height
    if area(points) > least:
        return True
    if not least:
        return False
    heights = np.unique(points[:, 1])
    heights = heights[:: -(-len(heights) // _LEVELS)]
    between = heights[:-1, None] + np.diff(heights)[:, None] * _BETWEEN
    following = np.roll(points, -1, axis=0)
    for level in between.ravel().tolist():
        crossing = (points[:, 1] > level) != (following[:, 1] > level)
        one, other = points[crossing], following[crossing]
        x = np.sort(one[:, 0] + (level - one[:, 1]) / (other[:, 1] - one[:, 1]) * (other[:, 0] - one[:, 0]))
        if (x[1::2] - x[0::2] > 1e-9 * width).any():
            return True
    return False


def clip(ring: NDArray[np.floating[Any]], width: float, height: float) -> NDArray[np.float64]:
    """Return the part of a ring (points, 2) inside 0..width, 0..height; (0, 2) where none is.

    Parts that the frame divides stay joined along its edge, without width.
    Source: I. E. Sutherland and G. W. Hodgman, "Reentrant Polygon Clipping", CACM 17(1), 1974.
    """
    points = np.asarray(ring, np.float64)
    for axis, limit, sign in ((0, 0.0, 1), (0, width, -1), (1, 0.0, 1), (1, height, -1)):
        inside = sign * (points[:, axis] - limit) >= 0
        if inside.all():
            continue
        following = np.roll(points, -1, axis=0)
        crossing = inside != np.roll(inside, -1)
        span = np.where(crossing, following[:, axis] - points[:, axis], 1.0)
        cut = points + ((limit - points[:, axis]) / span)[:, None] * (following - points)
        cut[:, axis] = limit
        points = np.stack([points, cut], axis=1).reshape(-1, 2)[np.stack([inside, crossing], axis=1).ravel()]
    return points.clip(0, [width, height])
