"""Masks equal the dense definition, in float64, pixel for pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from segx.structures.batch import place
from segx_task_segment import mask_assembly
from segx_task_segment.mask_assembly import image_masks, input_masks

if TYPE_CHECKING:
    from segx.structures.batch import Letterbox


def interpolation(centres: np.ndarray, count: int) -> np.ndarray:
    """The bilinear weights (pixels, prototypes) for centres in numbered prototypes; edges are repeated."""
    source = np.clip(centres, 0, count - 1)
    before = np.floor(source).astype(int)
    matrix = np.zeros((len(centres), count))
    pixels = np.arange(len(centres))
    np.add.at(matrix, (pixels, before), 1 - (source - before))
    np.add.at(matrix, (pixels, np.minimum(before + 1, count - 1)), source - before)
    return matrix


def dense_logits(prototypes: np.ndarray, coefficients: np.ndarray, place: Letterbox, frame: str) -> np.ndarray:
    """Float64 (N, H, W): every pixel of the frame, half-pixel centres, ``align_corners=False``."""
    logits = np.tensordot(coefficients.astype(np.float64), prototypes.astype(np.float64), 1)
    rows, columns = logits.shape[1:]
    (in_height, in_width), (height, width) = place.input, place.original
    if frame == "image":
        y = place.top + (np.arange(height) + 0.5) * place.height / height
        x = place.left + (np.arange(width) + 0.5) * place.width / width
    else:
        y, x = np.arange(in_height) + 0.5, np.arange(in_width) + 0.5
    down = interpolation(y * rows / in_height - 0.5, rows)
    across = interpolation(x * columns / in_width - 0.5, columns)
    return np.einsum("yr,nrc,xc->nyx", down, logits, across, optimize=True)


def box_filter(boxes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Bool (N, H, W): pixels with x1 <= x < x2 and y1 <= y < y2."""
    x1, y1, x2, y2 = boxes.astype(np.float64).T[:, :, None]
    y, x = np.arange(shape[0]), np.arange(shape[1])
    return ((y >= y1) & (y < y2))[:, :, None] & ((x >= x1) & (x < x2))[:, None, :]


def random_boxes(rng: np.random.Generator, count: int, shape: tuple[int, int]) -> np.ndarray:
    """Boxes of all sizes: whole frame, whole pixels, nothing, partly outside."""
    size = np.array([shape[1], shape[0]])
    ends = rng.uniform(-0.1, 1.1, (2, count, 2)) * size
    boxes = np.concatenate([ends.min(axis=0), ends.max(axis=0)], axis=1).astype(np.float32)
    boxes[0] = [0, 0, *size]
    boxes[1] = np.round(boxes[1])
    boxes[2] = [5, 5, 5, 9]
    return boxes


