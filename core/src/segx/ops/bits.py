"""Bitmaps at one bit per pixel: packing, and a scan-line fill of 64 pixels at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

WORD = np.dtype("<u8")
"""64 pixels of a row; the lowest bit is the leftmost pixel, on every machine."""

BITS = np.left_shift(np.uint64(1), np.arange(64, dtype=np.uint64))
"""Each bit of a word alone: looked up in a tenth of the time that shifting takes."""


@overload
def words_per_row(width: int) -> int: ...
@overload
def words_per_row(width: NDArray[np.int64]) -> NDArray[np.int64]: ...
def words_per_row(width: int | NDArray[np.int64]) -> int | NDArray[np.int64]:
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

    A run is ``2 ** end - 2 ** start`` of one long number. In a word that is the sum of what begins and ends there, less
    one where a run comes in from the word before; words in which nothing does are all or nothing.

    Args:
        positions: Bit positions in ascending order, an even number of them in every row; equal ones cancel out.
        total_words: Words in the result; rows and bitmaps lie in it one after another.
    """
    if positions.size == 0:
        return np.zeros(total_words, WORD)
    index = positions >> 6
    first = np.concatenate([[0], np.flatnonzero(index[1:] != index[:-1]) + 1])
    bits = BITS[positions & 63]
    np.negative(bits[::2], out=bits[::2])
    index, comes_in = index[first], (first & 1).view(np.uint64)
    goes_on = np.zeros(total_words, np.int8)
    goes_on[index[:-1]] = (first[:-1] ^ first[1:]) & 1
    goes_on[index[-1]] = comes_in[-1]
    words = np.negative(np.bitwise_xor.accumulate(goes_on), dtype=np.int64).view(np.uint64)
    words[index] = np.add.reduceat(bits, first) - comes_in
    return words.astype(WORD, copy=False)
