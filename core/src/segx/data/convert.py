"""Writes a data set in another format, and says what that cannot hold; the original stays as it is."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import yaml

from segx.console import counted, progress
from segx.data.definition import ONLY, open_splits
from segx.data.splits import open_data
from segx.data.tally import notify
from segx.errors import DataError
from segx.io.files import copy_new, new_folder, replacing, write_text
from segx.io.names import file_names, image_ids, safe, stems
from segx.io.paths import expanded
from segx.ops.outlines import clip
from segx.ops.polygons import one_ring
from segx.structures.sample import annotation_masks

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from segx.options.verbs import DataConvertOptions
    from segx.plugin.interfaces import Dataset
    from segx.plugin.registry import Registry
    from segx.structures.annotations import Annotation
    from segx.structures.masks import Masks
    from segx.structures.sample import Sample

logger = logging.getLogger(__name__)

_FEWEST = 3
"""Corners of an outline."""
_CLOSE = 0.95
"""IoU with the original below which a joined outline is reported by name."""

_SAME = 1e-2
"""Pixels that corners may move by rounding: the mask is the same then."""

LOSSES = {
    "unread": ("line", "of the original left out: segx data check tells why"),
    "crowds": ("crowd", "left out: the format has none"),
    "joined": ("object", "of several parts or with holes written as one outline with cuts"),
    "traced": ("bitmap", "(RLE) traced to outlines"),
    "lost": ("object", "left out: nothing of the mask is left as an outline"),
    "missing": ("object", "not there when what is written was read back"),
    "changed": ("outline", f"whose mask overlaps the original less than {_CLOSE:g}"),
    "boxes": ("object", "without a mask written without one"),
}
"""What is counted, and what became of it."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """The result of a conversion.

    Attributes:
        yaml: The YAML that names the new one.
        images: Images of each split.
        objects: Objects of each split.
        losses: What the format could not hold as it was, by :data:`LOSSES`.
        worst: Smallest IoU of a mask with its original; 1 where nothing had to be redrawn.
        named: Objects that changed, by name.
    """

    yaml: Path
    images: Mapping[str, int]
    objects: Mapping[str, int]
    losses: Mapping[str, int]
    worst: float
    named: Sequence[str]

    def to_table(self) -> str:
        """Return it for people."""
        lines = [
            f"{split}: {counted(count, 'image')}, {counted(self.objects[split], 'object')}"
            for split, count in self.images.items()
        ]
        lines += [f"{counted(count, LOSSES[kind][0])} {LOSSES[kind][1]}" for kind, count in self.losses.items()]
        if self.worst < 1:
            lines.append(f"smallest overlap of a redrawn mask with its original: {self.worst:.3f}")
        lines += [f"  {line}" for line in self.named[:20]]
        if not self.losses:
            lines.append("nothing is lost: what is written was read back and compared")
        return "\n".join([*lines, str(self.yaml)])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {**vars(self), "yaml": str(self.yaml), "named": list(self.named)}


@dataclass(kw_only=True)
class _Losses:
    """Counts of what the target format cannot hold."""

    counts: Counter[str] = field(default_factory=Counter)
    worst: float = 1.0
    named: list[str] = field(default_factory=list)

    def compare(self, overlap: float, what: str) -> None:
        """Take the IoU of an object with its original."""
        self.worst = min(self.worst, overlap)
        if overlap < _CLOSE:
            self.counts["changed"] += 1
            self.named.append(f"{what} overlaps its original {overlap:.3f}")


Written = list[tuple[Path, list[int]]]
"""For each image of a split its new file, and which of its objects were written."""


def convert(options: DataConvertOptions, registry: Registry) -> Conversion:
    """Write all splits of a data set in another format.

    Raises:
        UsageError: No data set or no folder is named.
        DataError: The data set is missing, or the folder is not empty.
    """
    found = open_data(options, registry)
    for line in (*found.notes, *(f"{error.message}: it is left out" for error in found.missing.values())):
        logger.warning("%s", line)
    opened = {_split_name(split): one.dataset for split, one in found.splits.items()}
    losses = _Losses()
    written: dict[str, Written] = {split: [] for split in opened}
    total = 2 * sum(map(len, opened.values()))
    with new_folder(options.output) as folder, progress(total, "convert") as advance:
        for split, dataset in opened.items():
            notify(split, dataset)
            losses.counts["unread"] += len(dataset.problems)
            write = _write_yolo if options.to == "yolo" else _write_coco
            for entry in write(dataset, folder, split, losses, link=options.image_files == "link"):
                written[split].append(entry)
                advance(1)
        names = next(iter(opened.values())).names
        places = {split: f"images/{split}" if options.to == "yolo" else f"annotations/{split}.json" for split in opened}
        path = write_yaml(folder / yaml_name(options.output), places, names)
        again = open_splits(path, registry=registry).splits
        for split, dataset in opened.items():
            for _ in _read_back(dataset, again[split].dataset, written[split], losses):
                advance(1)
    return Conversion(
        yaml=expanded(options.output) / yaml_name(options.output),
        images={split: len(dataset) for split, dataset in opened.items()},
        objects={split: sum(len(kept) for _, kept in entries) for split, entries in written.items()},
        losses={kind: losses.counts[kind] for kind in LOSSES if losses.counts[kind]},
        worst=losses.worst,
        named=losses.named,
    )


def yaml_name(folder: Path) -> str:
    """Return what the YAML in a folder of a data set is called: like the folder."""
    name = Path(os.path.abspath(expanded(folder))).name  # noqa: PTH100 - links are not resolved
    return f"{safe(name, otherwise='data')}.yaml"


def write_yaml(path: Path, places: Mapping[str, str], names: Mapping[int, str]) -> Path:
    """Write a data set YAML."""
    content: dict[str, Any] = {"path": ".", **places, "names": dict(names)}
    return write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def place_image(source: Path, target: Path, *, link: bool) -> None:
    """Link to an image, or copy it, to where nothing is yet; where links cannot be made it is copied.

    Raises:
        DataError: It cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if link:
            try:
                target.symlink_to(source.absolute())
            except FileExistsError:
                raise
            except (OSError, NotImplementedError):
                pass
            else:
                return
        copy_new(source, target)
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error.strerror or error}") from error


