"""Frames of video files, cameras and network streams."""

from __future__ import annotations

import logging
import math
import os
import re
import threading
from collections import deque
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from segx.errors import DataError
from segx.io.files import open_regular, utf8_name
from segx.io.images import check_size
from segx.io.paths import offline
from segx.records import Record
from segx.runtime.opencv import quiet
from segx.structures.batch import Clip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segx.structures.types import Image

logger = logging.getLogger(__name__)

STREAM_SCHEMES = frozenset({"mms", "rtmp", "rtmps", "rtp", "rtsp", "rtsps", "srt", "tcp", "udp"})

_USUAL_RATE = 30.0
_TIMEOUT_MS = 10_000
_BUFFER = 30

_FFMPEG = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_LOCAL = "protocol_whitelist;file,crypto,data"
_ANYWHERE = f"{_LOCAL},http,https,httpproxy,tcp,tls,udp,rtp,srtp,rtsp,rtmp,rtmps,srt,mmsh,mmst|rtsp_transport;tcp"
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_environment = threading.Lock()
_openers: dict[str, int] = {}


class Frame(Record):
    """One frame.

    Attributes:
        image: uint8 (H, W, 3), BGR, orientation applied.
        index: Its zero-based number in the file or since the stream was opened, skipped frames counted.
        clip: What it belongs to.
        seconds: When it is shown, from the first frame of a file on; None where that is not known.
    """

    image: Image
    index: int
    clip: Clip
    seconds: float | None = None


class Lost(Record):
    """A stream that was lost.

    Attributes:
        name: Its address.
        reason: What happened, in a few words.
    """

    name: str
    reason: str


def _shown(name: str) -> str:
    """Return a file's name, or an address without what is secret in it."""
    if "://" not in name:
        return name
    from segx.io.network import shown  # with http and ssl, which files do without

    return shown(name)


class VideoFile:
    """A video, local or at an http(s) address, read from its beginning each time it is asked for."""

    def __init__(self, name: str, *, stride: int = 1) -> None:
        self.name = _shown(name)
        self.stride = stride
        self._target = name

    def clip(self) -> Clip:
        """Return rate and length.

        Raises:
            DataError: With the reason alone, when it cannot be opened.
        """
        with _capture(self._target) as capture:
            return self._clip(capture)

    def frames(self) -> Iterator[Frame]:
        """Yield every ``stride``-th frame.

        Raises:
            DataError: With the reason alone, when it cannot be opened or ends much before its stated length.
        """
        with _capture(self._target) as capture:
            clip, index, stated, clock = self._clip(capture), 0, _stated_frames(capture), _Clock()
            rate = _rate(capture)
            while capture.grab():
                seconds = clock.read(capture)
                if index % self.stride == 0:
                    there, image = capture.retrieve()
                    if not there:
                        break
                    yield Frame(image=np.asarray(image, np.uint8), index=index, clip=clip, seconds=seconds)
                index += 1
        if index == 0:
            raise DataError("it holds no frame that can be decoded")
        short = stated - index > max(2, 0.02 * stated)  # containers round their length
        if stated and short and not clock.has_reached(stated / rate, rate):
            raise DataError(f"it ends after {index} of {stated} frames")

    def _clip(self, capture: cv2.VideoCapture) -> Clip:
        stated = _stated_frames(capture)
        delivered = math.ceil(stated / self.stride) if stated else None
        return Clip(name=self.name, fps=_rate(capture) / self.stride, frames=delivered)


class _Clock:
    """When the frames of a file are shown: at a rate that varies, their number says little of how far they reach."""

    def __init__(self) -> None:
        self._begin: float | None = None
        self._last = 0.0
        self._longest = 0.0

    def read(self, capture: cv2.VideoCapture) -> float | None:
        """Return the seconds since the first frame, None where the file does not say."""
        now = capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
        if self._begin is None:
            self._begin = now
            return 0.0
        passed = now - self._begin
        if not passed > self._last:  # written so that NaN is taken for unknown too
            return None
        self._longest = max(self._longest, passed - self._last)
        self._last = passed
        return passed

    def has_reached(self, duration: float, rate: float) -> bool:
        """Return True if no more is missing until the stated end than frames that are shown for long explain."""
        return duration - self._last <= max(2 / rate, 0.02 * duration, 2 * self._longest)


