"""Images of ground truth beside prediction: the first batches, and those that went worst."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from segx.io.images import image_of
from segx.ops.images import scale, sheet, shrink
from segx.structures.boxes import Boxes
from segx.structures.masks import Masks

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from segx.structures.annotations import Sample
    from segx.structures.types import Image
    from segx_task_segment.metrics.coco import ImageMatches
    from segx_task_segment.results import SegmentResults

COLUMNS = 4
BATCH = COLUMNS * COLUMNS
"""Images in one sheet."""

_SHEETS = 3
_TILE = 400
_WORST = 12
_PANEL = 560
_DRAWN = 2 * _PANEL
"""Most pixels of a long side that is drawn on: lines stay smooth, and large images cost no more than small ones."""


@dataclass(frozen=True, kw_only=True, order=True)
class Tally:
    """How an image went at the working score, by masks at IoU 0.5; better ones are greater.

    Attributes:
        f1: Harmonic mean of precision and recall.
        errors: Wrong and missing objects, negative, so that more are worse.
    """

    f1: float
    errors: int

    @classmethod
    def of(cls, matches: ImageMatches, score: float) -> tuple[Tally, tuple[int, int, int]]:
        """Return it, with the numbers of right, wrong and missed objects it is made of."""
        seg = matches.seg
        confident = np.flatnonzero((matches.found.score >= score) & (seg.ignored[0] & 1 == 0))
        right = int((seg.hit[0, confident] & 1).sum())
        wrong, missed = len(confident) - right, int((~seg.ignored_objects).sum()) - right
        total = 2 * right + wrong + missed
        return cls(f1=2 * right / total if total else 1.0, errors=-(wrong + missed)), (right, wrong, missed)


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One image, ground truth on the left and prediction on the right.

    Attributes:
        name: The image's file name.
        jpeg: The drawing.
        right: Objects found.
        wrong: Detections of nothing.
        missed: Objects not found.
        f1: Harmonic mean of precision and recall.
    """

    name: str
    jpeg: bytes
    right: int
    wrong: int
    missed: int
    f1: float


class _Small(NamedTuple):
    """A drawing in the sizes that are kept."""

    tile: Image
    panel: Image

    @classmethod
    def of(cls, drawing: Image) -> _Small:
        return cls(scale(drawing, _TILE), shrink(drawing, _PANEL))


class Panels:
    """Draws images whose verdicts are at hand; keeps small JPEGs only.

    Args:
        score: Score from which a detection is drawn and counted.
        read: Returns the image of a sample; default: its file, as large as it is drawn. It is read again where it is
            drawn, as few are, so that none has to be kept on the way through the network.
    """

    def __init__(self, score: float, read: Callable[[Sample], Image] | None = None) -> None:
        self._score = score
        self._read = read or partial(image_of, least=_DRAWN)
        self._tiles: list[tuple[Image, Image]] = []
        self._worst: list[tuple[Tally, int, Panel]] = []
        self._count = 0

    def add(self, matches: ImageMatches) -> None:
        """Look at one image, and draw it if it belongs to the first or to the worst."""
        self._count += 1
        tally, (right, wrong, missed) = Tally.of(matches, self._score)
        first = len(self._tiles) < _SHEETS * BATCH
        place = (_upside_down(tally), -self._count)
        bad = wrong + missed > 0 and (len(self._worst) < _WORST or place > self._worst[0][:2])
        if not (first or bad):
            return
        image = shrink(self._read(matches.sample), _DRAWN)
        annotations = _Small.of(draw_annotation(matches, image))  # one large drawing at a time
        found = _Small.of(draw_found(matches, self._score, image))
        if first:
            self._tiles.append((annotations.tile, found.tile))
        if bad:
            jpeg = encode(np.hstack([annotations.panel, found.panel]))
            name = matches.sample.path.name
            panel = Panel(name=name, jpeg=jpeg, right=right, wrong=wrong, missed=missed, f1=tally.f1)
            push = heapq.heappush if len(self._worst) < _WORST else heapq.heappushpop
            push(self._worst, (*place, panel))

    def worst(self) -> list[Panel]:
        """Return the images that went worst, the worst first."""
        return [panel for _, _, panel in sorted(self._worst, key=lambda item: item[:2], reverse=True)]

    def sheets(self) -> list[tuple[bytes, bytes]]:
        """Return sheets of the first images as JPEG: ground truth, prediction."""
        groups = [self._tiles[start : start + BATCH] for start in range(0, len(self._tiles), BATCH)]
        return [
            (encode(sheet(annotations, COLUMNS)), encode(sheet(found, COLUMNS)))
            for annotations, found in (zip(*group, strict=True) for group in groups)
        ]


def _upside_down(tally: Tally) -> Tally:
    """Return the tally with worse ones greater, so that a heap gives up the best first."""
    return Tally(f1=-tally.f1, errors=-tally.errors)


def draw_annotation(matches: ImageMatches, image: Image) -> Image:
    """Return the image with its ground truth drawn in."""
    annotations, results = matches.annotations, matches.found.results
    boxes = np.concatenate([annotations.box[:, :2], annotations.box[:, :2] + annotations.box[:, 2:]], axis=1)
    data = np.column_stack([boxes, np.ones(len(annotations)), annotations.category]).astype(np.float32).reshape(-1, 6)
    drawn = results.replace(boxes=Boxes(data, results.orig_shape), masks=annotations.masks)
    return np.asarray(fitted(drawn, image).plot(conf=False))


def draw_found(matches: ImageMatches, score: float, image: Image) -> Image:
    """Return the image with what was found drawn in, from a score on."""
    results = matches.found.results
    return np.asarray(fitted(results[np.flatnonzero(results.boxes.conf >= score)], image).plot())


def fitted(results: SegmentResults, image: Image) -> SegmentResults:
    """Return results on a smaller copy of their image."""
    frame, (height, width) = results.orig_shape, image.shape[:2]
    if frame == (height, width):
        return results.replace(orig_img=image)
    gain = np.array([width / frame[1], height / frame[0]] * 2)
    rects = np.round(results.masks.rects * gain).astype(int)
    sizes = np.maximum(rects[:, 2:] - rects[:, :2], 1).tolist()
    bitmaps = [_resized(results.masks.bitmap(i), (x, y)) for i, (x, y) in enumerate(sizes)]
    masks = Masks.from_bitmaps(bitmaps, np.minimum(rects[:, :2], [width - 1, height - 1]), (height, width))
    data = results.boxes.data.copy()
    data[:, :4] *= gain
    return results.replace(orig_img=image, boxes=Boxes(data, (height, width)), masks=masks)


def _resized(bitmap: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    if not bitmap.size:
        return np.zeros(size[::-1], bool)
    shares = cv2.resize(bitmap.view(np.uint8) * np.uint8(255), size, interpolation=cv2.INTER_AREA)
    return shares.reshape(size[::-1]) > 127


def encode(image: Image, quality: int = 85) -> bytes:
    """Return an image as JPEG."""
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes()
