"""Val: the images of a data set through a :class:`~segx.flows.runner.Runner`, its results to the task's evaluator."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from segx.console import progress
from segx.data.splits import open_splits
from segx.data.tally import log_problems, notify
from segx.errors import DataError, ModelError, UsageError
from segx.flows.runner import STAGES, InputPlan, InputRequest, Runner, allowed_decoding, by, check_head
from segx.io.images import image_of
from segx.io.names import file_names, image_ids, stems
from segx.io.sources import Unreadable
from segx.options.verbs import DecodeOptions, ValOptions
from segx.plugin.jobs import EvalSpec
from segx.runs import Run, Step, make_run_folder
from segx.structures.batch import SourceImage
from segx.structures.classes import numbers_of, paired_by_name
from segx.words import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from segx.plugin.interfaces import Dataset, Metrics, Session
    from segx.plugin.registry import Registry
    from segx.structures.annotations import Sample
    from segx.structures.batch import Batch
    from segx.structures.results import Results

logger = logging.getLogger(__name__)

_BATCH = 16
_FIRST = 10
"""Classes that are listed one by one."""


def validate(
    session: Session,
    options: ValOptions,
    *,
    registry: Registry,
    dataset: Dataset | None = None,
    folder: Path | None = None,
    model: str = "model",
    streams: int = 1,
    announced: bool = True,
) -> Metrics:
    """Measure a model on a data set, write what was asked for, and return the metrics.

    Args:
        session: The open model.
        options: What was asked for.
        registry: The plugins.
        dataset: The split; default: the one that the options name, or else the model remembers.
        folder: Where to write; default: a new run folder, if anything is to be written.
        model: What the user named as model.
        streams: How many batches go through the network side by side; above 1 the session has to be one that may be
            run from several threads at once.
        announced: It is a run of its own, of which listeners hear; else a part of another one, that writes nothing.

    Raises:
        UsageError: No data set is named, or an option does not go with the model or its classes.
        ModelError: The model ends in something that the task does not read.
        DataError: The data are missing, hold no objects to measure, or no image can be read.
    """
    if dataset is None:
        options, dataset = _open(session, options, registry)
    options = options.replace(classes=numbers_of(options.classes, dataset.names, of="the data set"))
    if not announced:
        return _Validation(session, dataset, options, registry=registry, model=model, streams=streams).run()
    if folder is None and (options.plots or options.save_json or options.save_txt):
        folder = make_run_folder(
            "val", task=session.info.task, project=options.project, name=options.name, exist_ok=options.exist_ok
        )
    run = Run(mode="val", model=model, options=options.as_dict(), folder=folder)
    registry.notify("run_started", run=run)
    try:
        validation = _Validation(
            session, dataset, options, registry=registry, model=model, streams=streams, part_of=run
        )
        metrics = validation.run()
    except BaseException as error:
        registry.notify("run_failed", run=run, error=error)
        raise
    if folder is not None:
        logger.info("results are in %s", folder)
    registry.notify("run_ended", run=run, metrics=metrics.results_dict, result=metrics)
    return metrics


def _open(session: Session, options: ValOptions, registry: Registry) -> tuple[ValOptions, Dataset]:
    """Return the split that is named, or that the model remembers, and the options with it."""
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
    return options, dataset


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


class _SampleImage(SourceImage):
    """An image of the data set, with its ground truth."""

    sample: Sample


class _Validation:
    """One run over a data set: a :class:`segx.flows.runner.Consumer` that measures what is found."""

    def __init__(
        self,
        session: Session,
        dataset: Dataset,
        options: ValOptions,
        *,
        registry: Registry,
        model: str,
        streams: int,
        part_of: Run | None = None,
    ) -> None:
        task = registry.tasks.load(session.info.task)
        check_head(session.info, task, model=model)
        batch = options.batch or (_BATCH if "batch" in session.info.dynamic else session.info.batch)
        plan = InputPlan.make(session, InputRequest(options.imgsz, batch, rect=options.rect), model=model)
        folder = None if part_of is None else part_of.folder
        self.dataset = dataset
        self.options = options
        self.names = {0: "object"} if options.single_cls else dataset.names
        self.classes = class_map(session.info.names, dataset.names, single=options.single_cls)
        self.ids = None if folder is None else image_ids([sample.id for sample in dataset])
        self.labels = folder / "labels" if options.save_txt and folder is not None else None
        self.stems = stems(dataset.paths()) if self.labels is not None else None
        self.notify = None if part_of is None else partial(registry.notify, "step_ended", run=part_of)
        self.problems: list[str] = []
        self.milliseconds = dict.fromkeys(STAGES, 0.0)
        decoding = _decoding(options, dataset, self.classes)
        usual = DecodeOptions(conf=ValOptions.conf, iou=ValOptions.iou, max_det=ValOptions.max_det, multi_label=True)
        decoding = allowed_decoding(session.info, task, decoding, usual, model=model)
        self.runner = Runner(
            session=session,
            task=task,
            plan=plan,
            decoding=decoding,
            streams=streams,
            threads=options.workers or None,
            keep_images=False,
            model=model,
        )
        files = file_names(dataset.paths()) if self.ids is not None and options.save_json else ()
        spec = EvalSpec(
            names=dataset.names,
            category_ids=dataset.category_ids,
            options=options,
            images=len(dataset),
            folder=folder,
            settings=_settings(session, plan, options, dataset, model=model, decoding=decoding),
            file_names=dict(zip(self.ids or (), files, strict=False)),
        )
        self.evaluator = task.evaluator(spec)

    def run(self) -> Metrics:
        """Run to the end."""
        try:
            return self._run()
        finally:
            self.evaluator.close()

    def _run(self) -> Metrics:
        if not any(True for sample in self.dataset if self._counts(sample)):
            raise DataError(
                "the data set holds no objects to measure",
                hint=f"see what is wrong with: segx data check data={self.options.data or 'DATA'}",
            )
        shown = self.notify is not None and logger.isEnabledFor(logging.INFO)
        measured = 0
        with (
            progress(len(self.dataset), "val", shown=shown) as bar,
            contextlib.closing(self.runner.run((partial(self._read, i) for i in self._order()), self)) as batches,
        ):
            for number, results in enumerate(batches):
                measured += len(results)
                if self.notify is not None:
                    self.notify(step=Step(kind="batch", index=number, metrics={"images": float(len(results))}))
                bar(len(results))
        if not measured:
            raise DataError(f"no image of the data set can be read: {self.problems[0]}")
        speed = {stage: total / measured for stage, total in self.milliseconds.items()}
        log_problems(self.problems)
        return self.evaluator.finish(speed=speed, problems=self.problems)

    def _counts(self, sample: Sample) -> bool:
        wanted = self.options.classes
        return any(
            not annotation.crowd and (wanted is None or annotation.category in wanted)
            for annotation in sample.annotations
        )

    def _order(self) -> Sequence[int]:
        """Return the images, those of one input shape together, widest first."""
        plan, task = self.runner.plan, self.runner.task
        if not plan.rect:
            return range(len(self.dataset))
        shapes = [
            task.input_shape((height, width), plan.size, stride=plan.stride, rect=True)
            for height, width in self.dataset.shapes().tolist()
        ]
        return sorted(range(len(shapes)), key=lambda index: shapes[index])

    def _read(self, index: int) -> _SampleImage | Unreadable:
        """Read an image; runs ahead of the network, in threads."""
        sample = self.dataset[index]
        if self.ids is not None:
            sample = replace(sample, id=self.ids[index])
        try:
            image = image_of(sample)
        except DataError as error:
            return Unreadable(path=str(sample.path), reason=error.message)
        stem = self.stems[index] if self.stems is not None else ""
        return _SampleImage(image=image, path=str(sample.path), stem=stem, sample=sample)

    def skip(self, item: Unreadable) -> None:
        """Keep what cannot be read: it is told at the end."""
        self.problems.append(str(item))

    def gathered(self, batch: Batch) -> Batch:
        """Return a batch as it is."""
        return batch

    def found(self, batch: Batch, results: Sequence[Results]) -> None:
        """Do nothing: images are measured in order."""

    def ordered(self, batch: Batch, results: Sequence[Results]) -> None:
        """Measure a batch, in the data set's own class numbers."""
        for source, result in zip(batch.sources, results, strict=True):
            for stage, taken in result.speed.items():
                self.milliseconds[stage] += taken
            renamed = result if self.classes is None else _renumbered(result, self.classes)
            renamed.names = dict(self.names)
            self.evaluator.update(cast("_SampleImage", source).sample, renamed)
            if self.labels is not None:
                renamed.save_txt(self.labels / f"{source.stem}.txt", save_conf=self.options.save_conf)


