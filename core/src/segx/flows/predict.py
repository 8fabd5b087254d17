"""Predict: the images of a source through a :class:`~segx.flows.runner.Runner`, and its results to the writers."""

from __future__ import annotations

import atexit
import contextlib
import inspect
import logging
import time
import weakref
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from segx.console import progress
from segx.errors import DataError
from segx.flows.runner import STAGES, InputPlan, InputRequest, Runner, allowed_decoding, by, check_head
from segx.io.writers import ResultWriters, RunOutput, Window, check, drawing_style, saves
from segx.options.verbs import DecodeOptions
from segx.runs import Run, Step
from segx.structures.classes import numbers_of
from segx.words import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path

    from segx.io.sources import Source, Unreadable
    from segx.options.verbs import PredictOptions
    from segx.plugin.interfaces import Session, Task
    from segx.structures.batch import Batch
    from segx.structures.results import Results

logger = logging.getLogger(__name__)

_runs: weakref.WeakSet[Generator[Results]] = weakref.WeakSet()


@atexit.register
def _close_runs() -> None:
    """Close what a program leaves open at its end: Python stops threads anywhere, and within C++ that is an abort."""
    for run in list(_runs):
        if inspect.getgeneratorstate(run) != inspect.GEN_RUNNING:  # in another thread
            run.close()


@dataclass
class _Tally:
    """What has happened in a run so far."""

    began: float = field(default_factory=time.perf_counter)
    images: int = 0
    batches: int = 0
    objects: int = 0
    milliseconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def add(self, results: Sequence[Results]) -> None:
        self.batches += 1
        self.images += len(results)
        self.objects += sum(len(result) for result in results)
        for result in results:
            for stage in STAGES:
                self.milliseconds[stage] += result.speed[stage]

    def figures(self) -> dict[str, float]:
        """Return what listeners get at the end."""
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
    output: RunOutput | None = None,
) -> Iterator[Results]:
    """Return what a model finds in each image of a source, in order, as it is found.

    What does not fit is refused at once; the work begins when the first result is asked for and goes on only as far
    as results are taken. Closing the iterator ends the run.

    Args:
        session: The open model.
        source: The images; it is closed at the end.
        options: What was asked for.
        task: What the model's outputs mean.
        notify: Tells plugins what happens: :meth:`segx.plugin.registry.Registry.notify`.
        model: What the user named as model.
        failures: Gets what could not be read.
        streams: How many batches go through the network side by side; above 1 the session has to be one that may be
            run from several threads at once.
        output: Where results are written, when other runs write there too; default: a folder of its own.

    Raises:
        UsageError: Options that contradict each other or the model.
        ModelError: The model ends in something that the task does not read.
        DataError: Nothing of the source could be read (at the end), or results cannot be written.
    """
    check(options)
    check_head(session.info, task, model=model)
    hint = f"segx info model={model} lists them"
    options = options.replace(classes=numbers_of(options.classes, session.info.names, of=model, hint=hint))
    # A camera's frame is not kept waiting for another because the file was made for more.
    batch = options.batch or (1 if source.live else None)
    rect = options.rect if options.rect is not None else session.device == "cpu" or source.live
    request = InputRequest(options.imgsz, batch, rect=rect)
    runner = Runner(
        session=session,
        task=task,
        plan=InputPlan.make(session, request, model=model),
        decoding=allowed_decoding(session.info, task, options.decode(), DecodeOptions(), model=model),
        streams=1 if source.live else streams,
        live=source.live,
        model=model,
    )
    run = _Prediction(
        runner=runner,
        source=source,
        options=options,
        notify=notify,
        model=model,
        failures=[] if failures is None else failures,
        output=output or RunOutput(),
    )
    results = run.run()
    _runs.add(results)
    return results


