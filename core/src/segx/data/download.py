"""Downloads what the definition of a data set names, into a folder of its own."""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import json
import logging
import os
import re
import reprlib
import shutil
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from segx.artifact import WeightsFile
from segx.errors import DataError
from segx.io.archives import unpack
from segx.io.download import fetch, only_one
from segx.io.files import write_text
from segx.io.names import safe
from segx.io.network import is_address, shown
from segx.io.paths import cache_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")

_RECORD = ".segx-downloads.json"
"""In a folder that segx made for a data set: what each archive has brought. It says that the folder is segx's."""
_LONGEST_RECORD = 8 << 20


@dataclass(frozen=True, kw_only=True)
class Archive:
    """Something to download for a data set.

    Attributes:
        file: Where it is published, with size and hash where they are known.
        into: Folder below the data set's root that it is unpacked into.
        splits: The splits that need it; empty: all.
        provides: File or folder below the root that shows that it is there; empty: the split itself.
    """

    file: WeightsFile
    into: str = "."
    provides: str = ""
    splits: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """A short hash of its address."""
        return hashlib.blake2b(self.file.url.encode(), digest_size=4).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Downloads:
    """What a data set can be downloaded from, and where to.

    Attributes:
        file: The data set's YAML.
        root: The data set's folder.
        base: The folder that ``path`` is relative to: that of the YAML, or segx's data folder for a shipped one.
        archives: What there is to download.
        shipped: Whether the YAML came with segx; its data then live in the cache folder.
    """

    file: Path
    root: Path
    base: Path
    archives: tuple[Archive, ...] = ()
    shipped: bool = False

    @classmethod
    def read(cls, value: Any, file: Path, *, root: Path, base: Path, shipped: bool) -> Self:
        """Return the archives a YAML names by address. Anything else, code above all, is never run and left aside.

        Raises:
            DataError: What it says of an archive is wrong.
        """
        archives: list[Archive] = []
        for item in value if isinstance(value, list) else [] if value is None else [value]:
            entry: Any = {"url": item} if isinstance(item, str) else item
            address = str(entry.get("url", "")).strip() if isinstance(entry, dict) else ""
            if not is_address(address):
                logger.warning("%s: download: is not an address; segx runs no code from a YAML", file)
                archives = []
                break
            archives.append(_archive(address, entry, file))
        return cls(file=file, root=root, base=base, archives=tuple(archives), shipped=shipped)

    def lacking(self, split: str, tried: Sequence[Path]) -> list[Archive]:
        """Return the archives that a split needs and that are not there; ``tried``: what of the split is missing."""
        needed = [archive for archive in self.archives if not archive.splits or split in archive.splits]
        if not needed:
            return []
        root, record = self.root, _read_record(self.root)
        if record is not None:  # in a folder that segx made it is known what was unpacked
            return [item for item in needed if not any((root / name).exists() for name in record.get(item.key, ()))]
        return [item for item in needed if (not (root / item.provides).exists() if item.provides else tried)]

    def fetch(self, split: str, needed: Sequence[Archive], missing: Callable[[], Sequence[Path]]) -> None:
        """Download what a split lacks: one process at a time, those that waited look again.

        Args:
            split: The split.
            needed: What it lacked, to whoever looked before.
            missing: Looks again what of the split is not there.

        Raises:
            DataError: The folder is not one that a download may go into, or the archives cannot be had.
        """
        self._check_root(needed[0])
        try:
            self.base.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{self.base}: {error.strerror or error}") from error
        with only_one(self.root, error=DataError):
            for archive in self.lacking(split, missing()):
                self._check_root(archive)
                logger.info("%s: %s is not there; downloading %s", self.file.stem, split, shown(archive.file.url))
                download(archive, self.root, self.base)

    def unpacked(self) -> str:
        """Say what the downloads have brought, where segx unpacked any."""
        record = _read_record(self.root)
        if not record:
            return ""
        names = [name for archive in self.archives for name in record.get(archive.key, ())]
        some = ", ".join(f"{name}/" if (self.root / name).is_dir() else name for name in names[:5])
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        return (
            f"; its download was unpacked into {self.root} and holds {some or 'nothing'}{more}"
            f" (correct path: or the splits; it is fetched again once {self.root} is removed)"
        )

    def _check_root(self, archive: Archive) -> None:
        """Refuse to unpack into any folder but one of the data set's own, below the YAML or segx's data folder.

        Whoever wrote the YAML names both the folder and what comes into it: a home folder, a folder that is there
        already, or one that programs look into (hidden ones) is the user's.
        """
        root, base = self.root, self.base
        hint = f"get {shown(archive.file.url)} and unpack it there yourself, or give path: a folder of its own"
        real, below = Path(os.path.realpath(root)), Path(os.path.realpath(base))
        if real == below or not real.is_relative_to(below):
            msg = f"{self.file}: a download goes only into a new folder below {base}, not {root}"
            raise DataError(msg, hint=hint)
        if any(part.startswith(".") for part in real.relative_to(below).parts):
            raise DataError(f"{self.file}: a download does not go into a hidden folder, {root}", hint=hint)
        ours = self.shipped or _read_record(root) is not None
        if not ours and os.path.lexists(root) and not (root.is_dir() and not any(root.iterdir())):
            msg = f"{self.file}: {root} is there and was not made by segx: nothing is downloaded"
            raise DataError(msg, hint=hint)


