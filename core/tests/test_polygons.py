"""Polygons are filled as COCO fills them; what they enclose, and how they are cut at the edges of a frame."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from segx.ops.polygons import area, clip, encloses
from segx.structures.masks import Masks

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

pycocotools = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # under NumPy 2

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


def coco_fill(rings: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Return what pycocotools fills: the union of the rings."""
    parts = coco.frPyObjects([ring.ravel().tolist() for ring in rings], height, width)
    return np.asarray(coco.decode(coco.merge(parts)))


@pycocotools
@given(
    rings=st.lists(
        st.integers(3, 9).flatmap(
            lambda count: hnp.arrays(
                np.float64,
                (count, 2),
                elements=st.one_of(st.integers(-200, 1600).map(lambda tenth: tenth / 10), st.floats(-30, 170)),
            )
        ),
        min_size=1,
        max_size=3,
    ),
    height=st.integers(1, 130),
    width=st.integers(1, 150),
)
def test_fills_what_pycocotools_fills(rings: list[np.ndarray], height: int, width: int) -> None:
    """On tenths of pixels, where rounding decides, too; outside of the frame, and parts that overlap."""
    masks = Masks.from_polygons([rings, rings[:1]], (height, width))
    np.testing.assert_array_equal(masks.data[0], coco_fill(rings, height, width))
    np.testing.assert_array_equal(masks.data[1], coco_fill(rings[:1], height, width))


@pycocotools
def test_fills_what_pycocotools_fills_of_all_real_objects(real_data: Path) -> None:
    document = json.loads((real_data / "coco-mini/annotations/instances_val2017.json").read_text())
    for image in document["images"]:
        shape = image["height"], image["width"]
        objects = [
            [np.reshape(ring, (-1, 2)) for ring in item["segmentation"]]
            for item in document["annotations"]
            if item["image_id"] == image["id"] and not item["iscrowd"]
        ]
        masks = Masks.from_polygons(objects, shape)
        for mask, rings in zip(masks, objects, strict=True):
            np.testing.assert_array_equal(mask.data[0], coco_fill(rings, *shape))


def test_many_parts_and_wide_frames_are_filled_by_part() -> None:
    square = np.array([[0, 0], [3, 0], [3, 3], [0, 3]], float)
    corners = [(70 * number, 31 * number) for number in range(40)]
    masks = Masks.from_polygons([[square + corner for corner in corners], [square]], (1300, 3000))
    expected = np.zeros((1300, 3000), np.uint8)
    for x, y in corners:
        expected[y : y + 3, x : x + 3] = 1
    np.testing.assert_array_equal(masks.data[0], expected)
    assert masks.area.tolist() == [360, 9]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("far", [1e300, float("inf"), float("nan"), -1e300])
def test_points_in_no_image_do_no_harm(far: float) -> None:
    masks = Masks.from_polygons([[np.array([[1, 1], [far, 5], [1, 9]])], [[[1, 1], [9, 1], [9, 9]]]], (10, 10))
    assert masks.area[1] > 0
    assert masks.data[0].shape == (10, 10)
