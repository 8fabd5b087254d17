"""What was read of label files, kept in the cache: only a file whose content changed is parsed again."""

from __future__ import annotations

import dataclasses
import itertools
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from segx.io import index_cache
from segx.io.index_cache import Stamps
from segx.structures.annotations import AnnotationTable
from segx_data_yolo.labels import LONGEST, Labels, parse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

_LAYOUT = "yolo-labels/5a"
_TOGETHER = 16 << 20
"""Bytes of label files that are parsed in one go."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelIndex:
    """What the label files of a split hold, file by file.

    Attributes:
        files: The label files, whether they are there or not.
        stamps: Their size, time of change and content hash.
        labels: What they hold.
    """

    files: Sequence[str]
    stamps: Stamps
    labels: Labels

    @property
    def there(self) -> NDArray[np.bool_]:
        """Which files are there, bool (files)."""
        return self.stamps.size >= 0

    @property
    def fingerprint(self) -> str:
        """A hash of what the files hold, wherever they lie."""
        return index_cache.key_of(self.stamps.digest.tobytes())


def read_labels(files: Sequence[str], name: str) -> LabelIndex:
    """Return what label files hold.

    Args:
        files: The label files; one that is not there holds nothing.
        name: What the index is kept under: the split, as the user named it.
    """
    key = index_cache.key_of(_LAYOUT, name)
    stored = _load(key)
    now = Stamps.take(files)
    known, fresh = _compare(files, now, stored)
    if stored is not None and not fresh.size and list(stored.files) == list(files):
        return stored
    index = _update(files, now, stored, known, fresh)
    index_cache.store(key, _to_arrays(index))
    return index


def _compare(
    files: Sequence[str], now: Stamps, stored: LabelIndex | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each file its place in what is stored (-1: none), and which files must be read."""
    if stored is None:
        return np.full(len(files), -1, np.int64), np.arange(len(files))
    places = {file: place for place, file in enumerate(stored.files)}
    known = np.array([places.get(file, -1) for file in files], np.int64)
    same = (
        (known >= 0)
        & (stored.stamps.size[known] == now.size)
        & (stored.stamps.changed[known] == now.changed)
        & ((stored.stamps.changed[known] != 0) | (now.size < 0))
    )
    return known, np.flatnonzero(~same)


def _update(
    files: Sequence[str],
    now: Stamps,
    stored: LabelIndex | None,
    known: NDArray[np.int64],
    fresh: NDArray[np.int64],
) -> LabelIndex:
    """Return the index with the files that must be read, read."""
    digest = np.zeros((len(files), index_cache.DIGEST), np.uint8)
    if stored is not None:
        kept = np.setdiff1d(np.arange(len(files)), fresh)
        digest[kept] = stored.stamps.digest[known[kept]]
    trusted, sizes = now.trusted(), now.size.copy()
    parsed: list[Labels] = []
    for group in _groups(fresh, now.size):
        contents, unread = [], []
        for position, place in enumerate(group):
            content, reason = _read(files[place], int(now.size[place]))
            if reason:
                unread.append((position, 0, reason))
                sizes[place], trusted[place] = max(sizes[place], 0), 0  # looked at again next time
            elif content is None:
                sizes[place] = -1
            contents.append(content or b"")
            digest[place] = np.frombuffer(index_cache.content_digest(contents[-1]), np.uint8)
        labels = parse(contents)
        parsed.append(dataclasses.replace(labels, bad=sorted([*labels.bad, *unread])) if unread else labels)
    return LabelIndex(
        files=list(files),
        stamps=Stamps(size=sizes, changed=trusted, digest=digest),
        labels=_merge(len(files), stored, known, fresh, parsed),
    )


def _groups(fresh: NDArray[np.int64], sizes: NDArray[np.int64]) -> list[list[int]]:
    """Divide files into groups that are parsed in one go."""
    filled = np.cumsum(np.clip(sizes[fresh], 0, LONGEST)) // _TOGETHER
    return [
        [place for place, _ in group]
        for _, group in itertools.groupby(zip(fresh.tolist(), filled.tolist(), strict=True), key=lambda item: item[1])
    ]