class LiveStreams:
    """Cameras and network streams, read side by side by a thread each and opened again when they are lost.

    Args:
        targets: Camera numbers and addresses.
        stride: Take every n-th frame.
        keep_all: Deliver every frame, holding a stream back when too many wait; False: only the newest of each.
        tries: How often a lost stream is opened again in a row before it is given up.
        pause: Seconds before the first of these tries, doubled for each further one.

    Raises:
        DataError: One of them cannot be opened.
    """

    def __init__(
        self,
        targets: tuple[int | str, ...],
        *,
        stride: int = 1,
        keep_all: bool = False,
        tries: int = 5,
        pause: float = 0.5,
    ) -> None:
        self._news = threading.Condition()
        self._closed = threading.Event()
        self._feeds: list[_Feed] = []
        try:
            for target in targets:
                feed = _Feed(target, stride, self._news, self._closed, _BUFFER if keep_all else 1, keep_all=keep_all)
                feed.tries, feed.pause = tries, pause
                self._feeds.append(feed)
                feed.connect()
        except DataError:
            self.close()
            raise

    def frames(self) -> Iterator[Frame | Lost]:
        """Yield frames as they come, of each stream in turn, until all have ended or :meth:`close` is called."""
        for feed in self._feeds:
            feed.start()
        waiting = deque(self._feeds)
        while waiting and not self._closed.is_set():
            with self._news:
                ready = next((feed for feed in waiting if feed.arrived or feed.ended), None)
                if ready is None:
                    self._news.wait(timeout=0.2)
                    continue
                item = ready.arrived.popleft() if ready.arrived else None
                self._news.notify_all()
            waiting.remove(ready)
            if item is not None:
                waiting.append(ready)
                yield item
            elif ready.lost:
                yield Lost(name=ready.name, reason=ready.lost)

    def close(self) -> None:
        """Stop reading and let go of the devices."""
        self._closed.set()
        with self._news:
            self._news.notify_all()
        for feed in self._feeds:
            feed.stop()


class _Feed:
    """One stream and the thread that reads it."""

    tries = 5
    pause = 0.5

    def __init__(
        self,
        target: int | str,
        stride: int,
        news: threading.Condition,
        closed: threading.Event,
        room: int,
        *,
        keep_all: bool,
    ) -> None:
        self.target, self.stride, self.news, self.closed = target, stride, news, closed
        self.room, self.keep_all = room, keep_all
        self.name = f"camera{target}" if isinstance(target, int) else _shown(target)
        self.arrived: deque[Frame] = deque()
        self.ended = False
        self.lost = ""
        self.capture: cv2.VideoCapture | None = None
        self.thread: threading.Thread | None = None

    def connect(self) -> None:
        """Open it once, for a wrong address to be refused at once."""
        what = f"camera {self.target}" if isinstance(self.target, int) else f"stream {self.name}"
        try:
            self.capture = _open(self.target)
        except DataError as error:
            raise DataError(f"{what}: {error.message}") from error
        if not self.capture.isOpened():
            self.capture.release()
            self.capture = None
            raise DataError(f"{what} cannot be opened", hint="is it connected, and free for this program to use?")

    def start(self) -> None:
        if self.thread is None:
            self.thread = threading.Thread(target=self._run, name=f"segx-stream-{self.name}", daemon=True)
            self.thread.start()

    def stop(self) -> None:
        if self.thread is not None:
            self.thread.join(timeout=2)  # a dead network can hold a read for longer; the thread ends by itself then
        elif self.capture is not None:
            self.capture.release()

    def _run(self) -> None:
        index = 0
        try:
            while self.capture is not None and not self.closed.is_set():
                finite = bool(_stated_frames(self.capture))
                index = self._read_until_lost(self.capture, index)
                self.capture.release()
                if self.closed.is_set() or finite:
                    return
                self.capture = self._reopen()
        finally:
            if self.capture is not None:
                self.capture.release()
            with self.news:
                self.ended = True
                self.news.notify_all()

    def _read_until_lost(self, capture: cv2.VideoCapture, index: int) -> int:
        clip = Clip(name=self.name, fps=_rate(capture) / self.stride, live=True)
        while not self.closed.is_set() and capture.grab():
            if index % self.stride == 0:
                there, image = capture.retrieve()
                if not there:
                    break
                self._deliver(Frame(image=np.asarray(image, np.uint8), index=index, clip=clip))
            index += 1
        return index

    def _deliver(self, frame: Frame) -> None:
        with self.news:
            while self.keep_all and len(self.arrived) >= self.room and not self.closed.is_set():
                self.news.wait(timeout=0.2)
            if not self.keep_all:
                self.arrived.clear()
            self.arrived.append(frame)
            self.news.notify_all()

    def _reopen(self) -> cv2.VideoCapture | None:
        for attempt in range(self.tries):
            logger.warning("%s is lost; opening it again (%d of %d)", self.name, attempt + 1, self.tries)
            if self.closed.wait(self.pause * 2**attempt):
                return None
            capture = _open(self.target)
            if capture.isOpened() and capture.grab():
                logger.info("%s is back", self.name)
                return capture
            capture.release()
        self.lost = f"lost, and not to be opened again in {self.tries} tries"
        return None


