"""All splits of a data set, opened."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from segx.data import find_reader, find_split, locate, read_definition
from segx.errors import DataError, UsageError

if TYPE_CHECKING:
    from segx.interfaces import Dataset, DatasetReader, DatasetSource
    from segx.registry import Registry

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
    return tuple(read_definition(path).splits) if path.suffix.lower() in {".yaml", ".yml"} else (ONLY,)


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


def empty_folder(path: Path) -> Path:
    """Return a folder to write into, made if need be.

    Raises:
        UsageError: None is named.
        DataError: It holds something already, or cannot be made.
    """
    if path == Path():
        raise UsageError("no folder to write is named", hint="output=FOLDER")
    path = path.expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        if any(path.iterdir()):
            raise DataError(f"{path} holds something already", hint="name a folder that does not exist yet")
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error
    return path


def stems(dataset: Dataset) -> list[str]:
    """Return a file stem for each picture, all different, without folders."""
    paths = dataset.paths()
    short = [path.stem for path in paths]
    if len(set(short)) == len(short):
        return short
    common = os.path.commonpath([path.parent for path in paths])
    return [os.path.relpath(path, common).replace(os.sep, "_").replace(".", "_") for path in paths]
