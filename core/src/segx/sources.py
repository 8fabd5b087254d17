"""Images from files, folders, globs, lists, URLs, video, cameras and arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segx.interfaces import Image


@dataclass(frozen=True, kw_only=True)
class SourceImage:
    """One picture of a source.

    Attributes:
        image: uint8 (H, W, 3), BGR, orientation applied.
        path: The file, URL or name it came from; ``"image0"`` for an array.
        frame: Zero-based frame number for video and streams, else None.
    """

    image: Image
    path: str
    frame: int | None = None
