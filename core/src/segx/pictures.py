"""One picture of any kind and from anywhere, as uint8 (H, W, 3) BGR with its orientation applied.

What becomes of what is not plain colour: grey is repeated in all three channels; alpha is dropped (the stored colours
stay, as in the data the models were trained on; nothing is composited); 16 bits are scaled by 255/65535; floats are
0..1; of an animation or a multi-page file the first picture is taken.
"""

from __future__ import annotations

import importlib.util
import io
import os
import urllib.parse
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from segx import network
from segx.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from segx.interfaces import Image, Sample

PICTURE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".dib", ".dng", ".gif", ".heic", ".heif", ".hif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg"}
    | {".jpg", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".ras", ".sr", ".tga", ".tif", ".tiff", ".webp"}
)
DOWNLOAD_LIMIT = 256 << 20
"""Most bytes a picture fetched from an address may have."""
DOWNLOAD_SECONDS = 120.0
"""Longest time that one may take, however steadily it drips."""

_ORIENTATION = 0x0112
_WEBP_EXIF = 0x08
_JPEG = b"\xff\xd8\xff"
_ENDINGS = {b"\x89PN": b"IEND", _JPEG: b"\xff\xd9"}
"""How PNG and JPEG files begin, and what is near their end when they are whole."""
_TAIL = 1 << 16
_COLOUR = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
_BACK: dict[int, Callable[[Image], Image]] = {
    5: lambda image: image.transpose(1, 0, 2),
    6: np.rot90,
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: lambda image: np.rot90(image, -1),
}
"""How a picture is turned back (TIFF 6.0, tag 274)."""
_REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}


def read_picture(path: Path) -> Image:
    """Return the picture of a file.

    Raises:
        DataError: With the reason alone, without the name; whoever asks knows the name.
    """
    return decode_picture(_bytes_of(path))


def picture_of(sample: Sample, *, least: int = 0) -> Image:
    """Return the picture of a sample as uint8 (H, W, 3) BGR, of the size its ground truth is stated for.

    Where that is the size before an Exif orientation was applied, the orientation is left aside.

    Args:
        sample: The picture and its ground truth.
        least: Where given, a JPEG is read at a half, a quarter or an eighth of its size, sides rounded up, while its
            long side stays this long: much quicker.

    Raises:
        DataError: With the reason alone, without the name.
    """
    data = _bytes_of(sample.path)
    reduced = _reduced(data, sample.shape, least)
    if reduced is not None:
        return reduced
    image = decode_picture(data)
    if image.shape[:2] == sample.shape:
        return image
    if image.shape[1::-1] == sample.shape:
        image = _unturned(image, data)
    if image.shape[:2] != sample.shape:
        found, stated = ("{}x{}".format(*shape) for shape in (image.shape, sample.shape))
        raise DataError(f"it is {found}, its ground truth is for {stated}")
    return image


def decode_picture(data: bytes) -> Image:
    """Return the picture that encoded bytes hold: OpenCV's formats, and for the others Pillow's.

    Raises:
        DataError: With the reason alone, without a name.
    """
    if not data:
        raise DataError("it is empty")
    picture = None if _is_for_pillow(data) else _decode_opencv(data)
    return picture if picture is not None else _decode_pillow(data)


def fetch_picture(address: str) -> Image:
    """Return the picture at an http(s) address; proxies of the environment are used.

    Raises:
        DataError: With the reason alone, without the address.
    """
    data, kind = network.fetch(address, most=DOWNLOAD_LIMIT, within=DOWNLOAD_SECONDS)
    try:
        return decode_picture(data)
    except DataError as error:
        if kind.startswith("image/"):
            raise
        raise DataError(f"the answer is {kind or 'of no stated kind'}, not a picture") from error


def from_pillow(picture: Any) -> Image:
    """Return a ``PIL.Image.Image`` with its EXIF orientation applied.

    Raises:
        DataError: Its file cannot be read, or its values are out of range.
    """
    from PIL import ImageOps

    try:
        if picture.getexif().get(_ORIENTATION, 1) != 1:
            picture = ImageOps.exif_transpose(picture)
        return _pillow_to_bgr(picture)
    except (OSError, SyntaxError, ValueError, TypeError, Warning) as error:
        raise DataError(_one_line(error)) from error


def from_array(array: Any) -> Image:
    """Return an array (H, W), (H, W, 1), (H, W, 3) BGR or (H, W, 4) BGRA as a picture.

    Integers are 0..255, uint16 0..65535, floats 0..1, booleans black and white. An array that is already what is
    wanted is not copied.

    Raises:
        UsageError: The shape or the type is not that of a picture.
        DataError: A value is out of range.
    """
    values = np.asarray(array)
    check_array(values)
    return np.ascontiguousarray(_to_colour(_to_uint8(values)))


