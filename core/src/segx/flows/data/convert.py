"""Writes a data set in another format, and says what that cannot hold; the original stays as it is."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import yaml

from segx.errors import DataError
from segx.files import replacing, write_text
from segx.flows.data.rings import one_ring
from segx.flows.data.show import truth_masks
from segx.flows.data.splits import ONLY, new_folder, open_splits, stems
from segx.flows.progress import progress
from segx.masks import Masks
from segx.paths import expanded
from segx.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from segx.interfaces import Dataset, Sample, Truth
    from segx.options import DataConvertOptions
    from segx.registry import Registry

_CLOSE = 0.95
"""IoU with the original below which a joined outline is told of by name."""

LOSSES = {
    "crowds": ("crowd", "left out: the format has none"),
    "joined": ("object", "of several parts or with holes written as one outline with cuts"),
    "traced": ("bitmap", "(RLE) traced to outlines"),
    "lost": ("object", "left out: nothing of the mask is left as an outline"),
    "changed": ("outline", f"whose mask overlaps the original less than {_CLOSE:g}"),
    "boxes": ("object", "without a mask written without one"),
}
"""What is counted, and what became of it."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What became of a data set.

    Attributes:
        yaml: The YAML that names the new one.
        pictures: Pictures of each split.
        objects: Objects of each split.
        losses: What the format could not hold as it was, by :data:`LOSSES`.
        worst: Smallest IoU of a mask with its original; 1 where nothing had to be redrawn.
        named: Objects that changed, by name.
    """

    yaml: Path
    pictures: Mapping[str, int]
    objects: Mapping[str, int]
    losses: Mapping[str, int]
    worst: float
    named: Sequence[str]

    def rows(self) -> str:
        """Return it for people."""
        lines = [
            f"{split}: {counted(count, 'picture')}, {counted(self.objects[split], 'object')}"
            for split, count in self.pictures.items()
        ]
        lines += [f"{counted(count, LOSSES[kind][0])} {LOSSES[kind][1]}" for kind, count in self.losses.items()]
        if self.worst < 1:
            lines.append(f"smallest overlap of a redrawn mask with its original: {self.worst:.3f}")
        lines += [f"  {line}" for line in self.named[:20]]
        if not self.losses:
            lines.append("nothing is lost")
        return "\n".join([*lines, str(self.yaml)])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {**vars(self), "yaml": str(self.yaml), "named": list(self.named)}


@dataclass(kw_only=True)
class _Losses:
    """What could not be held as it was."""

    counts: Counter[str] = field(default_factory=Counter)
    worst: float = 1.0
    named: list[str] = field(default_factory=list)


def convert(options: DataConvertOptions, registry: Registry) -> Conversion:
    """Write all splits of a data set in another format.

    Raises:
        UsageError: No data set or no folder is named.
        DataError: The data set is missing, or the folder is not empty.
    """
    opened = {
        _split_name(split): dataset
        for split, (dataset, _, _) in open_splits(options.data, options.images, registry).items()
    }
    losses = _Losses()
    objects = {}
    total = sum(map(len, opened.values()))
    with new_folder(options.output) as folder, progress(total, "convert") as advance:
        for split, dataset in opened.items():
            write = _write_yolo if options.to == "yolo" else _write_coco
            objects[split] = 0
            for count in write(dataset, folder, split, losses, link=options.pictures == "link"):
                objects[split] += count
                advance(1)
        names = next(iter(opened.values())).names
        places = {split: f"images/{split}" if options.to == "yolo" else f"annotations/{split}.json" for split in opened}
        write_yaml(folder / yaml_name(options.output), places, names)
    return Conversion(
        yaml=expanded(options.output) / yaml_name(options.output),
        pictures={split: len(dataset) for split, dataset in opened.items()},
        objects=objects,
        losses={kind: losses.counts[kind] for kind in LOSSES if losses.counts[kind]},
        worst=losses.worst,
        named=losses.named,
    )


def yaml_name(folder: Path) -> str:
    """Return what the YAML in a folder of a data set is called: like the folder."""
    return f"{expanded(folder).resolve().name}.yaml"


def write_yaml(path: Path, places: Mapping[str, str], names: Mapping[int, str]) -> Path:
    """Write a data set YAML."""
    content: dict[str, Any] = {"path": ".", **places, "names": dict(names)}
    return write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def place_picture(source: Path, target: Path, *, link: bool) -> None:
    """Link to a picture, or copy it; where links cannot be made it is copied.

    Raises:
        DataError: It cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if link:
            try:
                target.symlink_to(source.resolve())
            except (OSError, NotImplementedError):
                pass
            else:
                return
        shutil.copyfile(source, target)
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error.strerror or error}") from error


def _split_name(split: str) -> str:
    return "train" if split == ONLY else split


def _write_yolo(dataset: Dataset, folder: Path, split: str, losses: _Losses, *, link: bool) -> Iterator[int]:
    """Write pictures and label files; yields the objects of each picture."""
    for sample, stem in zip(dataset, stems(dataset), strict=True):
        place_picture(sample.path, folder / "images" / split / f"{stem}{sample.path.suffix}", link=link)
        rows = [row for truth in sample.truths if (row := _yolo_row(truth, sample, losses)) is not None]
        write_text(folder / "labels" / split / f"{stem}.txt", "".join(f"{row}\n" for row in rows))
        yield len(rows)


