"""Images go into the network where the golden numbers say, and boxes come back to where they were."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segx.structures.batch import boxes_to_image, letterbox, place, rect_shape

GOLDEN = json.loads((Path(__file__).parent / "data" / "letterbox.json").read_text())

sides = st.integers(1, 3000)
inputs = st.tuples(st.integers(1, 20), st.integers(1, 20)).map(lambda shape: (shape[0] * 32, shape[1] * 32))


@pytest.mark.parametrize("row", GOLDEN["rows"], ids=lambda row: f"{row[0]}x{row[1]}-{row[2]}")
def test_golden_geometry(row: list) -> None:
    height, width, mode, *expected = row
    shape = rect_shape((height, width), (640, 640), 32) if mode == "rect" else (640, 640)
    geometry = place((height, width), shape, scaleup=mode != "val")
    right, bottom = geometry.left + geometry.width, geometry.top + geometry.height
    assert [*shape, geometry.left, geometry.top, right, bottom] == expected


@given(sides, sides, st.integers(1, 40).map(lambda n: n * 32))
def test_rect_and_square_scale_alike(height: int, width: int, side: int) -> None:
    """An image has the same size in the rectangle as in the square: only the padding differs."""
    rect = place((height, width), rect_shape((height, width), (side, side), 32))
    square = place((height, width), (side, side))
    assert (rect.height, rect.width) == (square.height, square.width)


@given(sides, sides, inputs)
def test_image_is_inside_and_centred(height: int, width: int, shape: tuple[int, int]) -> None:
    geometry = place((height, width), shape)
    below, right = shape[0] - geometry.top - geometry.height, shape[1] - geometry.left - geometry.width
    assert 0 <= geometry.top <= below <= geometry.top + 1
    assert 0 <= geometry.left <= right <= geometry.left + 1
    assert geometry.height == shape[0] or geometry.width == shape[1]


@given(sides, sides, inputs, st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4))
def test_boxes_come_back(height: int, width: int, shape: tuple[int, int], parts: list[float]) -> None:
    geometry = place((height, width), shape)
    low, high = np.minimum(parts[:2], parts[2:]), np.maximum(parts[:2], parts[2:])
    image = np.concatenate([low, high]) * [width, height, width, height]
    corner = np.array([geometry.left, geometry.top] * 2)
    gain = np.array([geometry.width / width, geometry.height / height] * 2)
    network = (image * gain + corner).astype(np.float32)
    tolerance = 1e-6 * max(shape) / gain.min() + 1e-3
    np.testing.assert_allclose(boxes_to_image(network[None], geometry)[0], image, atol=tolerance)


def test_boxes_outside_are_clipped_to_the_image() -> None:
    geometry = place((480, 640), (640, 640))
    boxes = np.array([[-50, 0, 700, 640]], np.float32)
    np.testing.assert_array_equal(boxes_to_image(boxes, geometry), [[0, 0, 640, 480]])


def test_pixels() -> None:
    """RGB in 0..1, grey padding, the same bilinear resize that OpenCV does."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (90, 200, 3), np.uint8)
    batch, (geometry,) = letterbox([image], (128, 160))
    expected = np.full((128, 160, 3), 114, np.uint8)
    inner = cv2.resize(image, (geometry.width, geometry.height), interpolation=cv2.INTER_LINEAR)
    expected[geometry.top : geometry.top + geometry.height, geometry.left : geometry.left + geometry.width] = inner
    np.testing.assert_array_equal(batch[0], (expected[..., ::-1].astype(np.float32) / 255).transpose(2, 0, 1))


def test_small_images_are_enlarged_only_when_asked() -> None:
    image = np.full((20, 30, 3), 255, np.uint8)
    enlarged, _ = letterbox([image], (64, 64))
    kept, _ = letterbox([image], (64, 64), scaleup=False)
    assert (enlarged == 1).all(axis=1).sum() == 64 * 43
    assert (kept == 1).all(axis=1).sum() == 20 * 30


@pytest.mark.parametrize("size", [(480, 640), (427, 640), (640, 480), (33, 47), (1300, 900)])
def test_channels_may_lie_last_and_say_the_same(size: tuple[int, int]) -> None:
    images = [np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8) for seed in (0, 1)]
    planes, geometry = letterbox(images, (640, 608))
    pixels, same = letterbox(images, (640, 608), channels_last=True)
    np.testing.assert_array_equal(pixels, planes)
    assert same == geometry
    assert pixels.shape == (2, 3, 640, 608)
    assert pixels.transpose(0, 2, 3, 1).flags.c_contiguous
