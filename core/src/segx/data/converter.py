"""``convert_coco`` as programs call it; everything else that is converted goes through :mod:`segx.data.convert`."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, cast

from segx.data.convert import other_format, writer_of
from segx.data.splits import open_splits
from segx.errors import MissingDataError, UsageError
from segx.io.files import new_folder
from segx.io.paths import expanded
from segx.plugin.registry import get_registry
from segx.plugin.writing import LOSSES, Losses, WriteJob

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from pathlib import Path

    from segx.plugin.interfaces import Dataset
    from segx.structures.annotations import Sample

logger = logging.getLogger(__name__)


def convert_coco(  # noqa: PLR0917
    labels_dir: str | os.PathLike[str],
    save_dir: str | os.PathLike[str] = "coco_converted",
    use_segments: bool = False,  # noqa: FBT001, FBT002 - as it is elsewhere
    use_keypoints: bool = False,  # noqa: FBT001, FBT002
    cls91to80: bool = True,  # noqa: FBT001, FBT002
    lvis: bool = False,  # noqa: FBT001, FBT002
    *,
    images: str | Path | None = None,
) -> Path:
    """Write the labels of COCO JSON files as text labels, with links to the images beside them.

    Of ``instances_train.json`` become ``labels/train`` and ``images/train``. Classes are numbered from 0 in the order
    of the categories' ids, so that COCO's 91 ids become its 80 classes. ``segx data convert`` writes a YAML too, tells
    what was lost and reads everything back.

    Args:
        labels_dir: A folder of JSON files, or one of them.
        save_dir: Where to write; where there is something already, the same with a number: ``coco_converted2``.
        use_segments: Outlines; False: boxes only.
        use_keypoints: Of another task; refused.
        cls91to80: As it is always done; False is refused.
        lvis: JSON of LVIS, whose images have addresses in the place of names; refused.
        images: Folder of the images, when they are not found beside the JSON.

    Returns:
        The folder that was written.

    Raises:
        UsageError: Something is asked for that is not there.
        DataError: There is no JSON, or it, or its images, cannot be read.
    """
    for name, wanted in {"use_keypoints": use_keypoints, "cls91to80": not cls91to80, "lvis": lvis}.items():
        if wanted:
            hint = "classes are numbered from 0 in the order of their ids" if name == "cls91to80" else ""
            raise UsageError(f"convert_coco: {name}={name != 'cls91to80'} is not there", hint=hint)
    place = expanded(labels_dir)
    files = [place] if place.is_file() else sorted(place.glob("*.json"))
    if not files:
        raise MissingDataError(f"{labels_dir}: there is no JSON file", hint="labels_dir= is the folder that holds them")
    registry = get_registry()
    losses = Losses()
    with new_folder(target := _unused(expanded(save_dir))) as folder:
        for file in files:
            dataset = next(iter(open_splits(file, images=images, registry=registry).splits.values())).dataset
            split = file.stem.removeprefix("instances_")
            job = WriteJob(folder=folder, split=split, link=True, losses=losses)
            writer = writer_of(other_format([file], registry), registry)
            for _ in writer.write(dataset if use_segments else cast("Dataset", _BoxesOnly(dataset)), job):
                pass
            logger.info("%s: %d images", file, len(dataset))
    for kind, (noun, what) in LOSSES.items():
        if losses.counts[kind] and (use_segments or kind != "boxes"):
            logger.warning("%d %ss %s", losses.counts[kind], noun, what)
    return target


class _BoxesOnly:
    """A split of which only the boxes are seen."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __getattr__(self, name: str) -> object:
        return getattr(self._dataset, name)

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self._dataset[index]
        boxes = tuple(dataclasses.replace(annotation, polygons=(), rle=None) for annotation in sample.annotations)
        return dataclasses.replace(sample, annotations=boxes)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))


def _unused(folder: Path) -> Path:
    number, first = 1, folder
    while folder.exists() and any(folder.iterdir()):
        number += 1
        folder = first.with_name(f"{first.name}{number}")
    return folder
