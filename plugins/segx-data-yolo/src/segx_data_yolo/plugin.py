"""Declares YOLO polygon labels as a way of writing ground truth down."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

from segx import hookimpl
from segx.plugin.specs import DatasetFormatSpec, lazy

if TYPE_CHECKING:
    from pathlib import Path

SEGX_API = (1, 0)


_LOOKED_AT = 1000
"""Files of a folder that are looked at to find an image."""


def _detects(path: Path) -> bool:
    """Return True if a path is a ``.txt`` list, or a folder with images in it."""
    from segx.io.names import IMAGE_SUFFIXES
    from segx_data_yolo.folders import walk

    if path.is_file():
        return path.suffix.lower() == ".txt"
    files = itertools.islice(walk(str(path)), _LOOKED_AT)
    return any(os.path.splitext(file.name)[1].lower() in IMAGE_SUFFIXES for file in files)  # noqa: PTH122 - a text


@hookimpl
def segx_dataset_formats() -> list[DatasetFormatSpec]:
    """Declare the format."""
    return [
        DatasetFormatSpec(
            name="yolo",
            summary="YOLO text labels: one polygon or box a row, one file an image",
            load=lazy("segx_data_yolo.reader:YoloReader"),
            write=lazy("segx_data_yolo.writer:YoloWriter"),
            detects=_detects,
            requires=("numpy>=1.26",),
        )
    ]
