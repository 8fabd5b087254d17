"""The way of an image: input shape, read, preprocess, batch, network, decode; under predict, val and an export's proof.

The stages run side by side, memory is bounded, results come in order, and whatever ends a run ends all of it.
"""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from segx.errors import ModelError, UsageError
from segx.flows.pipeline import OrderedExecutor, Prefetcher, Sequencer
from segx.io.sources import Unreadable
from segx.ops.arrays import to_numpy
from segx.options.schema import ImageSize, image_size
from segx.records import Record
from segx.runtime import check_fits, cores, helpers, opencv, process_taken
from segx.structures.batch import Batch, Letterbox
from segx.words import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from segx.artifact import ArtifactInfo
    from segx.options.verbs import DecodeOptions
    from segx.plugin.interfaces import Session, Task
    from segx.structures.batch import SourceImage
    from segx.structures.results import Results
    from segx.structures.types import Images

    Load = Callable[[], SourceImage | Unreadable]
    Inferred = tuple[tuple[NDArray[np.float32], ...], float]

logger = logging.getLogger(__name__)

STAGES = ("preprocess", "inference", "postprocess")
"""What is timed of each image, in milliseconds: ``Results.speed``."""

_NUMBERS = "biuf"
"""Kinds of NumPy types that hold real numbers."""

_CPU_PIXELS = 640 * 640
"""Input pixels that eight cores take at once. More are no faster there, and what a network holds between its layers
grows with them: validating at 16 images of 640x640 a run took 2.0 GB with YOLOv8n-seg, at one 0.8 GB."""


class InputRequest(NamedTuple):
    """Requested input size, batch size and padding."""

    imgsz: ImageSize | None
    batch: int | None
    rect: bool


