"""Training images: each is seeded by itself, so that any of them can be made by anyone, without those before it."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from segx.errors import DataError, UsageError
from segx.structures.masks import Masks
from segx_task_segment.training.augment import Augmentation, LabelledImage, augment
from segx_task_segment.training.collating import Part, part_of
from segx_task_segment.training.instances import Polygons
from segx_task_segment.training.reading import DEFAULT_BYTES, DiskCache, MemoryCache, read_for_training

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from segx.ops.polygons import Polygon
    from segx.plugin.interfaces import Dataset
    from segx.structures.annotations import Annotation, Sample
    from segx_task_segment.training.reading import SharedCache

logger = logging.getLogger("segx.train")

_MOSAIC_WINDOW = 1000  # mosaic partners come from this many preceding images at most, so that a small cache holds them


@dataclass(frozen=True, kw_only=True)
class LoaderSettings:
    """How batches are made.

    Attributes:
        imgsz: Side of the square images, or the long side when ``rect``.
        batch: Images per batch on this rank.
        stride: Sides are multiples of this.
        augmentation: How strongly images are changed.
        mask_ratio: Masks are this much smaller than images.
        overlap: One map per image instead of one mask per object.
        seed: Governs the order and every random choice.
        workers: Threads or processes that prepare images; 0 prepares them when they are asked for.
        processes: Whether they are processes.
        rect: Images of like shape together, padded as little as possible, in a fixed order, without mosaic.
        multi_scale: Each batch gets its own size, this fraction smaller or larger at most.
        rank: Number of this process.
        world: Number of processes.
        cache_bytes: How much memory read images may take.
        cache_disk: Keep read images in the cache folder too.
        single_class: Every object is of class 0.
        classes: Only objects of these classes, or all when None.
    """

    imgsz: int
    batch: int
    stride: int = 32
    augmentation: Augmentation = field(default_factory=Augmentation)
    mask_ratio: int = 4
    overlap: bool = True
    seed: int = 0
    workers: int = 0
    processes: bool = False
    rect: bool = False
    multi_scale: float = 0.0
    rank: int = 0
    world: int = 1
    cache_bytes: int = DEFAULT_BYTES
    cache_disk: bool = False
    single_class: bool = False
    classes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other.

        Raises:
            UsageError: The sides of images, multiples of ``stride``, are no multiples of ``mask_ratio``, and masks
                would not cover them; or batches are to have two sizes.
        """
        if self.rect and self.multi_scale:
            msg = "rect and multi_scale do not go together: with rect, a batch has the size of its images"
            raise UsageError(msg, hint="leave one of them out")
        if self.stride % self.mask_ratio:
            fitting = [str(ratio) for ratio in range(1, self.stride + 1) if not self.stride % ratio]
            msg = f"mask_ratio={self.mask_ratio} does not divide the sides of images, multiples of {self.stride}"
            raise UsageError(msg, hint=f"use one of {', '.join(fitting)}")


