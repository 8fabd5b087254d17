"""Draws the ground truth of some images on one sheet, to look at before training."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING

from segx.artifact import ArtifactInfo
from segx.data.splits import open_data
from segx.errors import DataError
from segx.io.files import write_image
from segx.ops.images import fit, sheet
from segx.structures.classes import numbers_of
from segx.words import counted

if TYPE_CHECKING:
    from pathlib import Path

    from segx.options.verbs import DataShowOptions
    from segx.plugin.interfaces import Dataset
    from segx.plugin.registry import Registry

logger = logging.getLogger(__name__)


def show(options: DataShowOptions, registry: Registry, *, task: str = ArtifactInfo.task) -> Path:
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
    draw = registry.tasks.load(task).draw_annotations
    tiles = []
    for sample in (dataset[index] for index in sorted(chosen)):
        try:
            tiles.append(fit(draw(sample, dataset.names), options.side, options.side))
        except DataError as error:
            logger.warning("%s: %s: it is not shown", sample.path, error.message)
    if not tiles:
        raise DataError(f"none of {counted(len(chosen), 'image')} can be read", hint="segx data check tells why")
    return write_image(options.output, sheet(tiles, options.columns))


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
