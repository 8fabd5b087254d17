"""Network input that a quantised export is calibrated on, and the drawn images where there are no others.

Exporters get it as ``job.images``; in a process of its own a converter makes it anew from ``job.images.to_dict()``.
"""

from __future__ import annotations

import logging
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from segx.errors import DataError
from segx.io.images import read_image
from segx.plugin.registry import get_registry
from segx.structures.batch import SourceImage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from segx.plugin.registry import Registry
    from segx.structures.types import Image, Images

logger = logging.getLogger(__name__)

IMAGES = 4
"""Drawn images at the export size; an open axis adds a run at another size and batch."""


class Calibration:
    """Network input to calibrate on, float32 (batch, 3, height, width) in 0..1; it can be gone through again and again.

    Args:
        paths: The images; none: they are drawn.
        count: How many.
        task: The task that makes network input of an image.
        shape: (height, width) of the input.
        batch: Images per run.
        held_back: Images of the same data set that are not calibrated on, so that they can prove the result.
        registry: Where the task is looked up; default: the installed plugins.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        count: int,
        task: str,
        shape: tuple[int, int],
        batch: int,
        held_back: Sequence[Path] = (),
        registry: Registry | None = None,
    ) -> None:
        self.paths, self.held_back = tuple(paths), tuple(held_back)
        self.count = count
        self.task, self.shape, self.batch = task, shape, batch
        self._registry = registry

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Images]:
        task = (self._registry or get_registry()).tasks.load(self.task)
        ready: list[SourceImage] = []
        for source in self._sources():
            ready.append(source)
            if len(ready) == self.batch:
                yield task.preprocess(ready, self.shape).images
                ready.clear()
        if ready:  # a graph may be fixed to its batch
            filled = [ready[index % len(ready)] for index in range(self.batch)]
            yield task.preprocess(filled, self.shape).images

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for a child process."""
        paths = [str(path) for path in self.paths]
        return {"paths": paths, "count": self.count, "task": self.task, "shape": self.shape, "batch": self.batch}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Read what :meth:`to_dict` wrote."""
        height, width = values["shape"]
        paths = [Path(path) for path in values["paths"]]
        return cls(paths, count=values["count"], task=values["task"], shape=(height, width), batch=values["batch"])

    def _sources(self) -> Iterator[SourceImage]:
        if not self.paths:
            yield from synthetic_images(self.shape, self.count)
        yield from read_all(self.paths, "calibrated on")


def read_all(paths: Sequence[Path], use: str) -> Iterator[SourceImage]:
    """Yield images, passing over those that cannot be read, which is told."""
    for path in paths:
        try:
            yield SourceImage(image=read_image(path), path=str(path))
        except DataError as error:
            logger.warning("%s: %s; not %s", path, error.message, use)


def synthetic_images(shape: tuple[int, int], count: int = IMAGES) -> list[SourceImage]:
    """Return images of shaded grounds with bright shapes in several sizes and proportions, the same every time.

    Args:
        shape: (height, width) they are drawn for; every other one is narrower or lower.
        count: How many.
    """
    height, width = shape
    cuts = ((1.0, 1.0), (0.75, 1.0), (1.0, 0.625), (0.5, 0.5))
    return [
        SourceImage(
            image=_draw(max(32, round(height * down)), max(32, round(width * across)), seed), path=f"drawn{seed}"
        )
        for seed, (down, across) in enumerate(islice(cycle(cuts), count))
    ]


def _draw(height: int, width: int, seed: int) -> Image:
    random = np.random.default_rng(seed)
    corners = random.integers(40, 200, (2, 2, 3)).astype(np.float32)
    ground = cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR)
    grain = cv2.resize(random.normal(0, 12, (height // 4, width // 4, 3)).astype(np.float32), (width, height))
    image = np.clip(ground + grain, 0, 255).astype(np.uint8)
    for index in range(8):
        centre = int(random.integers(0, width)), int(random.integers(0, height))
        size = max(4, int(random.uniform(0.05, 0.25) * min(height, width)))
        colour = [int(value) for value in random.permutation([250, int(random.integers(0, 90)), 20])]
        if index % 2:
            cv2.circle(image, centre, size, colour, -1, cv2.LINE_AA)
        else:
            angle = float(random.uniform(0, 180))
            corners_of = cv2.boxPoints((centre, (size * 2.5, size * 1.2), angle)).round().astype(np.int32)
            cv2.fillPoly(image, [corners_of], colour, cv2.LINE_AA)
    return np.asarray(cv2.GaussianBlur(image, (3, 3), 0), dtype=np.uint8)
