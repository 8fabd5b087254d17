"""``predictions.json``, written image by image: what any COCO evaluation can read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from segx.io.files import GrowingFile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from segx_task_segment.metrics.coco import ImageMatches


class PredictionsFile:
    """COCO's results format, one row a line; the file appears when it is whole.

    Rows are numbered from 1 as the COCO API numbers them, and boxes and scores are those that were measured, digit by
    digit. A row has both ``bbox`` and ``segmentation``; the COCO API then takes small, medium and large from the box.

    Args:
        path: Where to.
        category_ids: Class number to the data set's own id.
        file_names: Id of each image to its ``file_name``.

    Raises:
        DataError: The file cannot be made.
    """

    def __init__(
        self, path: Path, category_ids: Mapping[int, int], file_names: Mapping[int | str, str] | None = None
    ) -> None:
        self.path = path
        self._ids = category_ids
        self._file_names = file_names or {}
        self._file = GrowingFile(path)
        self._between = "[\n"

    def add(self, matches: ImageMatches) -> None:
        """Write what was found in one image.

        Raises:
            DataError: The disk is full, or gone.
        """
        found = matches.found
        rles = found.masks.rle if len(found) else []
        rows = zip(found.category.tolist(), found.score.tolist(), found.box.tolist(), strict=True)
        name = self._file_names.get(matches.sample.id)
        file_name = {} if name is None else {"file_name": name}
        for i, (category, score, box) in enumerate(rows):
            row: dict[str, Any] = {
                "id": matches.first_id + i,
                "image_id": matches.sample.id,
                **file_name,
                "category_id": self._ids.get(category, category),
                "bbox": [round(value, 4) for value in box],
                "score": float(f"{score:.9g}"),
                "segmentation": {"size": rles[i]["size"], "counts": rles[i]["counts"].decode("ascii")},
            }
            self._file.write(self._between + json.dumps(row, separators=(",", ":")))
            self._between = ",\n"

    def close(self) -> Path:
        """Finish the file and put it in place.

        Raises:
            DataError: The disk is full, or gone.
        """
        self._file.write("\n]\n" if self._between.startswith(",") else "[]\n")
        return self._file.finish()

    def discard(self) -> None:
        """Leave nothing behind, unless it is finished already."""
        self._file.discard()