def _read(file: str, size: int) -> tuple[bytes | None, str]:
    """Return a file's content, None where there is none, and why it cannot be read: only what is not there is empty."""
    if size > LONGEST:
        return None, f"more than {LONGEST >> 20} MiB: no label file"
    try:
        if not stat.S_ISREG(os.stat(file).st_mode):  # noqa: PTH116 - a hundred thousand Path objects cost seconds
            return None, "it is not a file: its image has no labels"
        with open(file, "rb") as stream:  # noqa: PTH123 - as above
            return stream.read(), ""
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        return None, f"cannot be read ({error.strerror or error}): its image has no labels"


def _merge(
    count: int,
    stored: LabelIndex | None,
    known: NDArray[np.int64],
    fresh: NDArray[np.int64],
    parsed: Sequence[Labels],
) -> Labels:
    """Return what was stored of the unchanged files and what was parsed of the others, in the order of the files."""
    parts = ([stored.labels] if stored is not None else []) + list(parsed)
    table = AnnotationTable.joined([part.table for part in parts]) if parts else parse([]).table
    line = np.concatenate([np.zeros(0, np.int32), *(part.line for part in parts)])
    before = len(stored.files) if stored is not None else 0
    place = known.copy()
    place[fresh] = before + np.arange(len(fresh))
    objects = np.concatenate(
        [np.zeros(0, np.int64), *(np.arange(table.offsets[p], table.offsets[p + 1]) for p in place.tolist())]
    )
    now_at = {old: new for new, old in enumerate(place.tolist())}
    bad, cut, offset = [], [], 0
    for part in parts:
        bad += [(now_at[f + offset], row, reason) for f, row, reason in part.bad if f + offset in now_at]
        cut += [(now_at[f + offset], row, what) for f, row, what in part.cut if f + offset in now_at]
        offset += len(part.table.offsets) - 1
    assert len(place) == count  # noqa: S101 - what everything above stands on
    return Labels(table=table.keep_images(place), line=line[objects], bad=sorted(bad), cut=sorted(cut))


def _load(key: str) -> LabelIndex | None:
    arrays = index_cache.load(key)
    if arrays is None:
        return None
    try:
        return LabelIndex(
            files=index_cache.untexts(arrays["files"]),
            stamps=Stamps(size=arrays["size"], changed=arrays["changed"], digest=arrays["digest"]),
            labels=Labels(
                table=AnnotationTable.from_columns(_below("table.", arrays)),
                line=arrays["line"],
                bad=_lines(arrays["bad"], arrays["reasons"]),
                cut=_lines(arrays["cut"], arrays["cuts"]),
            ),
        )
    except (KeyError, ValueError):
        return None


def _to_arrays(index: LabelIndex) -> dict[str, NDArray[Any]]:
    return {
        **{f"table.{name}": column for name, column in index.labels.table.columns().items()},
        "files": index_cache.texts(index.files),
        "size": index.stamps.size,
        "changed": index.stamps.changed,
        "digest": index.stamps.digest,
        "line": index.labels.line,
        "bad": np.array([(file, row) for file, row, _ in index.labels.bad], np.int64).reshape(-1, 2),
        "reasons": index_cache.texts([reason for _, _, reason in index.labels.bad]),
        "cut": np.array([(file, row) for file, row, _ in index.labels.cut], np.int64).reshape(-1, 2),
        "cuts": index_cache.texts([what for _, _, what in index.labels.cut]),
    }


def _lines(places: NDArray[np.int64], texts: NDArray[np.uint8]) -> list[tuple[int, int, str]]:
    return [(file, row, text) for (file, row), text in zip(places.tolist(), index_cache.untexts(texts), strict=True)]


def _below(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