def _archive(address: str, entry: Mapping[str, Any], path: Path) -> Archive:
    into, provides, splits = entry.get("into", "."), entry.get("provides", ""), entry.get("splits", [])
    size, sha256 = entry.get("size"), entry.get("sha256")
    for name, folder in (("into", into), ("provides", provides)):
        if not isinstance(folder, str) or "\0" in folder or Path(folder).is_absolute() or ".." in Path(folder).parts:
            raise DataError(f"{path}: download {name} {reprlib.repr(folder)} would leave the data set's folder")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise DataError(f"{path}: download size {reprlib.repr(size)} is not a number of bytes")
    if sha256 is not None and not (isinstance(sha256, str) and re.fullmatch("[0-9a-fA-F]{64}", sha256)):
        raise DataError(f"{path}: download sha256 {reprlib.repr(sha256)} is not 64 hexadecimal digits")
    splits = [splits] if isinstance(splits, str) else splits
    if not isinstance(splits, list) or not set(map(str, splits)) <= set(SPLITS):
        raise DataError(f"{path}: download splits {reprlib.repr(splits)} are not some of {', '.join(SPLITS)}")
    file = WeightsFile(url=address, size=size, sha256=sha256)
    return Archive(file=file, into=into, provides=provides, splits=tuple(map(str, splits)))


def download(archive: Archive, root: Path, base: Path) -> None:
    """Fetch an archive (progress, resume, size and hash checked) and unpack it below ``root``.

    It is unpacked whole in a folder of its own first. What is there is never replaced: a file of the same content stays
    (a process that ended before had moved it), one of another content is the user's and ends it before anything is
    moved. A single outer folder named like ``root`` is left away.

    Args:
        archive: What to fetch.
        root: The data set's folder.
        base: A folder on the same disk that is there: it is unpacked in here first.

    Raises:
        DataError: It cannot be had, is no safe archive, or holds a file that is there with another content.
    """
    stem = safe(Path(urllib.parse.urlsplit(archive.file.url).path).stem, otherwise="data")
    name = f"{archive.key}-{stem}.zip"  # many data sets have a train.zip
    path = fetch(archive.file, cache_folder() / "downloads" / name, error=DataError)
    aside = base / f".unpacking-{hashlib.blake2b(os.fsencode(root), digest_size=4).hexdigest()}-{archive.key}"
    work = aside / "content"
    made = [folder for folder in root.parents if not folder.exists()]
    try:
        shutil.rmtree(aside, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            unpack(path, work)
        except DataError:
            path.unlink(missing_ok=True)  # else it would be found damaged for ever
            raise
        content = list(work.iterdir())
        if len(content) == 1 and content[0].is_dir() and content[0].name == root.name:
            content = list(content[0].iterdir())
        moves = [(item, root / archive.into / item.name) for item in sorted(content)]
        names = [target.relative_to(root).as_posix() for _, target in moves]
        if not root.exists() or not any(root.iterdir()):
            whole = aside / "whole"
            (whole / archive.into).mkdir(parents=True)
            for source, target in moves:
                source.rename(whole / target.relative_to(root))
            _write_record(whole, archive.key, names)
            root.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                root.rmdir()
            whole.rename(root)
        else:
            for source, target in moves:
                _check_merge(source, target, root)
            (root / archive.into).mkdir(parents=True, exist_ok=True)
            for source, target in moves:
                _merge(source, target)
            if _read_record(root) is not None:
                _write_record(root, archive.key, names)
        path.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{path} cannot be unpacked into {root / archive.into}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):  # those that hold the data set now stay
                folder.rmdir()


def _check_merge(source: Path, target: Path, root: Path) -> None:
    """Refuse to move what would replace a file of another content, or leave the data set's folder through a link."""
    if not os.path.lexists(target):
        if not Path(os.path.realpath(target)).is_relative_to(os.path.realpath(root)):
            raise DataError(f"{target} lies behind a link that leaves {root}: nothing is unpacked")
    elif source.is_dir() and target.is_dir() and not target.is_symlink():
        for item in source.iterdir():
            _check_merge(item, target / item.name, root)
    elif source.is_dir() or target.is_symlink() or not (target.is_file() and filecmp.cmp(source, target, False)):
        raise DataError(f"{target} is there, and another than in the download: nothing is unpacked")


def _merge(source: Path, target: Path) -> None:
    """Move a file or a folder into place, folder into folder where both are there."""
    if source.is_dir() and target.is_dir():
        for item in source.iterdir():
            _merge(item, target / item.name)
    elif not target.exists():
        source.rename(target)


def _read_record(root: Path) -> dict[str, list[str]] | None:
    """Return what segx has unpacked into a folder that it made, by archive; None for any other folder."""
    path = root / _RECORD
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _LONGEST_RECORD:
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    return {
        key: [name for name in names if isinstance(name, str) and "\0" not in name]
        for key, names in content.items()
        if isinstance(names, list)
    }


def _write_record(root: Path, key: str, names: Sequence[str]) -> None:
    record = {**(_read_record(root) or {}), key: list(names)}
    write_text(root / _RECORD, json.dumps(record, indent=1))
