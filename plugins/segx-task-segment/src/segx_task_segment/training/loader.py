"""Batches for training: every sample seeded by itself, so that any batch can be made again without those before it.

Images are read and changed by threads, not processes: nearly all the time is spent in OpenCV, which lets other
threads run; there is one cache for all, nothing to pickle, and nothing left behind when a run is killed.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, cast

import cv2
import numpy as np

from segx.errors import DataError, UsageError
from segx.options.schema import image_size
from segx.runtime import cores
from segx.structures.batch import TrainBatch
from segx.structures.masks import Masks
from segx_task_segment.training.augment import Augmentation, Augmented, LabelledImage, augment
from segx_task_segment.training.instances import Instance, Polygons
from segx_task_segment.training.reading import (
    DEFAULT_BYTES,
    DiskCache,
    MemoryCache,
    disk_has_room,
    memory_limit,
    needed_bytes,
    read_for_training,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from segx.ops.polygons import Polygon
    from segx.options.verbs import TrainOptions
    from segx.plugin.interfaces import Dataset
    from segx.structures.annotations import Annotation, Sample

    Image = NDArray[np.uint8]

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
        workers: Threads that prepare images; 0 prepares them when they are asked for.
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


class Images:
    """The part of a data set in use: images with their objects, by position.

    In the place of an image that cannot be read comes the next one that can, and people are told once.
    What was used last is kept, images and objects together, within the limit of memory.
    """

    def __init__(self, dataset: Dataset, indices: Sequence[int], settings: LoaderSettings) -> None:
        self._dataset = dataset
        self._indices = indices
        self._settings = settings
        self._memory: MemoryCache[LabelledImage] = MemoryCache(settings.cache_bytes)
        self._disk = DiskCache(settings.imgsz) if settings.cache_disk else None
        self._bad: set[int] = set()
        self._log_lock = threading.Lock()

    def __getitem__(self, position: int) -> LabelledImage:
        """Return the image at a position, its long side scaled to training size.

        Raises:
            DataError: No image at all can be read.
        """
        for step in range(len(self._indices)):
            index = self._indices[(position + step) % len(self._indices)]
            if index in self._bad:
                continue
            try:
                return self._image(index)
            except DataError as error:
                self._leave_out(index, error)
        msg = "none of the training images can be read"
        raise DataError(msg, hint="segx data check lists every such file")

    def _image(self, index: int) -> LabelledImage:
        labelled = self._memory.get(index)
        if labelled is None:
            sample = self._dataset[index]
            image = self._disk.read(sample) if self._disk else read_for_training(sample, self._settings.imgsz)
            one, classes = self._settings.single_class, self._settings.classes
            labelled = LabelledImage(
                image=image, shapes=polygons_of(sample, image.shape[:2], classes, single_class=one)
            )
            self._memory.put(index, labelled)
        return labelled

    def _leave_out(self, index: int, error: DataError) -> None:
        with self._log_lock:
            if index in self._bad:
                return
            self._bad.add(index)
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


class TrainLoader:
    """Yields the batches of an epoch, from any batch on.

    Args:
        dataset: Where samples come from.
        settings: How batches are made.
        indices: The part of the data set to use; default all of it.
    """

    def __init__(self, dataset: Dataset, settings: LoaderSettings, *, indices: Sequence[int] | None = None) -> None:
        self.settings = settings
        self._indices = list(range(len(dataset)) if indices is None else indices)
        if not self._indices:
            msg = "the training split holds no images"
            raise DataError(msg)
        self._paths = dataset.paths()
        self._images = Images(dataset, self._indices, settings)
        sides = dataset.shapes()[self._indices].astype(np.float64)
        self._ratios: NDArray[np.float64] = sides[:, 0] / sides[:, 1]

    def __len__(self) -> int:
        """Return the number of batches of an epoch on this rank."""
        per_rank = math.ceil(len(self._indices) / self.settings.world)
        return math.ceil(per_rank / self.settings.batch)

    def epoch(self, number: int, *, start: int = 0, closed: bool = False) -> Iterator[TrainBatch]:
        """Yield the batches of an epoch, beginning with batch ``start``.

        Args:
            number: The epoch, from 0; another number gives another order and other random choices.
            start: The first batch to make; those before it cost nothing.
            closed: Without mosaic, mix-up and copy-paste, as in the last epochs.
        """
        order = self._order(number)
        changes = self.settings.augmentation.closed() if closed else self.settings.augmentation
        batches = self._batches(number, order, start)

        def prepare(place: int, size: tuple[int, int]) -> Augmented:
            return self._sample(number, order, place, size, changes)

        if not self.settings.workers:
            for places, size in batches:
                yield self._collate([prepare(place, size) for place in places], [order[p] for p in places])
            return
        yield from self._threaded(order, batches, prepare)

    def _threaded(
        self,
        order: list[int],
        batches: Iterator[tuple[list[int], tuple[int, int]]],
        prepare: Callable[[int, tuple[int, int]], Augmented],
    ) -> Iterator[TrainBatch]:
        """Prepare two batches ahead of the one that is used."""
        waiting: deque[tuple[list[int], list[Future[Augmented]]]] = deque()
        pool = ThreadPoolExecutor(self.settings.workers, thread_name_prefix="segx-loader")
        before = cv2.getNumThreads()
        cv2.setNumThreads(1)  # an image a thread; OpenCV's own threads would only get in their way
        try:
            for places, size in batches:
                waiting.append((places, [pool.submit(prepare, place, size) for place in places]))
                if len(waiting) > 2:
                    places_ready, ready = waiting.popleft()
                    yield self._collate([each.result() for each in ready], [order[p] for p in places_ready])
            while waiting:
                places_ready, ready = waiting.popleft()
                yield self._collate([each.result() for each in ready], [order[p] for p in places_ready])
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            cv2.setNumThreads(before)

    def _order(self, number: int) -> list[int]:
        """Return positions in the order of an epoch: shuffled, or by shape when ``rect``."""
        count = len(self._indices)
        if not self.settings.rect:
            shuffled = np.random.default_rng([self.settings.seed, 1, number]).permutation(count)
            return [int(position) for position in shuffled]
        return [int(position) for position in np.argsort(self._ratios, kind="stable")]

    def _mine(self, order: list[int]) -> list[int]:
        """Return this rank's places in the order; all ranks get the same number, the last ones wrap around."""
        per_rank = math.ceil(len(order) / self.settings.world)
        return [(self.settings.rank + step * self.settings.world) % len(order) for step in range(per_rank)]

    def _batches(self, number: int, order: list[int], start: int) -> Iterator[tuple[list[int], tuple[int, int]]]:
        """Yield of each batch from ``start`` on its places in the order, and its (height, width).

        A single image as small as the stride gets company: its last feature map has one value per channel, and
        batch normalisation needs two.
        """
        mine, batch = self._mine(order), self.settings.batch
        for index in range(start, len(self)):
            places = mine[index * batch : (index + 1) * batch]
            size = self._size(number, index, [order[place] for place in places])
            if len(places) == 1 and max(size) <= self.settings.stride:
                places = [*places, (places[0] + 1) % len(order)]
            yield places, size

    def _size(self, number: int, index: int, positions: Sequence[int]) -> tuple[int, int]:
        """Return the (height, width) of a batch."""
        stride, side = self.settings.stride, self.settings.imgsz
        if self.settings.rect:
            ratios = self._ratios[list(positions)]
            low, high = float(ratios.min()), float(ratios.max())
            shape = (high, 1.0) if high < 1 else (1.0, 1 / low) if low > 1 else (1.0, 1.0)
            height, width = (-(-round(each * side) // stride) * stride for each in shape)
            return height, width
        if self.settings.multi_scale:
            rng = np.random.default_rng([self.settings.seed, 2, number, index])
            low, high = 1 - self.settings.multi_scale, 1 + self.settings.multi_scale
            side = max(round(side * rng.uniform(low, high) / stride), 1) * stride
        return side, side

    def _sample(
        self, number: int, order: list[int], place: int, size: tuple[int, int], changes: Augmentation
    ) -> Augmented:
        """Make one sample from its own generator, seeded by run, epoch and place in the epoch."""
        rng = np.random.default_rng([self.settings.seed, 0, number, place])
        window = min(len(order), _MOSAIC_WINDOW, 8 * self.settings.batch * self.settings.world)
        if self.settings.rect:
            changes = changes.closed()

        def other() -> LabelledImage:
            return self._images[order[place - int(rng.integers(window))]]

        return augment(self._images[order[place]], other, size=size, settings=changes, rng=rng)

    def _collate(self, images: Sequence[Augmented], positions: Sequence[int]) -> TrainBatch:
        paths = tuple(str(self._paths[self._indices[position]]) for position in positions)
        return collate(images, paths, mask_ratio=self.settings.mask_ratio, overlap=self.settings.overlap)


def collate(
    samples: Sequence[Augmented], paths: tuple[str, ...], *, mask_ratio: int = 4, overlap: bool = True
) -> TrainBatch:
    """Return images of one size as a batch; each image's objects by visible area, largest first."""
    height, width = samples[0].image.shape[:2]
    images = np.empty((len(samples), 3, height, width), np.uint8)
    ordered: list[tuple[int, Instance]] = []
    for index, sample in enumerate(samples):
        cv2.split(sample.image, list(images[index, ::-1]))
        ordered += [(index, item) for item in sorted(sample.objects, key=lambda item: -item.area)]
    boxes = np.array([item.box for _, item in ordered], np.float32).reshape(-1, 4)
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    extent = np.array([width, height], np.float32)
    shape = (height // mask_ratio, width // mask_ratio)
    draw = _index_maps if overlap else _own_masks
    return TrainBatch(
        images=images,
        batch_idx=np.array([index for index, _ in ordered], np.int64),
        classes=np.array([item.category for _, item in ordered], np.int64),
        boxes=np.concatenate([centres / extent, sides / extent], axis=1).astype(np.float32),
        masks=draw(ordered, len(samples), shape, mask_ratio),
        overlap=overlap,
        has_mask=np.array([item.has_mask for _, item in ordered], bool),
        paths=paths,
    )


def _index_maps(
    ordered: Sequence[tuple[int, Instance]], count: int, shape: tuple[int, int], ratio: int
) -> NDArray[np.uint8] | NDArray[np.int32]:
    numbers = [sum(1 for index, _ in ordered if index == image) for image in range(count)]
    maps = np.zeros((count, *shape), np.uint8 if max(numbers, default=0) <= 255 else np.int32)
    seen = [0] * count
    for index, item in ordered:
        seen[index] += 1
        if not item.has_mask:
            continue
        small, top, left = shrink(item, shape, ratio)
        window = maps[index, top : top + small.shape[0], left : left + small.shape[1]]
        window[small > 0] = seen[index]
    return maps


def _own_masks(
    ordered: Sequence[tuple[int, Instance]], _count: int, shape: tuple[int, int], ratio: int
) -> NDArray[np.uint8]:
    masks = np.zeros((len(ordered), *shape), np.uint8)
    for number, (_, item) in enumerate(ordered):
        if item.has_mask:
            small, top, left = shrink(item, shape, ratio)
            masks[number, top : top + small.shape[0], left : left + small.shape[1]] = small
    return masks


def shrink(item: Instance, shape: tuple[int, int], ratio: int) -> tuple[NDArray[np.uint8], int, int]:
    """Return an object's bitmap at mask resolution, of 0 and 1, with its first row and column there.

    A mask pixel is set where at least half of the image's pixels in it are, or, for an object too small for that
    anywhere, the one it covers most.
    """
    left, top = item.left // ratio, item.top // ratio
    right = min(-(-(item.left + item.bitmap.shape[1]) // ratio), shape[1])
    bottom = min(-(-(item.top + item.bitmap.shape[0]) // ratio), shape[0])
    aligned = np.zeros(((bottom - top) * ratio, (right - left) * ratio), np.uint8)
    y, x = item.top - top * ratio, item.left - left * ratio
    height, width = min(item.bitmap.shape[0], aligned.shape[0] - y), min(item.bitmap.shape[1], aligned.shape[1] - x)
    aligned[y : y + height, x : x + width] = item.bitmap[:height, :width]
    if ratio == 1:
        return aligned, top, left
    share = cv2.resize(aligned * 255, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    small = (share >= 128).view(np.uint8)
    if not small.any():
        small.flat[int(share.argmax())] = 1
    return small, top, left


def make_loader(
    dataset: Dataset,
    options: TrainOptions,
    *,
    rank: int,
    world: int,
    batch: int,
    stride: int = 32,
    indices: Sequence[int] | None = None,
) -> TrainLoader:
    """Return the loader of one process for what a user asked for."""
    used = dataset.shapes() if indices is None else dataset.shapes()[list(indices)]
    needed = needed_bytes(used, options.imgsz) if options.cache else 0
    sharing = processes_here(world)
    augmentation = Augmentation(**{item.name: getattr(options, item.name) for item in fields(Augmentation)})
    settings = LoaderSettings(
        imgsz=image_size(options.imgsz, stride)[0],
        batch=batch,
        stride=stride,
        augmentation=augmentation,
        mask_ratio=options.mask_ratio,
        overlap=options.overlap_mask,
        seed=options.seed,
        workers=min(options.workers, max(cores() // sharing, 1)),
        rect=options.rect,
        multi_scale=options.multi_scale,
        rank=rank,
        world=world,
        cache_bytes=memory_limit(needed, sharing=sharing) if options.cache in {True, "ram"} else DEFAULT_BYTES,
        cache_disk=options.cache == "disk" and disk_has_room(needed),
        single_class=options.single_cls,
        classes=cast("tuple[int, ...] | None", options.classes),  # names are numbers by now
    )
    return TrainLoader(dataset, settings, indices=indices)


def require_masks(dataset: Dataset, options: TrainOptions, indices: Sequence[int] | None = None) -> None:
    """Refuse data that teach no masks: the model would come out as one that finds boxes.

    Raises:
        DataError: No object to learn from has a mask.
    """
    classes = options.classes
    for index in range(len(dataset)) if indices is None else indices:
        for annotation in dataset[index].annotations:
            if annotation.has_mask and not annotation.crowd and (classes is None or annotation.category in classes):
                return
    msg = f"{options.data}: no object to train on has a mask, they are boxes only: there are no masks to learn"
    raise DataError(msg, hint=f"see what became of the masks with: segx data check data={options.data}")


def processes_here(world: int) -> int:
    """Return how many of a run's processes share this machine: as torchrun says, else all of them."""
    stated = os.environ.get("LOCAL_WORLD_SIZE", "")
    return min(int(stated), world) if stated.isdecimal() and int(stated) else world
