"""Writing a file whole or not at all: into a temporary name beside it, then renamed."""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING, Any

from segx.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from segx.errors import SegxError
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


def read_text(path: Path, *, error: type[SegxError], most: int = 8 << 20) -> str:
    """Return the UTF-8 text of a file.

    Args:
        path: What to read. A pipe or a device, which might never end, is not read.
        error: What to raise.
        most: Bytes it may have.

    Raises:
        SegxError: It is no file, is too large, is not UTF-8, or cannot be read.
    """
    try:
        if path.exists() and not path.is_file():
            raise error(f"{path} is no file")
        if (size := path.stat().st_size) > most:
            raise error(f"{path} has {size >> 20} MiB, more than the {most >> 20} that such a file may have")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as reason:
        raise error(f"{path} is not UTF-8 text", hint="save it as UTF-8") from reason
    except (OSError, ValueError) as reason:
        raise error(f"{path} cannot be read ({getattr(reason, 'strerror', None) or reason})") from reason


def read_mapping(path: Path, *, error: type[SegxError], what: str, hint: str = "") -> dict[str, Any]:
    """Return the names and values of a YAML file, of plain types, bounded in depth and size.

    Args:
        path: What to read.
        error: What to raise.
        what: What it would be if it were sound: ``"options"``; for the error.
        hint: How one is written; for the error.

    Raises:
        SegxError: It cannot be read, is not YAML, no mapping, or larger than any such file.
    """
    import yaml

    text = read_text(path, error=error)
    try:
        content = yaml.safe_load(text)
    except (*_NOT_YAML, yaml.YAMLError) as reason:
        # PyYAML leaves it to Python to say what is wrong with 2024-13-01, !!bool x, !!timestamp x
        mark = getattr(reason, "problem_mark", None)
        words = getattr(reason, "problem", None) or (str(reason).splitlines() or [type(reason).__name__])[0]
        where = f"line {mark.line + 1}: " if mark else ""
        raise error(f"{path} cannot be read as YAML ({where}{words[:200]})", hint=hint) from reason
    if not isinstance(content, dict):
        raise error(f"{path} holds a {type(content).__name__}, not {what}", hint=hint)
    if not _is_bounded(content):
        raise error(f"{path} is nested deeper, or larger, than {what} can be", hint=hint)
    return {str(key): value for key, value in content.items()}


_NOT_YAML = (ValueError, ArithmeticError, LookupError, AttributeError, TypeError, RecursionError)
_DEEPEST = 50
_LARGEST = 1_000_000


def _is_bounded(content: object) -> bool:
    """Say whether a value can be walked and shown: aliases make a small file large, or endless."""
    waiting, seen = [(content, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if isinstance(value, dict):
            inner = [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set):
            inner = list(value)
        else:
            continue
        if depth > _DEEPEST or seen + len(waiting) + len(inner) > _LARGEST:
            return False
        waiting.extend((item, depth + 1) for item in inner)
    return True


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