def _split_name(split: str) -> str:
    return "train" if split == ONLY else split


def _read_back(before: Dataset, after: Dataset, written: Written, losses: _Losses) -> Iterator[None]:
    """Compare what is read of the new files with the original, object by object; yields once for each image."""
    places = {os.path.normpath(path): index for index, path in enumerate(after.paths())}
    for sample, (path, kept) in zip(before, written, strict=True):
        ours = [sample.annotations[index] for index in kept]
        place = places.get(os.path.normpath(path))
        found = None if place is None else after[place]
        theirs = list(found.annotations) if found is not None and found.shape == sample.shape else []
        named = [before.names[annotation.category] for annotation in ours]
        if named != [after.names[annotation.category] for annotation in theirs]:
            losses.counts["missing"] += max(len(ours) - len(theirs), 1)
            losses.named.append(f"{path.name}: {counted(len(ours), 'object')} written, {len(theirs)} read back")
        else:
            for one, other in zip(ours, theirs, strict=True):
                if one.has_mask and not _same_outline(one, other):
                    overlap = float(_mask(one, sample).iou(_mask(other, sample))[0, 0])
                    losses.compare(overlap, f"{sample.path.name}: object {one.id}")
        yield


def _same_outline(one: Annotation, other: Annotation) -> bool:
    """Say quickly whether two objects have the same corners, or the same bits."""
    if one.rle is not None or other.rle is not None:
        return one.rle == other.rle
    return len(one.polygons) == len(other.polygons) and all(
        len(ring) == len(again) and bool((abs(ring - again) <= _SAME).all())
        for ring, again in zip(one.polygons, other.polygons, strict=True)
    )


def _mask(annotation: Annotation, sample: Sample) -> Masks:
    return annotation_masks(type(sample)(path=sample.path, id=sample.id, shape=sample.shape, annotations=(annotation,)))


def _write_yolo(
    dataset: Dataset, folder: Path, split: str, losses: _Losses, *, link: bool
) -> Iterator[tuple[Path, list[int]]]:
    """Write images and label files; yields of each its new file and which objects were written."""
    paths = dataset.paths()
    for sample, stem, file in zip(dataset, stems(paths), file_names(paths), strict=True):
        target = folder / "images" / split / file
        place_image(sample.path, target, link=link)
        rows = {
            i: row for i, annotation in enumerate(sample.annotations) if (row := _yolo_row(annotation, sample, losses))
        }
        write_text(folder / "labels" / split / f"{stem}.txt", "".join(f"{row}\n" for row in rows.values()))
        yield target, list(rows)


def _yolo_row(annotation: Annotation, sample: Sample, losses: _Losses) -> str | None:
    """Return the row of an object, or None for what the format cannot hold."""
    if annotation.crowd:
        losses.counts["crowds"] += 1
        return None
    size = np.array(sample.shape[::-1], np.float64)
    ring: NDArray[np.float64] | None
    if not annotation.has_mask:
        losses.counts["boxes"] += 1
        x, y, width, height = annotation.box
        low, high = (np.clip(corner / size, 0, 1) for corner in (np.array([x, y]), np.array([x + width, y + height])))
        values = np.concatenate([(low + high) / 2, high - low])
    else:
        if annotation.rle is None and len(annotation.polygons) == 1:
            ring = clip(annotation.polygons[0], float(size[0]), float(size[1]))
        else:
            ring = _single_ring(annotation, sample, losses)
        if ring is None or len(ring) < _FEWEST:
            losses.counts["lost"] += 1
            losses.named.append(f"{sample.path.name}: object {annotation.id} is left out")
            return None
        values = (ring / size).ravel()
    return f"{annotation.category} " + " ".join(f"{value:.6g}" for value in values.clip(0, 1).tolist())


