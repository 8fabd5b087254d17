"""Declares the JSON files of labelme and X-AnyLabeling as a way of writing ground truth down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx import hookimpl
from segx.plugin.specs import DatasetFormatSpec, lazy

if TYPE_CHECKING:
    from pathlib import Path

SEGX_API = (1, 0)


def _detects(path: Path) -> bool:
    """Return True for such a JSON, and for a folder with one whose image has no text labels."""
    from segx_data_labelme.files import detects

    return detects(path)


@hookimpl
def segx_dataset_formats() -> list[DatasetFormatSpec]:
    """Declare the format."""
    return [
        DatasetFormatSpec(
            name="labelme",
            summary="labelme and X-AnyLabeling: a JSON of polygons, masks and boxes beside each image",
            load=lazy("segx_data_labelme.reader:LabelmeReader"),
            detects=_detects,
            requires=("numpy>=1.26",),
            priority=10,
        )
    ]
