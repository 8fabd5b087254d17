"""Finds the JSON files of a folder and the images they speak of; imports nothing heavy, for it looks at any folder."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING

from segx.io.files import both_ends
from segx.io.names import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEAD = 1 << 16
_LOOKED_AT = 1000
"""Files of a folder that are looked at to find a JSON."""


def detects(path: Path) -> bool:
    """Return True if a path is a JSON of labelme, or a folder with one whose image has no YOLO labels."""
    if path.is_file():
        return path.suffix.lower() == ".json" and is_labelme(path)
    if not path.is_dir():
        return False
    first = next((file for file in itertools.islice(walk(path), _LOOKED_AT) if file.suffix.lower() == ".json"), None)
    return first is not None and is_labelme(first) and not any(label.is_file() for label in _text_labels(first))


def is_labelme(path: Path) -> bool:
    """Return True if a JSON begins and ends as labelme writes them: what is drawn, and in which image."""
    text = both_ends(path, _HEAD)
    return b'"shapes"' in text and b'"imagePath"' in text


def _text_labels(path: Path) -> list[Path]:
    """Return where a text label of the same image would lie: beside it, and in ``labels`` in place of ``images``."""
    beside = path.with_suffix(".txt")
    head, found, tail = str(beside).rpartition(f"{os.sep}images{os.sep}")
    return [beside, Path(f"{head}{os.sep}labels{os.sep}{tail}")] if found else [beside]


def walk(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder by name, each folder's before those of its folders; hidden ones are left out.

    Links are followed, but not into a folder that lies above.
    """
    yield from _walk(folder, frozenset())


def _walk(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    shown = [entry for entry in entries if not entry.name.startswith(".")]
    yield from (folder / entry.name for entry in shown if not entry.is_dir())
    for entry in shown:
        if entry.is_dir():
            yield from _walk(folder / entry.name, above | {real})


def image_of(path: Path, written: object) -> Path | None:
    """Return the image that a JSON speaks of: by the name in it, or by its own name; None where neither is there.

    Args:
        path: The JSON.
        written: ``imagePath`` of it, with slashes of either kind.
    """
    if isinstance(written, str) and written and "\0" not in written:
        parts = [part for part in written.replace("\\", "/").split("/") if part not in {"", "."}]
        named = path.parent / "/".join(parts)
        for image in (Path(written), named, path.parent / parts[-1] if parts else named):
            if image.suffix.lower() in IMAGE_SUFFIXES and (found := path.parent / image).is_file():
                return Path(os.path.normpath(found)) if os.path.normpath(found) == str(found) else found.resolve()
    beside = (path.with_suffix(end) for suffix in sorted(IMAGE_SUFFIXES) for end in (suffix, suffix.upper()))
    return next((image for image in beside if image.is_file()), None)
