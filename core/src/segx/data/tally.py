"""What a split holds and what of it takes no part, counted and reported alike by every verb."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from segx.structures.annotations import TableDataset
from segx.words import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from segx.plugin.interfaces import Dataset

logger = logging.getLogger("segx.data")

_FIRST = 10
"""Problems that are listed one by one; the others are counted."""
_VISIBLE = 0.05
"""Share of crowds in a split from which they are reported; COCO's own is 0.01."""
_MOST_OF_CLASS = 0.5
"""Share of crowds in a class from which the class is reported."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What a split holds.

    Attributes:
        images: Number of images.
        empty: Those of them without objects: background.
        objects: Number of objects.
        crowds: Those of them that are crowds: they are neither learned nor measured.
        boxes_only: Those of them without a mask.
        masked: Those of them with a mask that are no crowds.
        classes: Objects of each class, by its name; by name and number where several have that name.
        crowded: Names of the classes of which most objects are crowds.
        left_out: How many rows, annotations and images the reader left out.
        mended: How many it keeps otherwise than they are written.
        fingerprint: Hash of the ground truth.
    """

    images: int
    empty: int
    objects: int
    crowds: int
    boxes_only: int
    masked: int
    classes: Mapping[str, int]
    crowded: Sequence[str]
    left_out: int
    mended: int
    fingerprint: str

    @property
    def visible_crowds(self) -> str:
        """What a visible share of crowds means and what to do; empty where there is none."""
        if not self.crowds or not (self.crowded or self.crowds >= _VISIBLE * self.objects):
            return ""
        of = f", most of {', '.join(self.crowded[:5])}" if self.crowded else ""
        return (
            f"{self.crowds:,} of {counted(self.objects, 'object')} have iscrowd: 1{of}: crowds are neither learned nor"
            " measured; annotation tools write it of brush masks: crowds=objects takes them as objects"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, and what is said of them, as plain values."""
        counts = ("images", "empty", "objects", "crowds", "boxes_only", "masked", "visible_crowds", "fingerprint")
        found = {name: getattr(self, name) for name in counts}
        return {**found, "line": self.line(), "classes": dict(self.classes)}

    def line(self) -> str:
        """Return one line of what takes no part, and how many masks are left; empty where there is nothing to say."""
        parts = [f"{self.left_out:,} that do not hold"] if self.left_out else []
        parts += [counted(self.crowds, "crowd")] if self.crowds else []
        parts += [f"the masks of {counted(self.boxes_only, 'object')} known by a box only"] if self.boxes_only else []
        reported = [f"left out: {', '.join(parts)}"] if parts else []
        reported += [f"mended: {self.mended:,}, segx data check says how"] if self.mended else []
        return (
            "; ".join([f"{counted(self.objects, 'object')}, {self.masked:,} with a mask", *reported])
            if reported
            else ""
        )


def tally(dataset: Dataset, indices: Sequence[int] | None = None) -> Tally:
    """Return what a split holds, or some images of it."""
    count, category, crowd, mask = _columns(dataset, indices)
    size = max(dataset.names, default=-1) + 1
    per_class = np.bincount(category, minlength=size)
    crowds = np.bincount(category[crowd], minlength=size)
    crowded = np.flatnonzero((crowds > 0) & (crowds >= _MOST_OF_CLASS * per_class)).tolist()
    return Tally(
        images=len(count),
        empty=int((count == 0).sum()),
        objects=len(category),
        crowds=int(crowd.sum()),
        boxes_only=int((~mask).sum()),
        masked=int((mask & ~crowd).sum()),
        classes={label: int(per_class[number]) for number, label in class_labels(dataset.names).items()},
        crowded=[dataset.names[number] for number in crowded],
        left_out=len(dataset.problems),
        mended=len(getattr(dataset, "notes", ())),
        fingerprint=dataset.fingerprint,
    )


def class_labels(names: Mapping[int, str]) -> dict[int, str]:
    """Return class number to a name that no other class has: its own, with its number where several have that."""
    often = Counter(names.values())
    return {number: f"{name} (class {number})" if often[name] > 1 else name for number, name in names.items()}


def notify(split: str, dataset: Dataset) -> None:
    """Report the first problems of a split, and in one line what takes no part in it."""
    log_problems(dataset.problems)
    found = tally(dataset)
    if found.line():
        grave = found.left_out or found.boxes_only or found.visible_crowds
        logger.log(logging.WARNING if grave else logging.INFO, "%s: %s", split, found.line())
    if found.visible_crowds:
        logger.warning("%s: %s", split, found.visible_crowds)


def log_problems(problems: Sequence[str]) -> None:
    """Log the first problems of the data one by one, and how many more there are."""
    for problem in problems[:_FIRST]:
        logger.warning("%s", problem)
    if len(problems) > _FIRST:
        logger.warning("... and %d more; segx data check lists them all", len(problems) - _FIRST)


def _columns(
    dataset: Dataset, indices: Sequence[int] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return objects of each image, and of each object its class, whether it is a crowd, and whether it has a mask."""
    if isinstance(dataset, TableDataset):
        table = dataset.table if indices is None else dataset.table.keep_images(list(indices))
        return np.diff(table.offsets), table.category.astype(np.int64), table.crowd, table.with_mask()
    samples = [dataset[index].annotations for index in (range(len(dataset)) if indices is None else indices)]
    rows = [
        (annotation.category, annotation.crowd, annotation.has_mask)
        for annotations in samples
        for annotation in annotations
    ]
    columns = np.array(rows, np.int64).reshape(-1, 3)
    return (
        np.array([len(annotations) for annotations in samples], np.int64),
        columns[:, 0],
        columns[:, 1] > 0,
        columns[:, 2] > 0,
    )
