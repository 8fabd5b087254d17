"""Zip archives of strangers: looked at before a byte is written, unpacked whole into an empty folder or not at all."""

from __future__ import annotations

import contextlib
import shutil
import stat
import zipfile
import zlib
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from segx.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MAX_ENTRIES = 4_000_000
"""Files and folders an archive may hold: the largest public set of images has half as many."""
SMALL = 1 << 30
"""Bytes that any archive may unpack to."""
MAX_GROWTH = 20
"""How many times its own size a larger archive may unpack to: images hardly shrink, annotations by ten at most."""

_KINDS = {0, stat.S_IFREG, stat.S_IFDIR}
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2}
_ENCRYPTED = 0x1
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, IndexError)
"""What zipfile and the decompressors raise on a damaged archive."""
_SHOWN = 100


def unpack(path: Path, folder: Path) -> None:
    """Unpack a zip archive into an empty folder; when that fails, the folder is gone.

    Raises:
        DataError: It is damaged, encrypted, would write outside the folder, holds a name twice or anything but files
            and folders, unpacks to more than it may, or the disk is full.
    """
    done = False
    try:
        with _opened(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
            free = shutil.disk_usage(folder).free
            if size > free:
                raise DataError(f"{path} unpacks to {size >> 20} MiB, {free >> 20} MiB are free in {folder.parent}")
            archive.extractall(folder)
        done = True
    except OSError as error:
        raise DataError(f"{path} cannot be unpacked into {folder}: {error.strerror or error}") from error
    finally:
        if not done:
            shutil.rmtree(folder, ignore_errors=True)


def damaged(path: Path) -> str | None:
    """Return the first entry whose bytes are not those that were packed, None when all are.

    Raises:
        DataError: It is no archive that may be unpacked.
    """
    with _opened(path) as archive:
        return archive.testzip()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            _check(archive.infolist(), path)
            yield archive
    except _BROKEN as error:
        raise DataError(f"{path} is no zip archive that can be read ({str(error)[:_SHOWN]})") from error


def _check(members: Sequence[zipfile.ZipInfo], path: Path) -> None:
    """Refuse an archive by its table of contents."""
    if len(members) > MAX_ENTRIES:
        raise DataError(f"{path} holds {len(members)} entries, more than the {MAX_ENTRIES} that are unpacked")
    limit = max(SMALL, MAX_GROWTH * path.stat().st_size)
    size = sum(member.file_size for member in members)
    if size > limit:
        raise DataError(f"{path} would unpack to {size >> 20} MiB, {limit >> 20} MiB are allowed: not unpacked")
    if members and min(member.header_offset for member in members):
        raise DataError(f"{path} is several archives in one file, or begins with something else: not unpacked")
    seen: set[tuple[str, ...]] = set()
    for member in members:
        name = repr(member.filename[:_SHOWN])
        parts = PurePosixPath(member.filename.replace("\\", "/")).parts
        # A drive ("C:") is refused everywhere, so that an archive unpacks to the same on every machine.
        if not parts or ".." in parts or parts[0] == "/" or parts[0].endswith(":"):
            raise DataError(f"{path} holds {name}, which would leave its folder: not unpacked")
        if stat.S_IFMT(member.external_attr >> 16) not in _KINDS:
            raise DataError(f"{path} holds {name}, which is neither a file nor a folder (a link?): not unpacked")
        if member.flag_bits & _ENCRYPTED:
            raise DataError(f"{path} is encrypted: not unpacked")
        if member.compress_type not in _METHODS:
            raise DataError(f"{path} is packed by a method that is not read ({member.compress_type}): not unpacked")
        if parts in seen:
            raise DataError(f"{path} holds {name} twice: not unpacked")
        seen.add(parts)
