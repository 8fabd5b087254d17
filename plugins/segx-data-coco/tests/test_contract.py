"""COCO JSON keeps the contract of all data set formats."""

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


class TestCoco(DatasetContract):
    """With masks as RLE, so that holes stay."""

    distribution = "segx-data-coco"
    name = "coco"

    @classmethod
    def write(cls, folder: Path, scenes: list[Scene]) -> DatasetSource:
        """Write PNG images and one JSON; categories have COCO-like ids with gaps."""
        (folder / "images").mkdir(parents=True)
        content: dict[str, list[object]] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 10 * number + 1, "name": name} for number, name in NAMES.items()],
        }
        for image, scene in enumerate(scenes, start=5):
            height, width = scene.image.shape[:2]
            cv2.imwrite(str(folder / "images" / f"{image}.png"), scene.image)
            content["images"].append({"id": image, "file_name": f"{image}.png", "height": height, "width": width})
            for item in scene.objects:
                (rle,) = Masks.from_dense(item.mask[None]).rle
                x1, y1, x2, y2 = item.box
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "image_id": image,
                        "category_id": 10 * item.category + 1,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": int(item.mask.sum()),
                        "iscrowd": 0,
                        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                    }
                )
        path = folder / "instances.json"
        path.write_text(json.dumps(content))
        return DatasetSource(origin=path, split="val", entries=(path,))
