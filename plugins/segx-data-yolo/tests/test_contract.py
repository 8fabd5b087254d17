"""YOLO labels keep the contract of all data set formats."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from segx.structures.annotations import DatasetSource
from segx.testing import DatasetContract
from segx.testing.scenes import NAMES

if TYPE_CHECKING:
    from pathlib import Path

    from segx.testing.scenes import Scene


class TestYolo(DatasetContract):
    """With one ring for each object: the format has no holes."""

    distribution = "segx-data-yolo"
    name = "yolo"

    @classmethod
    def write(cls, folder: Path, scenes: list[Scene]) -> DatasetSource:
        """Write PNG images and text files; an image without objects has no file."""
        for name in ("images", "labels"):
            (folder / name).mkdir(parents=True)
        for number, scene in enumerate(scenes):
            height, width = scene.image.shape[:2]
            cv2.imwrite(str(folder / "images" / f"{number}.png"), scene.image)
            rows = []
            for item in scene.objects:
                outlines, _ = cv2.findContours(item.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
                ring = (outlines[0].reshape(-1, 2) + 0.5) / (width, height)
                rows.append(f"{item.category} {' '.join(f'{value:.6f}' for value in ring.ravel())}")
            if rows:
                (folder / "labels" / f"{number}.txt").write_text("\n".join(rows))
        return DatasetSource(origin=folder, split="val", entries=(folder / "images",), names=NAMES)