class InputPlan(Record):
    """Which network input an image gets.

    Attributes:
        size: (height, width) asked for, or what the file is fixed to.
        stride: What sides are multiples of.
        rect: Images are padded only to the stride.
        free: The model takes any height and width.
        batch: Images per run.
        filled: Fewer than ``batch`` images are filled up: the model takes no other number, or it is on a GPU,
            where another number is another shape, and new shapes take longest of all.
    """

    size: tuple[int, int]
    stride: int
    rect: bool
    free: bool
    batch: int
    filled: bool

    @classmethod
    def make(cls, session: Session, options: InputRequest, *, model: str) -> InputPlan:
        """Return the plan for an open model and options.

        On a CPU, images of a batch that are large enough to fill it go through one after the other: what is found is
        the same, in less memory.

        """
        info = session.info
        size = _input_size(info, options, model)
        free = {"height", "width"} <= info.dynamic
        fixed_batch = "batch" not in info.dynamic
        asked = options.batch or info.batch
        if fixed_batch and asked > info.batch:
            takes = counted(info.batch, "image")
            logger.warning("%s takes %s a run: batch=%d has no effect", model, takes, asked)
        batch = info.batch if fixed_batch else asked
        if session.device == "cpu" and not fixed_batch:
            batch = min(batch, max(1, _CPU_PIXELS * max(1, cores() // 8) // (size[0] * size[1])))
        check_fits(*size, batch, device=session.device, asked=options.imgsz is not None or (options.batch or 1) > 1)
        return cls(
            size=size,
            stride=info.stride,
            rect=options.rect and free,
            free=free,
            batch=batch,
            filled=fixed_batch or session.device != "cpu",
        )

    def shape(self, task: Task, source: SourceImage) -> tuple[int, int]:
        """Return the (height, width) of the input for an image.

        Raises:
            UsageError: It is a tensor of a size that the model does not take.
        """
        if source.network is None:
            return task.input_shape(_shape(source), self.size, stride=self.stride, rect=self.rect)
        height, width = source.network.shape[1:]
        if not self.free and (height, width) != self.size:
            raise UsageError(f"a tensor of {by(height, width)}: the model takes {by(*self.size)} only")
        if height % self.stride or width % self.stride:
            hint = "pad it, or give the image as an array (H, W, 3) BGR: it is then fitted"
            raise UsageError(f"a tensor of {by(height, width)}: sides have to be multiples of {self.stride}", hint=hint)
        return height, width

    def note(self, task: Task, source: SourceImage, shape: tuple[int, int], *, asked_rect: bool) -> str:
        """Return what to say of an input shape when it is first used."""
        said = f"input {by(*shape)}"
        if source.network is not None:
            return f"{said}: the tensor as it is"
        if self.rect:
            return f"{said}: padded to multiples of {self.stride} (rect)"
        free_shape = task.input_shape(_shape(source), self.size, stride=self.stride, rect=True)
        if asked_rect and not self.free and free_shape != shape:
            return f"{said}: the only one the file takes; rect is off, a .pt would pad this image to {by(*free_shape)}"
        return f"{said}: padded to the whole size"


def check_head(info: ArtifactInfo, task: Task, *, model: str) -> None:
    """Refuse a model whose graph ends in something that the task does not read.

    Raises:
        ModelError: Its head is none of the task's.
    """
    if info.head not in task.heads:
        own = "it suppresses (NMS) by itself: " if "-final/" in info.head or "-end2end/" in info.head else ""
        hint = (
            f"{own}export it again so that it ends in {' or '.join(task.heads)}; in most tools nms=False end2end=False"
        )
        raise ModelError(f"{model}: ends in head {info.head!r}, which task {task.name!r} does not read", hint=hint)


def allowed_decoding(
    info: ArtifactInfo, task: Task, options: DecodeOptions, usual: DecodeOptions, *, model: str
) -> DecodeOptions:
    """Return how outputs are read, as far as the model leaves a choice; what it has settled otherwise is logged.

    Args:
        info: What is known of the model.
        task: What its outputs mean.
        options: How they are to be read.
        usual: The same where nothing is asked for: what differs from it was asked for.
        model: What the user named as model.

    Raises:
        UsageError: Something was asked for that a finished graph has settled otherwise.
    """
    nearest = task.limits(info, options)
    if nearest == options:
        return options
    settled = [
        name
        for name, value in options.as_dict().items()
        if value == getattr(usual, name) and value != getattr(nearest, name)
    ]
    options = options.replace(**{name: getattr(nearest, name) for name in settled})
    task.check(info, options)
    if settled:
        words = ", ".join(f"{name}={getattr(nearest, name)}" for name in settled)
        logger.warning("%s suppresses by itself, with %s: what it left out is not there to be found", model, words)
    return options


def _input_size(info: ArtifactInfo, options: InputRequest, model: str) -> tuple[int, int]:
    """Return the input size that was asked for, in whole strides, or the model's own."""
    if options.imgsz is None:
        return info.imgsz
    size = image_size(options.imgsz, info.stride)
    asked = (options.imgsz, options.imgsz) if isinstance(options.imgsz, int) else options.imgsz
    height, width = (
        side if axis in info.dynamic else own
        for axis, side, own in zip(("height", "width"), size, info.imgsz, strict=True)
    )
    if (taken := (height, width)) != size:
        why = f"{model} takes that only; export it again with imgsz={asked[0]},{asked[1]} or dynamic=true for another"
        logger.warning("imgsz=%s becomes %s: %s", by(*asked), by(*taken), why)
    elif size != asked:
        logger.warning("imgsz=%s is rounded up to %s: multiples of %d", by(*asked), by(*size), info.stride)
    return taken


def _shape(source: SourceImage) -> tuple[int, int]:
    height, width = source.image.shape[:2]
    return height, width


def by(height: int, width: int) -> str:
    """Return a size as people write it: ``640x480``, height first."""
    return f"{height}x{width}"


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
        model: What the user named as model, for errors.
    """

    session: Session
    task: Task
    plan: InputPlan
    decoding: DecodeOptions
    streams: int = 1
    threads: int | None = None
    live: bool = False
    keep_images: bool = True
    model: str = "the model"

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
            if process_taken():  # a program may want OpenCV's threads for its own between two results
                stack.enter_context(opencv.one_thread())
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
            channels_last = getattr(self.session, "channels_last", False)
            batch = self.task.preprocess([item], shape, channels_last=channels_last)
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
            results = self._decode(outputs, batch)
            postprocess = milliseconds_since(start) / len(results)
            for result, preprocess in zip(results, batch.milliseconds, strict=True):
                result.speed = dict(zip(STAGES, (preprocess, inference, postprocess), strict=True))
            consumer.found(batch, results)
            sequencer.take(number, partial(consumer.ordered, batch, results))
        except BaseException:
            sequencer.abort()
            raise
        return results

    def _decode(self, outputs: tuple[NDArray[np.float32], ...], batch: Batch) -> list[Results]:
        try:
            return self.task.decode(outputs, batch, self.session.info, self.decoding)
        except ModelError as error:  # a task does not know which file it is
            raise ModelError(f"{self.model}: {error.message}", hint=error.hint) from error


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
