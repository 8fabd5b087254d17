"""Decodes images in a process of its own: one that kills it is set aside, and the work goes on.

The protocol on its pipes: a length (8 bytes) and an encoded image in; out a status byte, then height, width and
channels (4 bytes each), of pixels that lie in memory which both see or, if they are too many, follow; or a length (4
bytes) and the reason in UTF-8.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from typing import IO, TYPE_CHECKING, Self

import numpy as np

from segx.errors import DataError
from segx.runtime.memory import SharedMemory

if TYPE_CHECKING:
    from segx.structures.types import Image

_TRIES = 2
_SECONDS = 120.0
"""That decoding may take; the largest images take a few."""
_FAILED, _FOLLOWS, _LIES = b"\0", b"\1", b"\2"
_LARGEST = 48 << 20
"""Bytes of an image from which on it goes through the pipe: the memory that both see keeps its size."""
_PIPE = 1 << 20
_SET_PIPE_SIZE = 1031
"""Of Linux's ``fcntl``."""


class Decoder:
    """A process that decodes images one after the other, whichever threads ask; one that has died is started again."""

    def __init__(self, seconds: float = _SECONDS) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._pixels: SharedMemory | None = None
        self._seconds = seconds
        self._lock = threading.Lock()
        self._asked: float | None = None  # since when an answer is waited for
        self._late = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def decode(self, data: bytes) -> Image:
        """Return the image that encoded bytes hold, uint8 (H, W, 3) BGR, as ``segx predict`` reads it.

        Raises:
            DataError: It cannot be decoded, or twice killed the process that tried; with the reason alone.
        """
        how = ""
        for _ in range(_TRIES):
            with self._lock:
                try:
                    return self._ask(data)
                except (BrokenPipeError, EOFError):
                    how = self._buried()
        raise DataError(f"it kills the process that decodes it ({how}), {_TRIES} times of {_TRIES}")

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._buried()

    def _ask(self, data: bytes) -> Image:
        self._late = False
        if self._process is None:
            self._pixels = SharedMemory.new()
            self._process = _started(self._pixels)
            threading.Thread(target=self._watch, args=(self._process,), name="segx-bulk-watch", daemon=True).start()
        into, out = self._process.stdin, self._process.stdout
        if into is None or out is None or self._pixels is None:  # never: both are pipes
            raise EOFError
        self._asked = time.monotonic()
        try:
            into.write(struct.pack("<q", len(data)))
            into.write(data)
            into.flush()
            status = _exactly(out, 1)
            if status == _FAILED:
                raise DataError(_exactly(out, struct.unpack("<i", _exactly(out, 4))[0]).decode())
            shape = struct.unpack("<3i", _exactly(out, 12))
            if status == _LIES:
                return self._pixels.array(shape, np.uint8).copy()
            image = np.empty(shape, np.uint8)
            _fill(out, image.reshape(-1).data)
            return image
        finally:
            self._asked = None

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """End a process that does not answer in time; one thread for all images, as to start one takes 0.2 ms."""
        while process.poll() is None:
            time.sleep(min(1.0, self._seconds / 4))
            asked = self._asked
            if process is self._process and asked is not None and time.monotonic() - asked > self._seconds:
                self._late = True
                process.kill()
                return

    def _buried(self) -> str:
        """End what is left of the process, and return how it died."""
        process, self._process = self._process, None
        if process is None:
            return ""
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        try:
            code = process.wait(2)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        if self._late:
            return f"no end after {self._seconds:g} s"
        if code < 0:
            with contextlib.suppress(ValueError):
                return signal.Signals(-code).name
        return f"exit code {code}"


def _started(pixels: SharedMemory) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", f"from segx_bulk_ray.decoder import main; main({pixels.place!r})"]
    inherited = (pixels.place,) if isinstance(pixels.place, int) else ()
    process = subprocess.Popen(  # noqa: S603 - this interpreter, a line of ours
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=inherited
    )
    for pipe in (process.stdin, process.stdout):
        _widen(pipe)
    return process


def _widen(pipe: IO[bytes] | None) -> None:
    """Let a pipe hold a megabyte, where the system can: fewer turns between the processes for an image."""
    if sys.platform != "linux" or pipe is None:
        return
    import fcntl  # noqa: PLC0415 - not on every system

    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe, _SET_PIPE_SIZE, _PIPE)


def _exactly(pipe: IO[bytes], count: int) -> bytes:
    data = bytearray(count)
    _fill(pipe, memoryview(data))
    return bytes(data)


def _fill(pipe: IO[bytes], target: memoryview) -> None:
    """Read until the target is full.

    Raises:
        EOFError: The other side is gone.
    """
    done = 0
    while done < len(target):
        count = pipe.readinto(target[done:])  # type: ignore[attr-defined]  # raw and buffered files have it
        if not count:
            raise EOFError
        done += count


def main(place: int | str) -> None:
    """Be the process that decodes; ends when its input does.

    Args:
        place: Of the memory that both see.
    """
    from segx.io import images  # noqa: PLC0415 - the parent needs none of it

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who asks; the closed pipe ends this one
    pixels = SharedMemory.inherited(place)
    given, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not stand among the pixels
    while True:
        try:
            data = _exactly(given, struct.unpack("<q", _exactly(given, 8))[0])
        except EOFError:
            return
        try:
            image = np.ascontiguousarray(images.decode_image(data))
            lies = image.nbytes <= _LARGEST
            if lies:
                pixels.array(image.shape, np.uint8)[...] = image
            answers.write((_LIES if lies else _FOLLOWS) + struct.pack("<3i", *image.shape))
            if not lies:
                answers.write(image.reshape(-1).data)
        except (DataError, MemoryError) as error:
            text = getattr(error, "message", "it does not fit into memory").encode()
            answers.write(_FAILED + struct.pack("<i", len(text)) + text)
        with contextlib.suppress(BrokenPipeError):
            answers.flush()
