"""Results drawn into the image: translucent masks, smooth outlines, labels that stay legible at any resolution."""

from __future__ import annotations

from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np

from segx.errors import UsageError
from segx.io.images import from_array
from segx.records import Record
from segx.structures.masks import Masks
from segx_task_segment.fonts import fitting_font, legible, load
from segx_task_segment.palette import Color, color, text_color

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from segx.structures.types import Image
    from segx_task_segment.results import SegmentResults

SUBPIXEL = 4
"""Bits of a pixel that OpenCV is given for outlines."""

_STRIP = 1024
"""Rows of an object that are tinted at once."""

_LARGEST = 1 << 26
"""Pixels of a mask of which all are followed; of a larger one, whose line is some twenty wide, every second is."""

Rect = tuple[int, int, int, int]


def draw(
    results: SegmentResults,
    *,
    conf: bool = True,
    labels: bool = True,
    boxes: bool = True,
    masks: bool = True,
    line_width: float | None = None,
    font_size: float | None = None,
    font: str | Path | None = None,
    color_mode: Literal["class", "instance"] = "class",
    opacity: float = 0.36,
    img: Image,
    text: Color | None = None,
    inplace: bool = False,
) -> Image:
    """Return the image, uint8 (H, W, 3) BGR, with the results drawn in.

    Args:
        results: What was found.
        conf: Scores in the labels.
        labels: Class names.
        boxes: Boxes.
        masks: Masks: a translucent fill and an outline.
        line_width: Width of outlines in pixels; default: from the size of the image.
        font_size: Height of labels in pixels; default: from the size of the image.
        font: A TrueType or OpenType file; default: the built-in Latin font, and for names that it lacks letters of
            one of this machine that has them, else the number of the class.
        color_mode: One colour for each class, the same in every image, or one for each object.
        opacity: Of the fill, 0..1.
        img: The image to draw on, left as it is; grey, 16 bits and floats are read as a source is.
        text: Colour of the labels' text; default: what is legible on the label.
        inplace: Draw into ``img`` itself.

    Raises:
        UsageError: ``img`` is of another size, or no image; or the font cannot be read.
        DataError: Its values are out of range.
    """
    canvas = from_array(img, copy=not inplace)
    if canvas.shape[:2] != results.orig_shape:
        found, wanted = ("{1}x{0}".format(*shape) for shape in (canvas.shape, results.orig_shape))
        raise UsageError(f"img is {found} pixels (width x height), the results are for {wanted}")
    mean_side = sum(canvas.shape[:2]) / 2
    line = max(mean_side * 0.0025, 1.0) if line_width is None else float(line_width)
    size = max(mean_side * 0.021, 12.0) if font_size is None else float(font_size)
    colors = [color(int(n) if color_mode == "class" else i) for i, n in enumerate(results.boxes.cls)]
    if masks and len(results.masks):
        _draw_masks(canvas, _in_image(results.masks, results.orig_shape), colors, opacity=opacity, line=line)
    weakest_first = range(len(results) - 1, -1, -1)
    if boxes:
        for i in weakest_first:
            _draw_box(canvas, results.boxes.xyxy[i], colors[i], line if not masks else line * 0.6)
    if labels:
        face = None if font is None else str(font)
        texts = [_label(results, i, conf=conf, font=face) for i in range(len(results))]
        writer = Labels(canvas, size=size, font=face, text=text)
        for i in range(len(results)):
            writer.place(texts[i], results.boxes.xyxy[i], colors[i], gap=line / 2 if boxes else 0)
        writer.draw()
    return canvas


def _label(results: SegmentResults, index: int, *, conf: bool, font: str | None) -> str:
    number = int(results.boxes.cls[index])
    name = legible(results.names.get(number, str(number)), number, font)
    return f"{name} {results.boxes.conf[index]:.2f}" if conf else name


def _in_image(masks: Masks, shape: tuple[int, int]) -> Masks:
    """Return masks at the resolution of the image; those of the network's input are redrawn there."""
    return masks if masks.frame == shape else Masks.from_polygons(masks.polygons, shape)


