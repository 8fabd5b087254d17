"""Walks the folders of a split: links are followed, no folder is read twice, and none that holds the others."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


def walk(folder: str, unread: list[str] | None = None) -> Iterator[os.DirEntry[str]]:
    """Yield what lies in a folder, then in its folders, by name; what is hidden, or a folder, is not yielded.

    Args:
        folder: Where to begin. Names are those it is reached by, whatever links lead there.
        unread: Takes a line for each folder that cannot be read or leads back to where it lies.
    """
    yield from _walk(folder, set(), [] if unread is None else unread)


def _walk(folder: str, seen: set[str], unread: list[str]) -> Iterator[os.DirEntry[str]]:
    real = os.path.realpath(folder)
    seen.add(real)
    try:
        with os.scandir(folder) as scan:
            entries = sorted((entry for entry in scan if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        unread.append(f"{folder}: the folder cannot be read ({error.strerror or error})")
        return
    inner = [entry for entry in entries if _is_folder(entry)]
    yield from (entry for entry in entries if entry not in inner)
    for entry in sorted(inner, key=lambda entry: entry.is_symlink()):  # under its own name rather than a link's
        target = os.path.realpath(entry.path)
        if os.path.join(real, "").startswith(os.path.join(target, "")):  # noqa: PTH118 - texts
            unread.append(f"{entry.path}: the link leads back to a folder that it lies in")
        elif target not in seen:
            yield from _walk(entry.path, seen, unread)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle
        return False
