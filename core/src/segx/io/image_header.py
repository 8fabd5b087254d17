"""What the first bytes of an image say: its format, its size, how it is to be turned; nothing is decoded.

Whoever reads pixels turns them by this and by nothing else, so that a size and the pixels it is stated for agree.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import re
import struct
import threading
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO

from segx.errors import DataError, reason
from segx.io.files import open_regular
from segx.records import Record

if TYPE_CHECKING:
    from pathlib import Path

PILLOW_FORMATS = (
    "AVIF",
    "BMP",
    "DIB",
    "GIF",
    "HEIF",
    "JPEG2000",
    "PPM",
    "SUN",
    "JPEG",
    "MPO",
    "PNG",
    "TIFF",
    "WEBP",
    "TGA",
)
"""What Pillow is asked to read. Never all it knows: for EPS it starts Ghostscript, whatever the file is called."""

_PNG = b"\x89PNG\r\n\x1a\n"
_OTHERS: dict[bytes, str] = {
    b"%!PS": "EPS",
    b"\xc5\xd0\xd3\xc6": "EPS",
    b"%PDF": "PDF",
    b"8BPS": "PSD",
    b"SIMPLE  =": "FITS",
    b"\x89HDF": "HDF5",
    b"GRIB": "GRIB",
    b"<svg": "SVG",
    b"<?xml": "XML or SVG",
    b"<!doctype": "HTML",
    b"<html": "HTML",
    b"\xd7\xcd\xc6\x9a": "WMF",
    b"\x01\x00\x00\x00": "EMF",
    b"\x00\x00\x01\x00": "ICO",
    b"icns": "ICNS",
    b"dds ": "DDS",
    b"qoif": "QOI",
    b"\x0a\x05\x01": "PCX",
    b"\x01\xda": "SGI",
    b"gimp xcf": "XCF",
    b"#?r": "Radiance HDR",
    b"\x76\x2f\x31\x01": "OpenEXR",
    b"\xff\x0a": "JPEG XL",
    b"\x00\x00\x00\x0cJXL": "JPEG XL",
    b"PK\x03\x04": "ZIP",
    b"\x1f\x8b": "gzip",
}
"""How files begin that are taken for images now and then, and what they are."""
_LIGHT = frozenset({"BMP", "DIB", "JPEG", "MPO", "PNG", "PPM", "SUN", "TIFF", "WEBP"})
_HEIC = re.compile(rb"ftyp(heic|heix|hevc|heim|mif1|msf1)")
_ORIENTATION = 0x0112
_SIDES_SWAPPED = frozenset({5, 6, 7, 8})
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG markers that begin a frame and hold its size (ITU T.81, table B.1)."""
_TAIL = 1 << 17
"""Bytes at the end of a PNG in which an orientation may stand behind the pixels."""
_MAX_PARTS = 4096
"""Chunks, segments or entries that are looked through before the pixels; more are no honest file's."""
_pillow = threading.Lock()