def _draw_masks(canvas: Image, masks: Masks, colors: list[Color], *, opacity: float, line: float) -> None:
    """Fill and outline each mask inside its own rectangle, large ones first so that small ones stay visible."""
    order = np.argsort(-masks.area, kind="stable").tolist()
    for i in order:
        x0, y0, x1, y1 = masks.rects[i].tolist()
        bitmap = masks.bitmap(i).view(np.uint8)
        if bitmap.size:
            table = _blend_table(colors[i], opacity)
            for top in range(0, y1 - y0, _STRIP):  # what is tinted is a copy: of a few rows, not of the largest object
                region = canvas[y0 + top : min(y0 + top + _STRIP, y1), x0:x1]
                cv2.copyTo(cv2.LUT(region, table), bitmap[top : top + _STRIP], region)
    for i in order:
        outlines = [_fixed_point(ring) for ring in smooth_outlines(masks, i, line)]
        cv2.polylines(canvas, outlines, True, colors[i], _thickness(line), cv2.LINE_AA, SUBPIXEL)


@lru_cache(maxsize=256)
def _blend_table(tint: Color, opacity: float) -> NDArray[np.uint8]:
    """Return uint8 (256, 1, 3): for each value of each channel what it becomes under the tint."""
    values = np.arange(256)[:, None, None] * (1 - opacity) + np.array(tint) * opacity
    return np.round(values).astype(np.uint8)


