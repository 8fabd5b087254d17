"""The way of an image: read, preprocess, batch, network, decode; under predict, val and the proof of an export.

The stages run side by side, memory is bounded, results come in order, and whatever ends a run ends all of it.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from segx.errors import ModelError
from segx.flows.pipeline import OrderedExecutor, Prefetcher, Sequencer
from segx.io.sources import Unreadable
from segx.ops.arrays import to_numpy
from segx.records import Record
from segx.runtime import helpers
from segx.structures.batch import Batch, Letterbox

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from segx.flows.inputs import InputPlan
    from segx.options.verbs import DecodeOptions
    from segx.plugin.interfaces import Session, Task
    from segx.structures.batch import SourceImage
    from segx.structures.results import Results
    from segx.structures.types import Images

    Load = Callable[[], SourceImage | Unreadable]
    Inferred = tuple[tuple[NDArray[np.float32], ...], float]

STAGES = ("preprocess", "inference", "postprocess")
"""What is timed of each image, in milliseconds: ``Results.speed``."""

_NUMBERS = "biuf"
"""Kinds of NumPy types that hold real numbers."""


class Consumer(Protocol):
    """What a verb does with the images and results that a :class:`Runner` hands it."""

    def skip(self, item: Unreadable) -> None:
        """Take note of what cannot be read; in order, in the thread that takes the results."""
        ...

    def gathered(self, batch: Batch) -> Batch:
        """Return a batch as it is to go through the network; in order, in the thread that takes the results."""
        ...

    def found(self, batch: Batch, results: Sequence[Results]) -> None:
        """Take the results of a batch as soon as they are there; in any order, in several threads."""
        ...

    def ordered(self, batch: Batch, results: Sequence[Results]) -> None:
        """Take the same results once those of all batches before have been taken; one batch at a time."""
        ...


class Runner(Record):
    """Runs a model on images.

    Attributes:
        session: The open model.
        task: What goes into it, and what its outputs mean.
        plan: Which network input an image gets.
        decoding: How outputs become results.
        streams: How many batches go through the network side by side; above 1 the session has to be one that may be
            run from several threads at once.
        threads: How many images are read and made network input at once; default: what the machine has to spare.
        live: The images do not wait for who takes them, so that nothing is done ahead.
        keep_images: Results hold their image; without, it goes no further than the network.
    """

    session: Session
    task: Task
    plan: InputPlan
    decoding: DecodeOptions
    streams: int = 1
    threads: int | None = None
    live: bool = False
    keep_images: bool = True

    def run(
        self, loads: Iterable[Load], consumer: Consumer, *, close: Callable[[], object] | None = None
    ) -> Generator[list[Results]]:
        """Yield the results of each batch, in the order of the images.

        The work goes on only as far as results are taken; closing the iterator ends it.

        Args:
            loads: Functions that each read an image.
            consumer: Hears of each batch on its way.
            close: Ends where the images come from; called at the end, before threads are waited for.
        """
        threads = self.threads or helpers()
        finishing = threads if self.streams == 1 else self.streams
        ahead = 1 if self.live else (1 + self.streams) * self.plan.batch + threads
        jobs = (partial(self._prepare, load) for load in loads)
        sequencer = Sequencer()
        with contextlib.ExitStack() as stack:
            executor = stack.enter_context(
                OrderedExecutor[list["Results"]](threads=finishing, waiting=0 if self.live else finishing)
            )
            stack.callback(sequencer.abort)
            ready = stack.enter_context(Prefetcher(jobs, threads=threads, ahead=ahead))
            if close is not None:
                stack.callback(close)  # first of all, so that a camera holds nobody up
            for number, single in enumerate(self._batches(iter(ready), consumer)):
                batch = consumer.gathered(single)
                inferred = self._infer(batch) if self.streams == 1 else None
                yield from executor.submit(partial(self._finish, number, batch, inferred, consumer, sequencer))
                del single, batch, inferred  # else they would outlive the wait for the next
            yield from executor.drain()

    def _prepare(self, load: Load) -> Batch | Unreadable:
        """Read an image and make it network input, a batch of one; runs ahead of the network, in threads."""
        item = load()
        if isinstance(item, Unreadable):
            return item
        shape = self.plan.shape(self.task, item)
        start = time.perf_counter()
        if item.network is None:
            batch = self.task.preprocess([item], shape)
        else:
            where = Letterbox(original=shape, input=shape, left=0, top=0, width=shape[1], height=shape[0])
            batch = Batch(sources=(item,), geometry=(where,), images=item.network[None])
        sources = batch.sources if self.keep_images else (item.without_pixels(),)
        return replace(batch, sources=sources, milliseconds=(milliseconds_since(start),))

    def _batches(self, ready: Iterator[Batch | Unreadable], consumer: Consumer) -> Iterator[Batch]:
        """Gather images of one input shape, one after the other, into batches."""
        parts: list[Batch] = []
        for item in ready:
            if isinstance(item, Unreadable):
                consumer.skip(item)
                continue
            if parts and parts[0].images.shape[2:] != item.images.shape[2:]:
                yield _merged(parts)
                parts = []
            parts.append(item)
            del item
            if len(parts) == self.plan.batch:
                yield _merged(parts)
                parts = []
        if parts:
            yield _merged(parts)

    def _infer(self, batch: Batch) -> Inferred:
        """Return raw outputs, and milliseconds an image.

        A batch that is smaller than the model takes is filled up, and the rest cut off again.
        """
        count, images = len(batch.sources), batch.images
        if self.plan.filled and count < self.plan.batch:
            images = np.concatenate([images, np.zeros((self.plan.batch - count, *images.shape[1:]), np.float32)])
        start = time.perf_counter()
        outputs = infer(self.session, images)
        taken = milliseconds_since(start) / count
        return outputs if len(images) == count else tuple(output[:count] for output in outputs), taken

    def _finish(
        self, number: int, batch: Batch, inferred: Inferred | None, consumer: Consumer, sequencer: Sequencer
    ) -> list[Results]:
        """Run the network if that is still to be done, decode, and hand the results over; runs in threads."""
        try:
            outputs, inference = inferred or self._infer(batch)
            start = time.perf_counter()
            results = self.task.decode(outputs, batch, self.session.info, self.decoding)
            postprocess = milliseconds_since(start) / len(results)
            for result, preprocess in zip(results, batch.milliseconds, strict=True):
                result.speed = dict(zip(STAGES, (preprocess, inference, postprocess), strict=True))
            consumer.found(batch, results)
            sequencer.take(number, partial(consumer.ordered, batch, results))
        except BaseException:
            sequencer.abort()
            raise
        return results


def infer(session: Session, images: Images) -> tuple[NDArray[np.float32], ...]:
    """Run a network once: its outputs, float32, as many as its info names, each with one entry for each image.

    Whether the numbers mean anything is the task's to say: it drops what is not finite.

    Args:
        session: An open model.
        images: float32 (N, 3, H, W) in 0..1, RGB.

    Raises:
        ModelError: The shape is not one the model takes, or its runtime answers something else than it says.
    """
    answer: Any = session.run(images)  # what it really is, not what it is declared to be
    names = session.info.outputs
    if not isinstance(answer, tuple | list) or len(answer) != len(names):
        count = len(answer) if isinstance(answer, tuple | list) else f"a {type(answer).__name__}, not"
        raise ModelError(f"the model gave {count} outputs; its metadata name {len(names)}: {', '.join(names)}")
    return tuple(_output(output, name, len(images)) for output, name in zip(answer, names, strict=True))


def _output(output: Any, name: str, count: int) -> NDArray[np.float32]:
    array = to_numpy(output)
    if array.dtype.kind not in _NUMBERS:
        raise ModelError(f"output {name!r} of the model holds {array.dtype.name}, not numbers")
    if array.ndim == 0 or len(array) != count:
        raise ModelError(f"output {name!r} of the model has shape {array.shape} for {count} images")
    with np.errstate(over="ignore"):  # larger than a float32: infinite, and dropped
        return np.asarray(array, dtype=np.float32)


def _merged(parts: Sequence[Batch]) -> Batch:
    """Return batches of one input shape as one.

    They are made one by one, side by side: whether neighbours have the same shape shows only when they have been read.
    """
    if len(parts) == 1:
        return parts[0]
    return Batch(
        sources=tuple(source for part in parts for source in part.sources),
        geometry=tuple(where for part in parts for where in part.geometry),
        images=np.concatenate([part.images for part in parts]),
        milliseconds=tuple(taken for part in parts for taken in part.milliseconds),
    )


def milliseconds_since(start: float) -> float:
    """Return the milliseconds since ``time.perf_counter()`` was ``start``."""
    return (time.perf_counter() - start) * 1e3
