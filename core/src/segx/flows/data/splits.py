"""All splits of a data set, opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx.data import YAML_SUFFIXES, find_reader, find_split, locate, read_definition
from segx.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

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
