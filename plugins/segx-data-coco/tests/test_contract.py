"""What every dataset format keeps, COCO JSON keeps; with RLE, so that holes are kept too."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import cv2

from segx.interfaces import DatasetSource
from segx.masks import Masks
from segx.testing import DatasetContract
from segx.testing.scenes import NAMES

if TYPE_CHECKING:
    from pathlib import Path

    from segx.testing.scenes import Scene


class TestCoco(DatasetContract):
    distribution = "segx-data-coco"
    name = "coco"
    holes = True

    @classmethod
    def write(cls, folder: Path, scenes: list[Scene]) -> DatasetSource:
        """Write drawn pictures and their masks, with category ids that do not begin at 0."""
        images, annotations = [], []
        for index, scene in enumerate(scenes):
            height, width = scene.image.shape[:2]
            cv2.imwrite(str(folder / f"{index}.png"), scene.image)
            images.append({"id": index + 100, "file_name": f"{index}.png", "height": height, "width": width})
            for item in scene.objects:
                rle = Masks.from_dense(item.mask[None]).rle[0]
                left, top, right, bottom = item.box
                counts = rle["counts"]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": index + 100,
                        "category_id": item.category * 10 + 7,
                        "bbox": [left, top, right - left, bottom - top],
                        "area": int(item.mask.sum()),
                        "iscrowd": 0,
                        "segmentation": {
                            "size": list(rle["size"]),
                            "counts": counts.decode() if isinstance(counts, bytes) else counts,
                        },
                    }
                )
        categories = [{"id": number * 10 + 7, "name": name} for number, name in NAMES.items()]
        file = folder / "annotations.json"
        content = {"images": images, "annotations": annotations, "categories": categories}
        file.write_text(json.dumps(content), encoding="utf-8")
        return DatasetSource(origin=file, split="train", entries=(file,), images=folder)
