"""Declares COCO JSON as a way of writing ground truth down."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx import hookimpl
from segx.plugin.specs import DatasetFormatSpec, lazy

if TYPE_CHECKING:
    from pathlib import Path

SEGX_API = (1, 0)


_HEAD = 1 << 16
_KEYS = (b'"images"', b'"annotations"', b'"categories"', b'"image_id"')


def _detects(path: Path) -> bool:
    """Return True if a JSON begins or ends like one of COCO's; its predictions too, so that the reader can say so."""
    from segx.io.files import both_ends

    if path.suffix.lower() != ".json":
        return False
    text = both_ends(path, _HEAD)
    return any(key in text for key in _KEYS)


@hookimpl
def segx_dataset_formats() -> list[DatasetFormatSpec]:
    """Declare the format."""
    return [
        DatasetFormatSpec(
            name="coco",
            summary="COCO JSON: polygons of several parts, holes, RLE and crowds",
            load=lazy("segx_data_coco.reader:CocoReader"),
            write=lazy("segx_data_coco.writer:CocoWriter"),
            detects=_detects,
            requires=("numpy>=1.26",),
        )
    ]
