"""Thread helpers around the network: prefetching, ordered execution, sequencing; bounded memory, clean stop."""

from __future__ import annotations

import queue
import threading
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

_TIMEOUT = 2.0
"""Seconds to wait, when stopping, for a thread that a device or a network may hold up."""


class DaemonPool:
    """A pool of daemon threads that run jobs in order of submission.

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
        """Submit a job."""
        future: Future[T] = Future()
        self._jobs.put((future, job))
        return future

    def stop(self, *, timeout: float | None) -> None:
        """Drop the jobs that wait, and join each thread for at most ``timeout`` seconds."""
        try:
            while (waiting := self._jobs.get_nowait()) is not None:
                waiting[0].cancel()
        except queue.Empty:
            pass
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(timeout)

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            future, job = item
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(job())
                except BaseException as error:  # noqa: BLE001 - raised to who asks for the result
                    future.set_exception(error)
            del item, future, job  # else they would keep their images alive while the next job is waited for


class Prefetcher(Generic[T]):
    """Run jobs in threads ahead of their consumer; results come in the order of the jobs.

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
        self._pool = DaemonPool(threads, "ahead")
        self._feeder = threading.Thread(target=self._feed, name="segx-feeder", daemon=True)

    def __enter__(self) -> Self:
        self._feeder.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._room.release()
        self._feeder.join(_TIMEOUT)
        self._pool.stop(timeout=_TIMEOUT)

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
                self._results.put(self._pool.submit(job))
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


class OrderedExecutor(Generic[T]):
    """Run submitted jobs in threads; results come in the order of submission.

    Args:
        threads: How many jobs run at once.
        waiting: How many jobs may be handed over before the result of the first has to be taken; 0: none.
    """

    def __init__(self, *, threads: int = 1, waiting: int = 1) -> None:
        self._pool = DaemonPool(threads, "behind")
        self._futures: deque[Future[T]] = deque()
        self._waiting = waiting

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.stop(timeout=None)

    def submit(self, job: Callable[[], T]) -> Iterator[T]:
        """Submit a job; yield the results that are ready, waiting only while the queue is full."""
        self._futures.append(self._pool.submit(job))
        while len(self._futures) > self._waiting or (self._futures and self._futures[0].done()):
            yield self._futures.popleft().result()

    def drain(self) -> Iterator[T]:
        """Yield the results of all jobs that are left."""
        while self._futures:
            yield self._futures.popleft().result()


class Sequencer:
    """Let concurrent jobs run one step in order of their numbers."""

    def __init__(self) -> None:
        self._next = 0
        self._changed = threading.Condition()
        self._broken = False

    def take(self, number: int, job: Callable[[], None]) -> None:
        """Call ``job`` once all lower numbers are done; do nothing after :meth:`abort`."""
        with self._changed:
            self._changed.wait_for(lambda: self._next == number or self._broken)
            if self._broken:
                return
        job()
        with self._changed:
            self._next += 1
            self._changed.notify_all()

    def abort(self) -> None:
        """Abort: wake all waiters; the jobs that wait are skipped."""
        with self._changed:
            self._broken = True
            self._changed.notify_all()
