"""Images that a quantised export is calibrated on: the same ones, in the same layout, for every format."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segx.console import counted
from segx.data.splits import open_splits
from segx.errors import DataError, UsageError
from segx.flows.parity import synthetic_images
from segx.io.images import read_image
from segx.plugin.registry import get_registry
from segx.structures.batch import SourceImage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from segx.artifact import ArtifactInfo
    from segx.options.verbs import ExportOptions
    from segx.plugin.registry import Registry
    from segx.structures.types import Images

logger = logging.getLogger(__name__)

_FEW = 100
"""Images below which ranges of values are guesses."""
_PROVEN = 8
"""Photographs that an export is proven on, besides the drawn images: they take seconds and tell a bad file at once."""


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


def open_calibration(
    options: ExportOptions, info: ArtifactInfo, count: int, registry: Registry
) -> tuple[Calibration, dict[str, Any]]:
    """Return the images to calibrate on, and what is to be remembered of them.

    They are those of the data set that the options name, else of the one that the model remembers where it is here,
    else drawn; as many as are wanted, spread evenly. A few are held back where the result is to be proven: figures of
    images that the ranges were taken from would flatter it.

    Raises:
        UsageError: The share of the images that is asked for is none.
        DataError: The data set that the options name is not there.
    """
    data = getattr(options, "data", None)
    paths = _paths(str(data), options, registry) if data else _remembered(info, options, registry)
    held_back: list[Path] = []
    if paths:
        share = int(len(paths) * getattr(options, "fraction", 1.0))
        if not share:
            raise UsageError(f"fraction={options.fraction}: none of {counted(len(paths), 'image')} is left")  # type: ignore[attr-defined]
        held_back = _spread(paths, min(_PROVEN, len(paths) // _PROVEN)) if options.verify else []
        proving = set(held_back)
        paths = [path for path in paths if path not in proving]
        count = min(count, share, len(paths))
        paths = _spread(paths, count)
        if count < _FEW:
            logger.warning("calibrated on %s only: %d or more are better", counted(count, "image"), _FEW)
    else:
        logger.warning("calibrated on drawn images, as no data set is named: data=coco8-seg.yaml may be more accurate")
    names = "\n".join(path.name for path in paths)
    noted = {
        "data": Path(str(data or info.settings.get("data", ""))).name if paths else "drawn",
        "images": count,
        "sha256": hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest(),
    }
    images = Calibration(
        paths,
        count=count,
        task=info.task,
        shape=info.imgsz,
        batch=info.batch,
        held_back=held_back,
        registry=registry,
    )
    return images, noted


def images_to_prove_on(options: ExportOptions, registry: Registry) -> list[Path]:
    """Return a few images of the data set that the options name, for an export that is not calibrated.

    Raises:
        DataError: It is not there.
    """
    data = getattr(options, "data", None)
    return _spread(_paths(str(data), options, registry), _PROVEN) if data and options.verify else []


def _spread(paths: Sequence[Path], count: int) -> list[Path]:
    """Return some of the paths, evenly spread; all of them where there are no more."""
    count = min(count, len(paths))
    return [paths[index * len(paths) // count] for index in range(count)]


def _remembered(info: ArtifactInfo, options: ExportOptions, registry: Registry) -> list[Path]:
    """Return the images of the data set that a model was trained on, none where it is not here."""
    data = info.settings.get("data")
    if not isinstance(data, str) or not Path(data).exists():  # what only a file names is not fetched
        return []
    try:
        return _paths(data, options, registry)
    except DataError as error:
        logger.warning("%s, which the model remembers, cannot be read: %s", data, error.message)
        return []


def _paths(data: str, options: ExportOptions, registry: Registry) -> list[Path]:
    split = getattr(options, "split", "train")
    images = getattr(options, "images", None)
    (opened,) = open_splits(data, (split,), images=images, registry=registry).splits.values()
    return list(opened.dataset.paths())
