"""What was read of a data set once, kept in the cache folder under the hash of its content.

Nothing is ever written beside the data. An entry is found by what the files hold: size and time of change only decide
whether a file must be read again to know that, and a file changed moments before it was read is always read again.
The time is that of the last change of anything (ctime): that of the content can be set back, and tools do.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import re
import time
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from segx.errors import DataError
from segx.io.files import replacing
from segx.io.paths import cache_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

DIGEST = 16
"""Bytes of a content hash."""
_FRESH_NS = 2_000_000_000
"""A file changed less than this before it was read may change again without a new time stamp."""


def changed_ns(state: os.stat_result) -> int:
    """Return when a file was changed last, in nanoseconds, whatever its time stamps were set to since."""
    return state.st_mtime_ns if os.name == "nt" else state.st_ctime_ns  # on Windows ctime is when it was made


def content_digest(data: bytes) -> bytes:
    """Return the hash of a file's content."""
    return hashlib.blake2b(data, digest_size=DIGEST).digest()


def file_digest(path: Path) -> str:
    """Return the hash of a file's content, from its stamp in the cache when it has not changed since."""
    state = path.stat()
    note = indexes_folder() / f"stamp-{key_of(str(path.absolute()))}.json"
    match _read_stamp(note), changed_ns(state):
        case [state.st_size, int(stamp), str(known)], changed if stamp == changed and re.fullmatch(
            f"[0-9a-f]{{{2 * DIGEST}}}", known
        ):
            return known
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=DIGEST)).hexdigest()
    if time.time_ns() - changed_ns(state) > _FRESH_NS:
        _write(note, json.dumps([state.st_size, changed_ns(state), digest]).encode())
    return digest


def _read_stamp(note: Path) -> object:
    try:
        return json.loads(note.read_bytes()[:1000])
    except (OSError, ValueError, RecursionError):
        return None


def key_of(*parts: str | bytes) -> str:
    """Return a short name for a sequence of texts."""
    digest = hashlib.blake2b(digest_size=DIGEST)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def indexes_folder() -> Path:
    """Return the folder inside the cache that holds indexes of data sets."""
    return cache_folder() / "indexes"


def load(key: str) -> dict[str, NDArray[Any]] | None:
    """Return the arrays stored under a key, or None: not there, or not what was stored to the last bit."""
    path = indexes_folder() / f"{key}.npz"
    try:
        data = path.read_bytes() if path.is_file() else b""
        if data[:DIGEST] != _seal(key, memoryview(data)[DIGEST:]):
            return None
        with np.load(io.BytesIO(memoryview(data)[DIGEST:]), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        logger.debug("%s is damaged and made anew (%s)", path, error)
        return None


def _seal(key: str, data: memoryview) -> bytes:
    """Return what stands before the arrays: what anybody else has changed is not read, so nobody checks its types."""
    digest = hashlib.blake2b(key.encode(), digest_size=DIGEST)
    digest.update(data)
    return digest.digest()


def store(key: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Keep arrays under a key, atomically; a cache that cannot be written is no reason to stop."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stub takes allow_pickle for one of the arrays
    data = buffer.getbuffer()
    _write(indexes_folder() / f"{key}.npz", _seal(key, data), data)


def texts(values: Sequence[str]) -> NDArray[np.uint8]:
    """Return texts as one array of bytes, so that no pickle is needed to keep them."""
    return np.frombuffer(json.dumps(list(values)).encode(), np.uint8)


def untexts(array: NDArray[np.uint8]) -> list[str]:
    """Return what :func:`texts` was given."""
    values: list[str] = json.loads(array.tobytes())
    return values


@dataclass(frozen=True, kw_only=True, eq=False)
class Stamps:
    """Size and time of change of many files, to know which to read again.

    Attributes:
        size: int64 (files); -1 for a file that is not there, 0 for one that cannot be looked at.
        changed: int64 (files), nanoseconds.
    """

    size: NDArray[np.int64]
    changed: NDArray[np.int64]

    @classmethod
    def take(cls, paths: Sequence[str]) -> Self:
        """Return size and time of change of files."""
        size, changed = np.full(len(paths), -1, np.int64), np.zeros(len(paths), np.int64)
        for index, path in enumerate(paths):
            try:
                state = os.stat(path)  # noqa: PTH116 - a hundred thousand Path objects cost seconds
            except FileNotFoundError:
                continue
            except OSError:  # it may be there: whoever reads it finds out
                size[index] = 0
                continue
            size[index], changed[index] = state.st_size, changed_ns(state)
        return cls(size=size, changed=changed)

    def trusted(self) -> NDArray[np.int64]:
        """Return the times of change with those too fresh to be told from a later change set to 0."""
        return np.where(self.changed > time.time_ns() - _FRESH_NS, 0, self.changed)

    def same(self, stored: Mapping[str, NDArray[Any]]) -> NDArray[np.bool_]:
        """Return bool (files): a file is as its ``size`` and ``changed``, trusted, say that were stored of it."""
        same = (self.size == stored["size"]) & (self.changed == stored["changed"])
        return np.asarray(same & ((stored["changed"] != 0) | (self.size < 0)))


def _write(path: Path, *parts: bytes | memoryview) -> None:
    try:
        with replacing(path) as temporary, temporary.open("xb") as file:
            file.writelines(parts)
    except DataError as error:
        logger.warning("the index of the data set cannot be kept: %s", error.message)
