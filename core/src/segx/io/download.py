"""Files that are fetched on first use of their name: resumed, checked, whole or not at all.

Beside a file on its way lie ``<name>.part`` (its first bytes) and ``<name>.part.json`` (which version of it they belong
to); both are gone when the file is there. The process that fetches it holds a lock in the cache folder.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import re
import shutil
import ssl
import time
import urllib.error
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segx.console import progress
from segx.errors import DataError, ModelError
from segx.io import archives, network
from segx.io.locks import Busy, holding
from segx.io.paths import CACHE_VARIABLE, OFFLINE_VARIABLE, cache_folder, offline
from segx.records import Record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from email.message import Message
    from pathlib import Path

    from segx.artifact import WeightsFile
    from segx.console import Bar
    from segx.errors import SegxError

logger = logging.getLogger(__name__)

_CHUNK = 1 << 18
_CRAWL = 1024
"""Fewer bytes than this within one timeout count as a stalled server."""
_UNKNOWN_SIZE_LIMIT = 1 << 34
_BUSY = {408, 425, 429, 500, 502, 503, 504}
"""Answers worth asking again after."""


class RetryPolicy(Record):
    """Timeouts, retries and pauses of a download.

    Attributes:
        timeout: Seconds without a byte, or with hardly any, after which a connection is given up.
        attempts: Connections in a row that may end without a new byte.
        connections: Connections in all.
        pause: Seconds before the second attempt; doubled each time, at most ``longest``.
        longest: Longest pause in seconds, also when the server asks for more.
        lock: Seconds to wait for another process that fetches the same file.
    """

    timeout: float = 30.0
    attempts: int = 4
    connections: int = 50
    pause: float = 0.5
    longest: float = 15.0
    lock: float = 3600.0


class _Interrupted(Exception):  # noqa: N818 - never leaves this module
    """The connection ended early; what has arrived is kept, and a retry may help."""

    def __init__(self, reason: str, *, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class _Refused(Exception):  # noqa: N818 - never leaves this module
    """An answer that retrying cannot change."""


def fetch(
    file: WeightsFile,
    destination: Path,
    *,
    retry: RetryPolicy | None = None,
    error: type[SegxError] = ModelError,
    progress: bool | None = None,
    advice: str = "",
) -> Path:
    """Return ``destination``, downloaded if it is not there yet; whole and checked, or not there at all.

    Args:
        file: Address, and size and SHA-256 where they are known. Without a hash, the integrity of a zip archive
            (which ``.pt`` files are) or of a safetensors file is checked instead.
        destination: Where the file is to be; its folder is made.
        retry: Timeouts, retries and pauses of a download.
        error: What to raise when the file cannot be had.
        progress: Show a bar on standard error; default: when that is a terminal.
        advice: What else helps when the file cannot be had; for the error.
    """
    retry = retry or RetryPolicy()
    try:
        if _is_there(file, destination):
            return destination
    except OSError as reason:
        hint = f"set {CACHE_VARIABLE} to a folder that can be read and written"
        raise error(f"{destination}: cannot be looked at ({reason.strerror or reason})", hint=hint) from reason
    if offline():
        raise error(
            f"{destination.name} is not here and {OFFLINE_VARIABLE} forbids downloading it",
            hint=f"get {network.shown(file.url)} and put it at {destination}",
        )
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with _only_one(destination, retry):
            if not _is_there(file, destination):
                _Download(file, destination, retry, progress=progress).run()
    except (_Refused, _Interrupted, OSError) as reason:
        raise error(
            f"cannot download {network.shown(file.url)}: {network.reason_of(reason)}",
            hint=f"get it by other means and put it at {destination}{f', or {advice}' if advice else ''}",
        ) from reason
    return destination


def _is_there(file: WeightsFile, destination: Path) -> bool:
    """Return True if the file is there with the published size; a file of another size is not trusted."""
    if not destination.is_file():
        return False
    if file.size is not None and destination.stat().st_size != file.size:
        logger.warning("%s has not the published size of %d bytes: fetching it again", destination, file.size)
        return False
    return True


@dataclass
class _Download:
    """The download of one file."""

    file: WeightsFile
    destination: Path
    retry: RetryPolicy
    progress: bool | None = None

    def __post_init__(self) -> None:
        self.part = self.destination.with_name(self.destination.name + ".part")
        self.note = self.destination.with_name(self.destination.name + ".part.json")

    def run(self) -> None:
        """Fetch, check and put in place."""
        logger.info("downloading %s to %s", network.shown(self.file.url), self.destination)
        resumed = self._fetch_all()
        try:
            self._check()
        except _Refused:
            self._forget()
            if not resumed:
                raise
            # Two versions may have been spliced by a server that names no version: once more, from the start.
            self._fetch_all()
            try:
                self._check()
            except _Refused:
                self._forget()
                raise
        self.part.replace(self.destination)
        self.note.unlink(missing_ok=True)

    def _fetch_all(self) -> bool:
        """Request until all bytes are in the part file; return True if the download was resumed."""
        fruitless, pause, resumed = 0, self.retry.pause, False
        for _ in range(self.retry.connections):
            before = self._length()
            resumed = resumed or before > 0
            try:
                self._connect()
            except _Interrupted as interruption:
                came = self._length() > before
                fruitless, pause = (0, self.retry.pause) if came else (fruitless + 1, pause)
                if fruitless >= self.retry.attempts:
                    raise
                logger.info("%s: %s; asking again", network.shown(self.file.url), interruption)
                time.sleep(min(max(pause, interruption.wait), self.retry.longest))
                pause *= 2
            else:
                return resumed
        msg = f"the connection broke {self.retry.connections} times"
        raise _Refused(msg)

    def _length(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _connect(self) -> None:
        """Open one connection and append its body to the part file."""
        headers = {"Accept-Encoding": "identity", **self._resume_headers()}
        try:
            with network.opened(self.file.url, timeout=self.retry.timeout, headers=headers) as response:
                self._take(response)
        except network.NotAllowed as refusal:
            raise _Refused(refusal.message) from refusal
        except urllib.error.HTTPError as answer:
            with answer:
                self._judge(answer)
        except urllib.error.URLError as failure:
            hopeless = not isinstance(failure.reason, OSError) or isinstance(
                failure.reason, ssl.SSLCertVerificationError
            )
            raise (_Refused if hopeless else _Interrupted)(network.reason_of(failure)) from failure
        except (http.client.HTTPException, TimeoutError, ConnectionError) as failure:
            raise _Interrupted(network.reason_of(failure)) from failure

    def _resume_headers(self) -> dict[str, str]:
        """Return what asks for the rest only, when the first part is of a version that can be named or checked."""
        start = self._length()
        if not start:
            return {}
        note = self._read_note()
        version = note.get("version", "")
        if note.get("url") != network.shown(self.file.url) or not (version or self.file.sha256):
            self._forget()
            return {}
        return {"Range": f"bytes={start}-", **({"If-Range": version} if version else {})}

    def _judge(self, answer: urllib.error.HTTPError) -> None:
        if answer.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            total = _range_total(answer.headers)
            if total is not None and total == self._length():
                return
            self._forget()
            msg = "the server has another version than the one begun"
            raise _Interrupted(msg)
        msg = f"the server answers {answer.code} {answer.reason}".rstrip()
        if answer.code in _BUSY:
            raise _Interrupted(msg, wait=_seconds(answer.headers.get("Retry-After")))
        raise _Refused(msg)

    def _take(self, response: http.client.HTTPResponse) -> None:
        """Append the body to the part file, or start it anew when the server sends the whole."""
        start, total, version = self._length(), _content_length(response.headers), _version(response.headers)
        if response.status == http.client.PARTIAL_CONTENT:
            begins, total = _content_range(response.headers)
            note = self._read_note()
            if begins != start or note.get("version") != version or (total and note.get("total") not in {None, total}):
                self._forget()
                msg = "the server sends a part of something else than what was begun"
                raise _Interrupted(msg)
        else:
            start = 0
        if self.file.size is not None and total is not None and total != self.file.size:
            msg = f"the server has {total} bytes, published were {self.file.size}"
            raise _Refused(msg)
        self._check_space((total or 0) - start)
        _write(self.note, json.dumps({"url": network.shown(self.file.url), "version": version, "total": total}))
        received = self._copy(response, start, total)
        if total is not None and received < total:
            msg = f"the connection ended after {received} of {total} bytes"
            raise _Interrupted(msg)

    def _copy(self, response: http.client.HTTPResponse, start: int, total: int | None) -> int:
        """Copy bytes from the connection to the part file; return the size of the part file."""
        limit = total if total is not None else (self.file.size or _UNKNOWN_SIZE_LIMIT)
        received, since, mark = start, time.monotonic(), start
        with self.part.open("ab" if start else "wb") as out, self._bar(limit, start) as advance:
            while received < limit and (chunk := _read(response, min(_CHUNK, limit - received))):
                out.write(chunk)
                advance(len(chunk))
                received += len(chunk)
                now = time.monotonic()
                if now - since > self.retry.timeout:
                    if received - mark < _CRAWL:
                        msg = f"hardly a byte came for {self.retry.timeout:g} s"
                        raise _Interrupted(msg)
                    since, mark = now, received
            out.flush()
            os.fsync(out.fileno())
        return received

    def _bar(self, total: int, start: int) -> AbstractContextManager[Bar]:
        """Return a progress bar, shown if asked for; its value moves it on."""
        known, wanted = None if total == _UNKNOWN_SIZE_LIMIT else total, self.progress
        name = self.destination.name
        return progress(known, name, shown=wanted is not False, anywhere=bool(wanted), unit="B", start=start)

    def _check_space(self, needed: int) -> None:
        free = shutil.disk_usage(self.destination.parent).free
        if needed > free:
            msg = f"{needed} bytes are needed in {self.destination.parent}, {free} are free"
            raise _Refused(msg)

    def _check(self) -> None:
        size = self._length()
        if self.file.size is not None and size != self.file.size:
            msg = f"{size} bytes came, published were {self.file.size}"
            raise _Refused(msg)
        if self.file.sha256 is not None:
            digest = _sha256(self.part)
            if digest != self.file.sha256.lower():
                msg = f"its SHA-256 is {digest}, published was {self.file.sha256.lower()}"
                raise _Refused(msg)
        else:
            _check_whole(self.part, self.destination.suffix)

    def _read_note(self) -> dict[str, Any]:
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return note if isinstance(note, dict) else {}

    def _forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


@contextmanager
def only_one(path: Path, *, retry: RetryPolicy | None = None, error: type[SegxError] = ModelError) -> Iterator[None]:
    """Hold the lock of ``path``, so that of several processes one at a time makes what belongs there.

    Args:
        path: What is made; its lock lies in the cache folder, not beside it.
        retry: How long to wait for another process.
        error: What to raise when that was too short, or the lock cannot be had at all.
    """
    try:
        with _only_one(path, retry or RetryPolicy()):
            yield
    except (_Refused, OSError) as reason:
        raise error(f"{path}: {network.reason_of(reason)}") from reason


@contextmanager
def _only_one(destination: Path, retry: RetryPolicy) -> Iterator[None]:
    """Hold the file's lock, so that two processes do not fetch it at once."""
    path = lock_of(destination)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        waiting = f"{destination.name} is being fetched by another process: waiting"
        with holding(path, wait=retry.lock, waiting=waiting):
            yield
    except Busy as busy:
        msg = f"another process has been fetching it for {retry.lock:g} s (it holds {path})"
        raise _Refused(msg) from busy


