"""Writes YOLO text labels: images in one folder, a text file of outlines for each in another."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segx.io.files import write_text
from segx.io.names import file_names, stems
from segx.ops.polygons import clip, one_ring
from segx.plugin.writing import place_image
from segx.structures.annotations import masks_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from segx.plugin.interfaces import Dataset
    from segx.plugin.writing import Losses, WriteJob
    from segx.structures.annotations import Annotation, Sample

_FEWEST = 3
"""Corners of an outline."""


class YoloWriter:
    """Writes the format: :class:`segx.plugin.interfaces.DatasetWriter`."""

    def place(self, split: str) -> str:
        """Return where a split lies in the data set's folder."""
        return f"images/{split}"

    def write(self, dataset: Dataset, job: WriteJob) -> Iterator[tuple[Path, list[int]]]:
        """Write images and label files; yields of each its new file and which objects were written."""
        paths = dataset.paths()
        for sample, stem, file in zip(dataset, stems(paths), file_names(paths), strict=True):
            target = job.folder / "images" / job.split / file
            place_image(sample.path, target, link=job.link)
            rows = {
                i: row
                for i, annotation in enumerate(sample.annotations)
                if (row := row_of(annotation, sample, job.losses))
            }
            write_text(job.folder / "labels" / job.split / f"{stem}.txt", "".join(f"{row}\n" for row in rows.values()))
            yield target, list(rows)


def row_of(annotation: Annotation, sample: Sample, losses: Losses) -> str | None:
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


def _single_ring(annotation: Annotation, sample: Sample, losses: Losses) -> NDArray[np.float64] | None:
    """Return the one ring that an object of several parts, with holes or as a bitmap becomes; None where none is."""
    (parts,) = masks_of([annotation], sample.shape).polygons
    if not parts:
        return None
    if annotation.rle is not None:
        losses.counts["traced"] += 1
    if len(parts) > 1 or parts[0].holes or len(annotation.polygons) > 1:
        losses.counts["joined"] += 1
    return one_ring(parts)