@dataclass(kw_only=True)
class _Prediction:
    """One run of predict: a :class:`segx.flows.runner.Consumer` that names, writes and logs what is found."""

    runner: Runner
    source: Source
    options: PredictOptions
    notify: Callable[..., None]
    model: str
    failures: list[Unreadable]
    output: RunOutput
    tally: _Tally = field(default_factory=_Tally)
    writers: ResultWriters = field(init=False)
    reported_shapes: set[tuple[int, int]] = field(default_factory=set)

    def run(self) -> Generator[Results]:
        """Run to the end, and notify listeners of start, steps and end."""
        folder = self._make_folder()
        run = Run(mode="predict", model=self.model, options=self.options.as_dict(), folder=folder)
        self.notify("run_started", run=run)
        self.tally = _Tally()  # the clock runs from here
        self.writers = writers = ResultWriters(self.options, None if folder is None else self.output)
        try:
            yield from self._results(run)
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

    def _results(self, run: Run) -> Iterator[Results]:
        total = self._total()
        stream = self.runner.run(self.source.loaders(), self, close=self.source.close)
        with contextlib.ExitStack() as stack:
            batches = stack.enter_context(contextlib.closing(stream))
            bar = stack.enter_context(progress(total, "predict", shown=self._shows_bar()))
            window = Window(drawing_style(self.options)) if self.options.show else None
            if window is not None:
                stack.callback(window.close)
            for results in batches:
                self.tally.add(results)
                returned = self._notify_step(run, results, total)
                bar(len(results))
                first = self.tally.images - len(results) + 1
                for number, (result, given) in enumerate(zip(results, returned, strict=True), start=first):
                    self._say(result, number, total)
                    yield given
                    if window is not None and not window.show(result):
                        return

    def skip(self, item: Unreadable) -> None:
        """Log what cannot be read, and keep it."""
        self.failures.append(item)
        logger.warning("passed over %s", item)

    def gathered(self, batch: Batch) -> Batch:
        """Give each image the name of its files, and say which input it has become when it is the first such."""
        shape = (batch.images.shape[2], batch.images.shape[3])
        if shape not in self.reported_shapes:
            self.reported_shapes.add(shape)
            plan, first = self.runner.plan, batch.sources[0]
            logger.info("%s", plan.note(self.runner.task, first, shape, asked_rect=self.options.rect is not False))
        sources = (replace(source, stem=self.writers.claim(source)) for source in batch.sources)
        return replace(batch, sources=tuple(sources))

    def found(self, batch: Batch, results: Sequence[Results]) -> None:
        """Write what may be written in any order."""
        for source, result in zip(batch.sources, results, strict=True):
            result.save_dir, result.stem = self.writers.folder, source.stem
            self.writers.write(source, result)

    def ordered(self, batch: Batch, results: Sequence[Results]) -> None:
        """Write what has to be written in order."""
        for source, result in zip(batch.sources, results, strict=True):
            self.writers.append(source, result)

    def _make_folder(self) -> Path | None:
        return self.output.open(self.options, task=self.runner.task.name) if saves(self.options) else None

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
                ", ".join(f"{figures[f'{stage}_ms']:.1f} ms {stage}" for stage in STAGES),
            )
        if run.folder is not None:
            logger.info("results are in %s", run.folder)
        self.notify("run_ended", run=run, metrics=figures)

    def _notify_step(self, run: Run, results: Sequence[Results], total: int | None) -> list[Results]:
        """Notify listeners of a batch, and return its results, or what a callback has put in their place."""
        returned = list(results)
        metrics = {"images": float(len(results)), "inference_ms": results[0].speed["inference"]}
        batches = total if self.runner.plan.batch == 1 else None
        step = Step(kind="batch", index=self.tally.batches - 1, total=batches, metrics=metrics)
        self.notify("step_ended", run=run, step=step, results=returned)
        return returned

    def _say(self, result: Results, number: int, total: int | None) -> None:
        """Log what was found in an image."""
        if not (self.options.verbose and logger.isEnabledFor(logging.INFO)):
            return
        height, width = result.orig_shape
        frame = "" if result.frame is None else f" frame {result.frame}"
        count = f"{number}/{total}" if total else f"{number}"
        found, milliseconds = result.verbose().rstrip(", "), result.speed["inference"]
        logger.info("%s %s%s %s: %s, %.1f ms", count, result.path, frame, by(height, width), found, milliseconds)
