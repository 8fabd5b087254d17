"""Writes COCO JSON: images in one folder, and for each split one file, which holds everything."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from segx.io.files import replacing
from segx.io.names import file_names, image_ids
from segx.plugin.writing import place_image
from segx.structures.annotations import masks_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from segx.plugin.interfaces import Dataset
    from segx.plugin.writing import WriteJob
    from segx.structures.annotations import Annotation, Sample


class CocoWriter:
    """Writes the format: :class:`segx.plugin.interfaces.DatasetWriter`."""

    def place(self, split: str) -> str:
        """Return where a split lies in the data set's folder."""
        return f"annotations/{split}.json"

    def write(self, dataset: Dataset, job: WriteJob) -> Iterator[tuple[Path, list[int]]]:
        """Write images and the JSON; yields of each its new file and its objects."""
        files, targets = file_names(dataset.paths()), deque[Path]()

        def place(sample: Sample, index: int) -> str:
            targets.append(job.folder / "images" / job.split / files[index])
            place_image(sample.path, targets[-1], link=job.link)
            return files[index]

        for sample in write_json(job.folder / "annotations" / f"{job.split}.json", dataset, range(len(dataset)), place):
            job.losses.counts["boxes"] += sum(not annotation.has_mask for annotation in sample.annotations)
            yield targets.popleft(), list(range(len(sample.annotations)))

    def write_part(self, path: Path, dataset: Dataset, indices: Sequence[int], name: Callable[[Path], str]) -> None:
        """Write some images of a data set as a JSON of their own; the images stay where they are."""
        for _ in write_json(path, dataset, indices, lambda sample, _: name(sample.path)):
            pass


def write_json(path: Path, dataset: Dataset, indices: Sequence[int], place: Any) -> Iterator[Sample]:
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
            area = float(masks_of([annotation], sample.shape).area[0])
    return {
        "id": number,
        "image_id": image,
        "category_id": category_ids[annotation.category],
        "bbox": [round(value, 4) for value in annotation.box],
        "area": round(area, 4),
        "iscrowd": int(annotation.crowd),
        "segmentation": segmentation,
    }
