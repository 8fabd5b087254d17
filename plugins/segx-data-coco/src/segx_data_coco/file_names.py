"""Finds images by the ``file_name`` that a tool has written: another machine's folders, backslashes, quoted letters."""

from __future__ import annotations

import os
import urllib.parse
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


def readings(name: str) -> Iterator[str]:
    """Yield what a ``file_name`` may mean, the likeliest first: as it is, then its tails, the longest first.

    Tails count with either slash, and as they are before they are unquoted.
    """
    yield name
    plain = name.replace("\\", "/")
    for text in dict.fromkeys((plain, urllib.parse.unquote(plain).replace("\\", "/"))):
        parts = [part for part in text.split("/") if part not in {"", "."}]
        first = max((place + 1 for place, part in enumerate(parts) if part == ".."), default=0)
        yield from ("/".join(parts[start:]) for start in range(first, len(parts)))


def holds_any(folder: Path, names: Sequence[str], *, exactly: bool) -> bool:
    """Say whether one of the images is in a folder, by its name as it is or by any reading of it."""
    if exactly:
        return any(os.path.isfile(folder / name) for name in names)  # noqa: PTH113 - never raises, whatever the name
    return any(_found(folder, name) is not None for name in names)


def as_found(folder: Path, names: Sequence[str], missing: Sequence[int]) -> tuple[list[str], list[str]]:
    """Return the names by which images are found, and a note of what had to be read otherwise than it is written.

    A file that two names would mean is neither's: nothing says whose annotations are its own.

    Args:
        folder: Where the images lie.
        names: ``file_name`` of each image.
        missing: Numbers of those that are not there by their name as it is.
    """
    owners: defaultdict[str, set[str]] = defaultdict(set)
    lost = {names[index] for index in missing}
    for name in names:
        if name not in lost:
            owners[os.path.normpath(name)].add(name)
    meant = {name: found for name in lost if (found := _found(folder, name)) is not None}
    for name, found in meant.items():
        owners[found].add(name)
    read = {name: found for name, found in meant.items() if len(owners[found]) == 1}
    if not read:
        return list(names), []
    first = next(name for name in names if name in read)
    note = f"{len(read)} of {len(set(names))} file names are found by a part of them only: {read[first]} for {first}"
    return [read.get(name, name) for name in names], [note]


def _found(folder: Path, name: str) -> str | None:
    return next((text for text in readings(name) if os.path.isfile(folder / text)), None)  # noqa: PTH113 - as above
