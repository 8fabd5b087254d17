"""Predict: source -> preprocess -> network -> decode -> results -> writers; the stages run concurrently."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from segx.console import counted, progress
from segx.errors import DataError
from segx.flows.inputs import InputPlan, by, check_head, infer, merged, milliseconds_since
from segx.flows.pipeline import OrderedExecutor, Prefetcher, Sequencer
from segx.io.sources import Unreadable
from segx.io.writers import ResultWriters, Window, check, drawing_style, saves
from segx.runs import Run, Step, make_run_folder
from segx.runtime import helpers
from segx.structures.batch import Batch, Letterbox
from segx.structures.classes import numbers_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from segx.flows.inputs import Inferred
    from segx.io.sources import Item, Source
    from segx.options.verbs import PredictOptions
    from segx.plugin.interfaces import Session, Task
    from segx.structures.results import Results

logger = logging.getLogger(__name__)

_STAGES = ("preprocess", "inference", "postprocess")


@dataclass(frozen=True)
class _Ready:
    """An image as network input, and how long that took."""

    batch: Batch
    preprocess: float

    @property
    def shape(self) -> tuple[int, int]:
        height, width = self.batch.images.shape[2:]
        return height, width


@dataclass(frozen=True, kw_only=True)
class _Work:
    """A batch on its way to results."""

    number: int
    batch: Batch
    preprocess: Sequence[float]
    names: Sequence[str]


@dataclass
class _Tally:
    """What has happened in a run so far."""

    began: float = field(default_factory=time.perf_counter)
    images: int = 0
    batches: int = 0
    objects: int = 0
    milliseconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_STAGES, 0.0))

    def add(self, results: Sequence[Results]) -> None:
        self.batches += 1
        self.images += len(results)
        self.objects += sum(len(result) for result in results)
        for result in results:
            for stage in _STAGES:
                self.milliseconds[stage] += result.speed[stage]

    def figures(self) -> dict[str, float]:
        """Return what plugins are told at the end."""
        means = {f"{stage}_ms": total / max(self.images, 1) for stage, total in self.milliseconds.items()}
        seconds = time.perf_counter() - self.began
        return {"images": float(self.images), "objects": float(self.objects), "seconds": seconds, **means}


def predict(
    session: Session,
    source: Source,
    options: PredictOptions,
    *,
    task: Task,
    notify: Callable[..., None],
    model: str = "model",
    failures: list[Unreadable] | None = None,
    streams: int = 1,
) -> Iterator[Results]:
    """Return what a model finds in each image of a source, in order, as it is found.

    What does not fit is refused at once; the work begins when the first result is asked for and goes on only as far
    as results are taken. Closing the iterator ends the run.

    Args:
        session: The open model.
        source: The images; it is closed at the end.
        options: What was asked for.
        task: What the model's outputs mean.
        notify: Tells plugins what happens: :meth:`segx.plugin.registry.Registry.tell`.
        model: What the user named as model.
        failures: Gets what could not be read.
        streams: How many batches go through the network side by side; above 1 the session has to be one that may be
            run from several threads at once.

    Raises:
        UsageError: Options that contradict each other or the model.
        ModelError: The model ends in something that the task does not read.
        DataError: Nothing of the source could be read (at the end), or results cannot be written.
    """
    check(options)
    check_head(session.info, task, model=model)
    hint = f"segx info model={model} lists them"
    options = options.replace(classes=numbers_of(options.classes, session.info.names, of=model, hint=hint))
    plan = InputPlan.make(session, options, model=model)
    run = _Prediction(
        session=session,
        source=source,
        options=options,
        task=task,
        notify=notify,
        model=model,
        plan=plan,
        failures=[] if failures is None else failures,
        streams=1 if source.live else streams,
    )
    return run.run()


@dataclass(kw_only=True)
class _Prediction:
    """One run of predict."""

    session: Session
    source: Source
    options: PredictOptions
    task: Task
    notify: Callable[..., None]
    model: str
    plan: InputPlan
    failures: list[Unreadable]
    streams: int

    def __post_init__(self) -> None:
        self.decoding = self.options.decode()
        self.tally = _Tally()
        self.reported_shapes: set[tuple[int, int]] = set()
        self.sequencer = Sequencer()

    def run(self) -> Iterator[Results]:
        """Run to the end, and notify listeners of start, steps and end."""
        folder = self._make_folder()
        run = Run(mode="predict", model=self.model, options=self.options.as_dict(), folder=folder)
        self.notify("run_started", run=run)
        self.tally = _Tally()  # the clock runs from here
        writers = ResultWriters(self.options, folder)
        try:
            yield from self._results(run, writers)
            self._judge()
            writers.close(complete=True)
        except GeneratorExit:  # whoever asked has seen enough: the run has ended well
            writers.close(complete=True)
            self._end(run)
            raise
        except BaseException as error:
            writers.close(complete=isinstance(error, KeyboardInterrupt))  # who stops a run keeps what it has found
            self._leave_no_empty(folder)
            self.notify("run_failed", run=run, error=error)
            raise
        self._end(run)

    def _results(self, run: Run, writers: ResultWriters) -> Iterator[Results]:
        live, helping, streams = self.source.live, helpers(), self.streams
        total = self._total()
        jobs = (partial(self._prepare, load) for load in self.source.loaders())
        with contextlib.ExitStack() as stack:
            finishing = helping if streams == 1 else streams
            executor = stack.enter_context(
                OrderedExecutor[list["Results"]](threads=finishing, waiting=0 if live else finishing)
            )
            stack.callback(self.sequencer.abort)
            ahead = 1 if live else (1 + streams) * self.plan.batch + helping
            ready = stack.enter_context(Prefetcher(jobs, threads=helping, ahead=ahead))
            stack.callback(self.source.close)  # first of all, so that a camera holds nobody up
            bar = stack.enter_context(progress(total, "predict", shown=self._shows_bar()))
            window = Window(drawing_style(self.options)) if self.options.show else None
            if window is not None:
                stack.callback(window.close)
            for results in self._through(self._batches(iter(ready)), executor, writers):
                self.tally.add(results)
                self._notify_step(run, results, total)
                bar(len(results))
                for number, result in enumerate(results, start=self.tally.images - len(results) + 1):
                    self._say(result, number, total)
                    yield result
                    if window is not None and not window.show(result):
                        return

    def _prepare(self, load: Callable[[], Item]) -> _Ready | Unreadable:
        """Read an image and make it network input; runs ahead of the network, in threads."""
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
        return _Ready(batch, milliseconds_since(start))

    def _batches(self, ready: Iterator[_Ready | Unreadable]) -> Iterator[list[_Ready]]:
        """Gather images of one input shape, one after the other, into batches."""
        gathered: list[_Ready] = []
        for item in ready:
            if isinstance(item, Unreadable):
                self._note_failure(item)
                continue
            self._say_shape(item)
            if gathered and (len(gathered) == self.plan.batch or gathered[0].shape != item.shape):
                yield gathered
                gathered = []
            gathered.append(item)
            del item
            if len(gathered) == self.plan.batch:
                yield gathered
                gathered = []
        if gathered:
            yield gathered

    def _through(
        self, batches: Iterator[list[_Ready]], executor: OrderedExecutor[list[Results]], writers: ResultWriters
    ) -> Iterator[list[Results]]:
        """Run the network in this thread and the rest in others; with several streams, all of it in others."""
        for number, gathered in enumerate(batches):
            batch = merged([item.batch for item in gathered])
            names = [writers.claim(source) for source in batch.sources]
            work = _Work(number=number, batch=batch, preprocess=[item.preprocess for item in gathered], names=names)
            inferred = infer(self.session, self.plan, batch) if self.streams == 1 else None
            yield from executor.submit(partial(self._finish, work, inferred, writers))
            del gathered, batch, work, inferred  # else they would outlive the wait for the next
        yield from executor.drain()

    def _finish(self, work: _Work, inferred: Inferred | None, writers: ResultWriters) -> list[Results]:
        """Run the network if that is still to be done, decode a batch and write its results; runs in threads."""
        try:
            outputs, inference = inferred or infer(self.session, self.plan, work.batch)
            start = time.perf_counter()
            decoded = self.task.decode(outputs, work.batch, self.session.info, self.decoding)
            rest = {"inference": inference, "postprocess": milliseconds_since(start) / len(decoded)}
            results = [
                result.replace(speed={"preprocess": preprocess, **rest})
                for result, preprocess in zip(decoded, work.preprocess, strict=True)
            ]
            frames = [writers.frame(*parts) for parts in zip(work.batch.sources, results, work.names, strict=True)]
            for frame in frames:
                writers.write(frame)
            self.sequencer.take(work.number, partial(writers.append, frames))
        except BaseException:
            self.sequencer.abort()
            raise
        return [frame.results for frame in frames]

    def _make_folder(self) -> Path | None:
        options = self.options
        if not saves(options):
            return None
        return make_run_folder(
            "predict", task=self.task.name, project=options.project, name=options.name, exist_ok=options.exist_ok
        )

    def _leave_no_empty(self, folder: Path | None) -> None:
        """Remove the folder of a run that has failed before it wrote anything."""
        if folder is not None and not self.options.exist_ok:
            with contextlib.suppress(OSError):  # it is not empty
                folder.rmdir()

    def _total(self) -> int | None:
        """Return how many images there will be, where somebody wants to know and it can be known."""
        return None if self.source.live or not logger.isEnabledFor(logging.INFO) else self.source.length()

    def _shows_bar(self) -> bool:
        """Return True if a bar is wanted: where there are no lines for each image."""
        return not self.options.verbose and logger.isEnabledFor(logging.INFO)

    def _judge(self) -> None:
        """Raise if nothing of the source could be read."""
        if self.failures and not self.tally.images:
            others = f" (and {len(self.failures) - 1} more)" if len(self.failures) > 1 else ""
            raise DataError(f"nothing of the source could be read: {self.failures[0]}{others}")

    def _end(self, run: Run) -> None:
        """Log the summary, and notify listeners of the end."""
        tally = self.tally
        figures = tally.figures()
        if self.failures:
            logger.warning("%d of the source could not be read and were passed over", len(self.failures))
        if tally.images > 1:
            logger.info(
                "%d images in %.1f s (%.1f a second), %s; the way of an image: %s",
                tally.images,
                figures["seconds"],
                tally.images / figures["seconds"],
                counted(tally.objects, "object"),
                ", ".join(f"{figures[f'{stage}_ms']:.1f} ms {stage}" for stage in _STAGES),
            )
        if run.folder is not None:
            logger.info("results are in %s", run.folder)
        self.notify("run_ended", run=run, metrics=figures)

    def _notify_step(self, run: Run, results: Sequence[Results], total: int | None) -> None:
        metrics = {"images": float(len(results)), "inference_ms": results[0].speed["inference"]}
        batches = total if self.plan.batch == 1 else None
        self.notify(
            "step_ended", run=run, step=Step(kind="batch", index=self.tally.batches - 1, total=batches, metrics=metrics)
        )

    def _note_failure(self, item: Unreadable) -> None:
        self.failures.append(item)
        logger.warning("passed over %s", item)

    def _say_shape(self, item: _Ready) -> None:
        if item.shape not in self.reported_shapes:
            self.reported_shapes.add(item.shape)
            source = item.batch.sources[0]
            logger.info("%s", self.plan.note(self.task, source, item.shape, asked_rect=self.options.rect))

    def _say(self, result: Results, number: int, total: int | None) -> None:
        """Log what was found in an image."""
        if not (self.options.verbose and logger.isEnabledFor(logging.INFO)):
            return
        height, width = result.orig_shape
        frame = "" if result.frame is None else f" frame {result.frame}"
        count = f"{number}/{total}" if total else f"{number}"
        found, milliseconds = result.verbose().rstrip(", "), result.speed["inference"]
        logger.info("%s %s%s %s: %s, %.1f ms", count, result.path, frame, by(height, width), found, milliseconds)
