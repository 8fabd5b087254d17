"""Writing a file whole or not at all: into a temporary name beside it, then renamed."""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING

from segx.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from segx.interfaces import Image


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``; it becomes ``path`` when the block ends well, else it is removed.

    Raises:
        DataError: The folder cannot be written.
    """
    temporary = path.with_name(f".{path.stem[:40]}-{secrets.token_hex(4)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with contextlib.suppress(OSError):  # where the folder cannot be made there is nothing to remove
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> Path:
    """Write bytes, atomically, making folders that are missing.

    Raises:
        DataError: It cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return path


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text with plain line ends, atomically, making folders that are missing.

    Raises:
        DataError: It cannot be written.
    """
    return write_bytes(path, text.encode("utf-8"))


def write_picture(path: Path, picture: Image) -> Path:
    """Write a BGR or BGRA picture in the format its suffix says, atomically.

    Args:
        path: Where to. A format that OpenCV cannot write, or that cannot hold the picture's alpha, becomes ``.png``.
        picture: uint8 (H, W, 3) or (H, W, 4).

    Returns:
        The file as it was written.

    Raises:
        DataError: It cannot be written.
    """
    import cv2

    writable = {".bmp", ".jpeg", ".jpg", ".jpe", ".jp2", ".png", ".tif", ".tiff", ".webp", ".ppm"}
    with_alpha = {".png", ".tif", ".tiff", ".webp"}
    fits = path.suffix.lower() in (with_alpha if picture.shape[2] == 4 else writable)
    target = path if fits and cv2.haveImageWriter(path.name) else path.with_suffix(".png")
    done, data = cv2.imencode(target.suffix.lower(), picture, _QUALITY.get(target.suffix.lower(), []))
    if not done:
        raise DataError(f"{target}: a picture of {picture.shape} cannot be encoded")
    return write_bytes(target, data.tobytes())


_QUALITY = {
    suffix: [1, 95]  # cv2.IMWRITE_JPEG_QUALITY, a literal so that this module can be imported without OpenCV
    for suffix in (".jpg", ".jpeg", ".jpe")
}
