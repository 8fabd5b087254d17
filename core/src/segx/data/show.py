"""Draws the ground truth of some images on one sheet, to look at before training."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING

import cv2
import numpy as np

from segx.console import counted
from segx.data.splits import open_data
from segx.errors import DataError
from segx.io.files import write_image
from segx.io.images import image_of
from segx.structures.boxes import Boxes
from segx.structures.classes import numbers_of
from segx.structures.masks import Masks
from segx.structures.results import Results

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from segx.options.verbs import DataShowOptions
    from segx.plugin.interfaces import Dataset
    from segx.plugin.registry import Registry
    from segx.structures.sample import Sample
    from segx.structures.types import Image

logger = logging.getLogger(__name__)

_PAPER = 245


def show(options: DataShowOptions, registry: Registry, *, task: str = "segment") -> Path:
    """Write a sheet of images with their ground truth drawn in, and return its path.

    Raises:
        UsageError: No data set is named.
        DataError: It is missing, or has no image to show.
    """
    (opened,) = open_data(options, registry, only=options.split).splits.values()
    dataset = opened.dataset
    chosen = _choose(dataset, options)
    if not chosen:
        raise DataError("no image of the split has an object of these classes")
    draw = registry.load_task(task).draw
    tiles = []
    for index in sorted(chosen):
        try:
            results = annotation_results(dataset[index], dataset.names)
        except DataError as error:
            logger.warning("%s: it is not shown", error.message)
            continue
        tiles.append(_tile(draw(results, conf=False), options.side))
    if not tiles:
        raise DataError(f"none of {counted(len(chosen), 'image')} can be read", hint="segx data check tells why")
    return write_image(options.output, _sheet(tiles, options.columns))


def annotation_results(sample: Sample, names: Mapping[int, str]) -> Results:
    """Return the ground truth of an image as results, to be drawn.

    Raises:
        DataError: The image cannot be read.
    """
    try:
        image = image_of(sample)
    except DataError as error:
        raise DataError(f"{sample.path}: {error.message}") from error
    data = [
        (x, y, x + w, y + h, 1.0, annotation.category)
        for annotation in sample.annotations
        for x, y, w, h in [annotation.box]
    ]
    return Results(
        orig_img=image,
        path=str(sample.path),
        names=names,
        boxes=Boxes(np.array(data, np.float32).reshape(-1, 6), sample.shape),
        masks=annotation_masks(sample),
    )


def annotation_masks(sample: Sample) -> Masks:
    """Return the masks of an image's objects; that of a box is empty."""
    single = [
        Masks.from_rle([annotation.rle], sample.shape)
        if annotation.rle is not None
        else Masks.from_polygons([annotation.polygons], sample.shape)
        for annotation in sample.annotations
    ]
    bitmaps = [masks.bitmap(0) for masks in single]
    offsets = np.array([masks.rects[0, :2] for masks in single], np.int32).reshape(-1, 2)
    return Masks.from_bitmaps(bitmaps, offsets, sample.shape)


def _choose(dataset: Dataset, options: DataShowOptions) -> list[int]:
    """Return which images to show: those with objects first, then any."""
    order = random.Random(options.seed).sample(range(len(dataset)), len(dataset))  # noqa: S311 - no secret
    wanted = numbers_of(options.classes, dataset.names, of="the data set")
    with_objects: list[int] = []
    others: list[int] = []
    for index in order:
        annotations = dataset[index].annotations
        if any(wanted is None or annotation.category in wanted for annotation in annotations):
            with_objects.append(index)
        elif wanted is None:
            others.append(index)
        if len(with_objects) == options.count:
            break
    return [*with_objects, *others][: options.count]


def _tile(image: Image, side: int) -> Image:
    """Return an image in the middle of a square."""
    tile = np.full((side, side, 3), _PAPER, np.uint8)
    gain = side / max(image.shape[:2])
    width, height = max(round(image.shape[1] * gain), 1), max(round(image.shape[0] * gain), 1)
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if gain < 1 else cv2.INTER_LINEAR)
    top, left = (side - height) // 2, (side - width) // 2
    tile[top : top + height, left : left + width] = small
    return tile


def _sheet(tiles: Sequence[Image], columns: int) -> Image:
    """Return tiles in rows."""
    columns = min(columns, len(tiles))
    filled = [*tiles, *[np.full_like(tiles[0], _PAPER)] * (-len(tiles) % columns)]
    return np.vstack([np.hstack(filled[start : start + columns]) for start in range(0, len(filled), columns)])