@pytest.mark.parametrize("frame", ["image", "input"])
@pytest.mark.parametrize("seed", range(40))
def test_equal_the_dense_definition(seed: int, frame: str) -> None:
    """Any image (up to 25 pixels a prototype, down to several prototypes a pixel), any padding, any box."""
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 7)) * 32, int(rng.integers(1, 7)) * 32)
    original = tuple(rng.integers(1, 40 if seed % 3 == 0 else 800, 2).tolist())
    geometry = place(original, shape)
    prototypes = rng.normal(size=(8, shape[0] // 4, shape[1] // 4)).astype(np.float32)
    coefficients = rng.normal(size=(6, 8)).astype(np.float32)
    target = original if frame == "image" else shape
    boxes = random_boxes(rng, 6, target)
    form = image_masks if frame == "image" else input_masks
    masks = form(prototypes, coefficients, boxes, geometry)
    logits = dense_logits(prototypes, coefficients, geometry, frame)
    different = masks.data.astype(bool) != ((logits > 0) & box_filter(boxes, target))
    assert (masks.area == masks.data.sum(axis=(1, 2), dtype=np.int64)).all()
    assert masks.shape == logits.shape
    assert np.abs(logits[different]).max(initial=0) < 1e-5
    assert different.sum() <= 2


def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    geometry = place((300, 400), (160, 160))
    prototypes = rng.normal(size=(8, 40, 40)).astype(np.float32)
    coefficients = rng.normal(size=(30, 8)).astype(np.float32)
    boxes = random_boxes(rng, 30, (300, 400))
    whole = image_masks(prototypes, coefficients, boxes, geometry)
    monkeypatch.setattr(mask_assembly, "CHUNK", 1)
    cut = image_masks(prototypes, coefficients, boxes, geometry)
    np.testing.assert_array_equal(whole.data, cut.data)


def test_no_objects() -> None:
    prototypes = np.zeros((8, 40, 40), np.float32)
    masks = image_masks(
        prototypes, np.zeros((0, 8), np.float32), np.zeros((0, 4), np.float32), place((9, 7), (160, 160))
    )
    assert masks.shape == (0, 9, 7)


def test_zero_is_off_and_extremes_are_on() -> None:
    """The threshold is above zero; huge logits neither overflow nor turn."""
    geometry = place((64, 64), (64, 64))
    boxes = np.array([[0, 0, 64, 64]], np.float32)
    weight = np.ones((1, 1), np.float32)
    for value, pixels in ((0.0, 0), (1e-30, 4096), (1e30, 4096), (-1e30, 0), (np.nan, 0)):
        prototypes = np.full((1, 16, 16), value, np.float32)
        assert image_masks(prototypes, weight, boxes, geometry).area[0] == pixels


def test_memory_is_that_of_the_bits() -> None:
    """300 objects in 12 megapixels: an eighth of a byte per box pixel, never N x H x W."""
    rng = np.random.default_rng(0)
    geometry = place((3000, 4000), (640, 640))
    prototypes = rng.normal(size=(4, 160, 160)).astype(np.float32)
    corner = rng.uniform(0, 1, (300, 2)) * (3600, 2600)
    boxes = np.concatenate([corner, corner + 400], axis=1).astype(np.float32)
    masks = image_masks(prototypes, rng.normal(size=(300, 4)).astype(np.float32), boxes, geometry)
    assert masks.nbytes < 300 * 400 * 8 * 8
    assert masks.area.sum() > 0


def by_rows(prototypes: np.ndarray, weights: np.ndarray, box: np.ndarray, geometry: Letterbox) -> np.ndarray:
    """One mask, bool (H, W), with no cell left out: every row at prototype width, every crossing toggled."""
    height, width = geometry.original
    across, down = (
        mask_assembly._axis(count / side, count, pixels, padding, extent)
        for count, side, pixels, padding, extent in (
            (prototypes.shape[2], geometry.input[1], width, geometry.left, geometry.width),
            (prototypes.shape[1], geometry.input[0], height, geometry.top, geometry.height),
        )
    )
    x0, y0, x1, y1 = np.clip(np.ceil(box), 0, [width, height] * 2).astype(int)
    toggled = np.zeros((height, width + 1), bool)
    if x1 <= x0 or y1 <= y0:
        return toggled[:, :-1]
    left, right = across.before[x0], min(across.before[x1 - 1] + 2, across.prototypes)
    logits = np.einsum("k,khw->hw", weights, prototypes[:, :, left:right])
    steps = np.diff(logits, axis=0, append=logits[-1:])
    for y in range(y0, y1):
        row, weight = down.before[y], np.float32(down.position[y] - down.before[y])
        samples = np.pad(steps[row] * weight + logits[row], 1, constant_values=-1)
        for column in np.flatnonzero((samples[1:] > 0) != (samples[:-1] > 0)).tolist():
            here, after = samples[column : column + 2].astype(np.float64)
            pixel = (left + column - 1 + here / (here - after) - across.start) / across.slope
            pixel = np.clip(np.floor(pixel) + 1 if after > 0 else np.ceil(pixel), x0, x1)
            pixel = x0 if column == 0 else x1 if column == right - left else int(pixel)
            toggled[y, pixel] ^= True
    return np.logical_xor.accumulate(toggled, axis=1)[:, :-1]


@pytest.mark.parametrize("seed", range(12))
def test_cells_without_an_outline_are_left_out_to_the_bit(seed: int) -> None:
    """Noise, in which no cell can be left out; smooth ones and nearly flat ones around zero, in which most can."""
    rng = np.random.default_rng(seed)
    geometry = place(tuple(rng.integers(20, 500, 2).tolist()), (160, 224))
    prototypes = rng.normal(size=(5, 40, 56)).astype(np.float32)
    if seed % 3:
        prototypes = np.stack([cv2.GaussianBlur(plane, (0, 0), 4) for plane in prototypes])
    if seed % 3 == 2:
        prototypes = np.round(prototypes * 8) * np.float32(1e-8)  # zeros, and ends of cells that round to them
    coefficients = np.round(rng.normal(size=(6, 5)), 1).astype(np.float32)
    boxes = random_boxes(rng, 6, geometry.original)
    masks = image_masks(prototypes, coefficients, boxes, geometry).data
    for mask, weights, box in zip(masks, coefficients, boxes, strict=True):
        np.testing.assert_array_equal(mask, by_rows(prototypes, weights, box, geometry))


def test_what_goes_beyond_all_numbers_is_nowhere_and_spills_nowhere() -> None:
    geometry = place((300, 300), (64, 64))
    boxes = np.array([[0, 0, 300, 300]], np.float32)
    prototypes = np.ones((2, 16, 16), np.float32)
    prototypes[:, 5, 7] = 3e38
    mask = image_masks(prototypes, np.array([[1, 2]], np.float32), boxes, geometry).data[0].astype(bool)
    assert mask[:60].all()
    assert mask[150:].all()
    assert not mask[100, 141]


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_counts_as_zero(value: float) -> None:
    rng = np.random.default_rng(1)
    geometry = place((300, 300), (64, 64))
    boxes = np.array([[0, 0, 300, 300], [0, 0, 50, 50], [40, 30, 290, 200]], np.float32)
    prototypes, weights = rng.normal(size=(2, 16, 16)).astype(np.float32), np.ones((3, 2), np.float32)
    weights[2, 0] = 0
    without = prototypes.copy()
    without[0, 5, 7] = 0
    expected = image_masks(without, weights, boxes, geometry)
    prototypes[0, 5, 7] = value
    found = image_masks(prototypes, weights, boxes, geometry)
    assert found.rle == expected.rle
    assert (found.area > 0).all()
