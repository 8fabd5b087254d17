"""Our run lengths are pycocotools' run lengths, byte for byte, both ways."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from segx.structures import rle
from segx.structures.masks import Masks

bitmaps = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=24))


@given(bitmaps)
def test_equals_pycocotools(mask: np.ndarray) -> None:
    theirs = coco.encode(np.asfortranarray(mask, np.uint8))
    ours = Masks.from_dense(mask[None]).rle[0]
    assert ours == {"size": list(theirs["size"]), "counts": theirs["counts"]}


@given(bitmaps)
def test_reads_pycocotools(mask: np.ndarray) -> None:
    theirs = coco.encode(np.asfortranarray(mask, np.uint8))
    np.testing.assert_array_equal(Masks.from_rle([theirs]).data[0], mask)


@given(hnp.arrays(np.int64, st.integers(0, 12), elements=st.integers(0, 2**40)))
def test_text_holds_any_counts(counts: np.ndarray) -> None:
    np.testing.assert_array_equal(rle.counts_of(rle.compress(counts)), counts)


@pytest.mark.parametrize("density", [0.001, 0.5, 0.999])
def test_large_frames(density: float) -> None:
    mask = np.random.default_rng(0).random((701, 1203)) < density
    theirs = coco.encode(np.asfortranarray(mask, np.uint8))
    ours = Masks.from_dense(mask[None]).rle[0]
    assert ours["counts"] == theirs["counts"]
    np.testing.assert_array_equal(Masks.from_rle([ours]).data[0], mask)


def test_reads_text_and_plain_lists() -> None:
    mask = np.zeros((1, 4, 5), np.uint8)
    mask[0, 1:3, 2:4] = 1
    text = Masks.from_dense(mask).rle[0]["counts"].decode()
    assert (Masks.from_rle([{"size": [4, 5], "counts": text}]).data == mask).all()
    assert (Masks.from_rle([{"size": [4, 5], "counts": [9, 2, 2, 2, 5]}]).data == mask).all()
    assert (Masks.from_rle([{"size": [4, 5], "counts": [9, 0, 0, 2, 2, 2, 5]}]).data == mask).all(), "zero runs"


@pytest.mark.parametrize("counts", [[9, 2], [30], [-1, 21], [], b"x\xff", b"P"])
def test_damaged_run_lengths_are_reported(counts: list[int] | bytes) -> None:
    with pytest.raises(ValueError, match="run lengths"):
        Masks.from_rle([{"size": [4, 5], "counts": counts}])
