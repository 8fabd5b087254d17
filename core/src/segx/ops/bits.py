"""Bitmaps at one bit per pixel: packing, and a scan-line fill of 64 pixels at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

WORD = np.dtype("<u8")
"""64 pixels of a row; the lowest bit is the leftmost pixel, on every machine."""


def words_per_row(width: int) -> int:
    """Return how many words hold a row: at least one bit is spare, so that a run can always be closed."""
    return width // 64 + 1


def pack(bitmap: NDArray[Any]) -> NDArray[np.uint64]:
    """Return an (h, w) array, anything but zero on, as :data:`WORD` (h, w // 64 + 1)."""
    height, width = bitmap.shape
    packed = np.zeros((height, words_per_row(width) * 8), np.uint8)
    packed[:, : -(-width // 8)] = np.packbits(bitmap != 0, axis=1, bitorder="little")
    return packed.view(WORD)


def unpack(words: NDArray[np.uint64], width: int) -> NDArray[np.bool_]:
    """Return what :func:`pack` packed, bool (h, width)."""
    if words.shape[0] == 0 or width == 0:
        return np.zeros((words.shape[0], width), np.bool_)
    return np.unpackbits(words.view(np.uint8), axis=1, count=width, bitorder="little").view(np.bool_)


def fill_between(positions: NDArray[np.int64], total_words: int) -> NDArray[np.uint64]:
    """Return bits that are on from each first position to each second: a scan-line fill of all rows at once.

    The prefix-XOR over bits costs a dozen operations for 64 pixels, whatever the pixels are.

    Args:
        positions: Bit positions in ascending order, an even number of them in every row; equal ones cancel out.
        total_words: Words in the result; rows and bitmaps lie in it one after another.
    """
    words = np.zeros(total_words, WORD)
    if positions.size == 0:
        return words
    index = positions >> 6
    first = np.flatnonzero(np.diff(index, prepend=-1))
    bits = np.left_shift(np.uint64(1), (positions & 63).astype(WORD))
    words[index[first]] = np.bitwise_xor.reduceat(bits, first)
    for shift in (1, 2, 4, 8, 16, 32):
        words ^= words << np.uint64(shift)
    open_after = np.bitwise_xor.accumulate((words >> np.uint64(63)).astype(np.uint8))
    words[1:][open_after[:-1].view(np.bool_)] ^= np.uint64(0xFFFFFFFFFFFFFFFF)
    return words
