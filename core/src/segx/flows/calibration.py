"""Images that a quantised export is calibrated on: the same ones, in the same layout, for every format."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segx.data.splits import open_splits
from segx.errors import DataError, UsageError
from segx.plugin.calibration import Calibration
from segx.words import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from segx.artifact import ArtifactInfo
    from segx.options.verbs import ExportOptions, VerifyOptions
    from segx.plugin.registry import Registry

logger = logging.getLogger(__name__)

_FEW = 100
"""Images below which ranges of values are guesses."""
_DRAWN = "drawn"
_PROVEN = 8
"""Photographs that an export is proven on, besides the drawn images: they take seconds and tell a bad file at once."""


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
    paths = paths_of(str(data), options, registry) if data else _remembered(info, options, registry)
    held_back: list[Path] = []
    available = 0
    if paths:
        share = int(len(paths) * getattr(options, "fraction", 1.0))
        if not share:
            raise UsageError(f"fraction={options.fraction}: none of {counted(len(paths), 'image')} is left")  # type: ignore[attr-defined]
        held_back = spread(paths, min(_PROVEN, len(paths) // _PROVEN)) if options.verify else []
        proving = set(held_back)
        paths = [path for path in paths if path not in proving]
        available = len(paths)
        count = min(count, share, len(paths))
        paths = spread(paths, count)
        if count < _FEW:
            logger.warning("calibrated on %s only: %d or more are better", counted(count, "image"), _FEW)
    else:
        logger.warning("calibrated on drawn images, as no data set is named: data=coco8-seg.yaml may be more accurate")
    names = "\n".join(path.name for path in paths)
    noted = {
        "data": Path(str(data or info.settings.get("data", ""))).name if paths else _DRAWN,
        "images": count,
        "of": available,
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


def more_images(noted: Mapping[str, Any]) -> str:
    """Return what to do about a result that is too coarse, of what is remembered of its images; nothing if enough."""
    if noted["data"] == _DRAWN:
        return f"it was calibrated on drawn images: name {_FEW} images or more of yours, data=..."
    if noted["images"] >= _FEW:
        return ""
    if noted["images"] < noted["of"]:
        most = min(_FEW, noted["of"])
        return f"calibrate on {most} images, not {noted['images']}: most={most} fraction=1"
    return (
        f"it was calibrated on all {noted['images']} images that {noted['data']} has for it: "
        f"name a data set or a split of {_FEW} or more, data=... split=..."
    )


def images_to_prove_on(options: ExportOptions, registry: Registry) -> list[Path]:
    """Return a few images of the data set that the options name, for an export that is not calibrated.

    Raises:
        DataError: It is not there.
    """
    data = getattr(options, "data", None)
    return spread(paths_of(str(data), options, registry), _PROVEN) if data and options.verify else []


def spread(paths: Sequence[Path], count: int) -> list[Path]:
    """Return some of the paths, evenly spread; all of them where there are no more."""
    count = min(count, len(paths))
    return [paths[index * len(paths) // count] for index in range(count)]


def _remembered(info: ArtifactInfo, options: ExportOptions, registry: Registry) -> list[Path]:
    """Return the images of the data set that a model was trained on, none where it is not here."""
    data = info.settings.get("data")
    if not isinstance(data, str) or not Path(data).exists():  # what only a file names is not fetched
        return []
    try:
        return paths_of(data, options, registry)
    except DataError as error:
        logger.warning("%s, which the model remembers, cannot be read: %s", data, error.message)
        return []


def paths_of(data: str, options: ExportOptions | VerifyOptions, registry: Registry) -> list[Path]:
    """Return the images of a data set, of the split and from the folder that the options name.

    Raises:
        DataError: It is not there.
    """
    split = getattr(options, "split", "train")
    images = getattr(options, "images", None)
    (opened,) = open_splits(data, (split,), images=images, registry=registry).splits.values()
    return list(opened.dataset.paths())
