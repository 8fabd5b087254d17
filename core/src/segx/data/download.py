"""Downloads what the definition of a data set names, into a folder of its own."""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import json
import logging
import os
import shutil
import urllib.parse
from pathlib import Path
from typing import TYPE_CHECKING

from segx.data.definition import MAX_BYTES, present
from segx.errors import DataError
from segx.io.archives import unpack
from segx.io.download import fetch, only_one
from segx.io.files import write_text
from segx.io.names import safe
from segx.io.network import shown
from segx.io.paths import cache_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segx.data.definition import Archive, DatasetDefinition

logger = logging.getLogger(__name__)

_RECORD = ".segx-downloads.json"
"""In a folder that segx made for a data set: what each archive has brought. It says that the folder is segx's."""


def lacking(definition: DatasetDefinition, split: str, tried: Sequence[Path]) -> list[Archive]:
    """Return the archives that a split needs and that are not there; ``tried``: what of the split is missing."""
    needed = [archive for archive in definition.downloads if not archive.splits or split in archive.splits]
    if not needed:
        return []
    root, record = definition.root, _read_record(definition.root)
    if record is not None:  # in a folder that segx made it is known what was unpacked
        return [item for item in needed if not any((root / name).exists() for name in record.get(item.key, ()))]
    return [item for item in needed if (not (root / item.provides).exists() if item.provides else tried)]


def fetch_missing(definition: DatasetDefinition, split: str, needed: Sequence[Archive]) -> None:
    """Download what a split lacks: one process at a time, those that waited look again.

    Raises:
        DataError: The folder is not one that a download may go into, or the archives cannot be had.
    """
    _check_root(definition, needed[0])
    try:
        definition.base.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{definition.base}: {error.strerror or error}") from error
    with only_one(definition.root, error=DataError):
        _, tried = present(definition, split)
        for archive in lacking(definition, split, tried):
            _check_root(definition, archive)
            logger.info("%s: %s is not there; downloading %s", definition.file.stem, split, shown(archive.file.url))
            download(archive, definition.root, definition.base)


def _check_root(definition: DatasetDefinition, archive: Archive) -> None:
    """Refuse to unpack into any folder but one of the data set's own, below the YAML or segx's data folder.

    Whoever wrote the YAML names both the folder and what comes into it: a home folder, a folder that is there already,
    or one that programs look into (hidden ones) is the user's.
    """
    root, base = definition.root, definition.base
    hint = f"get {shown(archive.file.url)} and unpack it there yourself, or give path: a folder of its own"
    real, below = Path(os.path.realpath(root)), Path(os.path.realpath(base))
    if real == below or not real.is_relative_to(below):
        msg = f"{definition.file}: a download goes only into a new folder below {base}, not {root}"
        raise DataError(msg, hint=hint)
    if any(part.startswith(".") for part in real.relative_to(below).parts):
        raise DataError(f"{definition.file}: a download does not go into a hidden folder, {root}", hint=hint)
    ours = definition.shipped or _read_record(root) is not None
    if not ours and os.path.lexists(root) and not (root.is_dir() and not any(root.iterdir())):
        msg = f"{definition.file}: {root} is there and was not made by segx: nothing is downloaded"
        raise DataError(msg, hint=hint)


def unpacked(definition: DatasetDefinition) -> str:
    """Say what the downloads have brought, where segx unpacked any."""
    record = _read_record(definition.root)
    if not record:
        return ""
    names = [name for archive in definition.downloads for name in record.get(archive.key, ())]
    some = ", ".join(f"{name}/" if (definition.root / name).is_dir() else name for name in names[:5])
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (
        f"; its download was unpacked into {definition.root} and holds {some or 'nothing'}{more}"
        f" (correct path: or the splits; it is fetched again once {definition.root} is removed)"
    )


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
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_BYTES:
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