class Header(Record):
    """What an image says of itself.

    Attributes:
        kind: ``"JPEG"``, ``"PNG"``, ``"TIFF"``, ``"WEBP"``, or Pillow's name of any other format.
        stored: (height, width) in pixels as they lie in the file.
        orientation: How they are to be turned to be seen, 1..8 (Exif 2.3 and TIFF 6.0, tag 274).
        place: Where in a TIFF the orientation is stated, in bytes; 0 where it is not.
        depth: Bits of each channel, where that is stated in a place that is looked at.
    """

    kind: str
    stored: tuple[int, int]
    orientation: int = 1
    place: int = 0
    depth: int = 8

    @property
    def heavy(self) -> bool:
        """Whether reading it takes about twice the memory that the same pixels take in JPEG or 8-bit PNG."""
        return self.depth > 8 or self.kind not in _LIGHT

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels as the image is read: its orientation applied."""
        height, width = self.stored
        return (width, height) if self.orientation in _SIDES_SWAPPED else (height, width)


def image_shape(path: Path) -> tuple[int, int]:
    """Return (height, width) in pixels, orientation applied.

    Raises:
        DataError: The file is missing or no image.
    """
    try:
        with open_regular(path) as file:
            return read_header(file).shape
    except (OSError, DataError) as error:
        reason = error.message if isinstance(error, DataError) else error.strerror or str(error)
        raise DataError(f"{path}: the size of the image cannot be read ({reason})") from error


def read_header(file: BinaryIO) -> Header:
    """Return what an image says of itself.

    Args:
        file: It, at its beginning; it is left anywhere.

    Raises:
        DataError: It is no image of a format that is read; with the reason alone, without a name.
    """
    begin = file.read(32)
    try:
        if begin.startswith(b"\xff\xd8"):
            header = _jpeg(file)
        elif begin.startswith(_PNG):
            header = _png(file)
        elif begin[:4] in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}:
            header = _tiff(file)
        elif begin[:4] == b"RIFF" and begin[8:12] == b"WEBP":
            header = _webp(file)
        else:
            header = _other(file, begin)
    except (struct.error, ValueError, EOFError, OverflowError) as error:
        raise DataError("it is damaged, or no image of a known format") from error
    if min(header.stored) < 1:
        raise DataError("it is damaged: it states a size without pixels")
    return header


def open_with_pillow(file: BinaryIO) -> Any:
    """Return a ``PIL.Image.Image`` of one of the formats that are read, not yet decoded.

    Raises:
        DataError: It is of none of them; with the reason alone, without a name.
    """
    import PIL.Image

    if importlib.util.find_spec("pillow_heif") is not None:  # pragma: no cover - an extra of the user's
        importlib.import_module("pillow_heif").register_heif_opener()
    PIL.Image.init()
    formats = [name for name in PILLOW_FORMATS if name in PIL.Image.OPEN]
    with _pillow:  # our own limit holds, for every format; Pillow's is one for the whole process
        limit, PIL.Image.MAX_IMAGE_PIXELS = PIL.Image.MAX_IMAGE_PIXELS, None
        try:
            file.seek(0)
            return PIL.Image.open(file, formats=formats)
        except PIL.UnidentifiedImageError as error:
            raise DataError("it is damaged, or no image of a known format") from error
        except Exception as error:
            raise DataError(f"it is damaged ({one_line(error)})") from error
        finally:
            PIL.Image.MAX_IMAGE_PIXELS = limit


def one_line(error: BaseException) -> str:
    """Return what an error says, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return reason(error)


def _jpeg(file: BinaryIO) -> Header:
    """Walk the segments to the frame header, minding an Exif orientation on the way."""
    file.seek(2)
    orientation = 1
    for _ in range(_MAX_PARTS):
        marker = _next_marker(file)
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:
            continue
        (length,) = struct.unpack(">H", file.read(2))
        if marker in _FRAMES:
            _, height, width = struct.unpack(">BHH", file.read(5))
            return Header(kind="JPEG", stored=(height, width), orientation=orientation)
        if marker in {0xD9, 0xDA}:
            break
        if marker == 0xE1 and orientation == 1:
            orientation = _exif_orientation(file.read(length - 2), b"Exif\0\0")
        else:
            file.seek(length - 2, io.SEEK_CUR)
    raise ValueError("no frame before the pixels")


def _next_marker(file: BinaryIO) -> int:
    if file.read(1) != b"\xff":
        raise ValueError("not a JPEG segment")
    byte = file.read(1)
    while byte == b"\xff":
        byte = file.read(1)
    return byte[0] if byte else 0xD9


def _png(file: BinaryIO) -> Header:
    """Read the size, and the orientation wherever it stands: before the pixels or behind them."""
    file.seek(16)
    width, height, depth = struct.unpack(">IIB", file.read(9))
    file.seek(len(_PNG))
    orientation = 0
    for _ in range(_MAX_PARTS):
        begin = file.read(8)
        if len(begin) < 8 or begin[4:] in {b"IDAT", b"IEND"}:
            break
        length = int.from_bytes(begin[:4], "big")
        if begin[4:] == b"eXIf":
            orientation = _exif_orientation(file.read(length))
            break
        file.seek(length + 4, io.SEEK_CUR)
    orientation = orientation or _late_orientation(file)
    return Header(kind="PNG", stored=(height, width), orientation=orientation, depth=depth)


