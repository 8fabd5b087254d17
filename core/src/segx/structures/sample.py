"""Images of a data set with their ground truth."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from segx.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from segx.structures.annotations import Annotation, AnnotationTable


class TableDataset(Record, eq=False):
    """One split of a data set on a :class:`AnnotationTable`; what the readers return.

    Attributes:
        files: The images.
        ids: For each image its id in the data set.
        sizes: int32 (images, 2), height and width of each, orientation applied.
        table: The objects.
        names: Class number to class name.
        category_ids: Class number to the id the data set itself uses.
        problems: Rows that were dropped: file, line and reason.
        notes: (kind of finding, line) of what was kept, but not as it is written: ``segx data check`` tells of it.
        fingerprint: A hash of the ground truth.
    """

    files: Sequence[Path]
    ids: Sequence[int | str]
    sizes: NDArray[np.int32]
    table: AnnotationTable
    names: Mapping[int, str]
    category_ids: Mapping[int, int]
    problems: Sequence[str] = field(default_factory=tuple)
    notes: Sequence[tuple[str, str]] = field(default_factory=tuple)
    fingerprint: str = ""

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        position = range(len(self))[index]
        height, width = self.sizes[position].tolist()
        annotations = self.table.annotations(position, (height, width))
        return Sample(path=self.files[position], id=self.ids[position], shape=(height, width), annotations=annotations)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def paths(self) -> Sequence[Path]:
        """Return the image files, in order."""
        return self.files

    def shapes(self) -> NDArray[np.int32]:
        """Return int32 (samples, 2): height and width of each image."""
        return self.sizes


class DatasetSource(Record):
    """One split of a data set, as its definition names it.

    Attributes:
        origin: What the user named: the YAML, the JSON or the folder; for messages.
        split: Name of the split: ``"train"``, ``"val"``, ``"test"``.
        entries: The folders, lists and files that hold it; all exist.
        names: Class number to class name, where the definition says so; else the data set's own names hold.
        images: Folder of the images, where the user says so.
    """

    origin: Path
    split: str
    entries: tuple[Path, ...]
    names: Mapping[int, str] | None = None
    images: Path | None = None


class Sample(Record, eq=False):
    """An image of a data set with its ground truth.

    Attributes:
        path: The image's file.
        id: Its id in the data set: a number in COCO, the file's stem in YOLO sets.
        shape: (height, width) in pixels, orientation applied.
        annotations: The objects in it.
    """

    path: Path
    id: int | str
    shape: tuple[int, int]
    annotations: tuple[Annotation, ...]
