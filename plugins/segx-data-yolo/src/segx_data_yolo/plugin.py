"""Declares YOLO polygon labels as a way of writing ground truth down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx import hookimpl
from segx.specs import DatasetFormatSpec

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from segx.interfaces import DatasetReader

SEGX_API = (1, 0)


def _detects(path: Path) -> bool:
    return path.suffix.lower() == ".txt" or path.is_dir()


def _load() -> DatasetReader:
    from segx_data_yolo.reader import YoloReader

    return YoloReader()


@hookimpl
def segx_dataset_formats() -> Iterable[DatasetFormatSpec]:
    """Declare the format."""
    return [
        DatasetFormatSpec(
            name="yolo",
            summary="YOLO text labels: one polygon or box a row, one file a picture",
            load=_load,
            detects=_detects,
            requires=("numpy>=1.26",),
        )
    ]
