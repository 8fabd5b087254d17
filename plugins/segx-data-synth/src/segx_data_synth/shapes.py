"""The outlines of the six kinds of object, as rings of points around the origin with radius about one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Rings = list[NDArray[np.float64]]


def _circle(radius: float = 1.0, count: int = 64) -> NDArray[np.float64]:
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def ball(_rng: np.random.Generator) -> Rings:
    """Return a disc."""
    return [_circle()]


def box(rng: np.random.Generator) -> Rings:
    """Return a rectangle between square and one to two and a half."""
    height = rng.uniform(0.4, 1.0)
    return [np.array([[-1, -height], [1, -height], [1, height], [-1, height]])]


def star(rng: np.random.Generator) -> Rings:
    """Return a star of five to eight points."""
    points = int(rng.integers(5, 9))
    radius = np.where(np.arange(2 * points) % 2, rng.uniform(0.4, 0.6), 1.0)
    angle = np.arange(2 * points) * np.pi / points
    return [radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)]


def ring(rng: np.random.Generator) -> Rings:
    """Return a disc with a hole."""
    return [_circle(), _circle(rng.uniform(0.4, 0.65))]


def gear(rng: np.random.Generator) -> Rings:
    """Return a toothed wheel with a hole for its axle."""
    teeth = int(rng.integers(8, 13))
    phase = np.arange(4 * teeth) % 4
    radius = np.where(phase < 2, 1.0, 0.76)
    angle = np.arange(4 * teeth) * 2 * np.pi / (4 * teeth)
    wheel = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return [wheel, _circle(rng.uniform(0.18, 0.3), 32)]


def moon(rng: np.random.Generator) -> Rings:
    """Return a crescent: a disc less a smaller one that touches it from inside, beyond its rim."""
    depth = rng.uniform(0.5, 0.9)
    outer = np.linspace(np.pi / 3, 2 * np.pi - np.pi / 3, 48)
    outside = np.stack([np.cos(outer), np.sin(outer)], axis=1)
    tips = outside[[-1, 0]]
    bend = np.linspace(tips[0, 1], tips[1, 1], 32)[1:-1]
    inside = np.stack([tips[0, 0] - depth * (1 - (bend / tips[1, 1]) ** 2), bend], axis=1)
    return [np.concatenate([outside, inside])]


SHAPES: dict[str, Callable[[np.random.Generator], Rings]] = {
    "ball": ball,
    "box": box,
    "star": star,
    "ring": ring,
    "gear": gear,
    "moon": moon,
}
"""Class name to what draws its outline; the order is the class number."""