@dataclass(frozen=True, kw_only=True)
class Work:
    """A batch that is to be made.

    Attributes:
        epoch: Its number, from 0.
        closed: Without mosaic, mix-up and copy-paste.
        places: Of its images in the order of the epoch.
        size: (height, width) of its images.
    """

    epoch: int
    closed: bool
    places: tuple[int, ...]
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, 3, H, W)."""
        return len(self.places), 3, *self.size


class Samples:
    """Makes the images of any epoch, one by one.

    Args:
        dataset: Where they come from.
        indices: The part of the data set to use.
        settings: How they are made.
        cache: Keeps what was read; default: memory of this process.
    """

    def __init__(
        self,
        dataset: Dataset,
        indices: Sequence[int],
        settings: LoaderSettings,
        cache: MemoryCache | SharedCache | None = None,
    ) -> None:
        self.dataset = dataset
        self.indices = indices
        self.settings = settings
        self.images = Images(dataset, indices, settings, cache)
        sides = dataset.shapes()[list(indices)].astype(np.float64)
        self.ratios: NDArray[np.float64] = sides[:, 0] / sides[:, 1]
        self._order: tuple[int, list[int]] = (-1, [])

    def order(self, epoch: int) -> list[int]:
        """Return positions in the order of an epoch: shuffled, or by shape when ``rect``."""
        known, order = self._order
        if known != epoch:
            if self.settings.rect:
                order = np.argsort(self.ratios, kind="stable").tolist()
            else:
                rng = np.random.default_rng([self.settings.seed, 1, epoch])
                order = rng.permutation(len(self.indices)).tolist()
            self._order = epoch, order
        return order

    def make(self, work: Work, index: int, pixels: NDArray[np.uint8]) -> Part:
        """Make an image of a batch with its own generator, seeded by run, epoch and place in the epoch.

        Args:
            work: The batch.
            index: Of the image in it.
            pixels: uint8 (3, H, W), RGB; where it is written to.

        Raises:
            DataError: No image at all can be read.
        """
        order, place, settings = self.order(work.epoch), work.places[index], self.settings
        rng = np.random.default_rng([settings.seed, 0, work.epoch, place])
        window = min(len(order), _MOSAIC_WINDOW, 8 * settings.batch * settings.world)
        changes = settings.augmentation.closed() if work.closed or settings.rect else settings.augmentation

        def other() -> LabelledImage:
            return self.images[order[place - int(rng.integers(window))]]

        made = augment(self.images[order[place]], other, size=work.size, settings=changes, rng=rng)
        return part_of(made, pixels, mask_ratio=settings.mask_ratio, overlap=settings.overlap)


class Images:
    """The part of a data set in use: images with their objects, by position.

    In the place of an image that cannot be read comes the next one that can, and that is logged once.
    What was used last is kept, images and objects together, within the limit of memory.
    """

    def __init__(
        self,
        dataset: Dataset,
        indices: Sequence[int],
        settings: LoaderSettings,
        cache: MemoryCache | SharedCache | None = None,
    ) -> None:
        self._dataset = dataset
        self._indices = indices
        self._settings = settings
        self._cache = MemoryCache(settings.cache_bytes) if cache is None else cache
        self._disk = DiskCache(settings.imgsz) if settings.cache_disk else None
        self._bad: set[int] = set()
        self._log_lock = threading.Lock()

    def __getitem__(self, position: int) -> LabelledImage:
        """Return the image at a position, its long side scaled to training size.

        Raises:
            DataError: No image at all can be read.
        """
        for step in range(len(self._indices)):
            nearby = (position + step) % len(self._indices)
            if nearby in self._bad:
                continue
            try:
                return self._image(nearby)
            except DataError as error:
                self._leave_out(nearby, error)
        msg = "none of the training images can be read"
        raise DataError(msg, hint="segx data check lists every such file")

    def _image(self, position: int) -> LabelledImage:
        labelled = self._cache.get(position)
        if labelled is None:
            sample = self._dataset[self._indices[position]]
            image = self._disk.read(sample) if self._disk else read_for_training(sample, self._settings.imgsz)
            one, classes = self._settings.single_class, self._settings.classes
            labelled = LabelledImage(
                image=image, shapes=polygons_of(sample, image.shape[:2], classes, single_class=one)
            )
            self._cache.put(position, labelled)
        return labelled

    def _leave_out(self, position: int, error: DataError) -> None:
        with self._log_lock:
            if position in self._bad:
                return
            self._bad.add(position)
        logger.warning("%s; it is left out", error.message)


def polygons_of(
    sample: Sample, size: tuple[int, ...], classes: tuple[int, ...] | None = None, *, single_class: bool = False
) -> Polygons:
    """Return the objects of a sample in pixels of an image of this (height, width); crowds are left out."""
    used = [
        annotation
        for annotation in sample.annotations
        if not annotation.crowd and (classes is None or annotation.category in classes)
    ]
    shapes = Polygons.of(
        [0 if single_class else annotation.category for annotation in used],
        [outlines_of(annotation, sample.shape) for annotation in used],
        [annotation.has_mask for annotation in used],
    )
    height, width = sample.shape
    return shapes.transform(np.diag([size[1] / width, size[0] / height, 1.0]))


def outlines_of(annotation: Annotation, shape: tuple[int, int]) -> Sequence[Polygon | NDArray[np.float64]]:
    """Return the parts of an object in an image of this (height, width); the box of one known by that only."""
    parts = annotation.polygons if annotation.rle is None else Masks.from_rle([annotation.rle], shape).polygons[0]
    return parts or [annotation.corners]
