"""Ground truth: one object, all objects of a split as a few long arrays, and a split's images with theirs.

So a split of a hundred thousand images loads in a second and shares its memory.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from segx.ops.polygons import Rings, fill
from segx.records import Record
from segx.structures.masks import Masks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray


class Annotation(Record, eq=False):
    """One object of the ground truth.

    Attributes:
        category: Class number, 0-based.
        box: (x, y, width, height) in pixels of the original image.
        polygons: Its parts, each float64 (points, 2) x, y in pixels; the object is their union.
        rle: COCO RLE at the original resolution, ``{"size": [h, w], "counts": bytes}``, where the data set gives a
            bitmap instead of polygons: holes, crowds. With neither, the object is known by its box only.
        crowd: COCO's iscrowd: matches are neither right nor wrong.
        area: Area in pixels as the data set gives it; None: that of its mask, else of its box.
        id: The annotation's id in its data set; 1-based position where it has none.
    """

    category: int
    box: tuple[float, float, float, float]
    polygons: tuple[NDArray[np.float64], ...] = ()
    rle: Mapping[str, Any] | None = None
    crowd: bool = False
    area: float | None = None
    id: int = 0

    @property
    def has_mask(self) -> bool:
        """Whether more than its box is known."""
        return bool(self.polygons) or self.rle is not None

    @property
    def corners(self) -> NDArray[np.float64]:
        """float64 (4, 2), the corners of its box."""
        x, y, width, height = self.box
        return np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]], np.float64)


def masks_of(annotations: Sequence[Annotation], shape: tuple[int, int], *, boxes: bool = False) -> Masks:
    """Return the masks of objects in an image of this (height, width), filled as the COCO API does.

    Args:
        annotations: The objects.
        shape: (height, width) of the image.
        boxes: What is known by its box only has the box's mask; else an empty one.

    Raises:
        ValueError: An RLE is damaged or of another size.
    """
    outlines: list[Sequence[NDArray[np.float64]]] = [
        annotation.polygons or ([annotation.corners] if boxes else []) if annotation.rle is None else []
        for annotation in annotations
    ]
    bits = fill(Rings.of(outlines), len(annotations), shape)
    bitmaps = [index for index, annotation in enumerate(annotations) if annotation.rle is not None]
    if bitmaps:
        masks = Masks.from_rle([rle for annotation in annotations if (rle := annotation.rle) is not None], shape)
        for index, words, (x0, y0, x1, y1) in zip(bitmaps, masks.words, masks.rects.tolist(), strict=True):
            bits[index] = words, (x0, y0, x1, y1)
    return Masks.from_bits(bits, shape)


class AnnotationTable(Record, eq=False):
    """All objects of a split, column by column; object ``i`` of image ``p`` lies in ``offsets[p]:offsets[p + 1]``.

    Attributes:
        offsets: int64 (images + 1), first object of each image.
        category: int32 (objects), class number.
        crowd: bool (objects).
        area: float64 (objects), NaN where the data set gives none.
        id: int64 (objects).
        box: float (objects, 4), x, y, width, height.
        parts: int64 (objects + 1), first polygon of each object.
        points: int64 (polygons + 1), first point of each polygon.
        xy: float (points, 2).
        runs: int64 (objects + 1), first byte in ``counts`` of each object's compressed RLE; empty where it has none.
        counts: uint8, compressed RLE one after another.
        relative: Whether ``box`` and ``xy`` are fractions of the image's width and height instead of pixels.
    """

    offsets: NDArray[np.int64]
    category: NDArray[np.int32]
    crowd: NDArray[np.bool_]
    area: NDArray[np.float64]
    id: NDArray[np.int64]
    box: NDArray[np.floating[Any]]
    parts: NDArray[np.int64]
    points: NDArray[np.int64]
    xy: NDArray[np.floating[Any]]
    runs: NDArray[np.int64]
    counts: NDArray[np.uint8]
    relative: bool = False

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the columns by name, as :meth:`from_columns` takes them."""
        return {item.name: np.asarray(getattr(self, item.name)) for item in dataclasses.fields(self)}

    @classmethod
    def from_columns(cls, columns: Mapping[str, NDArray[Any]]) -> Self:
        """Return the table of what :meth:`columns` gave."""
        values: dict[str, Any] = {item.name: columns[item.name] for item in dataclasses.fields(cls)}
        return cls(**{**values, "relative": bool(values["relative"])})

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self.category)

    def annotations(self, image: int, shape: tuple[int, int]) -> tuple[Annotation, ...]:
        """Return the objects of one image of this (height, width)."""
        return tuple(self._annotation(row, shape) for row in range(self.offsets[image], self.offsets[image + 1]))

    def _annotation(self, row: int, shape: tuple[int, int]) -> Annotation:
        scale = np.array(shape[::-1], np.float64) if self.relative else np.ones(2)
        first, last = self.parts[row : row + 2].tolist()
        bounds = self.points[first : last + 1].tolist()
        x, y, width, height = (self.box[row].astype(np.float64) * np.tile(scale, 2)).tolist()
        begin, end = self.runs[row : row + 2].tolist()
        area = float(self.area[row])
        return Annotation(
            category=int(self.category[row]),
            box=(x, y, width, height),
            polygons=tuple(
                self.xy[start:stop].astype(np.float64) * scale for start, stop in itertools.pairwise(bounds)
            ),
            rle={"size": list(shape), "counts": self.counts[begin:end].tobytes()} if end > begin else None,
            crowd=bool(self.crowd[row]),
            area=None if np.isnan(area) else area,
            id=int(self.id[row]),
        )

    @classmethod
    def joined(cls, tables: Sequence[AnnotationTable]) -> AnnotationTable:
        """Return the images of several tables one after another."""
        if len(tables) == 1:
            return tables[0]
        kinds = {table.relative for table in tables}
        if len(kinds) != 1:
            raise ValueError("tables in pixels and tables in fractions cannot be joined")
        starts: dict[str, Any] = {
            name: starts_of(np.concatenate([np.diff(getattr(table, name)) for table in tables]))
            for name in ("offsets", "parts", "points", "runs")
        }
        rest = ("category", "crowd", "area", "id", "box", "xy", "counts")
        columns: dict[str, Any] = {name: np.concatenate([getattr(table, name) for table in tables]) for name in rest}
        return cls(**starts, **columns, relative=kinds.pop())

    def with_mask(self) -> NDArray[np.bool_]:
        """Return bool (objects): more than the box is known."""
        return (np.diff(self.parts) > 0) | (np.diff(self.runs) > 0)

    def keep_objects(self, keep: NDArray[np.bool_]) -> AnnotationTable:
        """Return the table without the objects that are False in bool (objects); images stay, if need be empty."""
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(keep)])
        return self.in_order(np.flatnonzero(keep), before[self.offsets])

    def keep_images(self, images: Sequence[int] | NDArray[np.int64]) -> AnnotationTable:
        """Return the table of some images, in the order given."""
        objects, offsets = _gather(self.offsets, np.asarray(images, np.int64))
        return self.in_order(objects, offsets)

    def in_order(self, objects: NDArray[np.int64], offsets: NDArray[np.int64]) -> AnnotationTable:
        """Return the table of these objects in this order, divided into images at ``offsets``."""
        part_index, parts = _gather(self.parts, objects)
        point_index, points = _gather(self.points, part_index)
        byte_index, runs = _gather(self.runs, objects)
        return dataclasses.replace(
            self,
            offsets=offsets,
            **{name: getattr(self, name)[objects] for name in ("category", "crowd", "area", "id", "box")},
            parts=parts,
            points=points,
            xy=self.xy[point_index],
            runs=runs,
            counts=self.counts[byte_index],
        )


def _gather(starts: NDArray[np.int64], chosen: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the numbers of all items of the chosen groups, and where each group then starts."""
    sizes = starts[chosen + 1] - starts[chosen]
    begins = starts_of(sizes)
    return np.arange(begins[-1]) - np.repeat(begins[:-1] - starts[chosen], sizes), begins


def starts_of(sizes: Sequence[int] | NDArray[Any]) -> NDArray[np.int64]:
    """Return int64 (groups + 1): where each group starts when groups of these sizes lie one after another."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.asarray(sizes, np.int64))])


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
    problems: Sequence[str] = dataclasses.field(default_factory=tuple)
    notes: Sequence[tuple[str, str]] = dataclasses.field(default_factory=tuple)
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
