"""Work that goes on beside the network: begun early, ended in order, bounded in memory, stopped cleanly."""

from __future__ import annotations

import queue
import threading
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

T = TypeVar("T")

_PATIENCE = 2.0
"""Seconds to wait, when stopping, for a thread that a device or a network may hold up."""


class Crew:
    """Threads that do jobs in the order they come.

    Unlike those of ``concurrent.futures`` they do not keep the interpreter from ending, so that Ctrl-C works while one
    of them waits for a network.
    """

    def __init__(self, threads: int, name: str) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"segx-{name}-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Hand over a job."""
        future: Future[T] = Future()
        self._jobs.put((future, job))
        return future

    def stop(self, *, patience: float | None) -> None:
        """Let the jobs that are begun end, drop the others, and wait; at most ``patience`` seconds a thread."""
        try:
            while (waiting := self._jobs.get_nowait()) is not None:
                waiting[0].cancel()
        except queue.Empty:
            pass
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(patience)

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            future, job = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(job())
                except BaseException as error:  # noqa: BLE001 - raised to who asks for the result
                    future.set_exception(error)
            del item, future, job  # else they would keep their pictures alive while the next job is waited for


class Ahead(Generic[T]):
    """Runs jobs in threads before their results are asked for, and gives the results in the order of the jobs.

    Args:
        jobs: Functions to call; the iterator itself may take its time, as it does for the frames of a video.
        threads: How many jobs run at once.
        ahead: How many jobs may be begun before who takes the results comes back for the next: the bound on memory.
            With 1 nothing is done ahead, and each result is as fresh as can be.
    """

    def __init__(self, jobs: Iterator[Callable[[], T]], *, threads: int = 1, ahead: int = 4) -> None:
        self._jobs = jobs
        self._room = threading.Semaphore(ahead)
        self._stopped = threading.Event()
        self._results: queue.SimpleQueue[Future[T] | None] = queue.SimpleQueue()
        self._crew = Crew(threads, "ahead")
        self._feeder = threading.Thread(target=self._feed, name="segx-feeder", daemon=True)

    def __enter__(self) -> Self:
        self._feeder.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._room.release()
        self._feeder.join(_PATIENCE)
        self._crew.stop(patience=_PATIENCE)

    def __iter__(self) -> Iterator[T]:
        """Yield results; what a job raises is raised here, in its place."""
        while (future := self._results.get()) is not None:
            result = future.result()
            del future
            yield result
            del result
            self._room.release()

    def _feed(self) -> None:
        try:
            while True:
                self._room.acquire()
                job = None if self._stopped.is_set() else next(self._jobs, None)
                if job is None or self._stopped.is_set():
                    break
                self._results.put(self._crew.submit(job))
                del job
        except BaseException as error:  # noqa: BLE001 - raised to who takes the results
            failed: Future[T] = Future()
            failed.set_exception(error)
            self._results.put(failed)
        finally:
            self._results.put(None)
            close = getattr(self._jobs, "close", None)
            if close is not None:
                close()


class Behind(Generic[T]):
    """Runs jobs in threads after they are handed over, and gives the results in the order of the jobs.

    Args:
        threads: How many jobs run at once.
        waiting: How many jobs may be handed over before the result of the first has to be taken; 0: none.
    """

    def __init__(self, *, threads: int = 1, waiting: int = 1) -> None:
        self._crew = Crew(threads, "behind")
        self._futures: deque[Future[T]] = deque()
        self._waiting = waiting

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._crew.stop(patience=None)

    def submit(self, job: Callable[[], T]) -> Iterator[T]:
        """Hand over a job; yields the results that have to be taken, or are there anyway."""
        self._futures.append(self._crew.submit(job))
        while len(self._futures) > self._waiting or (self._futures and self._futures[0].done()):
            yield self._futures.popleft().result()

    def drain(self) -> Iterator[T]:
        """Yield the results of all jobs that are left."""
        while self._futures:
            yield self._futures.popleft().result()


class Turns:
    """Lets jobs that run side by side do one part of their work in order."""

    def __init__(self) -> None:
        self._next = 0
        self._changed = threading.Condition()
        self._broken = False

    def take(self, number: int, job: Callable[[], None]) -> None:
        """Call ``job`` once all lower numbers have had their turn; nothing is done when that cannot come any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._next == number or self._broken)
            if self._broken:
                return
        job()
        with self._changed:
            self._next += 1
            self._changed.notify_all()

    def give_up(self) -> None:
        """Let nobody wait any longer: a turn will not come."""
        with self._changed:
            self._broken = True
            self._changed.notify_all()
