"""What outlines enclose, and how they are cut at the edges of a frame."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segx.masks import Masks
from segx.outlines import area, clip, encloses

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


@given(POINTS)
def test_the_part_inside_has_the_pixels_that_the_whole_has_there(points: list[tuple[int, int]]) -> None:
    ring = np.array(points, float) + 0.3
    inside = clip(ring, 40, 30)
    assert ((inside >= 0) & (inside <= [40, 30])).all()
    whole = Masks.from_polygons([[ring]], (30, 40)).area[0]
    part = Masks.from_polygons([[inside]], (30, 40)).area[0] if len(inside) > 2 else 0
    assert abs(whole - part) <= 1  # a pixel whose centre lies on an edge