def _single_ring(annotation: Annotation, sample: Sample, losses: _Losses) -> NDArray[np.float64] | None:
    """Return the one ring that an object of several parts, with holes or as a bitmap becomes; None where none is."""
    (parts,) = _mask(annotation, sample).polygons
    if not parts:
        return None
    if annotation.rle is not None:
        losses.counts["traced"] += 1
    if len(parts) > 1 or parts[0].holes or len(annotation.polygons) > 1:
        losses.counts["joined"] += 1
    return one_ring(parts)


def _write_coco(
    dataset: Dataset, folder: Path, split: str, losses: _Losses, *, link: bool
) -> Iterator[tuple[Path, list[int]]]:
    """Write images and one JSON, which holds everything; yields of each its new file and its objects."""
    files, targets = file_names(dataset.paths()), deque[Path]()

    def place(sample: Sample, index: int) -> str:
        targets.append(folder / "images" / split / files[index])
        place_image(sample.path, targets[-1], link=link)
        return files[index]

    for sample in write_coco_json(folder / "annotations" / f"{split}.json", dataset, range(len(dataset)), place):
        losses.counts["boxes"] += sum(not annotation.has_mask for annotation in sample.annotations)
        yield targets.popleft(), list(range(len(sample.annotations)))


def write_coco_json(path: Path, dataset: Dataset, indices: Sequence[int], place: Any) -> Iterator[Sample]:
    """Write some images of a data set as COCO JSON, one row a line; yields each image when it is written.

    Args:
        path: Where to.
        dataset: The data set.
        indices: Its images to write.
        place: Returns the ``file_name`` of a sample, given the sample and its index.
    """
    ids = dataset.category_ids
    categories = [{"id": ids[number], "name": name} for number, name in dataset.names.items()]
    image_id = dict(zip(indices, image_ids([dataset[index].id for index in indices]), strict=True))
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"categories":' + json.dumps(categories, ensure_ascii=False) + ',\n"images":[')
        shapes = dataset.shapes().tolist()
        for position, index in enumerate(indices):
            sample = dataset[index]
            height, width = shapes[index]
            row = {"id": image_id[index], "file_name": place(sample, index), "height": height, "width": width}
            _write_row(file, row, first=position == 0)
        file.write('\n],\n"annotations":[')
        used: set[int] = set()
        top, first = 0, True
        for index in indices:
            sample = dataset[index]
            for annotation in sample.annotations:
                number = annotation.id if annotation.id > 0 and annotation.id not in used else top + 1
                used.add(number)
                top = max(top, number)
                _write_row(file, _annotation(annotation, sample, number, image_id[index], ids), first=first)
                first = False
            yield sample
        file.write("\n]}\n")


def _write_row(file: TextIO, row: Mapping[str, Any], *, first: bool) -> None:
    file.write(("\n" if first else ",\n") + json.dumps(row, ensure_ascii=False, separators=(",", ":")))


def _annotation(
    annotation: Annotation, sample: Sample, number: int, image: int | str, category_ids: Mapping[int, int]
) -> dict[str, Any]:
    segmentation: Any = [ring.round(4).ravel().tolist() for ring in annotation.polygons]
    if annotation.rle is not None:
        segmentation = {"size": list(sample.shape), "counts": annotation.rle["counts"].decode("ascii")}
    area = annotation.area
    if area is None:
        area = annotation.box[2] * annotation.box[3]
        if annotation.has_mask:
            area = float(_mask(annotation, sample).area[0])
    return {
        "id": number,
        "image_id": image,
        "category_id": category_ids[annotation.category],
        "bbox": [round(value, 4) for value in annotation.box],
        "area": round(area, 4),
        "iscrowd": int(annotation.crowd),
        "segmentation": segmentation,
    }


def relative(path: Path, folder: Path) -> str:
    """Return how a file is named from a folder: as it is reached, for labels are found by that name.

    From a folder that is reached by a link, ``..`` leads elsewhere than it reads: such names stay absolute.

    Raises:
        DataError: Its name is no text.
    """
    if str(path) != str(path).encode(errors="replace").decode():
        raise DataError(f"{str(path)!a}: the name is not UTF-8, no list can hold it", hint="rename it")
    name, here = os.path.abspath(path), os.path.abspath(folder)  # noqa: PTH100 - links are not resolved
    if not os.path.exists(name):  # noqa: PTH110 - ".." after a link, where it leads
        return str(path.absolute()).replace(os.sep, "/")
    if os.path.realpath(here) != here:
        return name.replace(os.sep, "/")
    return os.path.relpath(name, here).replace(os.sep, "/")
