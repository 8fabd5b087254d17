"""Whatever a ``Masks`` is made of and looked at as, it is the same pixels."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segx.ops.bits import pack, unpack
from segx.ops.polygons import Polygon
from segx.structures.masks import Masks

stacks = hnp.arrays(
    np.bool_,
    st.tuples(st.integers(1, 3), st.integers(1, 30), st.integers(1, 140)),
    elements=st.booleans(),
    fill=st.booleans(),
)


def blobs(count: int = 4, shape: tuple[int, int] = (120, 200), seed: int = 0) -> np.ndarray:
    """Bool (N, H, W): smooth shapes with several parts and holes."""
    noise = np.random.default_rng(seed).normal(size=(count, *shape))
    return np.stack([cv2.GaussianBlur(plane, (0, 0), 5) > 0.02 for plane in noise])


@given(stacks)
def test_dense_and_back(dense: np.ndarray) -> None:
    masks = Masks.from_dense(dense)
    np.testing.assert_array_equal(masks.data, dense)
    np.testing.assert_array_equal(masks.area, dense.sum(axis=(1, 2)))
    assert masks.shape == dense.shape
    assert masks.data.dtype == np.uint8


@given(stacks)
def test_polygons_and_back(dense: np.ndarray) -> None:
    """Filled again, polygons give exactly the mask they came from: parts, holes, single pixels, diagonals."""
    masks = Masks.from_dense(dense)
    again = Masks.from_polygons(masks.polygons, dense.shape[1:])
    np.testing.assert_array_equal(again.data, dense)


@given(stacks)
def test_bits_and_back(dense: np.ndarray) -> None:
    words = pack(dense[0])
    np.testing.assert_array_equal(unpack(words, dense.shape[2]), dense[0])
    unused = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")[:, dense.shape[2] :]
    assert not unused.any()


@given(stacks, stacks)
def test_iou_is_that_of_the_pixels(first: np.ndarray, second: np.ndarray) -> None:
    height, width = max(first.shape[1], second.shape[1]), max(first.shape[2], second.shape[2])
    a, b = (np.zeros((len(s), height, width), np.bool_) for s in (first, second))
    a[:, : first.shape[1], : first.shape[2]] = first
    b[:, height - second.shape[1] :, width - second.shape[2] :] = second
    shared = (a[:, None] & b[None]).sum(axis=(2, 3))
    union = (a[:, None] | b[None]).sum(axis=(2, 3))
    expected = np.where(union > 0, shared / np.maximum(union, 1), 0)
    np.testing.assert_allclose(Masks.from_dense(a).iou(Masks.from_dense(b)), expected)


def test_indexing_like_an_array() -> None:
    dense = blobs(5)
    masks = Masks.from_dense(dense)
    for index in (0, -1, slice(1, 4), slice(None, None, -1), [3, 1], np.array([True, False, True, False, True]), []):
        np.testing.assert_array_equal(masks[index].data, dense[index].reshape(-1, *dense.shape[1:]))
    assert len(list(masks)) == 5
    assert all(len(one) == 1 for one in masks)
    with pytest.raises(IndexError):
        masks[5]


def test_what_is_chosen_keeps_what_is_known_of_it_alone() -> None:
    masks = Masks.from_dense(np.stack([np.eye(6), np.ones((6, 6)), np.zeros((6, 6))]))
    assert masks[1:].area.tolist() == [36, 0]
    assert (masks.area.tolist(), len(masks.xy)) == ([6, 36, 0], 3)
    some = masks[[2, 0]]
    assert (some.area.tolist(), len(some.xy), some.frame) == ([0, 6], 2, (6, 6))
    with pytest.raises(ValueError, match="read-only"):
        some.rects[0] = 0


def test_overlaps_that_cannot_reach_what_is_asked_are_not_counted() -> None:
    first, second = Masks.from_dense(blobs(6)), Masks.from_dense(blobs(5, seed=1))
    least = np.linspace(0, 0.5, 6)[:, None]
    whole, some = first.iou(second), first.iou(second, least=least)
    np.testing.assert_array_equal(some[whole >= least], whole[whole >= least])
    np.testing.assert_array_equal(some, np.stack([first[i].iou(second, least=low)[0] for i, low in enumerate(least)]))


def test_empty_is_an_object() -> None:
    masks = Masks.empty((30, 40))
    assert len(masks) == 0
    assert not list(masks)
    assert masks.data.shape == (0, 30, 40)
    assert (masks.xy, masks.xyn, masks.polygons, masks.rle) == ([], [], [], [])
    assert masks.area.shape == (0,)
    assert masks.bounds.shape == (0, 4)
    assert masks.iou(Masks.from_dense(blobs(2, (30, 40)))).shape == (0, 2)
    assert masks.cpu().numpy().to("cuda") is masks


def test_an_empty_mask_among_others() -> None:
    dense = blobs(3)
    dense[1] = False
    masks = Masks.from_dense(dense)
    assert masks.area[1] == 0
    assert masks.xy[1].shape == (0, 2)
    assert masks.polygons[1] == []
    assert masks.bounds[1].tolist() == [0, 0, 0, 0]
    np.testing.assert_array_equal(Masks.from_rle(masks.rle).data, dense)


def test_xy_numbers_pixels_of_the_largest_part() -> None:
    dense = np.zeros((1, 20, 30), np.bool_)
    dense[0, 2:10, 3:13] = True
    dense[0, 4:6, 6:8] = False
    dense[0, 15:17, 20:24] = True
    (ring,) = Masks.from_dense(dense).xy
    assert ring.dtype == np.float32
    assert sorted(map(tuple, ring.tolist())) == [(3, 2), (3, 9), (12, 2), (12, 9)]
    (normal,) = Masks.from_dense(dense).xyn
    np.testing.assert_allclose(normal, ring / [30, 20], rtol=1e-6)


def test_polygons_have_parts_and_holes() -> None:
    dense = np.zeros((1, 20, 30), np.bool_)
    dense[0, 2:10, 3:13] = True
    dense[0, 4:6, 6:8] = False
    dense[0, 15:17, 20:24] = True
    (parts,) = Masks.from_dense(dense).polygons
    assert sorted(len(part.holes) for part in parts) == [0, 1]
    big = next(part for part in parts if part.holes)
    assert big.exterior.min(axis=0).tolist() == [3, 2], "continuous: the left edge of the first pixel"
    assert big.exterior.max(axis=0).tolist() == [13, 10]
    assert big.holes[0].min(axis=0).tolist() == [6, 4]
    assert big.holes[0].max(axis=0).tolist() == [8, 6]


def test_rings_fill_by_pixel_centres() -> None:
    square = [[1, 1], [4, 1], [4, 3], [1, 3]]
    masks = Masks.from_polygons(
        [[square], [Polygon(exterior=np.array(square), holes=(np.array([[2, 1], [3, 1], [3, 2], [2, 2]]),))]], (5, 6)
    )
    assert masks.area.tolist() == [6, 5]
    assert masks.data[1, 1].tolist() == [0, 1, 0, 1, 0, 0]


def test_parts_that_overlap_are_united_and_outside_is_cut_off() -> None:
    masks = Masks.from_polygons([[[[-5, -5], [3, -5], [3, 3], [-5, 3]], [[2, 2], [50, 2], [50, 50], [2, 50]]]], (6, 8))
    expected = np.zeros((6, 8), np.uint8)
    expected[:3, :3] = 1
    expected[2:, 2:] = 1
    np.testing.assert_array_equal(masks.data[0], expected)


def test_degenerate_polygons_are_empty() -> None:
    for parts in ([], [[]], [[[1, 1]]], [[[1, 1], [4, 4]]], [[[100, 100], [120, 100], [110, 120]]]):
        assert Masks.from_polygons([parts], (10, 10)).area.tolist() == [0]


def test_points_of_network_masks_are_in_the_image() -> None:
    """Masks in a 64 x 64 input that shows a 20 x 40 image at gain 1.6, 16 pixels down."""
    dense = np.zeros((1, 64, 64), np.bool_)
    dense[0, 16:48, 0:32] = True
    masks = dataclasses.replace(Masks.from_dense(dense), orig_shape=(20, 40), image=(0, 16, 64, 32))
    (parts,) = masks.polygons
    np.testing.assert_allclose(parts[0].exterior.max(axis=0), [20, 20])
    np.testing.assert_allclose(parts[0].exterior.min(axis=0), [0, 0])
    np.testing.assert_allclose(masks.xyn[0].max(axis=0) * [40, 20], [31.5 / 1.6 - 0.5, 19], rtol=1e-6)


def test_it_checks_itself() -> None:
    masks = Masks.from_dense(blobs(2))
    with pytest.raises(ValueError, match="outside the frame"):
        dataclasses.replace(masks, rects=masks.rects + np.int32(150))
    with pytest.raises(ValueError, match="need rects of shape"):
        dataclasses.replace(masks, rects=masks.rects[:1])
    with pytest.raises(ValueError, match="a bitmap of"):
        dataclasses.replace(masks, words=(masks.words[0], masks.words[1][:-1]))
    with pytest.raises(ValueError, match="cannot be compared"):
        masks.iou(Masks.empty((3, 3)))
    with pytest.raises(ValueError, match="shape"):
        Masks.from_dense(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="need the shape"):
        Masks.from_rle([])
    with pytest.raises(ValueError, match="in a frame of"):
        Masks.from_rle(masks.rle, (5, 5))
    with pytest.raises(dataclasses.FrozenInstanceError):
        masks.frame = (1, 1)
    with pytest.raises(ValueError, match="read-only"):
        masks.rects[0] = 0


def test_views_never_need_the_frame() -> None:
    """Small objects in a 12-megapixel frame: everything but ``data`` stays small."""
    bitmap = np.ones((20, 30), np.bool_)
    masks = Masks.from_bitmaps([bitmap] * 300, np.arange(600).reshape(300, 2) * 4, (3000, 4000))
    assert masks.nbytes < 300 * 20 * 8 + 1
    assert masks.area.tolist() == [600] * 300
    assert masks.iou(masks).trace() == pytest.approx(300)
    assert [rle["size"] for rle in masks.rle] == [[3000, 4000]] * 300
