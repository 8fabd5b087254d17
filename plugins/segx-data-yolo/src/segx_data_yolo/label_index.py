"""What was read of label files, kept in the cache until one of them changes."""

from __future__ import annotations

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

_LAYOUT = "yolo-labels/6"
_TOGETHER = 16 << 20
"""Bytes of label files that are parsed in one go."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelIndex:
    """What the label files of a split hold, file by file.

    Attributes:
        files: The label files, whether they are there or not.
        there: bool (files), which are.
        labels: What they hold.
        fingerprint: A hash of what the files hold, wherever they lie.
    """

    files: Sequence[str]
    there: NDArray[np.bool_]
    labels: Labels
    fingerprint: str


def read_labels(files: Sequence[str], name: str) -> LabelIndex:
    """Return what label files hold, from the cache when none has changed since.

    Args:
        files: The label files; one that is not there holds nothing.
        name: What the index is kept under: the split, as the user named it.
    """
    key = index_cache.key_of(_LAYOUT, name)
    now = Stamps.take(files)
    stored = index_cache.load(key)
    if stored is not None and list(files) == index_cache.untexts(stored["files"]) and now.same(stored).all():
        return _from_arrays(files, stored)
    changed, size = now.trusted(), now.size
    contents: list[bytes] = []
    waiting = 0
    digests: list[bytes] = []
    unread: list[tuple[int, int, str]] = []
    parsed: list[Labels] = []
    for place, file in enumerate(files):
        content, reason = _read(file, int(size[place]))
        if reason:
            unread.append((place, 0, reason))
            size[place], changed[place] = max(size[place], 0), 0  # looked at again next time
        elif content is None:
            size[place] = -1
        contents.append(content or b"")
        digests.append(index_cache.content_digest(contents[-1]))
        waiting += len(contents[-1])
        if waiting > _TOGETHER or place == len(files) - 1:
            parsed.append(parse(contents))
            contents, waiting = [], 0
    index = LabelIndex(
        files=list(files),
        there=size >= 0,
        labels=_joined(parsed or [parse([])], unread),
        fingerprint=index_cache.key_of(b"".join(digests)),
    )
    index_cache.store(key, _to_arrays(index, size, changed))
    return index


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


def _joined(parts: Sequence[Labels], unread: Sequence[tuple[int, int, str]]) -> Labels:
    """Return what several groups of files hold as one; ``unread`` are files that could not be read."""
    bad, cut, before = list(unread), [], 0
    for part in parts:
        bad += [(before + file, line, reason) for file, line, reason in part.bad]
        cut += [(before + file, line, what) for file, line, what in part.cut]
        before += len(part.table.offsets) - 1
    table = AnnotationTable.joined([part.table for part in parts])
    return Labels(table=table, line=np.concatenate([part.line for part in parts]), bad=sorted(bad), cut=cut)


def _from_arrays(files: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> LabelIndex:
    prefix = "table."
    columns = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
    return LabelIndex(
        files=list(files),
        there=arrays["size"] >= 0,
        labels=Labels(
            table=AnnotationTable.from_columns(columns),
            line=arrays["line"],
            bad=_lines(arrays["bad"], arrays["reasons"]),
            cut=_lines(arrays["cut"], arrays["cuts"]),
        ),
        fingerprint=arrays["fingerprint"].tobytes().decode(),
    )


def _to_arrays(index: LabelIndex, size: NDArray[np.int64], changed: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    labels = index.labels
    return {
        **{f"table.{name}": column for name, column in labels.table.columns().items()},
        "files": index_cache.texts(index.files),
        "size": size,
        "changed": changed,
        "line": labels.line,
        "bad": np.array([(file, row) for file, row, _ in labels.bad], np.int64).reshape(-1, 2),
        "reasons": index_cache.texts([reason for _, _, reason in labels.bad]),
        "cut": np.array([(file, row) for file, row, _ in labels.cut], np.int64).reshape(-1, 2),
        "cuts": index_cache.texts([what for _, _, what in labels.cut]),
        "fingerprint": np.frombuffer(index.fingerprint.encode(), np.uint8),
    }


def _lines(places: NDArray[np.int64], texts: NDArray[np.uint8]) -> list[tuple[int, int, str]]:
    return [(file, row, text) for (file, row), text in zip(places.tolist(), index_cache.untexts(texts), strict=True)]