def _late_orientation(file: BinaryIO) -> int:
    """Return what a PNG's chunk ``eXIf`` behind the pixels says; its checksum tells it from pixels that look alike."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - _TAIL, 0))
    tail = file.read(_TAIL)
    at = tail.rfind(b"eXIf")
    if at < 4:
        return 1
    end = at + 4 + int.from_bytes(tail[at - 4 : at], "big")
    if zlib.crc32(tail[at:end]).to_bytes(4, "big") != tail[end : end + 4]:
        return 1
    return _exif_orientation(tail[at + 4 : end])


def _webp(file: BinaryIO) -> Header:
    file.seek(12)
    stored: tuple[int, int] | None = None
    orientation = 1
    for _ in range(_MAX_PARTS):
        begin = file.read(8)
        if len(begin) < 8:
            break
        kind, length = begin[:4], int.from_bytes(begin[4:], "little")
        after = file.tell() + length + length % 2
        if kind == b"EXIF":
            orientation = _exif_orientation(file.read(length).removeprefix(b"Exif\0\0"))
            break
        if stored is None:
            stored = _webp_size(kind, file.read(min(length, 10)))
            if kind != b"VP8X":
                break
        file.seek(after)
    if stored is None:
        raise ValueError("no size")
    return Header(kind="WEBP", stored=stored, orientation=orientation)


def _webp_size(kind: bytes, data: bytes) -> tuple[int, int]:
    """Return (height, width) from the first chunk (RFC 9649, 2.5 to 2.7)."""
    if kind == b"VP8X":
        return int.from_bytes(data[7:10], "little") + 1, int.from_bytes(data[4:7], "little") + 1
    if kind == b"VP8L":
        (bits,) = struct.unpack("<I", data[1:5])
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    width, height = struct.unpack("<HH", data[6:10])
    return height & 0x3FFF, width & 0x3FFF


def _tiff(file: BinaryIO) -> Header:
    entries = _directory(file)
    width, height = (entries.get(tag, (0, 0))[0] for tag in (0x0100, 0x0101))
    orientation, place = entries.get(_ORIENTATION, (1, 0))
    if not 1 <= orientation <= 8:
        orientation, place = 1, 0
    depth, _ = entries.get(0x0102, (8, 0))  # of several channels it stands elsewhere
    return Header(
        kind="TIFF", stored=(height, width), orientation=orientation, place=place, depth=depth if depth <= 64 else 8
    )


def _exif_orientation(data: bytes, prefix: bytes = b"") -> int:
    """Return the orientation 1..8 that Exif data state; 1 where they state none."""
    if not data.startswith(prefix):
        return 1
    try:
        orientation, _ = _directory(io.BytesIO(data[len(prefix) :])).get(_ORIENTATION, (1, 0))
    except (struct.error, ValueError, OverflowError):
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def _directory(file: BinaryIO) -> dict[int, tuple[int, int]]:
    """Return the whole numbers of a TIFF's first directory, plain or BigTIFF: tag to value and its place."""
    file.seek(0)
    begin = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(begin[:2])
    if order is None:
        raise ValueError("no TIFF")
    big = 0x2B in begin[2:4]
    (start,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", begin, 8 if big else 4)
    file.seek(start)
    (count,) = struct.unpack(f"{order}{'Q' if big else 'H'}", file.read(8 if big else 2))
    step, value_at = (20, 12) if big else (12, 8)
    first = file.tell()
    data = file.read(min(count, _MAX_PARTS) * step)
    entries = {}
    for at in range(0, len(data) - step + 1, step):
        tag, kind = struct.unpack_from(f"{order}HH", data, at)
        letter = {1: "B", 3: "H", 4: "I", 16: "Q"}.get(kind)
        if letter is not None and (letter != "Q" or big) and tag not in entries:
            (value,) = struct.unpack_from(f"{order}{letter}", data, at + value_at)
            entries[tag] = (value, first + at + value_at)
    return entries


def _other(file: BinaryIO, begin: bytes) -> Header:
    """Read the header of any other format that is read, or name the one that is not."""
    try:
        image = open_with_pillow(file)
    except DataError as error:
        if _HEIC.match(begin, 4):
            raise DataError("HEIC images need: pip install pillow-heif") from error
        known = (name for start, name in _OTHERS.items() if begin.lower().startswith(start.lower()))
        if (name := next(known, None)) is not None:
            raise DataError(f"it is {name}, which is not read as an image") from error
        raise
    with image:
        width, height = image.size
        try:
            orientation = int(image.getexif().get(_ORIENTATION, 1))
        except Exception:  # noqa: BLE001 - as above: damaged Exif data are no reason to refuse an image
            orientation = 1
        return Header(
            kind=str(image.format), stored=(height, width), orientation=orientation if 1 <= orientation <= 8 else 1
        )
