"""The size of a picture from its first bytes: sorting a data set by shape must not decode it."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, BinaryIO

from segx.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

_PNG = b"\x89PNG\r\n\x1a\n"
_TURNED = {5, 6, 7, 8}
"""EXIF orientations that swap height and width."""
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG markers that begin a frame and hold its size (ITU T.81, table B.1)."""


def image_shape(path: Path) -> tuple[int, int]:
    """Return (height, width) in pixels, orientation applied.

    Raises:
        DataError: The file is missing or no picture.
    """
    try:
        with path.open("rb") as file:
            begin = file.read(26)
            if begin.startswith(b"\xff\xd8"):
                return _jpeg_shape(file)
            if begin.startswith(_PNG):
                width, height = struct.unpack(">II", begin[16:24])
                return height, width
        return _other_shape(path)
    except (OSError, struct.error, ValueError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is not a picture"
        msg = f"{path}: the size of the picture cannot be read ({reason})"
        raise DataError(msg) from error


def _jpeg_shape(file: BinaryIO) -> tuple[int, int]:
    """Walk the segments to the frame header, minding an Exif orientation on the way."""
    file.seek(2)
    turned = False
    while True:
        marker = _next_marker(file)
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            continue
        (length,) = struct.unpack(">H", file.read(2))
        if marker in _FRAMES:
            _, height, width = struct.unpack(">BHH", file.read(5))
            return (width, height) if turned else (height, width)
        if marker in {0xD9, 0xDA}:
            msg = "no frame before the picture's data"
            raise ValueError(msg)
        if marker == 0xE1:
            turned = _orientation(file.read(length - 2)) in _TURNED or turned
        else:
            file.seek(length - 2, 1)


def _next_marker(file: BinaryIO) -> int:
    if file.read(1) != b"\xff":
        msg = "not a JPEG segment"
        raise ValueError(msg)
    byte = file.read(1)
    while byte == b"\xff":
        byte = file.read(1)
    return byte[0] if byte else 0xD9


def _orientation(segment: bytes) -> int:
    """Return the Exif orientation 1..8 of an APP1 segment; 1 where there is none."""
    if not segment.startswith(b"Exif\0\0"):
        return 1
    tiff = segment[6:]
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(entries):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * entry)
            if tag == 0x0112:
                return int(value)
    except struct.error:
        return 1
    return 1


def _other_shape(path: Path) -> tuple[int, int]:
    """Read the header of any other format Pillow knows."""
    from PIL import ExifTags, Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in _TURNED
            width, height = image.size
    except UnidentifiedImageError as error:
        raise ValueError(str(error)) from error
    return (width, height) if turned else (height, width)