def _decoding(options: ValOptions, dataset: Dataset, classes: NDArray[np.int64] | None) -> DecodeOptions:
    """Return how outputs are decoded: only classes that can count take part in suppression and limits.

    Raises:
        UsageError: A class is asked for that the data set does not have.
    """
    decoding = options.decode()
    if options.single_cls:
        return decoding
    wanted = set(dataset.names) if options.classes is None else set(options.classes)
    if classes is None:
        return decoding if options.classes is None else decoding.replace(classes=options.classes)
    theirs = [number for number, ours in enumerate(classes.tolist()) if ours in wanted]
    return decoding.replace(classes=tuple(theirs))


def _renumbered(found: Results, classes: NDArray[np.int64]) -> Results:
    """Return what is found of the classes that the data set has, under its numbers."""
    numbers = classes[found.boxes.cls.astype(np.int64)]
    kept = np.flatnonzero(numbers >= 0)
    chosen = found[kept]
    data = chosen.boxes.data.copy()
    data[:, -1] = numbers[kept]
    chosen.boxes = type(chosen.boxes)(data, chosen.orig_shape)
    return chosen


def _settings(
    session: Session, plan: InputPlan, options: ValOptions, dataset: Dataset, *, model: str, decoding: DecodeOptions
) -> dict[str, Any]:
    """Return what the figures are made with, to be shown beside them."""
    settings = {
        "model": model,
        "data": options.data or "",
        "split": options.split,
        "imgsz": by(*plan.size),
        "rect": plan.rect,
        "batch": plan.batch,
        "conf": decoding.conf,
        "iou": decoding.iou,
        "max_det": decoding.max_det,
        "device": session.device,
        "precision": "fp16" if options.half else session.info.precision,
        "data_hash": dataset.fingerprint,
    }
    if options.crowds != "ignore":
        settings["crowds"] = options.crowds
    if not (decoding.multi_label or options.single_cls):
        settings["multi_label"] = False  # a graph that suppresses keeps the best class of a box
    for name in ("single_cls", "agnostic_nms", "classes"):
        if getattr(options, name):
            settings[name] = getattr(options, name)
    return settings
