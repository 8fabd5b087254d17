"""Masks from prototypes and coefficients: exact at any resolution, without ever touching every pixel.

A mask is where ``coefficients . prototypes``, interpolated bilinearly with half-pixel centres, is above zero. Between
four prototypes that are all above zero, or all not, so is every pixel: only the cells in which the sign changes are
looked into. There one row of the image is a straight line from one prototype column to the next, whose zero crossing
gives the first pixel of a run. The runs are filled as bits, 64 pixels at a time. At 12 megapixels a cell is 25 x 25
pixels, and the work is that of the outlines, 25 times less than that of forming, comparing and writing their pixels.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from segx.ops.bits import fill_between, words_per_row
from segx.records import Record
from segx.structures.masks import Masks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from segx.structures.batch import Letterbox

CHUNK = 1 << 18
"""Most rows of cells (float32) held at a time if every cell were an outline's, unless one object alone needs more."""


class Axis(Record, kw_only=False):
    """How pixel numbers of the frame map to prototype numbers along one axis: ``slope * pixel + start``.

    Both number centres. Between two prototypes the logit is interpolated, beyond the outermost it stays as it is.

    Attributes:
        slope: Prototypes per pixel.
        start: Where the centre of pixel 0 is.
        prototypes: How many there are.
        pixels: How many pixels the frame has.
    """

    slope: float
    start: float
    prototypes: int
    pixels: int

    @cached_property
    def position(self) -> NDArray[np.float64]:
        """Where the centre of each pixel is, kept within the outermost prototypes."""
        return np.clip(np.arange(self.pixels) * self.slope + self.start, 0, self.prototypes - 1)

    @cached_property
    def before(self) -> NDArray[np.int64]:
        """The prototype before each pixel; never the last, so that one always follows, unless there is only one."""
        return np.minimum(self.position.astype(np.int64), max(self.prototypes - 2, 0))

    @cached_property
    def first(self) -> NDArray[np.int64]:
        """(prototypes + 1): the first pixel that has this prototype, or a later one, before it."""
        return np.searchsorted(self.before, np.arange(self.prototypes + 1))

    @cached_property
    def weights(self) -> NDArray[np.float32]:
        """(prototypes, most): how far each pixel after a prototype is on the way to the next, 0..1; then NaN."""
        first, last = self.first[:-1, None], self.first[1:, None]
        pixel = first + np.arange((last - first).max(initial=1))
        inside = np.minimum(pixel, self.pixels - 1)
        weight = (self.position[inside] - self.before[inside]).astype(np.float32)
        return np.where(pixel < last, weight, np.float32(np.nan))

    def needed(self, first: NDArray[np.int64], last: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the first and last (exclusive) prototypes that pixels first..last (exclusive) need."""
        return self.before[first], np.minimum(self.before[last - 1] + 2, self.prototypes)


class Windows(Record, kw_only=False):
    """The rectangles of objects in the frame, and the cells between the prototypes they need.

    Attributes:
        rects: int64 (N, 4), x0, y0, x1, y1 in pixels of the frame, the last two exclusive.
        left: int64 (N,), first prototype column.
        top: int64 (N,), first prototype row.
        columns: int64 (N,), prototype columns.
        rows: int64 (N,), rows of cells; 0 where the rectangle is empty.
    """

    rects: NDArray[np.int64]
    left: NDArray[np.int64]
    top: NDArray[np.int64]
    columns: NDArray[np.int64]
    rows: NDArray[np.int64]

    @classmethod
    def of(cls, rects: NDArray[np.int64], across: Axis, down: Axis) -> Windows:
        """Return the windows of rectangles."""
        empty = np.any(rects[:, 2:] <= rects[:, :2], axis=1)
        x0, y0, x1, y1 = np.where(np.expand_dims(empty, 1), [0, 0, 1, 1], rects).T
        (left, right), (top, bottom) = across.needed(x0, x1), down.needed(y0, y1)
        return cls(rects, left, top, right - left, np.where(empty, 0, np.maximum(bottom - top - 1, 1)))

    @property
    def samples(self) -> NDArray[np.int64]:
        """Samples of each: its columns, and one of nothing at either end, where runs that reach that far end."""
        return self.rows * (self.columns + 2)

    def __getitem__(self, some: slice) -> Windows:
        return Windows(self.rects[some], self.left[some], self.top[some], self.columns[some], self.rows[some])


def image_masks(
    prototypes: NDArray[np.float32],
    coefficients: NDArray[np.float32],
    boxes: NDArray[np.float32],
    geometry: Letterbox,
) -> Masks:
    """Return masks at the resolution of the image.

    Args:
        prototypes: float32 (nm, h, w), covering the network input; what is not finite counts as zero.
        coefficients: float32 (N, nm).
        boxes: (N, 4), x1, y1, x2, y2 in pixels of the image; pixels with x1 <= x < x2, y1 <= y < y2 are kept.
        geometry: Where the image lies in the network input.
    """
    (height, width), (in_height, in_width) = geometry.original, geometry.input
    across = _axis(prototypes.shape[2] / in_width, prototypes.shape[2], width, geometry.left, geometry.width)
    down = _axis(prototypes.shape[1] / in_height, prototypes.shape[1], height, geometry.top, geometry.height)
    return _assemble(prototypes, coefficients, boxes, frame=geometry.original, across=across, down=down)


def input_masks(
    prototypes: NDArray[np.float32],
    coefficients: NDArray[np.float32],
    boxes: NDArray[np.float32],
    geometry: Letterbox,
) -> Masks:
    """Return masks at the resolution of the network input, padding included.

    Arguments are those of :func:`image_masks`, with boxes in pixels of the network input.
    """
    height, width = geometry.input
    across = _axis(prototypes.shape[2] / width, prototypes.shape[2], width, 0, width)
    down = _axis(prototypes.shape[1] / height, prototypes.shape[1], height, 0, height)
    masks = _assemble(prototypes, coefficients, boxes, frame=geometry.input, across=across, down=down)
    image = (geometry.left, geometry.top, geometry.width, geometry.height)
    return dataclasses.replace(masks, orig_shape=geometry.original, image=image)


@lru_cache(maxsize=64)
def _axis(density: float, prototypes: int, pixels: int, padding: int, extent: int) -> Axis:
    """Return the axis of a frame whose pixels cover ``extent`` input pixels after the padding.

    ``density`` is prototypes per input pixel. Centres of pixels and of prototypes are half a step from their edges.
    """
    gain = extent / pixels
    return Axis(gain * density, (padding + 0.5 * gain) * density - 0.5, prototypes, pixels)


def _assemble(
    prototypes: NDArray[np.float32],
    coefficients: NDArray[np.float32],
    boxes: NDArray[np.float32],
    *,
    frame: tuple[int, int],
    across: Axis,
    down: Axis,
) -> Masks:
    limit = np.array([frame[1], frame[0]] * 2)
    edges = np.clip(np.ceil(boxes.astype(np.float64)), 0, limit).astype(np.int64)
    edges[:, 2:] = np.maximum(edges[:, 2:], edges[:, :2])
    windows = Windows.of(edges, across, down)
    words: list[NDArray[np.uint64]] = []
    areas = [np.zeros(0, np.int64)]
    for chunk in _chunks(windows.samples * down.weights.shape[1]):
        logits = _finite_logits(prototypes, coefficients[chunk], windows[chunk])
        filled, area = _fill(logits, windows[chunk], across, down)
        words += filled
        areas.append(area)
    whole = (0, 0, frame[1], frame[0])
    masks = Masks(frame=frame, rects=edges.astype(np.int32), words=tuple(words), orig_shape=frame, image=whole)
    masks.__dict__["area"] = np.concatenate(areas)  # known already: the runs' lengths
    return masks


def _chunks(sizes: NDArray[np.int64]) -> Iterator[slice]:
    """Cut objects of these sizes into groups that hold at most :data:`CHUNK` together, or one object."""
    start, held = 0, 0
    for i, size in enumerate(sizes.tolist()):
        if held and held + size > CHUNK:
            yield slice(start, i)
            start, held = i, 0
        held += size
    if start < len(sizes):
        yield slice(start, len(sizes))


class _Logits(NamedTuple):
    """Logits of objects, one row of cells after the other, those of an object between columns of -1.

    Attributes:
        values: float32 (samples,).
        steps: How far it is from each to the one below.
        ends: Their sums: whatever is interpolated lies between a value and its end, for rounding is monotonous.
    """

    values: NDArray[np.float32]
    steps: NDArray[np.float32]
    ends: NDArray[np.float32]


def _finite_logits(prototypes: NDArray[np.float32], coefficients: NDArray[np.float32], windows: Windows) -> _Logits:
    """Return the logits of objects. Prototypes that are not finite count as zero.

    It shows in what is made of them, a tenth of the numbers. Where finite ones go beyond all numbers, nothing is on.
    """
    values, steps = _sample(prototypes, coefficients, windows)
    with np.errstate(over="ignore", invalid="ignore"):
        ends = values + steps
        if not np.isfinite(ends).all():
            clean = np.nan_to_num(prototypes, nan=0.0, posinf=0.0, neginf=0.0)
            values, steps = _sample(clean, coefficients, windows)
            ends = values + steps
            beyond = ~np.isfinite(ends)
            values[beyond], steps[beyond], ends[beyond] = -1, 0, -1
    return _Logits(values, steps, ends)


def _sample(
    prototypes: NDArray[np.float32], coefficients: NDArray[np.float32], windows: Windows
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return ``values`` and ``steps`` of :class:`_Logits`."""
    values = np.full(windows.samples.sum(), -1, np.float32)
    steps = np.zeros_like(values)
    offset = 0
    table = np.stack([windows.left, windows.top, windows.columns, windows.rows, windows.samples], axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        for (left, top, columns, rows, samples), weights in zip(table.tolist(), coefficients, strict=True):
            part = slice(offset, offset + samples)
            offset += samples
            if not samples:
                continue
            needed = prototypes[:, top : top + rows + 1, left : left + columns]
            logits = np.einsum("k,khw->hw", weights, needed)  # not @: BLAS would spread it over threads that spin
            inside = (rows, columns + 2)
            values[part].reshape(inside)[:, 1:-1] = logits[:rows]
            if len(logits) > 1:
                np.subtract(logits[1:], logits[:-1], out=steps[part].reshape(inside)[:, 1:-1])
    return values, steps


def _fill(
    logits: _Logits, windows: Windows, across: Axis, down: Axis
) -> tuple[list[NDArray[np.uint64]], NDArray[np.int64]]:
    """Return each object's bitmap and area: rows solved for their zero crossings, and the runs between them filled."""
    x0, y0, x1, y1 = windows.rects.T
    strides = words_per_row(x1 - x0)
    spans = (y1 - y0) * strides
    base, begin = np.cumsum(spans) - spans, np.cumsum(windows.samples) - windows.samples

    values, steps, ends = logits
    above, below = values > 0, ends > 0
    some, every = above | below, above & below
    cells = np.flatnonzero((some[1:] | some[:-1]) & ~(every[1:] & every[:-1]))  # rows end as they begin, not above
    owner = np.searchsorted(begin, cells, side="right") - 1
    row, column = np.divmod(cells - begin[owner], windows.columns[owner] + 2)
    band = windows.top[owner] + row
    weights, line = down.weights[band], np.arange(down.weights.shape[1])
    here = steps[cells, None] * weights
    here += values[cells, None]
    after = steps[cells + 1, None] * weights
    after += values[cells + 1, None]
    into = after > 0
    crosses = (here > 0) != into
    first = down.first[band] - y0[owner]
    cut = np.flatnonzero((row == 0) | (row == windows.rows[owner] - 1))  # by the rectangle
    height = (y1 - y0)[owner[cut]]
    crosses[cut] &= (line >= -first[cut, None]) & (line < (height - first[cut])[:, None])

    found = np.flatnonzero(crosses)
    cell = found // len(line)
    line = found - cell * len(line)
    before, behind = here.ravel()[found].astype(np.float64), after.ravel()[found].astype(np.float64)
    crossing = (windows.left[owner] + column - 1)[cell] + before / (before - behind)
    pixel = (crossing - across.start) / across.slope
    whole = np.floor(pixel)
    pixel = (whole + (into.ravel()[found] | (pixel > whole))).astype(np.int64)  # the first above zero, or not above

    least = np.where(column == windows.columns[owner], x1[owner], x0[owner])
    most = np.where(column == 0, x0[owner], x1[owner])
    pixel = np.minimum(np.maximum(pixel, least[cell]), most[cell])
    origin = (base[owner] + first * strides[owner]) * 64 - x0[owner]
    positions = origin[cell] + line * (strides[owner] * 64)[cell] + pixel
    positions.sort()
    on = np.concatenate([[0], np.cumsum(positions[1::2] - positions[::2])])
    area = np.diff(on[np.searchsorted(positions[::2], np.append(base, base[-1] + spans[-1]) * 64)])
    filled = fill_between(positions, int(spans.sum()))
    bitmaps = [
        filled[start : start + span].reshape(-1, stride)
        for start, span, stride in zip(base.tolist(), spans.tolist(), strides.tolist(), strict=True)
    ]
    return bitmaps, area
