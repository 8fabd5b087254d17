"""All splits of a data set, opened."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from segx.data import YAML_SUFFIXES, find_reader, find_split, locate, read_definition
from segx.errors import DataError, UsageError
from segx.paths import expanded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segx.interfaces import Dataset, DatasetReader, DatasetSource
    from segx.registry import Registry

_PART = ".part"
ONLY = "data"
"""What the split of a data set is called that has no splits: a COCO JSON, a folder."""


def split_names(data: str) -> tuple[str, ...]:
    """Return the splits that a data set names.

    Raises:
        UsageError: No data set is named.
        DataError: It is missing, or its YAML is wrong.
    """
    if not data:
        raise UsageError("no data set is named", hint="data=coco8-seg.yaml")
    path = locate(data)
    return tuple(read_definition(path).splits) if path.suffix.lower() in YAML_SUFFIXES else (ONLY,)


def unknown_entries(data: str) -> tuple[str, ...]:
    """Return a line for each entry of a data set's YAML that is probably mistyped."""
    path = locate(data)
    return read_definition(path).mistyped if path.suffix.lower() in YAML_SUFFIXES else ()


def open_splits(
    data: str, images: Path | None, registry: Registry, *, only: str | None = None
) -> dict[str, tuple[Dataset, DatasetReader, DatasetSource]]:
    """Return each split of a data set, with who read it and from where.

    Raises:
        UsageError: No data set is named.
        DataError: It is missing, or a split is.
    """
    found = {}
    names = split_names(data)
    wanted = names if only is None or names == (ONLY,) else (only,)
    for split in wanted:
        source = find_split(data, split, images=images)
        reader = find_reader(source.entries, registry)
        found[split] = (reader.read(source), reader, source)
    return found


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a folder to write into that becomes ``path`` when the block ends well, else it is removed.

    ``path`` must not exist yet, or be empty.

    Raises:
        UsageError: None is named.
        DataError: It holds something already, or cannot be written.
    """
    if path == Path():
        raise UsageError("no folder to write is named", hint="output=FOLDER")
    folder = expanded(path).absolute()
    try:
        there = folder.exists()
        work = folder / _PART if there else folder.with_name(f".{folder.name}{_PART}")
        if there and (not folder.is_dir() or any(item.name != _PART for item in folder.iterdir())):
            what = "holds something already" if folder.is_dir() else "is a file"
            raise DataError(f"{path} {what}", hint="name a folder that does not exist yet")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error
    try:
        yield work
        if there:
            for item in work.iterdir():
                item.rename(folder / item.name)
        else:
            work.rename(folder)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error
    except DataError as error:
        raise DataError(error.message.replace(str(work), str(folder)), hint=error.hint) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def stems(dataset: Dataset) -> list[str]:
    """Return a file stem for each picture, all different, without folders."""
    paths = dataset.paths()
    short = [path.stem for path in paths]
    if len(set(short)) == len(short):
        return short
    common = os.path.commonpath([path.parent for path in paths])
    return [os.path.relpath(path, common).replace(os.sep, "_").replace(".", "_") for path in paths]