def lock_of(path: Path) -> Path:
    """Return the file that :func:`only_one` holds; it stays, for a lock that is removed can be held twice."""
    key = hashlib.blake2b(os.fsencode(os.path.realpath(path)), digest_size=8).hexdigest()
    return cache_folder() / "locks" / f"{key}.lock"


def _read(response: http.client.HTTPResponse, most: int) -> bytes:
    """Return what has arrived, empty at the end."""
    try:
        return response.read1(most)
    except (http.client.HTTPException, OSError) as failure:
        raise _Interrupted(network.reason_of(failure)) from failure


def _check_whole(path: Path, suffix: str) -> None:
    """Refuse a torch archive or safetensors file that is not whole: the check where no hash is known."""
    if suffix in {".pt", ".pth", ".zip"}:
        try:
            entry = archives.damaged(path)
        except DataError as error:
            reason = error.message.removeprefix(f"{path} ")
            msg = f"what came is not a whole archive that can be used: it {reason} ({_opening(path)})"
            raise _Refused(msg) from error
        if entry is not None:
            msg = f"{entry} in the archive that came is damaged"
            raise _Refused(msg)
    elif suffix == ".safetensors" and not _is_whole_safetensors(path):
        msg = f"what came is not a whole safetensors file ({_opening(path)})"
        raise _Refused(msg)


def _is_whole_safetensors(path: Path) -> bool:
    """Compare the length with what the header says: 8 bytes of header length, JSON header, data."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, 100_000_000):
            return False
        try:
            header = json.loads(file.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            return False
    return size == 8 + length + max(ends, default=0)


def _opening(path: Path) -> str:
    with path.open("rb") as file:
        begin = file.read(24)
    return f"{path.stat().st_size} bytes, beginning with {begin!r}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _version(headers: Message) -> str:
    """Return what names this version of the file in ``If-Range``: a strong ETag, else the date of its last change."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")


def _content_length(headers: Message) -> int | None:
    text = headers.get("Content-Length", "")
    return int(text) if text.isdecimal() else None


def _content_range(headers: Message) -> tuple[int | None, int | None]:
    """Return the first byte and the total that ``Content-Range: bytes 5-9/10`` names."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
    if match is None:
        return None, None
    return int(match[1]), None if match[2] == "*" else int(match[2])


def _range_total(headers: Message) -> int | None:
    match = re.fullmatch(r"bytes \*/(\d+)", headers.get("Content-Range", "").strip())
    return None if match is None else int(match[1])


def _seconds(text: str | None) -> float:
    return float(text) if text and text.strip().isdecimal() else 0.0