def _yolo_row(truth: Truth, sample: Sample, losses: _Losses) -> str | None:
    """Return the row of an object, or None for what the format cannot hold."""
    if truth.crowd:
        losses.counts["crowds"] += 1
        return None
    size = np.array(sample.shape[::-1], np.float64)
    if not truth.has_mask:
        losses.counts["boxes"] += 1
        x, y, width, height = truth.box
        values = np.array([x + width / 2, y + height / 2, width, height]) / np.tile(size, 2)
    elif truth.rle is None and len(truth.polygons) == 1:
        values = (truth.polygons[0] / size).ravel()
    else:
        ring = _single_ring(truth, sample, losses)
        if ring is None:
            return None
        values = (ring / size).ravel()
    return f"{truth.category} " + " ".join(f"{value:.6g}" for value in values.clip(0, 1).tolist())


def _single_ring(truth: Truth, sample: Sample, losses: _Losses) -> NDArray[np.float64] | None:
    """Return the one ring that an object of several parts, with holes or as a bitmap becomes."""
    alone = type(sample)(path=sample.path, id=sample.id, shape=sample.shape, truths=(truth,))
    original = truth_masks(alone)
    (parts,) = original.polygons
    if not parts:
        losses.counts["lost"] += 1
        losses.named.append(f"{sample.path.name}: object {truth.id} is left out")
        return None
    if truth.rle is not None:
        losses.counts["traced"] += 1
    if len(parts) > 1 or parts[0].holes or len(truth.polygons) > 1:
        losses.counts["joined"] += 1
    ring = one_ring(parts)
    overlap = float(original.iou(Masks.from_polygons([[ring]], sample.shape))[0, 0])
    losses.worst = min(losses.worst, overlap)
    if overlap < _CLOSE:
        losses.counts["changed"] += 1
        losses.named.append(f"{sample.path.name}: object {truth.id} overlaps its original {overlap:.3f}")
    return ring


def _write_coco(dataset: Dataset, folder: Path, split: str, losses: _Losses, *, link: bool) -> Iterator[int]:
    """Write pictures and one JSON, which holds everything; yields the objects of each picture."""
    names = stems(dataset)

    def place(sample: Sample, index: int) -> str:
        file = f"{names[index]}{sample.path.suffix}"
        place_picture(sample.path, folder / "images" / split / file, link=link)
        return file

    for sample in write_coco_json(folder / "annotations" / f"{split}.json", dataset, range(len(dataset)), place):
        losses.counts["boxes"] += sum(not truth.has_mask for truth in sample.truths)
        yield len(sample.truths)


def write_coco_json(path: Path, dataset: Dataset, indices: Sequence[int], place: Any) -> Iterator[Sample]:
    """Write some pictures of a data set as COCO JSON, one row a line; yields each picture when it is written.

    Args:
        path: Where to.
        dataset: The data set.
        indices: Its pictures to write.
        place: Returns the ``file_name`` of a sample, given the sample and its index.
    """
    ids = dataset.category_ids
    categories = [{"id": ids[number], "name": name} for number, name in dataset.names.items()]
    numbered = all(isinstance(dataset[index].id, int) for index in indices)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"categories":' + json.dumps(categories, ensure_ascii=False) + ',\n"images":[')
        shapes = dataset.shapes().tolist()
        image_ids = {}
        for position, index in enumerate(indices):
            sample = dataset[index]
            image_ids[index] = sample.id if numbered else position + 1
            height, width = shapes[index]
            row = {"id": image_ids[index], "file_name": place(sample, index), "height": height, "width": width}
            _write_row(file, row, first=position == 0)
        file.write('\n],\n"annotations":[')
        used: set[int] = set()
        top, first = 0, True
        for index in indices:
            sample = dataset[index]
            for truth in sample.truths:
                number = truth.id if truth.id > 0 and truth.id not in used else top + 1
                used.add(number)
                top = max(top, number)
                _write_row(file, _annotation(truth, sample, number, image_ids[index], ids), first=first)
                first = False
            yield sample
        file.write("\n]}\n")


def _write_row(file: TextIO, row: Mapping[str, Any], *, first: bool) -> None:
    file.write(("\n" if first else ",\n") + json.dumps(row, ensure_ascii=False, separators=(",", ":")))


def _annotation(
    truth: Truth, sample: Sample, number: int, image: int | str, category_ids: Mapping[int, int]
) -> dict[str, Any]:
    segmentation: Any = [ring.round(4).ravel().tolist() for ring in truth.polygons]
    if truth.rle is not None:
        segmentation = {"size": list(sample.shape), "counts": truth.rle["counts"].decode("ascii")}
    area = truth.area
    if area is None:
        area = truth.box[2] * truth.box[3]
        if truth.has_mask:
            area = float(truth_masks(type(sample)(path=sample.path, id=0, shape=sample.shape, truths=(truth,))).area[0])
    return {
        "id": number,
        "image_id": image,
        "category_id": category_ids[truth.category],
        "bbox": [round(value, 4) for value in truth.box],
        "area": round(area, 4),
        "iscrowd": int(truth.crowd),
        "segmentation": segmentation,
    }


def relative(path: Path, folder: Path) -> str:
    """Return how a file is named from a folder."""
    return os.path.relpath(path.resolve(), folder.resolve()).replace(os.sep, "/")
