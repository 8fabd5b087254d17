"""Processes that prepare images: segx's own children, which import nothing of the user's, and memory that all see.

Batches and read images lie in files without a name. Messages say only which images to make, and that they are made.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import pickle
import weakref
from collections import deque
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from segx.errors import ModelError
from segx.runtime import child
from segx.runtime.memory import Laid, SharedMemory
from segx_task_segment.training.reading import SharedCache, needed_bytes
from segx_task_segment.training.samples import LoaderSettings, Samples, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from segx_task_segment.training.collating import Part

    Bytes = NDArray[np.uint8]

logger = logging.getLogger("segx.train")

_LENT = 2
"""Batches that may be in use where they lie, besides those that are being made; of more, copies are used."""
_OBJECTS = 64
"""Masks of an image for which there is room in shared memory; more go through the pipe."""
_REST = 1 << 16
"""Bytes besides pixels that an image and its objects take, as far as there is room for them."""
_KEPT = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(256 << 20)}
"""What glibc reads as a process starts: what one image gives back, the next one uses. Else a third of the time goes
into clearing pages."""


class NoCrewError(Exception):
    """Processes cannot prepare images here."""


class Crew:
    """Processes that make the images of batches.

    Args:
        samples: What makes them; the processes get copies of it that share its arrays.
        workers: How many.
        ahead: Batches that are begun before one is waited for.

    Raises:
        NoCrewError: They cannot be started, or the data set cannot be handed to another process.
    """

    def __init__(self, samples: Samples, workers: int, *, ahead: int) -> None:
        self._settings = samples.settings
        self._messages: SimpleQueue[tuple[int, Mapping[str, Any] | None]] = SimpleQueue()
        self._slots = [SharedMemory.new() for _ in range(ahead + 1 + _LENT)]
        self._free = deque(range(len(self._slots)))
        self._pending: dict[int, set[int]] = {}
        self._sent: dict[int, dict[int, str]] = {}  # of each batch that is not taken yet, what came through the pipe
        self._begun = 0
        self._repeated: set[str] = set()
        self._children: list[child.Child] = []
        self._finalize = weakref.finalize(self, _end, self._children)
        try:
            self._start(samples, workers)
        except BaseException:
            self.close()
            raise

    def _start(self, samples: Samples, workers: int) -> None:
        if os.name != "posix":
            raise NoCrewError("this system does not hand over open files")
        try:
            laid = Laid((samples.dataset, samples.indices, samples.settings))
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise NoCrewError(f"{type(samples.dataset).__name__} cannot be handed to another process") from error
        handed, cache = SharedMemory.new(), SharedMemory.new()
        laid.write(handed.bytes(laid.size))
        files = [int(memory.place) for memory in (handed, cache, *self._slots)]
        arguments = {"handed": files[0], "size": laid.size, "cache": files[1], "slots": files[2:]}
        environment = {name: os.environ.get(name, value) for name, value in _KEPT.items()}
        try:
            for number in range(workers):
                what = f"process {number + 1} of {workers} that prepares images"
                hear = partial(_hear, self._messages, number)
                self._children.append(
                    child.Child(
                        f"{__name__}:serve", arguments, what=what, hear=hear, files=files, environment=environment
                    )
                )
        except OSError as error:
            raise NoCrewError(error.strerror or str(error)) from error
        for _ in range(workers):
            number, message = self._messages.get()
            if message is None or "ready" not in message:
                raise NoCrewError(self._children[number].failure(message or {}, ModelError).message)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[Callable[[Work], Callable[[], tuple[Bytes, list[Part]]]]]:
        """Have batches made: what is entered begins one, and returns what waits for it.

        An epoch that is not gone through to its end waits for what was begun. Whatever stops the program meanwhile, and
        any error, ends the processes instead: one of them may never answer.
        """
        try:
            yield self._begin
        except GeneratorExit:
            while self._children and self._pending:
                self._listen()
            raise
        except BaseException:
            self._give_up()
            raise
        finally:
            self._free.extend(self._sent)
            self._sent.clear()

    def close(self) -> None:
        """End the processes; harmless when done already."""
        self._finalize()

    @property
    def closed(self) -> bool:
        """Whether they have ended."""
        return not self._finalize.alive

    def _begin(self, work: Work) -> Callable[[], tuple[Bytes, list[Part]]]:
        slot = self._free.popleft()
        whole, images, rooms = _rooms(self._slots[slot], work, self._settings)
        workers, first = len(self._children), self._begun
        self._begun += 1
        self._pending[slot] = set(range(len(work.places)))
        self._sent[slot] = {}
        for number in range(min(workers, len(work.places))):
            mine = list(range(number, len(work.places), workers))
            message = {"slot": slot, "mine": mine, "work": vars(work)}
            with contextlib.suppress(OSError):  # it has ended, which is reported while waiting
                self._children[(first + number) % workers].send(message)
        return partial(self._made, slot, whole, images, rooms)

    def _made(self, slot: int, whole: Bytes, images: Bytes, rooms: Bytes) -> tuple[Bytes, list[Part]]:
        """Wait for a batch; its images stay where they lie for as long as somebody has them."""
        while slot in self._pending:
            self._listen()
        sent = self._sent.pop(slot)
        parts = [
            Laid.read(np.frombuffer(base64.b64decode(sent[index]), np.uint8) if index in sent else room)
            for index, room in enumerate(rooms)
        ]
        lent = len(self._slots) - len(self._free) - len(self._sent) - 1
        if lent < _LENT:
            weakref.finalize(whole, self._free.append, slot).atexit = False
        else:
            images = images.copy()
            self._free.append(slot)
        return images, parts

    def _listen(self) -> None:
        """Take the next message of any process.

        Raises:
            SegxError: The one that was raised there.
            ModelError: It has ended.
        """
        try:
            number, message = self._messages.get()
        except BaseException:  # Ctrl-C
            self._give_up()
            raise
        if message is None or "failed" in message:
            last = {} if message is None else {"error": message["failed"]}
            error = self._children[number].failure(last, ModelError)
            self._give_up()
            raise error
        if "log" in message:
            level, text = message["log"]
            if text not in self._repeated:
                self._repeated.add(text)
                logger.log(level, "%s", text)
            return
        slot = message["slot"]
        self._sent[slot].update({int(index): text for index, text in message["sent"].items()})
        self._pending[slot] -= set(message["made"])
        if not self._pending[slot]:
            del self._pending[slot]

    def _give_up(self) -> None:
        """End the processes, whatever they are at."""
        self._pending.clear()
        self.close()


def _hear(messages: SimpleQueue[Any], number: int, message: Mapping[str, Any] | None) -> None:
    messages.put((number, message))


def _end(children: list[child.Child]) -> None:
    while children:
        children.pop().end()


def _rooms(memory: SharedMemory, work: Work, settings: LoaderSettings) -> tuple[Bytes, Bytes, Bytes]:
    """Return the memory of a batch: all of it, its images, and a row for what else there is of each."""
    count, _, height, width = work.shape
    pixels = count * 3 * height * width
    mask = (height // settings.mask_ratio) * (width // settings.mask_ratio)
    room = (4 if settings.overlap else _OBJECTS) * mask + _REST
    whole = memory.bytes(pixels + count * room)
    return whole, whole[:pixels].reshape(work.shape), whole[pixels:].reshape(count, room)


# In the processes


class _Retold(logging.Handler):
    """Has what is logged here logged by the process that started this one."""

    def emit(self, record: logging.LogRecord) -> None:
        child.parent().send({"log": [record.levelno, record.getMessage()]})


def serve(*, handed: int, size: int, cache: int, slots: Sequence[int]) -> None:
    """Make images until nobody wants more.

    Args:
        handed: Memory in which the data set, the part of it in use and the settings lie.
        size: Bytes of that.
        cache: Memory for images that were read.
        slots: Memory for batches.
    """
    memory = [SharedMemory.inherited(slot) for slot in slots]
    dataset, indices, settings = Laid.read(SharedMemory.inherited(handed).bytes(size))
    kept = _cache(SharedMemory.inherited(cache), dataset.shapes()[list(indices)], settings)
    samples = Samples(dataset, indices, settings, kept)
    cv2.setNumThreads(1)  # an image a process
    logger.addHandler(_Retold(logging.WARNING))
    logger.propagate = False
    parent = child.parent()
    parent.send({"ready": True})
    for message in parent.messages():
        asked = message["work"]
        work = Work(**{**asked, "places": tuple(asked["places"]), "size": tuple(asked["size"])})
        _, images, rooms = _rooms(memory[message["slot"]], work, settings)
        sent: dict[int, str] = {}
        try:
            kept.arrange(samples.order(work.epoch))
            for index in message["mine"]:
                laid = Laid(samples.make(work, index, images[index]))
                kept.release()
                if laid.size <= len(rooms[index]):
                    laid.write(rooms[index])
                else:
                    room = np.empty(laid.size, np.uint8)
                    laid.write(room)
                    sent[index] = base64.b64encode(room.data).decode("ascii")
        except Exception as error:  # noqa: BLE001 - reported where the batch is waited for
            parent.send({"failed": child.described(error)})
        else:
            parent.send({"slot": message["slot"], "made": message["mine"], "sent": sent})


def _cache(memory: SharedMemory, shapes: NDArray[np.int32], settings: LoaderSettings) -> SharedCache:
    """Return a cache with a place for each image where memory is for all, else for as many as fit."""
    room = 3 * settings.imgsz**2 + _REST
    all_fit = needed_bytes(shapes, settings.imgsz) <= settings.cache_bytes
    places = len(shapes) if all_fit else settings.cache_bytes // room
    return SharedCache(memory, places=max(min(places, len(shapes)), 1), room=room)