def smooth_outlines(masks: Masks, index: int, line: float) -> list[NDArray[np.float64]]:
    """Return the outlines of one mask, holes too, float64 (M, 2) in numbered pixels, with the staircase smoothed out.

    Points are averaged along the outline over about two line widths: enough to hide single pixels under the line,
    too little to move it off the edge.
    """
    x0, y0 = masks.rects[index, :2].tolist()
    bitmap = masks.bitmap(index).view(np.uint8)
    step = 2 if bitmap.size > _LARGEST else 1
    if step > 1:
        bitmap = np.ascontiguousarray(bitmap[::step, ::step])
    contours, _ = cv2.findContours(bitmap, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    reach = round(line / step) + 1
    return [_smooth(step * contour.reshape(-1, 2) + np.array([x0, y0]), reach=reach) for contour in contours]


def _smooth(ring: NDArray[Any], *, reach: int) -> NDArray[np.float64]:
    """Return a closed ring averaged over ``2 * reach + 1`` neighbours, over fewer where it is short.

    What is averaged over so many points needs only every few of them.
    """
    reach = min(reach, len(ring) // 12)
    if reach < 1:
        return ring.astype(np.float64)
    around = np.concatenate([ring[-reach - 1 :], ring, ring[:reach]]).astype(np.float64)
    total = np.cumsum(around, axis=0)
    width = 2 * reach + 1
    return ((total[width:] - total[:-width]) / width)[:: max(reach // 2, 1)]


def _fixed_point(points: NDArray[np.float64]) -> NDArray[np.int32]:
    return np.round(points * (1 << SUBPIXEL)).astype(np.int32).reshape(-1, 1, 2)


def _thickness(line: float) -> int:
    """Return whole pixels, downwards: OpenCV's anti-aliased lines come out about half a pixel wider than asked for."""
    return max(int(line), 1)


def _draw_box(canvas: Image, box: NDArray[np.float32], stroke: Color, line: float) -> None:
    """Draw a box whose corners are continuous pixels; OpenCV numbers centres, hence the half."""
    (x1, y1), (x2, y2) = _fixed_point(np.array([box[:2], box[2:]], np.float64) - 0.5).reshape(2, 2).tolist()
    cv2.rectangle(canvas, (x1, y1), (x2, y2), stroke, _thickness(line), cv2.LINE_AA, SUBPIXEL)


class Chip(Record, kw_only=False):
    """A label that has found its place.

    Attributes:
        text: What it says.
        rect: x0, y0, x1, y1 in the image.
        fill: Its background.
    """

    text: str
    rect: Rect
    fill: Color


class Labels:
    """Labels on rounded chips, each beside its box, inside the image, and clear of those placed before it.

    Args:
        canvas: What they are drawn on, uint8 (H, W, 3).
        size: Height of the font in pixels.
        font: A font file, or None for the built-in one.
        text: Colour of the text; None: black or white, whichever is legible on the label.
    """

    def __init__(self, canvas: Image, *, size: float, font: str | None, text: Color | None = None) -> None:
        self.text = text
        self.canvas = canvas
        self.size = size
        self.font = font
        self.chips: list[Chip] = []
        self._taken = np.zeros((64, 4), np.int64)

    @cached_property
    def pad(self) -> int:
        """Pixels between text and chip edge."""
        return max(round(self.size * 0.28), 2)

    def place(self, text: str, box: NDArray[np.float32], fill: Color, *, gap: float) -> None:
        """Find a place for one label: the first of those round its box that is free, else the one least covered."""
        glyphs = _glyphs(text, self.size, self.font)
        width, height = glyphs.shape[1] + 2 * self.pad, glyphs.shape[0] + 2 * round(self.pad * 0.6)
        limit_y, limit_x = max(self.canvas.shape[0] - height, 0), max(self.canvas.shape[1] - width, 0)
        x1, y1, x2, y2 = (float(value) for value in box)
        places = [
            (x1 - gap, y1 - height - gap),
            (x1 - gap, y1 - gap),
            (x2 + gap - width, y1 - height - gap),
            (x1 - gap, y2 + gap),
            (x2 + gap - width, y2 - height + gap),
            (x1 - gap, (y1 + y2 - height) / 2),
        ]
        wished = np.array(places)
        corners = np.round(np.clip(wished, 0, (limit_x, limit_y))).astype(np.int64)
        rects = np.concatenate([corners, corners + np.array([width, height])], axis=1)
        moved = np.abs(corners - wished).sum(axis=1) > height / 2
        cost = self._covered(rects) + 0.1 * width * height * moved + 0.02 * height * np.arange(len(places))
        chosen = rects[np.argmin(cost)]
        if len(self.chips) == len(self._taken):
            self._taken = np.concatenate([self._taken, np.zeros_like(self._taken)])
        self._taken[len(self.chips)] = chosen
        x0, y0, x1, y1 = chosen.tolist()
        self.chips.append(Chip(text, (x0, y0, x1, y1), fill))

    def draw(self) -> None:
        """Draw what was placed, the first on top."""
        for chip in reversed(self.chips):
            x0, y0, x1, y1 = chip.rect
            region = self.canvas[y0:y1, x0:x1]
            height, width = region.shape[:2]
            background = _rounded(y1 - y0, x1 - x0, self.size * 0.22)[:height, :width]
            _blend(region, chip.fill, background)
            glyphs = _glyphs(chip.text, self.size, self.font)
            top = (y1 - y0 - glyphs.shape[0]) // 2
            inner = region[top : top + glyphs.shape[0], self.pad : self.pad + glyphs.shape[1]]
            _blend(inner, self.text or text_color(chip.fill), glyphs[: inner.shape[0], : inner.shape[1]])

    def _covered(self, rects: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return for each rectangle how many of its pixels other labels already take."""
        taken = self._taken[: len(self.chips)]
        low = np.maximum(rects[:, None, :2], taken[None, :, :2])
        high = np.minimum(rects[:, None, 2:], taken[None, :, 2:])
        shared: NDArray[np.int64] = np.maximum(high - low, 0).prod(axis=2).sum(axis=1)
        return shared


def _blend(region: Image, paint: Color, alpha: NDArray[np.float32]) -> None:
    mixed = region + (np.array(paint, np.float32) - region) * alpha[:, :, None]
    region[:] = np.round(mixed).astype(np.uint8)


@lru_cache(maxsize=256)
def _rounded(height: int, width: int, radius: float) -> NDArray[np.float32]:
    """Return the coverage of a rounded rectangle, float32 (height, width) in 0..1."""
    half = np.array([height, width]) / 2
    y, x = np.ogrid[0:height, 0:width]
    outside_y = np.abs(y + 0.5 - half[0]) - (half[0] - radius)
    outside_x = np.abs(x + 0.5 - half[1]) - (half[1] - radius)
    distance = np.hypot(np.maximum(outside_y, 0), np.maximum(outside_x, 0)) - radius
    return np.asarray(np.clip(0.5 - distance, 0, 1), np.float32)


@lru_cache(maxsize=1024)
def _glyphs(text: str, size: float, font: str | None) -> NDArray[np.float32]:
    """Return the coverage of a line of text, float32 (h, w) in 0..1, as high as the font for every text."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    face = load(size, fitting_font(text, font))
    left, _, right, _ = face.getbbox(text or " ")
    _, top, _, bottom = face.getbbox("Agjdy|")
    image = Pillow.new("L", (max(int(np.ceil(right - left)), 1), max(int(np.ceil(bottom - top)), 1)))
    ImageDraw.Draw(image).text((-left, -top), text, fill=255, font=face)
    return np.asarray(image).astype(np.float32) / np.float32(255)