def check_array(values: Any, *, batch: bool = False) -> None:
    """Refuse an array that cannot be a picture, or a batch of pictures (N, H, W, C).

    Raises:
        UsageError: With the shape or the type that it has and those that can be.
    """
    shape = values.shape[1:] if batch else values.shape
    if not (len(shape) == 2 or (len(shape) == 3 and shape[2] in {1, 3, 4})) or 0 in values.shape:
        hint = "an array is (H, W), (H, W, 1), (H, W, 3) BGR or (H, W, 4) BGRA, or (N, H, W, C) for several"
        raise UsageError(f"an array of shape {values.shape} is not a picture", hint=hint)
    if values.dtype.kind not in "buif":
        raise UsageError(f"an array of type {values.dtype} is not a picture", hint="use uint8, uint16, or float 0..1")


def _is_for_pillow(data: bytes) -> bool:
    """Say whether some OpenCV would ignore the orientation (AVIF, HEIF, WebP) or take half a file for a whole one."""
    if data[4:8] == b"ftyp":
        return True
    if data[8:16] == b"WEBPVP8X":
        return len(data) > 20 and bool(data[20] & _WEBP_EXIF)
    ending = _ENDINGS.get(data[:3])
    return ending is not None and data.rfind(ending, max(len(data) - _TAIL, 0)) < 0


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(error.strerror or str(error)) from error


def _reduced(data: bytes, shape: tuple[int, int], least: int) -> Image | None:
    """Return a whole JPEG at a part of its stated size; None where that is not asked for or not certain to be right."""
    if not least or data[:3] != _JPEG:
        return None
    step = max((factor for factor in _REDUCED if factor * least <= max(shape)), default=1)
    height, width = (-(-side // step) for side in shape)
    alike = height == width and shape[0] != shape[1]  # the picture and the picture turned
    if step == 1 or alike or _is_for_pillow(data):
        return None
    for turning in (0, cv2.IMREAD_IGNORE_ORIENTATION):
        image = _decode_opencv(data, _REDUCED[step] | turning)
        if image is not None and image.shape[:2] == (height, width):
            return image
    return None


def _unturned(image: Image, data: bytes) -> Image:
    """Return a decoded picture as it is stored, where its orientation swaps height and width."""
    import PIL.Image

    try:
        with PIL.Image.open(io.BytesIO(data)) as picture:
            orientation = picture.getexif().get(_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, Warning):
        return image
    back = _BACK.get(orientation)
    return image if back is None else np.ascontiguousarray(back(image))


def _decode_opencv(data: bytes, flags: int = _COLOUR) -> Image | None:
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    return None if picture is None else _to_colour(_to_uint8(picture))


def _decode_pillow(data: bytes) -> Image:
    import PIL.Image

    if importlib.util.find_spec("pillow_heif") is not None:  # pragma: no cover - an extra of the user's
        importlib.import_module("pillow_heif").register_heif_opener()
    try:
        picture = PIL.Image.open(io.BytesIO(data))
    except PIL.UnidentifiedImageError as error:
        if data[4:12] in {b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc", b"ftypheim", b"ftypmsf1"}:
            raise DataError("HEIC pictures need: pip install pillow-heif") from error
        raise DataError("it is damaged, or no picture of a known format") from error
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError, Warning) as error:
        raise DataError(_one_line(error)) from error
    with picture:
        return from_pillow(picture)


def _pillow_to_bgr(picture: Any) -> Image:
    if picture.mode.startswith("I;16"):
        return from_array(np.asarray(picture).astype(np.uint16))
    if picture.mode == "I":
        return from_array(np.clip(np.asarray(picture), 0, 65535).astype(np.uint16))
    if picture.mode == "F":
        return from_array(np.asarray(picture))
    if picture.mode in {"P", "PA"}:
        picture = picture.convert("RGBA")  # the way to the right colours when the palette holds transparency
    return np.ascontiguousarray(np.asarray(picture.convert("RGB"))[..., ::-1])


def _to_uint8(values: Any) -> Any:
    kind = values.dtype
    if kind == np.uint8:
        return values
    if kind == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if kind == np.uint16:
        return cv2.convertScaleAbs(np.ascontiguousarray(values), alpha=255 / 65535)
    lowest, highest = float(values.min()), float(values.max())
    top = 1.0 if kind.kind == "f" else 255.0
    slack = 1e-3 if kind.kind == "f" else 0.0
    if not (lowest >= -slack and highest <= top + slack):  # written so that NaN is refused too
        raise DataError(f"values of {kind} pictures lie in 0..{top:g}, here {lowest:g}..{highest:g}")
    if kind.kind == "f":
        return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    return values.astype(np.uint8)


def _to_colour(values: Any) -> Any:
    if values.ndim == 2 or values.shape[2] == 1:
        return cv2.cvtColor(np.ascontiguousarray(values), cv2.COLOR_GRAY2BGR)
    return values if values.shape[2] == 3 else cv2.cvtColor(np.ascontiguousarray(values), cv2.COLOR_BGRA2BGR)


def _one_line(error: object) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def address_name(address: str) -> str:
    """Return a file name for what lies at an address: the last part of its path, or its host."""
    parts = urllib.parse.urlsplit(address)
    return os.path.basename(urllib.parse.unquote(parts.path)) or parts.hostname or "stream"  # noqa: PTH119 - no path
