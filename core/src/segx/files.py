"""Writing a file or a folder whole or not at all: under a temporary name beside it, then renamed.

Nothing is written through a link: a rename replaces it, and what must be new is created exclusively.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from typing import TYPE_CHECKING

from segx.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import TextIO

    from segx.interfaces import Image

_PART = ".part"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path``; it becomes ``path`` when the block ends well, else it is removed.

    Raises:
        DataError: The folder cannot be written.
    """
    if not path.name:
        raise DataError(f"{path} is a folder, not a file to write")
    temporary = path.with_name(f".segx-{secrets.token_hex(8)}{path.suffix[:16]}")
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
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        part = ascii(text[max(error.start - 40, 0) : error.end])
        raise DataError(f"{path}: cannot be written: {part} in it is not UTF-8") from error
    return write_bytes(path, data)


class GrowingFile:
    """A text file that is written bit by bit and appears when it is finished.

    Args:
        path: Where to.

    Raises:
        DataError: It cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with contextlib.ExitStack() as opening:
            temporary = opening.enter_context(replacing(path))
            self._file: TextIO = opening.enter_context(temporary.open("x", encoding="utf-8"))
            self._stack = opening.pop_all()

    def write(self, text: str) -> None:
        """Add text.

        Raises:
            DataError: The disk is full, or gone.
        """
        try:
            self._file.write(text)
        except OSError as error:
            raise DataError(f"{self.path}: cannot be written ({error.strerror or error})") from error

    def finish(self) -> Path:
        """Put it in place.

        Raises:
            DataError: The disk is full, or gone.
        """
        self._stack.close()
        return self.path

    def discard(self) -> None:
        """Leave nothing behind, unless it is finished already."""
        unfinished = RuntimeError("not finished")
        with contextlib.suppress(DataError):  # what is still to be flushed to a full disk is not wanted any more
            self._stack.__exit__(RuntimeError, unfinished, None)


def copy_new(source: Path, target: Path) -> None:
    """Copy a file to where there is none yet, whole or not at all.

    Raises:
        OSError: It cannot be read or written, or something is there already.
    """
    with source.open("rb") as reading, target.open("xb") as writing:
        try:
            shutil.copyfileobj(reading, writing, 1 << 20)
            writing.flush()
            _check_whole(target, source)
        except BaseException:
            target.unlink()
            raise


def _check_whole(copy: Path, source: Path) -> None:
    there, wanted = copy.stat().st_size, source.stat().st_size
    if there != wanted:
        raise OSError(f"{there} of {wanted} bytes have come onto the disk")


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a folder to write into that becomes ``path`` when the block ends well, else it is removed.

    ``path`` must not exist yet, or be empty; of several processes that write into one, one succeeds.

    Raises:
        UsageError: None is named.
        DataError: It holds something already, or cannot be written.
    """
    if not path.parts:
        raise UsageError("no folder to write is named", hint="output=FOLDER")
    folder = path.expanduser().absolute()
    try:
        there = folder.exists()
        if there and not folder.is_dir():
            raise DataError(f"{path} is a file", hint="name a folder that does not exist yet")
        _refuse_full(folder, path)
        mark = f".segx-{secrets.token_hex(8)}{_PART}"
        work = folder / mark if there else folder.with_name(mark)
        work.mkdir(parents=True)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error
    try:
        yield work
        if there:
            _move_in(work, folder)
        else:
            work.rename(folder)  # fails where another process has filled it since
    except OSError as error:
        _refuse_full(folder, path)
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error
    except DataError as error:
        raise DataError(error.message.replace(str(work), str(folder)), hint=error.hint) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _refuse_full(folder: Path, path: Path) -> None:
    """Refuse a folder that holds something; what a run is writing, or was killed over, does not count."""
    if folder.is_dir() and any(not _is_part(item) for item in folder.iterdir()):
        raise DataError(f"{path} holds something already", hint="name a folder that does not exist yet")


def _is_part(path: Path) -> bool:
    return path.name.startswith(".segx-") and path.suffix == _PART


def _move_in(work: Path, folder: Path) -> None:
    """Move all that is in a folder into another, or nothing where a name is taken there."""
    moved: list[Path] = []
    try:
        for item in sorted(work.iterdir()):
            target = folder / item.name
            if item.is_dir():
                item.rename(target)  # fails where another process has put one
            else:
                _move_new(item, target)
            moved.append(target)
    except BaseException:
        for target in moved:
            target.rename(work / target.name)
        raise


def _move_new(source: Path, target: Path) -> None:
    """Move a file to where there is none yet."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except (OSError, NotImplementedError):  # a file system without hard links
        copy_new(source, target)
    source.unlink()


def write_picture(path: Path, picture: Image) -> Path:
    """Write a BGR or BGRA picture in the format its suffix says, atomically.

    Args:
        path: Where to. A format that OpenCV cannot write, or that cannot hold the picture's alpha, becomes ``.png``;
            what is no suffix of an image stays part of the name.
        picture: uint8 (H, W, 3) or (H, W, 4).

    Returns:
        The file as it was written.

    Raises:
        DataError: It cannot be written.
    """
    import cv2

    from segx.names import image_suffix

    writable = {".bmp", ".jpeg", ".jpg", ".jpe", ".jp2", ".png", ".tif", ".tiff", ".webp", ".ppm"}
    with_alpha = {".png", ".tif", ".tiff", ".webp"}
    suffix = image_suffix(path.name, otherwise="")
    fits = suffix in (with_alpha if picture.shape[2] == 4 else writable)
    if fits and cv2.haveImageWriter(f"image{suffix}"):
        target = path
    else:
        target, suffix = path.with_name(f"{path.stem if suffix else path.name}.png"), ".png"
    done, data = cv2.imencode(suffix, picture, _QUALITY.get(suffix, []))
    if not done:
        raise DataError(f"{target}: a picture of {picture.shape} cannot be encoded")
    return write_bytes(target, data.tobytes())


_QUALITY = {
    suffix: [1, 95]  # cv2.IMWRITE_JPEG_QUALITY, a literal so that this module can be imported without OpenCV
    for suffix in (".jpg", ".jpeg", ".jpe")
}
