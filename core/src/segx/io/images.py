"""One image of any kind and from anywhere, as uint8 (H, W, 3) BGR with its orientation applied.

What becomes of what is not plain colour: grey is repeated in all three channels; alpha is dropped (the stored colours
stay, as in the data the models were trained on; nothing is composited); 16 bits are scaled by 255/65535; floats are
0..1 or 0..255; of an animation or a multi-page file the first image is taken. An image has at most as many pixels as
:func:`segx.io.paths.most_pixels` says.
"""

from __future__ import annotations

import io
import logging
import math
import os
import re
import threading
from contextlib import nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from segx.errors import DataError, UsageError
from segx.io.files import open_regular, read_at_most
from segx.io.image_header import one_line, open_with_pillow, read_header
from segx.io.paths import PIXELS_VARIABLE, most_pixels
from segx.runtime.opencv import quiet

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from segx.io.image_header import Header
    from segx.structures.annotations import Sample
    from segx.structures.types import Image

logger = logging.getLogger(__name__)

DOWNLOAD_LIMIT = 256 << 20
"""Most bytes an image fetched from an address may have."""
DOWNLOAD_SECONDS = 120.0
"""Longest time that one may take, however steadily it drips."""

_ORIENTATION = 0x0112
_ENDINGS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}
"""What is near the end of files that are whole."""
_TAIL = 1 << 16
_STORED = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
_REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}
_TURNS: dict[int, Callable[[Any], Any]] = {
    2: lambda image: cv2.flip(image, 1),
    3: lambda image: cv2.rotate(image, cv2.ROTATE_180),
    4: lambda image: cv2.flip(image, 0),
    5: cv2.transpose,
    6: lambda image: cv2.rotate(image, cv2.ROTATE_90_CLOCKWISE),
    7: lambda image: cv2.rotate(cv2.transpose(image), cv2.ROTATE_180),
    8: lambda image: cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
"""How stored pixels are turned to be seen (TIFF 6.0, tag 274)."""
_MAX_SCANS = 100
"""Of a JPEG; each goes over all pixels, and encoders make about ten."""
_BLOCK = 1 << 16
"""Bytes that are looked through at once: what is noted of them can take ten times as many."""
_SCAN = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_BYTES_A_PIXEL = 4
_ROOM_FOR_THE_REST = 64 << 20
LARGE = 64_000_000
"""Pixels of an image that takes memory by the gigabyte."""
_large = threading.Lock()


def read_image(path: Path) -> Image:
    """Return the image of a file.

    Raises:
        DataError: With the reason alone, without the name; whoever asks knows the name.
    """
    data, header = read_encoded(path)
    return _decode(data, header, header.orientation)


def read_encoded(path: Path) -> tuple[bytes, Header]:
    """Return what is in an image file and what it says of itself; one that says too much is not read.

    Raises:
        DataError: With the reason alone, without the name.
    """
    try:
        with open_regular(path) as file:
            if not file.peek(1):  # type: ignore[attr-defined]
                raise DataError("it is empty")
            header = read_header(file)
            check_size(header.stored, heavy=header.heavy)
            file.seek(0)
            return read_at_most(file, most_pixels() * _BYTES_A_PIXEL + _ROOM_FOR_THE_REST), header
    except OSError as error:
        raise DataError(error.strerror or str(error)) from error


def image_of(sample: Sample, *, least: int = 0) -> Image:
    """Return the image of a sample as uint8 (H, W, 3) BGR, of the size its annotations are stated for.

    Where that is the size before an Exif orientation was applied, the orientation is left aside.

    Args:
        sample: The image and its annotations.
        least: Where given, a JPEG is read at a half, a quarter or an eighth of its size, sides rounded up, while its
            long side stays this long: much quicker.

    Raises:
        DataError: With the reason alone, without the name.
    """
    data, header = read_encoded(sample.path)
    orientation = header.orientation if sample.shape == header.shape else 1
    if sample.shape not in {header.shape, header.stored}:
        found, stated = ("{}x{}".format(*shape) for shape in (header.shape, sample.shape))
        raise DataError(f"it is {found}, its ground truth is for {stated}")
    return _decode(data, header, orientation, least=least)


def decode_image(data: bytes) -> Image:
    """Return the image that encoded bytes hold: OpenCV's formats, and for the others Pillow's.

    Raises:
        DataError: With the reason alone, without a name.
    """
    if not data:
        raise DataError("it is empty")
    header = read_header(io.BytesIO(data))
    check_size(header.stored, heavy=header.heavy)
    return _decode(data, header, header.orientation)


def check_whole(data: bytes, header: Header) -> None:
    """Read an image to its last pixel with the strictest of the readers that know it.

    Raises:
        DataError: It is damaged; with the reason alone, without a name.
    """
    height, width = header.stored
    with _turn_of(height * width):
        try:
            image = open_with_pillow(io.BytesIO(data))
        except DataError:
            _stored(data, header, 0)
            return
        with image:
            try:
                image.load()
            except Exception as error:
                raise DataError(one_line(error)) from error


def check_size(shape: tuple[int, int], *, heavy: bool = False) -> None:
    """Refuse an image of more pixels than are read: ``most_pixels``, half of them where each is heavy.

    Raises:
        DataError: With the size and the limit.
    """
    height, width = shape
    most = most_pixels() // 2 if heavy else most_pixels()
    if height * width > most:
        kind = " of this kind" if heavy else ""
        raise DataError(
            f"it states {width:,} x {height:,} pixels, more than the {most:,} that are read{kind}"
            f" ({PIXELS_VARIABLE} raises that)"
        )


def fetch_image(address: str) -> Image:
    """Return the image at an http(s) address; proxies of the environment are used.

    Raises:
        DataError: With the reason alone, without the address.
    """
    from segx.io import network  # with http and ssl, which images on disk do without

    data, kind = network.fetch(address, most=DOWNLOAD_LIMIT, within=DOWNLOAD_SECONDS)
    try:
        return decode_image(data)
    except DataError as error:
        if kind.startswith("image/"):
            raise
        raise DataError(f"the answer is {kind or 'of no stated kind'}, not an image") from error


def from_pillow(image: Any) -> Image:
    """Return a ``PIL.Image.Image`` with its EXIF orientation applied.

    Raises:
        DataError: Its file cannot be read, its values are out of range, or it has too many pixels.
    """
    from PIL import ImageOps

    check_size(image.size[::-1])
    try:
        if image.getexif().get(_ORIENTATION, 1) != 1:
            image = ImageOps.exif_transpose(image)
        return _pillow_to_bgr(image)
    except (DataError, MemoryError):
        raise
    except Exception as error:
        raise DataError(one_line(error)) from error


def from_array(array: Any, *, copy: bool = False) -> Image:
    """Return an array (H, W), (H, W, 1), (H, W, 3) BGR or (H, W, 4) BGRA as an image.

    Booleans are black and white; integers 0..255, or 0..65535 where they go beyond; uint16 always 0..65535; floats
    0..1, or 0..255 where they go to 2 and beyond. The order of bytes does not matter.

    Args:
        array: The values.
        copy: The result has memory of its own; else an array that is already what is wanted is returned as it is.

    Raises:
        UsageError: The shape or the type is not that of an image.
        DataError: A value is out of range.
    """
    values = np.asarray(array)
    check_array(values)
    image: Image = np.ascontiguousarray(_to_colour(_to_uint8(values)))
    return image.copy() if copy and np.may_share_memory(image, values) else image


def check_array(values: Any, *, batch: bool = False) -> None:
    """Refuse an array that cannot be an image, or a batch of images (N, H, W, C).

    Raises:
        UsageError: With the shape or the type that it has and those that can be.
    """
    shape = values.shape[1:] if batch else values.shape
    if not (len(shape) == 2 or (len(shape) == 3 and shape[2] in {1, 3, 4})) or 0 in values.shape:
        hint = "an array is (H, W), (H, W, 1), (H, W, 3) BGR or (H, W, 4) BGRA, or (N, H, W, C) for several"
        raise UsageError(f"an array of shape {values.shape} is not an image", hint=hint)
    if values.dtype.kind not in "buif":
        raise UsageError(f"an array of type {values.dtype} is not an image", hint="use uint8, uint16, or float 0..1")
    height, width = shape[:2]
    check_size((height, width))


def _decode(data: bytes, header: Header, orientation: int, *, least: int = 0) -> Image:
    """Return the pixels of an image, turned; of a large JPEG a part, where that is enough."""
    if header.kind == "JPEG":
        _check_scans(data)
    height, width = header.stored
    try:
        with _turn_of(height * width):
            stored = _stored(data, header, least)
            turn = _TURNS.get(orientation)
            return stored if turn is None else np.ascontiguousarray(turn(stored))
    except MemoryError as error:
        raise DataError(f"it is {width:,} x {height:,} pixels, which do not fit into memory") from error


def _turn_of(pixels: int) -> AbstractContextManager[Any]:
    """Let images that take memory by the gigabyte be decoded one after the other."""
    return _large if pixels > LARGE else nullcontext()


def _stored(data: bytes, header: Header, least: int) -> Image:
    """Return the pixels as they lie in the file."""
    if header.place and header.orientation != 1:  # readers differ in whether they turn a TIFF: this one is not turned
        one = b"\1\0" if data[:1] == b"I" else b"\0\1"
        data = data[: header.place] + one + data[header.place + 2 :]
    ending = _ENDINGS.get(header.kind)
    whole = ending is None or data.rfind(ending, max(len(data) - _TAIL, 0)) >= 0
    if data[4:8] == b"ftyp" or not whole:  # some OpenCV turns these, and takes half a file for a whole one
        return _decode_pillow(data)
    step = max((factor for factor in _REDUCED if factor * least <= max(header.stored)), default=1)
    if least and header.kind == "JPEG" and step > 1:
        image = _decode_opencv(data, _REDUCED[step] | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is not None and image.shape[:2] == tuple(-(-side // step) for side in header.stored):
            return image
    image = _decode_large(data, header.stored) if math.prod(header.stored) > LARGE else None
    if image is None:
        image = _decode_opencv(data, _STORED)
    return _decode_pillow(data) if image is None else image


def _check_scans(data: bytes) -> None:
    """Refuse a JPEG that goes over its pixels again and again: a small file can keep a reader busy for hours."""
    values = np.frombuffer(data, np.uint8)
    marks = 0
    for start in range(0, len(values), _BLOCK):  # three times as quick as bytes.count, and other threads may go on
        block = values[start : start + _BLOCK + 1]
        behind = np.flatnonzero(block[1:] == 0xDA)
        marks += int(np.count_nonzero(block[behind] == 0xFF))
    if marks <= _MAX_SCANS:
        return
    scans, at = 0, 2
    while (found := _SCAN.search(data, at)) is not None and scans <= _MAX_SCANS:
        marker, at = found.group(1)[0], found.end()
        if marker == 0xD9:
            return
        scans += marker == 0xDA
        at += int.from_bytes(data[at : at + 2], "big")
    if scans > _MAX_SCANS:
        raise DataError(f"a JPEG of more than {_MAX_SCANS} scans, which would take hours to read, is not read")


def _decode_opencv(data: bytes, flags: int) -> Image | None:
    try:
        with quiet():
            image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    return None if image is None else _to_colour(_to_uint8(image))


def _decode_large(data: bytes, shape: tuple[int, int]) -> Image | None:
    """Return an image without holding its pixels twice, or None where that cannot be done.

    OpenCV's ``imdecode`` copies what it has decoded into the array that it returns; ``imread`` decodes into ours, but
    only from a file: one in memory.
    """
    if not hasattr(os, "memfd_create"):
        return None
    try:
        with os.fdopen(os.memfd_create("segx-image"), "wb") as file:
            file.write(data)
            file.flush()
            room = np.empty((*shape, 3), np.uint8)
            with quiet():
                image = cv2.imread(f"/proc/self/fd/{file.fileno()}", room, _STORED)
    except (OSError, cv2.error, TypeError):  # no such files, no /proc; OpenCV before 4.11 takes no array
        return None
    return None if image is None else _to_colour(_to_uint8(image))


def _decode_pillow(data: bytes) -> Image:
    with open_with_pillow(io.BytesIO(data)) as image:
        try:
            return _pillow_to_bgr(image)
        except (DataError, MemoryError):
            raise
        except Exception as error:
            raise DataError(one_line(error)) from error


def _pillow_to_bgr(image: Any) -> Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        return from_array(values.astype(np.uint16) if image.mode.startswith("I;16") else values, copy=True)
    if image.mode in {"P", "PA"}:
        image = image.convert("RGBA")  # the way to the right colours when the palette holds transparency
    if image.mode in {"RGBa", "La"}:
        image = image.convert({"RGBa": "RGBA", "La": "LA"}[image.mode])
    return np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])


def _to_uint8(values: Any) -> Any:
    """Return values of any number kind as 0..255, by what they mean."""
    kind = values.dtype
    if kind == np.uint8:
        return values
    if kind == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if kind.kind == "f":
        unit = unit_of(values, "float images")
        return np.rint(np.clip(values, 0, unit) * (255 / unit)).astype(np.uint8)
    lowest, highest = int(values.min()), int(values.max())
    if not 0 <= lowest <= highest <= 65535:
        raise DataError(f"values of {kind} images lie in 0..255 or 0..65535, here {lowest}..{highest}")
    if highest <= 255 and kind.newbyteorder("=") != np.uint16:
        return values.astype(np.uint8)
    if highest < 4096:
        _log_dark()
    return cv2.convertScaleAbs(np.ascontiguousarray(values, dtype=np.uint16), alpha=255 / 65535)


def unit_of(values: Any, what: str) -> float:
    """Return what is white in an array of floats: 1, or 255 where they go to 2 and beyond.

    Rounding errors beyond are no matter. What lies between is neither.

    Raises:
        DataError: Values lie outside both ranges, or are no numbers.
    """
    lowest, highest = float(values.min()), float(values.max())
    if lowest >= -1e-3 and highest <= 1 + 1e-3:  # written so that NaN is refused too
        return 1.0
    if lowest >= -0.5 and 2 <= highest <= 255.5:
        return 255.0
    raise DataError(f"values of {what} lie in 0..1 or 0..255, here {lowest:g}..{highest:g}")


@cache
def _log_dark() -> None:
    logger.warning(
        "16-bit values that reach no further than those of a camera of 12 bits (4095) are read as 0..65535, nearly"
        " black; scale them before: values * 16"
    )


def _to_colour(values: Any) -> Any:
    if values.ndim == 2 or values.shape[2] == 1:
        return cv2.cvtColor(np.ascontiguousarray(values), cv2.COLOR_GRAY2BGR)
    return values if values.shape[2] == 3 else cv2.cvtColor(np.ascontiguousarray(values), cv2.COLOR_BGRA2BGR)
