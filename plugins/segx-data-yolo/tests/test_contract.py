"""What every dataset format keeps, YOLO labels keep."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2

from segx.interfaces import DatasetSource
from segx.masks import Masks
from segx.testing import DatasetContract
from segx.testing.scenes import NAMES

if TYPE_CHECKING:
    from pathlib import Path

    from segx.testing.scenes import Scene


class TestYolo(DatasetContract):
    distribution = "segx-data-yolo"
    name = "yolo"

    @classmethod
    def write(cls, folder: Path, scenes: list[Scene]) -> DatasetSource:
        """Write drawn pictures, and outlines as fractions of their size; a hole cannot be said."""
        images, labels = folder / "images", folder / "labels"
        images.mkdir()
        labels.mkdir()
        for index, scene in enumerate(scenes):
            cv2.imwrite(str(images / f"{index}.png"), scene.image)
            height, width = scene.image.shape[:2]
            rows = []
            for item in scene.objects:
                (part,) = Masks.from_dense(item.mask[None]).polygons[0]
                points = (part.exterior / (width, height)).ravel()
                rows.append(" ".join([str(item.category), *(f"{value:.6f}" for value in points)]))
            if rows:
                (labels / f"{index}.txt").write_text("\n".join(rows), encoding="utf-8")
        return DatasetSource(origin=folder, split="train", entries=(images,), names=NAMES)
