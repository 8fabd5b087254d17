"""Batches for training: which images are in them, and who prepares these.

Threads do: nearly all the time is spent in OpenCV, which lets other threads run; there is one cache for all, and
nothing to start. Where the network runs on an accelerator, threads would take Python's lock from the one that launches
its layers, and processes do it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import TYPE_CHECKING, cast

import numpy as np

from segx.errors import DataError
from segx.options.schema import image_size
from segx.runtime import cores, opencv
from segx_task_segment.training.augment import Augmentation
from segx_task_segment.training.collating import Part, batch_of
from segx_task_segment.training.crew import Crew, NoCrewError
from segx_task_segment.training.reading import DEFAULT_BYTES, disk_has_room, memory_limit, needed_bytes
from segx_task_segment.training.samples import LoaderSettings, Samples, Work

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from segx.options.verbs import TrainOptions
    from segx.plugin.interfaces import Dataset
    from segx.structures.batch import TrainBatch

logger = logging.getLogger("segx.train")

_AHEAD = 2
"""Batches that are prepared ahead of the one that is used, at least."""

Made = tuple["NDArray[np.uint8]", "list[Part]"]
"""The images of a batch, uint8 (B, 3, H, W), and what else there is of each."""
Begin = Callable[[Work], Callable[[], Made]]
"""Has a batch made, and returns what waits for it."""


class TrainLoader:
    """Yields the batches of an epoch, from any batch on.

    Args:
        dataset: Where samples come from.
        settings: How batches are made.
        indices: The part of the data set to use; default all of it.
    """

    def __init__(self, dataset: Dataset, settings: LoaderSettings, *, indices: Sequence[int] | None = None) -> None:
        self.settings = settings
        used = list(range(len(dataset)) if indices is None else indices)
        if not used:
            msg = "the training split holds no images"
            raise DataError(msg)
        self._paths = dataset.paths()
        self._samples = Samples(dataset, used, settings)
        few = math.ceil(2 * settings.workers / settings.batch)  # so that small batches keep everybody busy
        self._ahead = max(_AHEAD, few) if settings.workers else 0
        self._processes = settings.processes and settings.workers > 0
        self._crew: Crew | None = None

    def __len__(self) -> int:
        """Return the number of batches of an epoch on this rank."""
        per_rank = math.ceil(len(self._samples.indices) / self.settings.world)
        return math.ceil(per_rank / self.settings.batch)

    def close(self) -> None:
        """End the processes that prepare images; harmless where there are none."""
        if self._crew is not None:
            self._crew.close()
            self._crew = None

    def epoch(self, number: int, *, start: int = 0, closed: bool = False) -> Iterator[TrainBatch]:
        """Yield the batches of an epoch, beginning with batch ``start``.

        Args:
            number: The epoch, from 0; another number gives another order and other random choices.
            start: The first batch to make; those before it cost nothing.
            closed: Without mosaic, mix-up and copy-paste, as in the last epochs.

        Raises:
            DataError: No image at all can be read.
            ModelError: A process that prepares images has ended.
        """
        waiting: deque[tuple[Work, Callable[[], Made]]] = deque()
        with self._hands() as begin:
            for work in self._works(number, start, closed=closed):
                waiting.append((work, begin(work)))
                if len(waiting) > self._ahead:
                    yield self._batch(*waiting.popleft())
            while waiting:
                yield self._batch(*waiting.popleft())

    def _batch(self, work: Work, wait: Callable[[], Made]) -> TrainBatch:
        order, indices = self._samples.order(work.epoch), self._samples.indices
        paths = tuple(str(self._paths[indices[order[place]]]) for place in work.places)
        return batch_of(*wait(), paths, overlap=self.settings.overlap)

    def _hands(self) -> contextlib.AbstractContextManager[Begin]:
        """Return who prepares images for an epoch."""
        if not self.settings.workers:
            return contextlib.nullcontext(self._alone)
        if self._processes:
            try:
                if self._crew is None or self._crew.closed:
                    self._crew = Crew(self._samples, self.settings.workers, ahead=self._ahead)
                return self._crew.at_work()
            except NoCrewError as error:
                logger.info("images are prepared by threads, not by processes: %s", error)
                self._processes = False
        return self._threads()

    def _alone(self, work: Work) -> Callable[[], Made]:
        images = np.empty(work.shape, np.uint8)
        return lambda: (images, [self._samples.make(work, index, pixels) for index, pixels in enumerate(images)])

    @contextlib.contextmanager
    def _threads(self) -> Iterator[Begin]:
        pool = ThreadPoolExecutor(self.settings.workers, thread_name_prefix="segx-loader")

        def begin(work: Work) -> Callable[[], Made]:
            images = np.empty(work.shape, np.uint8)
            parts = [pool.submit(self._samples.make, work, index, pixels) for index, pixels in enumerate(images)]
            return lambda: (images, [part.result() for part in parts])

        with opencv.one_thread():
            try:
                yield begin
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _mine(self, order: list[int]) -> list[int]:
        """Return this rank's places in the order; all ranks get the same number, the last ones wrap around."""
        per_rank = math.ceil(len(order) / self.settings.world)
        return [(self.settings.rank + step * self.settings.world) % len(order) for step in range(per_rank)]

    def _works(self, number: int, start: int, *, closed: bool) -> Iterator[Work]:
        """Yield the batches from ``start`` on, not made yet.

        A single image as small as the stride gets company: its last feature map has one value per channel, and
        batch normalisation needs two.
        """
        order, batch = self._samples.order(number), self.settings.batch
        mine = self._mine(order)
        for index in range(start, len(self)):
            places = mine[index * batch : (index + 1) * batch]
            size = self._size(number, index, [order[place] for place in places])
            if len(places) == 1 and max(size) <= self.settings.stride:
                places = [*places, (places[0] + 1) % len(order)]
            yield Work(epoch=number, closed=closed, places=tuple(places), size=size)

    def _size(self, number: int, index: int, positions: Sequence[int]) -> tuple[int, int]:
        """Return the (height, width) of a batch."""
        stride, side = self.settings.stride, self.settings.imgsz
        if self.settings.rect:
            ratios = self._samples.ratios[list(positions)]
            low, high = float(ratios.min()), float(ratios.max())
            shape = (high, 1.0) if high < 1 else (1.0, 1 / low) if low > 1 else (1.0, 1.0)
            height, width = (-(-round(each * side) // stride) * stride for each in shape)
            return height, width
        if self.settings.multi_scale:
            rng = np.random.default_rng([self.settings.seed, 2, number, index])
            low, high = 1 - self.settings.multi_scale, 1 + self.settings.multi_scale
            side = max(round(side * rng.uniform(low, high) / stride), 1) * stride
        return side, side


def make_loader(
    dataset: Dataset,
    options: TrainOptions,
    *,
    rank: int,
    world: int,
    batch: int,
    stride: int = 32,
    indices: Sequence[int] | None = None,
    processes: bool = False,
) -> TrainLoader:
    """Return the loader of one of a run's processes: :class:`segx.plugin.interfaces.LoaderMaker`."""
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
        processes=processes,
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
