"""Frames of video files, cameras and network streams."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from segx.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segx.interfaces import Image

logger = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts"}
    | {".webm", ".wmv"}
)
STREAM_SCHEMES = frozenset({"mms", "rtmp", "rtmps", "rtp", "rtsp", "rtsps", "srt", "tcp", "udp"})
STREAM_SUFFIXES = frozenset({".m3u8", ".mjpeg", ".mjpg", ".mpd", ".sdp"})

_USUAL_RATE = 30.0
_TIMEOUT_MS = 10_000
_BUFFER = 30


@dataclass(frozen=True, kw_only=True)
class Clip:
    """What a frame belongs to.

    Attributes:
        name: The file, the address, or ``"camera0"``.
        fps: Frames per second as they are delivered: the file's rate over the stride.
        frames: How many will be delivered, as the file claims; None when it claims nothing.
        live: It does not wait for who watches it.
    """

    name: str
    fps: float
    frames: int | None = None
    live: bool = False


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One frame.

    Attributes:
        image: uint8 (H, W, 3), BGR, orientation applied.
        index: Its zero-based number in the file or since the stream was opened, skipped frames counted.
        clip: What it belongs to.
    """

    image: Image
    index: int
    clip: Clip


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A stream that has ended before its time.

    Attributes:
        name: Its address.
        reason: What happened, in a few words.
    """

    name: str
    reason: str


class VideoFile:
    """A video, local or at an http(s) address, read from its beginning each time it is asked for."""

    def __init__(self, name: str, *, stride: int = 1) -> None:
        self.name = name
        self.stride = stride

    def clip(self) -> Clip:
        """Return rate and length.

        Raises:
            DataError: With the reason alone, when it cannot be opened.
        """
        with _capture(self.name) as capture:
            return self._clip(capture)

    def frames(self) -> Iterator[Frame]:
        """Yield every ``stride``-th frame.

        Raises:
            DataError: With the reason alone, when it cannot be opened or ends much before its stated length.
        """
        with _capture(self.name) as capture:
            clip, index, stated = self._clip(capture), 0, _stated_frames(capture)
            while capture.grab():
                if index % self.stride == 0:
                    there, image = capture.retrieve()
                    if not there:
                        break
                    yield Frame(image=np.asarray(image, np.uint8), index=index, clip=clip)
                index += 1
        if index == 0:
            raise DataError("it holds no frame that can be decoded")
        if stated and index < stated - max(2, 0.02 * stated):  # containers round their length
            raise DataError(f"it ends after {index} of {stated} frames")

    def _clip(self, capture: cv2.VideoCapture) -> Clip:
        stated = _stated_frames(capture)
        delivered = math.ceil(stated / self.stride) if stated else None
        return Clip(name=self.name, fps=_rate(capture) / self.stride, frames=delivered)


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
        self.name = f"camera{target}" if isinstance(target, int) else target
        self.arrived: deque[Frame] = deque()
        self.ended = False
        self.lost = ""
        self.capture: cv2.VideoCapture | None = None
        self.thread: threading.Thread | None = None

    def connect(self) -> None:
        """Open it once, for a wrong address to be told at once."""
        self.capture = _open(self.target)
        if not self.capture.isOpened():
            self.capture.release()
            self.capture = None
            what = f"camera {self.target}" if isinstance(self.target, int) else f"stream {self.target}"
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
    capture = _open(name)
    try:
        if not capture.isOpened():
            raise DataError("it is damaged, or no video of a known format")
        yield capture
    finally:
        capture.release()


def _open(target: int | str) -> cv2.VideoCapture:
    with quiet():
        if isinstance(target, int):
            return cv2.VideoCapture(target)
        timeouts = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, _TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, _TIMEOUT_MS]
        return cv2.VideoCapture(target, cv2.CAP_FFMPEG, timeouts)


def _rate(capture: cv2.VideoCapture) -> float:
    rate = capture.get(cv2.CAP_PROP_FPS)
    return rate if math.isfinite(rate) and 0 < rate <= 1000 else _USUAL_RATE


def _stated_frames(capture: cv2.VideoCapture) -> int:
    """Return the length a container claims, 0 when it claims none (live streams claim nonsense)."""
    frames = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    return int(frames) if math.isfinite(frames) and 0 < frames < 1e9 else 0


_quiet_lock = threading.Lock()
_quiet_state = {"depth": 0, "level": 0}


@contextmanager
def quiet() -> Iterator[None]:
    """Keep OpenCV and FFmpeg from printing while something is opened that may not be there; we say it better."""
    log: Any = cv2 if hasattr(cv2, "setLogLevel") else cv2.utils.logging  # before and from OpenCV 5
    with _quiet_lock:
        if _quiet_state["depth"] == 0:
            _quiet_state["level"] = log.getLogLevel()
            log.setLogLevel(0)
        _quiet_state["depth"] += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_state["depth"] -= 1
            if _quiet_state["depth"] == 0:
                log.setLogLevel(_quiet_state["level"])


def _silence_ffmpeg() -> None:
    """Keep FFmpeg from printing past every logger, unless the user has chosen how much it says.

    OpenCV reads the switch once, when it first opens a video: one that is not there, now. Afterwards the environment is
    what it was.
    """
    switch = "OPENCV_FFMPEG_LOGLEVEL"
    if switch in os.environ:
        return
    os.environ[switch] = "-8"
    try:
        with quiet():
            cv2.VideoCapture("", cv2.CAP_FFMPEG).release()
    finally:
        del os.environ[switch]


_silence_ffmpeg()
