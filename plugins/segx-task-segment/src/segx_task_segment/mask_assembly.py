"""Masks from prototypes and coefficients: exact at any resolution, without ever touching every pixel.

A mask is where ``coefficients . prototypes``, interpolated bilinearly with half-pixel centres, is above zero. Within
one row of the image that is a polyline with a corner at each prototype column, so it is enough to form the row at
prototype width and to solve for where it crosses zero: each crossing gives the first pixel of a run. The runs are
filled as bits, 64 pixels at a time. At 12 megapixels a prototype is 25 pixels wide, and the work is 25 times less than
that of forming, comparing and writing each pixel.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from segx.ops.bits import fill_between, words_per_row
from segx.records import Record
from segx.structures.masks import Masks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from segx.structures.batch import Letterbox

CHUNK = 1 << 18
"""Most row samples (float32) held at a time, unless one object alone needs more."""


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
    def weight(self) -> NDArray[np.float32]:
        """How far each pixel is from the prototype before it to the next, 0..1."""
        return (self.position - self.before).astype(np.float32)

    def needed(self, first: int, last: int) -> tuple[int, int]:
        """Return the first and last (exclusive) prototype that pixels first..last (exclusive) need."""
        return int(self.before[first]), min(int(self.before[last - 1]) + 2, self.prototypes)


class Window(Record, kw_only=False):
    """One object's rectangle in the frame and the prototypes it needs.

    Attributes:
        rect: x0, y0, x1, y1 in pixels of the frame, the last two exclusive.
        columns: First and last (exclusive) prototype column.
    """

    rect: tuple[int, int, int, int]
    columns: tuple[int, int]

    @property
    def height(self) -> int:
        """Rows of the rectangle."""
        return self.rect[3] - self.rect[1]

    @property
    def width(self) -> int:
        """Columns of the rectangle."""
        return self.rect[2] - self.rect[0]

    @property
    def row_samples(self) -> int:
        """Prototype columns, and a column of nothing at either end where runs begin and end with the rectangle."""
        return self.columns[1] - self.columns[0] + 2

    @property
    def samples(self) -> int:
        """Samples of all rows."""
        return self.height * self.row_samples


def image_masks(
    prototypes: NDArray[np.float32],
    coefficients: NDArray[np.float32],
    boxes: NDArray[np.float32],
    geometry: Letterbox,
) -> Masks:
    """Return masks at the resolution of the image.

    Args:
        prototypes: float32 (nm, h, w), covering the network input.
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
    windows = [
        Window((x0, y0, x1, y1), across.needed(x0, x1) if x1 > x0 else (0, 0)) for x0, y0, x1, y1 in edges.tolist()
    ]
    words: list[NDArray[np.uint64]] = []
    for chunk in _chunks(windows):
        samples = np.full(sum(window.samples for window in windows[chunk]), -1, np.float32)
        _sample_rows(prototypes, coefficients[chunk], windows[chunk], down, samples)
        words.extend(_fill(samples, windows[chunk], across))
    return Masks(
        frame=frame,
        rects=edges.astype(np.int32),
        words=tuple(words),
        orig_shape=frame,
        image=(0, 0, frame[1], frame[0]),
    )


def _chunks(windows: list[Window]) -> Iterator[slice]:
    """Cut the objects into groups whose row samples fit in :data:`CHUNK`."""
    start, held = 0, 0
    for i, window in enumerate(windows):
        if held and held + window.samples > CHUNK:
            yield slice(start, i)
            start, held = i, 0
        held += window.samples
    if start < len(windows):
        yield slice(start, len(windows))


def _sample_rows(
    prototypes: NDArray[np.float32],
    coefficients: NDArray[np.float32],
    windows: list[Window],
    down: Axis,
    samples: NDArray[np.float32],
) -> None:
    """Write each object's logits, rows of the frame by prototype columns, with a column of -1 kept at either end."""
    offset = 0
    for window, weights in zip(windows, coefficients, strict=True):
        rows = samples[offset : offset + window.samples].reshape(window.height, window.row_samples)
        offset += window.samples
        if rows.size == 0 or window.width == 0:
            continue
        (left, right), (_, y0, _, y1) = window.columns, window.rect
        top, bottom = down.needed(y0, y1)
        needed = prototypes[:, top:bottom, left:right]
        logits = np.einsum("k,khw->hw", weights, needed)  # not @: BLAS would spread it over threads that spin
        steps = np.diff(logits, axis=0, append=logits[-1:])
        before, inside = down.before[y0:y1] - top, rows[:, 1:-1]
        np.multiply(steps[before], down.weight[y0:y1, None], out=inside)
        inside += logits[before]


def _fill(samples: NDArray[np.float32], windows: list[Window], across: Axis) -> list[NDArray[np.uint64]]:
    """Return each object's bitmap: its rows solved for their zero crossings, and the runs between them filled."""
    sizes = np.array([window.samples for window in windows])
    ends = np.cumsum(sizes)
    above = samples > 0
    before = np.flatnonzero(above[1:] != above[:-1])  # rows end as they begin, below zero, so none runs into the next
    owner = np.repeat(np.arange(len(windows)), np.diff(np.searchsorted(before, ends), prepend=0))

    row_samples = np.array([window.row_samples for window in windows])[owner]
    row, column = np.divmod(before - (ends - sizes)[owner], row_samples)
    here, after = samples[before].astype(np.float64), samples[before + 1].astype(np.float64)
    first_column = np.array([window.columns[0] for window in windows])[owner]
    crossing = first_column + column - 1 + here / (here - after)
    pixel = (crossing - across.start) / across.slope
    pixel = np.where(after > 0, np.floor(pixel) + 1, np.ceil(pixel))  # the first above zero, the first not above

    x0 = np.array([window.rect[0] for window in windows])[owner]
    width = np.array([window.width for window in windows])[owner]
    pixel = np.clip(pixel.astype(np.int64) - x0, 0, width)
    pixel = np.where(column == 0, 0, np.where(column == row_samples - 2, width, pixel))

    strides = [words_per_row(window.width) for window in windows]
    spans = np.array([window.height * stride for window, stride in zip(windows, strides, strict=True)])
    base = np.cumsum(spans) - spans
    filled = fill_between((base[owner] + row * np.array(strides)[owner]) * 64 + pixel, int(spans.sum()))
    return [
        filled[begin : begin + span].reshape(-1, stride)
        for begin, span, stride in zip(base.tolist(), spans.tolist(), strides, strict=True)
    ]
