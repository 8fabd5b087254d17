"""Copies a TorchScript archive, with other metadata and without what it would tell of the machine it was made on.

A ``.torchscript`` file is a zip archive in which nothing is compressed and the content of each member begins at a
multiple of 64 bytes, so that tensors can be mapped. Members that end in ``.debug_pkl`` hold the paths of local sources.
"""

from __future__ import annotations

import struct
import zipfile
from typing import TYPE_CHECKING, BinaryIO

from segx.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = "extra/config.txt"

_ALIGNMENT = 64
_LOCAL_HEADER = 30
_PADDING_TAG = b"FB"
_SAME_DAY = (1980, 1, 1, 0, 0, 0)
_PRIVATE = (".debug_pkl",)


def rewrite(source: Path | BinaryIO, destination: Path, *, config: bytes | None = None) -> None:
    """Write ``source`` to ``destination`` with ``config``, if any, as the content of ``extra/config.txt``.

    Raises:
        ModelError: The source is no TorchScript archive.
    """
    try:
        with zipfile.ZipFile(source) as old, destination.open("wb") as file, zipfile.ZipFile(file, "w") as new:
            names = old.namelist()
            root = names[0].partition("/")[0] if names else ""
            if f"{root}/constants.pkl" not in names:
                raise ModelError(f"{source}: is no TorchScript model")
            for name in names:
                if name != f"{root}/{CONFIG}" and not name.endswith(_PRIVATE):
                    _add(new, file, name, old.read(name))
            if config is not None:
                _add(new, file, f"{root}/{CONFIG}", config)
    except zipfile.BadZipFile as error:
        raise ModelError(f"{source}: is damaged or no TorchScript model ({error})") from error


def append(path: Path, config: bytes) -> None:
    """Add ``config`` to an archive that has none; what is in it stays where it is."""
    with path.open("r+b") as file, zipfile.ZipFile(file, "a") as archive:
        _add(archive, file, f"{archive.namelist()[0].partition('/')[0]}/{CONFIG}", config)


def has_config(path: Path) -> bool:
    """Return True if there is a ``config`` in an archive.

    Raises:
        ModelError: It is none.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(f"/{CONFIG}") for name in archive.namelist())
    except zipfile.BadZipFile as error:
        raise ModelError(f"{path}: is damaged or no TorchScript model ({error})") from error


def _add(archive: zipfile.ZipFile, file: BinaryIO, name: str, content: bytes) -> None:
    """Add a member whose content begins at a multiple of 64 bytes: an extra field fills the gap."""
    member = zipfile.ZipInfo(name, date_time=_SAME_DAY)
    begins = file.tell() + _LOCAL_HEADER + len(name.encode()) + len(_PADDING_TAG) + 2
    gap = -begins % _ALIGNMENT
    member.extra = _PADDING_TAG + struct.pack("<H", gap) + b"Z" * gap
    archive.writestr(member, content)