@contextmanager
def _capture(name: str) -> Iterator[cv2.VideoCapture]:
    if "://" not in name:
        try:
            open_regular(name).close()
        except OSError as error:
            raise DataError(error.strerror or str(error)) from error
    capture = _open(name)
    try:
        if not capture.isOpened():
            raise DataError("it is damaged, or no video of a known format")
        check_size((int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(capture.get(cv2.CAP_PROP_FRAME_WIDTH))))
        yield capture
    finally:
        capture.release()


def _open(target: int | str) -> cv2.VideoCapture:
    """Open a camera, a file or an address; whether that has worked, the capture says.

    Raises:
        DataError: It is an address, and the network is forbidden.
    """
    silence_ffmpeg()
    if isinstance(target, int):
        with quiet():
            return cv2.VideoCapture(target)
    if _ADDRESS.match(target):
        from segx.io import network

        network.allow(target, {*network.FETCHED, *STREAM_SCHEMES})
    timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT_MS]
    # The options bound what FFmpeg follows by itself, whatever a playlist or a server points to.
    with quiet(), _environment_of_ffmpeg(_FFMPEG, _LOCAL if offline() else _ANYWHERE):
        if "://" in target:
            return cv2.VideoCapture(target, cv2.CAP_FFMPEG, timeouts)
        with utf8_name(target) as name:
            return cv2.VideoCapture(name, cv2.CAP_FFMPEG, timeouts)


def _rate(capture: cv2.VideoCapture) -> float:
    rate = capture.get(cv2.CAP_PROP_FPS)
    return rate if math.isfinite(rate) and 0 < rate <= 1000 else _USUAL_RATE


def _stated_frames(capture: cv2.VideoCapture) -> int:
    """Return the length a container claims, 0 when it claims none (live streams claim nonsense)."""
    frames = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return int(frames) if math.isfinite(frames) and 0 < frames < 1e9 else 0


@contextmanager
def _environment_of_ffmpeg(name: str, value: str) -> Iterator[None]:
    """Set a variable that OpenCV reads when it opens a video, unless the user has; the last that opens one removes it.

    The lock is not held meanwhile: a camera that does not answer must not keep the others waiting.
    """
    with _environment:
        if name not in os.environ:
            os.environ[name] = value
            _openers[name] = 0
        if ours := name in _openers:
            _openers[name] += 1
    try:
        yield
    finally:
        with _environment:
            if ours:
                _openers[name] -= 1
                if not _openers[name]:
                    del _openers[name]
                    os.environ.pop(name, None)


@cache
def silence_ffmpeg() -> None:
    """Keep FFmpeg from printing past every logger: OpenCV reads the switch once, when it first opens a video."""
    with _environment_of_ffmpeg("OPENCV_FFMPEG_LOGLEVEL", "-8"), quiet():
        cv2.VideoCapture("", cv2.CAP_FFMPEG).release()
