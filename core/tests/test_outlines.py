"""What outlines enclose, and how they are cut at the edges of a frame."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segx.ops.polygons import area, clip, encloses

if TYPE_CHECKING:
    from numpy.typing import NDArray

POINTS = st.lists(st.tuples(st.integers(-30, 70), st.integers(-30, 70)), min_size=3, max_size=9)


@pytest.mark.parametrize(
    ("ring", "expected"),
    [
        ([(0, 0), (4, 0), (4, 4)], True),
        ([(10, 10), (50, 10), (10, 50), (50, 50)], True),  # a Z closed: two equal lobes
        ([(0, 0), (2, 2), (4, 4)], False),
        ([(0, 0), (4, 0), (4, 4), (4, 0)], False),  # there and back again
        ([(3, 3)] * 4, False),
        ([(0, 0), (0, 9), (0, 4)], False),
    ],
)
def test_what_encloses_anything(ring: list[tuple[int, int]], expected: bool) -> None:
    assert encloses(np.array(ring, float)) is expected


def test_area_is_that_of_the_shoelace() -> None:
    assert area(np.array([[1, 1], [5, 1], [5, 4], [1, 4]], float)) == 12


def test_an_edge_keeps_its_slope() -> None:
    cut = clip(np.array([[-10, 0], [10, 20], [10, 40], [-10, 40]], float), 60, 60)
    assert [0, 10] in cut.tolist()
    assert area(cut) == 250


def within(ring: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say of each place (n, 2) whether a ring encloses it, even-odd."""
    one, other = ring[None], np.roll(ring, -1, axis=0)[None]
    x, y = places[:, :1], places[:, 1:]
    crossing = (one[..., 1] > y) != (other[..., 1] > y)
    height = np.where(crossing, other[..., 1] - one[..., 1], 1)
    at = one[..., 0] + (y - one[..., 1]) / height * (other[..., 0] - one[..., 0])
    return np.asarray((crossing & (at > x)).sum(axis=1) % 2 == 1)


@given(POINTS)
def test_what_is_enclosed_inside_the_frame_is_what_the_whole_encloses_there(points: list[tuple[int, int]]) -> None:
    ring = np.array(points, float)
    inside = clip(ring, 40, 30)
    assert ((inside >= 0) & (inside <= [40, 30])).all()
    places = np.argwhere(np.ones((40, 30))) + np.array([0.3711237, 0.6180339])
    part = within(inside, places) if len(inside) else np.zeros(len(places), np.bool_)
    np.testing.assert_array_equal(part, within(ring, places))
