"""COCO's run-length encoding, vectorised: runs go down each column, columns from left to right, the first run is off.

The format is that of the COCO API (Lin et al., "Microsoft COCO: Common Objects in Context", cocoapi ``maskApi``):
counts are written as differences to the count two places before, in groups of five bits from the lowest up, one
character each (48 + group, + 32 while more follow).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def from_bitmap(bitmap: NDArray[np.bool_], offset: tuple[int, int], height: int, width: int) -> NDArray[np.int64]:
    """Return the run lengths of a frame of (height, width) that holds a bitmap at an offset (x, y), else nothing."""
    x0, y0 = offset
    columns = np.zeros((bitmap.shape[1], bitmap.shape[0] + 2), np.int8)
    columns[:, 1:-1] = bitmap.T
    column, row = np.nonzero(columns[:, 1:] != columns[:, :-1])
    edges = (x0 + column) * height + y0 + row
    begins, ends = edges[0::2], edges[1::2]
    apart = begins[1:] != ends[:-1]  # a run that reaches the foot of a column goes on at the head of the next
    turns = np.empty(2 * (np.count_nonzero(apart) + (begins.size > 0)), np.int64)
    turns[0::2] = begins[np.concatenate([[True], apart])] if begins.size else begins
    turns[1::2] = ends[np.concatenate([apart, [True]])] if begins.size else ends
    counts = np.diff(turns, prepend=0, append=height * width)
    return counts[:-1] if counts[-1] == 0 and counts.size > 1 else counts


def to_bitmap(counts: NDArray[np.int64], height: int, width: int) -> tuple[NDArray[np.bool_], tuple[int, int]]:
    """Return the smallest bitmap that holds what the run lengths turn on, and its offset (x, y).

    Raises:
        ValueError: The counts do not fill the frame.
    """
    turns = np.cumsum(counts)
    if (turns[-1] if turns.size else 0) != height * width or (counts < 0).any():
        raise ValueError(f"run lengths do not fill a frame of {height} x {width} pixels")
    begins, ends = turns[0::2][: turns.size // 2], turns[1::2]
    some = ends > begins
    begins, ends = begins[some], ends[some]
    if begins.size == 0:
        return np.zeros((0, 0), np.bool_), (0, 0)
    left, right = int(begins[0] // height), int((ends[-1] - 1) // height) + 1
    runs = np.stack([begins, ends], axis=1).ravel() - left * height
    lengths = np.diff(runs, prepend=0, append=(right - left) * height)
    flat = np.repeat(np.arange(lengths.size) & 1, lengths).astype(np.bool_)
    columns = flat.reshape(right - left, height)
    used = np.flatnonzero(columns.any(axis=0))
    top, bottom = int(used[0]), int(used[-1]) + 1
    return np.ascontiguousarray(columns[:, top:bottom].T), (left, top)


def box(counts: NDArray[np.int64], height: int) -> tuple[float, float, float, float]:
    """Return x, y, width, height of what run lengths turn on in a frame of this height; something must be on."""
    turns = np.cumsum(counts)
    begins, ends = turns[0::2][: turns.size // 2], turns[1::2]
    begins, ends = begins[ends > begins], ends[ends > begins] - 1
    left, right = int(begins[0] // height), int(ends[-1] // height)
    if (begins // height != ends // height).any():  # a run that goes on at the head of the next column
        top, bottom = 0, height - 1
    else:
        top, bottom = int((begins % height).min()), int((ends % height).max())
    return float(left), float(top), float(right - left + 1), float(bottom - top + 1)


def compress(counts: NDArray[np.int64]) -> bytes:
    """Return run lengths as COCO's compressed text."""
    values = counts.copy()
    values[3:] -= counts[1:-2]
    size = np.where(values < 0, ~values, values)  # magnitude; one more bit holds the sign
    groups = np.ones(values.size, np.int64)
    for bits in range(4, 64, 5):
        more = size >> bits != 0
        if not more.any():
            break
        groups += more
    place = np.arange(int(groups.max(initial=0)))
    chars = (values[:, None] >> (5 * place)) & 31
    chars += np.where(place < groups[:, None] - 1, 32, 0) + 48
    return chars[place < groups[:, None]].astype(np.uint8).tobytes()


def counts_of(counts: bytes | str | Sequence[int]) -> NDArray[np.int64]:
    """Return run lengths from compressed text or from a plain list.

    Raises:
        ValueError: The text is not COCO's.
    """
    if not isinstance(counts, bytes | str):
        return np.asarray(counts, np.int64)
    text = counts.encode("ascii") if isinstance(counts, str) else counts
    chars = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if ((chars < 0) | (chars > 63)).any() or (chars.size and chars[-1] & 32):
        raise ValueError("compressed run lengths are damaged")
    last = np.flatnonzero(chars & 32 == 0)
    if last.size == 0:
        return np.zeros(0, np.int64)
    first = np.concatenate([[0], last[:-1] + 1])
    place = np.arange(chars.size) - np.repeat(first, last - first + 1)
    values = np.add.reduceat((chars & 31) << (5 * place), first)
    values -= np.where(chars[last] & 16, np.left_shift(1, 5 * (place[last] + 1)), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
