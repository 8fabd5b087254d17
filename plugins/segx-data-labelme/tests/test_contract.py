"""Folders of labelme keep the contract of all data set formats."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import cv2

from segx.structures.annotations import DatasetSource
from segx.structures.masks import Masks
from segx.testing import DatasetContract
from segx.testing.scenes import NAMES

if TYPE_CHECKING:
    from pathlib import Path

    from segx.testing.scenes import Scene


class TestLabelme(DatasetContract):
    """With polygons, a shape for each part."""

    distribution = "segx-data-labelme"
    name = "labelme"

    @classmethod
    def write(cls, folder: Path, scenes: list[Scene]) -> DatasetSource:
        """Write PNG images, a JSON beside each, and the list of classes that X-AnyLabeling keeps."""
        split = folder / "train"
        split.mkdir(parents=True)
        (split / "classes.txt").write_text("\n".join(NAMES.values()))
        for number, scene in enumerate(scenes):
            height, width = scene.image.shape[:2]
            cv2.imwrite(str(split / f"{number}.png"), scene.image)
            shapes = [
                {
                    "label": NAMES[item.category],
                    "points": part.exterior.tolist(),
                    "group_id": group,
                    "shape_type": "polygon",
                    "flags": {},
                }
                for group, item in enumerate(scene.objects)
                for part in Masks.from_dense(item.mask[None]).polygons[0]
            ]
            content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{number}.png"}
            size = {"imageData": None, "imageHeight": height, "imageWidth": width}
            (split / f"{number}.json").write_text(json.dumps(content | size))
        return DatasetSource(origin=folder, split="train", entries=(split,))
