"""Reading regular files only, and writing a file whole or not at all: into a temporary name beside it, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from segx.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segx.interfaces import Image

_LONGEST_TEXT = 64 << 20
_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading, and nothing else: a pipe would wait for ever, a device never end.

    Raises:
        OSError: It is missing or cannot be read, or it is a pipe, a socket, a device or a folder: see ``strerror``.
    """
    _refuse_irregular(os.stat(path).st_mode, path)  # noqa: PTH116 - before it is opened: to open some devices is to use them
    flags = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_BINARY", "O_CLOEXEC", "O_NONBLOCK"))
    descriptor = os.open(path, flags)
    try:
        _refuse_irregular(os.fstat(descriptor).st_mode, path)  # it may have changed since
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(path: str | Path, *, limit: int) -> bytes:
    """Return what is in a regular file of at most ``limit`` bytes.

    Raises:
        OSError: As :func:`open_regular`, or there is more in it.
    """
    with open_regular(path) as file:
        return read_at_most(file, limit)


def read_text(path: str | Path, *, encoding: str = "utf-8") -> str:
    """Return the text of a regular file that somebody writes or lists things in: at most 64 MiB.

    Raises:
        OSError: As :func:`read_regular`.
        UnicodeDecodeError: It is no text of that encoding.
    """
    return read_regular(path, limit=_LONGEST_TEXT).decode(encoding)


def read_at_most(file: BinaryIO, limit: int) -> bytes:
    """Return the rest of an open file of at most ``limit`` bytes.

    Raises:
        OSError: There is more in it; nothing of it is read.
    """
    size = os.fstat(file.fileno()).st_size
    if size > limit:
        raise OSError(errno.EFBIG, f"it has {size >> 20:,} MiB, more than the {limit >> 20:,} that are read")
    return file.read(limit)


def irregular(path: str | Path) -> str:
    """Return what a path is that must not be opened, ``"a pipe"``; nothing for files, folders and what is not there."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - text too
    except (OSError, ValueError):
        return ""
    return "" if stat.S_ISREG(mode) or stat.S_ISDIR(mode) else _kind(mode)


def _refuse_irregular(mode: int, path: str | Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, f"it is {_kind(mode)}, not a regular file", str(path))


def _kind(mode: int) -> str:
    return next((name for test, name in _KINDS if test(mode)), "something else")


@contextlib.contextmanager
def utf8_name(path: str | Path) -> Iterator[str]:
    """Give a name that is UTF-8 for a file to be opened while the block lasts: its own, or that of a link to it.

    OpenCV ends the whole process on any other. The file need not exist: what is written to the link is in the file.
    """
    name = str(path)
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        import tempfile

        with tempfile.TemporaryDirectory(prefix="segx-") as folder:
            link = Path(folder) / f"file{_utf8(Path(name).suffix)}"
            link.symlink_to(Path(name).absolute())
            yield str(link)
    else:
        yield name


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


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
    suffix = path.suffix.lower()
    fits = suffix in (with_alpha if picture.shape[2] == 4 else writable)
    target = path if fits and cv2.haveImageWriter(f"a{suffix}") else path.with_suffix(".png")  # never the name itself
    done, data = cv2.imencode(target.suffix.lower(), picture, _QUALITY.get(target.suffix.lower(), []))
    if not done:
        raise DataError(f"{target}: a picture of {picture.shape} cannot be encoded")
    return write_bytes(target, data.tobytes())


_QUALITY = {
    suffix: [1, 95]  # cv2.IMWRITE_JPEG_QUALITY, a literal so that this module can be imported without OpenCV
    for suffix in (".jpg", ".jpeg", ".jpe")
}
