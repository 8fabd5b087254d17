"""Val: data set -> images -> preprocess, network, decode as in predict -> metrics; for a model of any format."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from segx.console import counted, progress
from segx.data.splits import open_splits
from segx.data.tally import log_problems, notify
from segx.errors import DataError, ModelError, UsageError
from segx.flows.inputs import InputPlan, InputRequest, by, check_head, infer, merged, milliseconds_since
from segx.flows.pipeline import OrderedExecutor, Prefetcher, Sequencer
from segx.io.images import image_of
from segx.io.names import file_names, image_ids, stems
from segx.io.sources import Unreadable
from segx.plugin.jobs import EvalSpec
from segx.runs import Run, Step, make_run_folder
from segx.runtime import helpers
from segx.structures.batch import SourceImage
from segx.structures.classes import numbers_of, paired_by_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from segx.flows.inputs import Inferred
    from segx.options.verbs import ValOptions
    from segx.plugin.interfaces import Dataset, Evaluator, Metrics, Session, Task
    from segx.plugin.registry import Registry
    from segx.structures.batch import Batch
    from segx.structures.results import Results
    from segx.structures.sample import Sample

logger = logging.getLogger(__name__)

_STAGES = ("preprocess", "inference", "postprocess")
_BATCH = 16
_FIRST = 10
"""Classes that are told one by one."""


def val(session: Session, options: ValOptions, *, model: str, registry: Registry, streams: int = 1) -> Metrics:
    """Validate a model on a data set, write what was asked for into a run folder, and return the metrics.

    Args:
        session: The open model.
        options: What was asked for; without ``data``, the data set that the model remembers.
        model: What the user named as model.
        registry: The plugins.
        streams: How many batches go through the network side by side; above 1 the session has to be one that may be
            run from several threads at once.

    Raises:
        UsageError: No data set is named, or an option does not go with the model.
        DataError: The data are missing, or hold nothing to measure.
    """
    named = bool(options.data)
    options = with_remembered(options, session.info.settings)
    opened = open_splits(
        str(options.data),
        (options.split,),
        images=options.images,
        registry=registry,
        fetch=named,
        crowds=options.crowds == "objects",
    )
    dataset = opened.splits[options.split].dataset
    notify(options.split, dataset)
    writes = options.plots or options.save_json or options.save_txt
    folder = None
    if writes:
        folder = make_run_folder(
            "val", task=session.info.task, project=options.project, name=options.name, exist_ok=options.exist_ok
        )
    return validate_into(folder, session, dataset, options, model=model, registry=registry, streams=streams)


def with_remembered(options: ValOptions, settings: Mapping[str, Any]) -> ValOptions:
    """Return options with the data set that a model remembers, and how it was told to look at it, where none is named.

    Args:
        options: What was asked for.
        settings: What the model remembers; ``train`` holds the options it was trained with.

    Raises:
        UsageError: No data set is named, and the model remembers none.
    """
    if options.data:
        return options
    if not settings.get("data"):
        raise UsageError("no data set is named, and the model remembers none", hint="data=coco8-seg.yaml")
    began = settings.get("train")
    began = began if isinstance(began, dict) else {}
    try:
        return options.replace(
            data=str(settings["data"]),
            single_cls=options.single_cls or bool(began.get("single_cls")),
            classes=options.classes if options.classes is not None else began.get("classes"),
            crowds="objects" if began.get("crowds") == "objects" else options.crowds,
        )
    except UsageError as error:
        raise ModelError(f"what the model remembers of its training makes no sense: {error.message}") from error


def validate_into(
    folder: Path | None,
    session: Session,
    dataset: Dataset,
    options: ValOptions,
    *,
    model: str,
    registry: Registry,
    streams: int = 1,
) -> Metrics:
    """Validate a model on an open data set, notify the hooks, write what was asked for, and return the metrics.

    Args:
        folder: Where to write; None: nowhere.
        session: The open model.
        dataset: The split.
        options: What was asked for.
        model: What the user named as model.
        registry: The plugins.
        streams: How many batches go through the network side by side.

    Raises:
        UsageError: An option does not go with the model.
        DataError: The data hold nothing to measure.
    """
    run = Run(mode="val", model=model, options=options.as_dict(), folder=folder)
    registry.notify("run_started", run=run)
    try:
        metrics = validate(session, dataset, options, registry=registry, model=model, run=run, streams=streams)
    except BaseException as error:
        registry.notify("run_failed", run=run, error=error)
        raise
    if folder is not None:
        logger.info("results are in %s", folder)
    registry.notify("run_ended", run=run, metrics=metrics.results_dict)
    return metrics


def validation_metrics(
    session: Session, dataset: Dataset, options: ValOptions, *, registry: Registry
) -> Mapping[str, float]:
    """Return the figures of a model on an open data set; nothing is written. What training asks after an epoch.

    Raises:
        DataError: The data hold nothing to measure.
    """
    return validate(session, dataset, options, registry=registry).results_dict


def validate(
    session: Session,
    dataset: Dataset,
    options: ValOptions,
    *,
    registry: Registry,
    model: str = "model",
    run: Run | None = None,
    streams: int = 1,
) -> Metrics:
    """Run a model over a data set and return what its task measures.

    Raises:
        UsageError: The model is fixed to another input than the one asked for, or knows none of the classes.
        ModelError: The model ends in something that the task does not read.
        DataError: There are no objects to measure, or no image can be read.
    """
    task = registry.load_task(session.info.task)
    check_head(session.info, task, model=model)
    options = options.replace(classes=numbers_of(options.classes, dataset.names, of="the data set"))
    batch = options.batch or (_BATCH if "batch" in session.info.dynamic else session.info.batch)
    plan = InputPlan.make(session, InputRequest(options.imgsz, batch, rect=options.rect), model=model)
    classes = class_map(session.info.names, dataset.names, single=options.single_cls)
    settings = _settings(session, plan, options, dataset, model)
    folder = None if run is None else run.folder
    ids = None if folder is None else image_ids([sample.id for sample in dataset])
    files = file_names(dataset.paths()) if ids is not None and options.save_json else ()
    spec = EvalSpec(
        names=dataset.names,
        category_ids=dataset.category_ids,
        options=options,
        images=len(dataset),
        folder=folder,
        settings=settings,
        file_names=dict(zip(ids or (), files, strict=False)),
    )
    evaluator = task.evaluator(spec)
    validation = _Validation(
        session=session,
        dataset=dataset,
        options=options,
        task=task,
        plan=plan,
        streams=streams,
        classes=classes,
        evaluator=evaluator,
        notify=partial(registry.notify, "step_ended", run=run) if run is not None else None,
        folder=folder,
        ids=ids,
    )
    try:
        return validation.run()
    finally:
        evaluator.close()


def class_map(model: Mapping[int, str], data: Mapping[int, str], *, single: bool = False) -> NDArray[np.int64] | None:
    """Return the data set's class number for each of the model's, -1 for none; None where they are the same.

    Classes are paired by name. Where no name is shared but the number of classes is, they are paired by number.

    Raises:
        UsageError: The model knows no class of the data set.
    """
    if single:
        return np.zeros(max(len(model), 1), np.int64)
    if not model or dict(model) == dict(data):
        return None
    same = paired_by_name(data, model)
    found = np.array([same.get(number, -1) for number in sorted(model)], np.int64)
    if (found >= 0).any():
        missing = sorted(set(data) - set(found.tolist()))
        unused = int((found < 0).sum())
        logger.warning("classes are paired by name: %d of the data set's %d", len(data) - len(missing), len(data))
        if missing:
            logger.warning("the model cannot find: %s", ", ".join(data[number] for number in missing[:_FIRST]))
        if unused:
            logger.warning("%s of the model not in the data set: left out", counted(unused, "class"))
        return found
    if len(model) == len(data):
        logger.warning("model and data set name their classes differently; they are paired by number")
        return None
    theirs, ours = (", ".join(list(names.values())[:3]) for names in (model, data))
    raise UsageError(
        f"the model knows none of the data set's {counted(len(data), 'class')} ({ours}, ...)",
        hint=f"it knows {len(model)}: {theirs}, ...; single_cls=true measures without",
    )


@dataclass(frozen=True)
class _Ready:
    """An image of the data set as network input, the name of its files, and how long that took."""

    sample: Sample
    stem: str
    batch: Batch
    preprocess: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.batch.images.shape[2:]


@dataclass(kw_only=True)
class _Validation:
    """One run over a data set."""

    session: Session
    dataset: Dataset
    options: ValOptions
    task: Task
    plan: InputPlan
    streams: int
    classes: NDArray[np.int64] | None
    evaluator: Evaluator
    notify: Callable[..., object] | None
    folder: Path | None
    ids: Sequence[int | str] | None = None
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.decoding = self._decoding()
        self.milliseconds = dict.fromkeys(_STAGES, 0.0)
        self.measured = self.batches = 0
        self.sequencer = Sequencer()
        written = self.options.save_txt and self.folder is not None
        self.stems = stems(self.dataset.paths()) if written else None

    def run(self) -> Metrics:
        """Run to the end."""
        if not any(True for sample in self.dataset if self._counts(sample)):
            raise DataError(
                "the data set holds no objects to measure",
                hint=f"see what is wrong with: segx data check data={self.options.data or 'DATA'}",
            )
        threads = self.options.workers or helpers()
        finishing = threads if self.streams == 1 else self.streams
        jobs = (partial(self._prepare, index) for index in self._order())
        with contextlib.ExitStack() as stack:
            executor = stack.enter_context(OrderedExecutor[list["Sample"]](threads=finishing, waiting=finishing))
            stack.callback(self.sequencer.abort)
            ready = stack.enter_context(
                Prefetcher(jobs, threads=threads, ahead=(1 + self.streams) * self.plan.batch + threads)
            )
            shown = self.notify is not None and logger.isEnabledFor(logging.INFO)
            bar = stack.enter_context(progress(len(self.dataset), "val", shown=shown))
            for samples in self._through(self._batches(iter(ready)), executor):
                self._count(samples)
                bar(len(samples))
        if not self.measured:
            raise DataError(f"no image of the data set can be read: {self.problems[0]}")
        speed = {stage: total / self.measured for stage, total in self.milliseconds.items()}
        log_problems(self.problems)
        return self.evaluator.finish(speed=speed, problems=self.problems)

    def _decoding(self) -> Any:
        """Return how outputs are decoded: only classes that can count take part in suppression and limits."""
        options = self.options.decode()
        if self.options.single_cls:
            return options
        wanted = set(self.dataset.names) if self.options.classes is None else set(self.options.classes)
        if self.classes is None:
            return options if self.options.classes is None else options.replace(classes=tuple(sorted(wanted)))
        theirs = [number for number, ours in enumerate(self.classes.tolist()) if ours in wanted]
        return options.replace(classes=tuple(theirs))

    def _counts(self, sample: Sample) -> bool:
        wanted = self.options.classes
        return any(
            not annotation.crowd and (wanted is None or annotation.category in wanted)
            for annotation in sample.annotations
        )

    def _order(self) -> list[int]:
        """Return the images, those of one input shape together, widest first."""
        if not self.plan.rect:
            return list(range(len(self.dataset)))
        shapes = [
            self.task.input_shape((height, width), self.plan.size, stride=self.plan.stride, rect=True)
            for height, width in self.dataset.shapes().tolist()
        ]
        return sorted(range(len(shapes)), key=lambda index: shapes[index])

    def _prepare(self, index: int) -> _Ready | Unreadable:
        """Read an image and make it network input; runs ahead of the network, in threads.

        The image itself goes no further: only its size matters from here on, and 12 megapixels are 36 MB each.
        """
        sample = self.dataset[index]
        if self.ids is not None:
            sample = replace(sample, id=self.ids[index])
        try:
            image = image_of(sample)
        except DataError as error:
            return Unreadable(path=str(sample.path), reason=error.message)
        start = time.perf_counter()
        shape = self.task.input_shape(sample.shape, self.plan.size, stride=self.plan.stride, rect=self.plan.rect)
        batch = self.task.preprocess([SourceImage(image=image, path=str(sample.path))], shape)
        blank = SourceImage(image=np.broadcast_to(np.uint8(0), image.shape), path=str(sample.path))
        stem = self.stems[index] if self.stems is not None else ""
        return _Ready(sample, stem, replace(batch, sources=(blank,)), milliseconds_since(start))

    def _batches(self, ready: Iterator[_Ready | Unreadable]) -> Iterator[list[_Ready]]:
        """Gather images of one input shape, one after the other, into batches."""
        gathered: list[_Ready] = []
        for item in ready:
            if isinstance(item, Unreadable):
                self.problems.append(str(item))
                continue
            if gathered and (len(gathered) == self.plan.batch or gathered[0].shape != item.shape):
                yield gathered
                gathered = []
            gathered.append(item)
            del item
        if gathered:
            yield gathered

    def _through(
        self, batches: Iterator[list[_Ready]], executor: OrderedExecutor[list[Sample]]
    ) -> Iterator[list[Sample]]:
        """Run the network in this thread and the rest in others; with several streams, all of it in others."""
        for number, gathered in enumerate(batches):
            batch = merged([item.batch for item in gathered])
            samples = [(item.sample, item.stem) for item in gathered]
            self.milliseconds["preprocess"] += sum(item.preprocess for item in gathered)
            inferred = infer(self.session, self.plan, batch) if self.streams == 1 else None
            yield from executor.submit(partial(self._finish, number, samples, batch, inferred))
            del gathered, batch, inferred  # else they would outlive the wait for the next
        yield from executor.drain()

    def _finish(
        self, number: int, samples: list[tuple[Sample, str]], batch: Batch, inferred: Inferred | None
    ) -> list[Sample]:
        """Run the network if that is still to be done, decode a batch and measure it, in order; runs in threads."""
        try:
            outputs, inference = inferred or infer(self.session, self.plan, batch)
            start = time.perf_counter()
            results = self.task.decode(outputs, batch, self.session.info, self.decoding)
            taken = {"inference": inference * len(samples), "postprocess": milliseconds_since(start)}
            self.sequencer.take(number, partial(self._measure, samples, results, taken))
        except BaseException:
            self.sequencer.abort()
            raise
        return [sample for sample, _ in samples]

    def _measure(
        self, samples: Sequence[tuple[Sample, str]], results: Sequence[Results], taken: Mapping[str, float]
    ) -> None:
        for stage, milliseconds in taken.items():
            self.milliseconds[stage] += milliseconds
        for (sample, stem), found in zip(samples, results, strict=True):
            renamed = self._renamed(found)
            self.evaluator.update(sample, renamed)
            if self.options.save_txt and self.folder is not None:
                path = self.folder / "labels" / f"{stem}.txt"
                renamed.save_txt(path, save_conf=self.options.save_conf)

    def _renamed(self, found: Results) -> Results:
        """Return what was found with the data set's class numbers."""
        if self.classes is None:
            return found.replace(names=self.dataset.names)
        numbers = self.classes[found.boxes.cls.astype(np.int64)]
        kept = np.flatnonzero(numbers >= 0)
        chosen = found[kept]
        data = chosen.boxes.data.copy()
        data[:, 5] = numbers[kept]
        names = {0: "object"} if self.options.single_cls else self.dataset.names
        return chosen.replace(boxes=type(chosen.boxes)(data, chosen.orig_shape), names=names)

    def _count(self, samples: Sequence[Sample]) -> None:
        self.measured += len(samples)
        if self.notify is not None:
            self.notify(step=Step(kind="batch", index=self.batches, metrics={"images": float(len(samples))}))
        self.batches += 1


def _settings(session: Session, plan: InputPlan, options: ValOptions, dataset: Dataset, model: str) -> dict[str, Any]:
    """Return what the figures are made with, to be told beside them."""
    settings = {
        "model": model,
        "data": options.data or "",
        "split": options.split,
        "imgsz": by(*plan.size),
        "rect": plan.rect,
        "batch": plan.batch,
        "conf": options.conf,
        "iou": options.iou,
        "max_det": options.max_det,
        "device": session.device,
        "precision": "fp16" if options.half else session.info.precision,
        "data_hash": dataset.fingerprint,
    }
    if options.crowds != "ignore":
        settings["crowds"] = options.crowds
    for name in ("single_cls", "agnostic_nms", "classes"):
        if getattr(options, name):
            settings[name] = getattr(options, name)
    return settings
