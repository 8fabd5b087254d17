"""Reading regular files only, and writing a file or a folder whole or not at all.

What is written lies under a temporary name beside its own first, then it is renamed. Nothing is written through a
link: a rename replaces it, and what must be new is created exclusively.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from segx.errors import DataError, UsageError, WrongTypeError
from segx.io.names import image_suffix
from segx.io.paths import expanded
from segx.metadata import bounded
from segx.runtime.leftovers import PREFIX, scratch, sweep, temporary_name

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

    from segx.errors import SegxError
    from segx.structures.types import Image

_PART = ".part"

_LONGEST_TEXT = 64 << 20
_LONGEST_MAPPING = 8 << 20
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
        with scratch() as folder:
            link = folder / f"file{_utf8(Path(name).suffix)}"
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
    if not path.name:
        raise DataError(f"{path} is a folder, not a file to write")
    temporary = path.with_name(temporary_name(path.suffix[:16]))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with contextlib.suppress(OSError):  # where the folder cannot be made there is nothing to remove
            temporary.unlink(missing_ok=True)


def read_mapping(
    path: Path, *, error: type[SegxError], what: str, hint: str = "", typed: bool = False
) -> dict[str, Any]:
    """Return the names and values of a YAML file, of plain types, bounded in depth and size.

    Args:
        path: What to read.
        error: What to raise.
        what: What it would be if it were sound: ``"options"``; for the error.
        hint: How one is written; for the error.
        typed: Its values are names and options: see :func:`segx.io.yaml_text.load`.

    Raises:
        SegxError: It cannot be read, is not YAML, no mapping, or larger than any such file.
    """
    from segx.io.yaml_text import NotYamlError, load

    try:
        content = load(read_regular(path, limit=_LONGEST_MAPPING).decode("utf-8-sig"), typed=typed)
        bounded(content, what)
    except UnicodeDecodeError as reason:
        raise error(f"{path} is not UTF-8 text", hint="save it as UTF-8") from reason
    except OSError as reason:
        raise error(f"{path} cannot be read ({reason.strerror or reason})", hint=_hint(reason)) from reason
    except NotYamlError as reason:
        raise error(f"{path} cannot be read as YAML ({reason})", hint=hint) from reason
    except ValueError as reason:
        raise error(f"{path}: {reason}", hint=hint) from reason
    if not isinstance(content, dict):
        kind = {list: "a list", str: "a text", type(None): "nothing"}.get(type(content), f"a {type(content).__name__}")
        raise error(f"{path} holds {kind}, not {what}", hint=hint)
    return {str(key): value for key, value in content.items()}


def _hint(reason: OSError) -> str:
    return "give yourself the right to read it: chmod u+rX" if isinstance(reason, PermissionError) else ""


def read_options(cfg: Any) -> dict[str, Any]:
    """Return the options in the YAML file that ``cfg=`` names, with underscores in their names; none for None.

    Raises:
        UsageError: It is no path, or the file cannot be read.
    """
    if cfg is None:
        return {}
    if not isinstance(cfg, str | os.PathLike):
        raise WrongTypeError(f"cfg={cfg!r} is not a path", hint="it names a YAML file of options")
    hint = "write one option per line: conf: 0.4"
    try:
        content = read_mapping(expanded(cfg), error=UsageError, what="names and values", hint=hint, typed=True)
    except UsageError as error:
        raise UsageError(f"cfg={error.message}", hint=error.hint) from error
    options = {name.replace("-", "_"): value for name, value in content.items()}
    if len(options) < len(content):
        twice = sorted(name for name in content if "-" in name and name.replace("-", "_") in content)
        raise UsageError(f"cfg={cfg}: {', '.join(twice)} is there with a dash and with an underscore", hint="keep one")
    return options


def write_bytes(path: Path, data: bytes | memoryview) -> Path:
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


def plain_cell(value: Any) -> Any:
    """Return what spreadsheets show instead of running it: names of images and classes are other people's words."""
    formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    return f"'{value}" if formula else value


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


def both_ends(path: Path, size: int) -> bytes:
    """Return the first and the last bytes of a file, so many of each; nothing where it cannot be read."""
    try:
        with open_regular(path) as file:
            first = file.read(size)
            file.seek(max(path.stat().st_size - size, 0))
            return first + file.read(size)
    except OSError:
        return b""


def copy_new(source: Path, target: Path) -> None:
    """Copy a file to where there is none yet, whole or not at all.

    Raises:
        OSError: It cannot be read or written, or something is there already.
    """
    import shutil

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
    folder = expanded(path).absolute()
    try:
        there = folder.exists()
        if there and not folder.is_dir():
            raise DataError(f"{path} is a file", hint="name a folder that does not exist yet")
        _refuse_full(folder, path)
        sweep(folder if there else folder.parent)
        mark = temporary_name(_PART)
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
        import shutil

        shutil.rmtree(work, ignore_errors=True)


def _refuse_full(folder: Path, path: Path) -> None:
    """Refuse a folder that holds something; what a run is writing, or was killed over, does not count."""
    if folder.is_dir() and any(not _is_part(item) for item in folder.iterdir()):
        raise DataError(f"{path} holds something already", hint="name a folder that does not exist yet")


def _is_part(path: Path) -> bool:
    return path.name.startswith(PREFIX) and path.suffix == _PART


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


def write_image(path: Path, image: Image) -> Path:
    """Write a BGR or BGRA image in the format its suffix says, atomically.

    Args:
        path: Where to. A format that OpenCV cannot write, or that cannot hold the image's alpha, becomes ``.png``;
            what is no suffix of an image stays part of the name.
        image: uint8 (H, W, 3) or (H, W, 4).

    Returns:
        The file as it was written.

    Raises:
        DataError: It cannot be written.
    """
    import cv2

    writable = {".bmp", ".jpeg", ".jpg", ".jpe", ".jp2", ".png", ".tif", ".tiff", ".webp", ".ppm"}
    with_alpha = {".png", ".tif", ".tiff", ".webp"}
    suffix = image_suffix(path.name, otherwise="")
    fits = suffix in (with_alpha if image.shape[2] == 4 else writable)
    if fits and cv2.haveImageWriter(f"image{suffix}"):  # never the name itself
        target = path
    else:
        target, suffix = path.with_name(f"{path.stem if suffix else path.name}.png"), ".png"
    done, data = cv2.imencode(suffix, image, _QUALITY.get(suffix, []))
    if not done:
        raise DataError(f"{target}: an image of {image.shape} cannot be encoded")
    return write_bytes(target, data.data)


_QUALITY = {
    suffix: [1, 95]  # cv2.IMWRITE_JPEG_QUALITY, a literal so that this module can be imported without OpenCV
    for suffix in (".jpg", ".jpeg", ".jpe")
}
