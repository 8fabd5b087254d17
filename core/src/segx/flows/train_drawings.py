"""Plots of a training run, drawn in a thread; only the end of the run waits for them."""

from __future__ import annotations

import contextlib
import logging
import time
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

from segx.flows.pipeline import DaemonPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from segx.plugin.interfaces import Dataset, LoaderMaker, TrainDrawings, TrainLoader
    from segx.structures.batch import TrainBatch

logger = logging.getLogger("segx.train")

_BATCHES = 3
"""Batches that are drawn at the beginning, and again when mosaic closes."""
_SAMPLES = 5000
"""Images, evenly spaced, whose labels are counted at most."""
_SECONDS = 30.0
"""Between one drawing of the curves and the next."""


class Drawings:
    """Queue of the plots of a run.

    An image that cannot be drawn is reported once, and stops nothing.

    Args:
        images: The task's way of drawing.
        folder: The run's folder.
    """

    def __init__(self, images: TrainDrawings, folder: Path) -> None:
        self._images = images
        self._folder = folder
        self._pool = DaemonPool(1, "drawings")
        self._pending: list[Future[Path]] = []
        self._curves: Future[Path] | None = None
        self._curves_at = time.monotonic()
        self._reported = False

    def batch(self, number: int, batch: TrainBatch) -> None:
        """Draw a batch as it is trained on."""
        self._submit(lambda: self._images.batch(batch, self._folder / f"train_batch{number}.jpg"))

    def labels(self, dataset: Dataset, indices: Sequence[int]) -> None:
        """Draw how classes, sizes and places of the objects are spread."""
        some = indices[:: -(-len(indices) // _SAMPLES)]
        samples = (dataset[index] for index in some)
        self._submit(lambda: self._images.labels(samples, self._folder / "labels.png"))

    def curves(self, rows: Sequence[Mapping[str, float]], *, last: bool = False) -> None:
        """Draw losses and figures over the epochs: now and then, and at the end."""
        idle = self._curves is None or self._curves.done()
        due = idle and time.monotonic() - self._curves_at > _SECONDS
        if rows and (last or due):
            kept = list(rows)
            self._curves = self._submit(lambda: self._images.curves(kept, self._folder / "results.png"))
            self._curves_at = time.monotonic()

    def done(self) -> tuple[Path, ...]:
        """Return the files that were finished since this was last asked."""
        finished = [future for future in self._pending if future.done()]
        self._pending = [future for future in self._pending if not future.done()]
        return tuple(path for future in finished if (path := self._outcome(future)) is not None)

    def close(self, *, wait: bool = True) -> tuple[Path, ...]:
        """Stop drawing, after what is asked for is drawn when ``wait``, and return what was finished."""
        if wait:
            for future in self._pending:
                with contextlib.suppress(Exception):
                    future.result()
        self._pool.stop(timeout=None if wait else 2.0)
        return self.done()

    def _submit(self, job: Callable[[], Path]) -> Future[Path]:
        future = self._pool.submit(job)
        self._pending.append(future)
        return future

    def _outcome(self, future: Future[Path]) -> Path | None:
        try:
            return future.result()
        except CancelledError:
            return None
        except Exception as error:
            if not self._reported:
                logger.warning("an image of the run could not be drawn: %s", error)
                logger.debug("an image of the run could not be drawn", exc_info=True)
            self._reported = True
            return None


def watched(maker: LoaderMaker, drawings: Callable[[], Drawings | None]) -> LoaderMaker:
    """Return what makes the same loader, of which the first process has some batches drawn."""

    def make(*, rank: int, world: int, batch: int, processes: bool = False) -> TrainLoader:
        loader = maker(rank=rank, world=world, batch=batch, processes=processes)
        drawn = drawings() if rank == 0 else None
        return loader if drawn is None else _Watched(loader, drawn)

    return make


class _Watched:
    """A loader that has its first batches drawn, and the first ones without mosaic."""

    def __init__(self, loader: TrainLoader, drawings: Drawings) -> None:
        self._loader = loader
        self._drawings = drawings
        self._closed_since: int | None = None

    def __len__(self) -> int:
        return len(self._loader)

    def close(self) -> None:
        """Close the loader."""
        self._loader.close()

    def epoch(self, number: int, *, start: int = 0, closed: bool = False) -> Iterator[TrainBatch]:
        """Yield the batches of an epoch."""
        if closed and self._closed_since is None:
            self._closed_since = number
        first = number == (self._closed_since if closed else 0)
        for index, batch in enumerate(self._loader.epoch(number, start=start, closed=closed), start):
            if first and index < _BATCHES:
                self._drawings.batch(number * len(self) + index, batch)
            yield batch
