"""Declares COCO JSON as a way of writing ground truth down."""

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
    return path.suffix.lower() == ".json"


def _load() -> DatasetReader:
    from segx_data_coco.reader import CocoReader

    return CocoReader()


@hookimpl
def segx_dataset_formats() -> Iterable[DatasetFormatSpec]:
    """Declare the format."""
    return [
        DatasetFormatSpec(
            name="coco",
            summary="COCO JSON: polygons of several parts, holes, RLE and crowds",
            load=_load,
            detects=_detects,
            requires=("numpy>=1.26",),
        )
    ]
