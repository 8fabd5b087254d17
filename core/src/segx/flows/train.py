"""Train: from what a user typed to a folder with weights, figures and a manifest; no mathematics."""

from __future__ import annotations

import csv
import dataclasses
import datetime as dt
import importlib.metadata
import io
import json
import logging
import math
import platform
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from segx import files
from segx.data import open_dataset
from segx.errors import DataError, ModelError, UsageError
from segx.interfaces import TrainJob
from segx.options import TrainOptions, ValOptions
from segx.runs import Run, Step, make_run_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from segx.artifact import ArtifactInfo
    from segx.interfaces import Dataset, LoadReport, ModelBackend, ModelSession, Session, Trained
    from segx.registry import Registry

logger = logging.getLogger("segx.train")

REMEMBERED = "train"
"""Where a checkpoint's settings hold the options it was trained with."""


def train(session: ModelSession, options: TrainOptions, *, model: str, registry: Registry) -> Trained:
    """Train a model and return what the run leaves.

    Args:
        session: The model to start from.
        options: What was asked for; ``resume`` is a path here, or False.
        model: What the user named as model, for the record.
        registry: The plugins.

    Raises:
        UsageError: No data are named, or an option cannot work.
        DataError: The data are missing or hold no objects.
    """
    data = options.data or session.info.settings.get("data")
    if not data:
        raise UsageError("no data set is named", hint="segx segment train data=coco8-seg.yaml model=yolov8n-seg.yaml")
    options = options.replace(data=str(data))
    splits = read_splits(options)
    session, report = session.for_classes(splits.names, seed=options.seed)
    _tell_transfer(report, splits.names)
    if options.export is not None:
        check_export(session, options.export, registry)
    record = Record(options, model=model, splits=splits, registry=registry)
    backend: Any = registry.load_backend(registry.backend_for("pt"))
    job = make_job(session, options, splits, record, registry)
    return _run(backend, session, job, record)


def resumed(options: Mapping[str, Any], path: Path | None, info: ArtifactInfo) -> TrainOptions:
    """Return the options of a run that goes on: those it began with, and over them those given now.

    Args:
        options: What is given now; ``resume`` is True or a path.
        path: The file of the model at hand, which ``resume=True`` means.
        info: What that file says of itself.

    Raises:
        UsageError: There is no file to go on from.
        ModelError: It does not know of a run.
    """
    began = info.settings.get(REMEMBERED)
    if path is None:
        raise UsageError("resume=true needs the last.pt of a run", hint="resume=runs/segment/train/weights/last.pt")
    if not isinstance(began, dict):
        raise ModelError(f"{path} does not come from a run that could go on", hint=f"begin one: model={path}")
    return TrainOptions.parse({**began, **options, "resume": path})


def _run(backend: ModelBackend, session: ModelSession, job: TrainJob, record: Record) -> Trained:
    """Train, and tell the hooks how it ends."""
    resume = job.options.resume if isinstance(job.options.resume, Path) else None
    try:
        trained = backend.train(session, job, resume=resume)
    except BaseException as error:
        record.failed(error)
        raise
    record.ended(trained)
    return trained


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The data of a run.

    Attributes:
        train: The training split.
        val: The split it is validated on.
        names: Class number to class name.
        indices: The pictures of the training split that are used.
    """

    train: Dataset
    val: Dataset
    names: Mapping[int, str]
    indices: Sequence[int]


def read_splits(options: TrainOptions) -> Splits:
    """Return the data of a run, checked.

    Raises:
        DataError: A split is missing or empty, the splits name other classes, or there is no object to learn from.
    """
    data = str(options.data)
    train, val = open_dataset(data, "train"), open_dataset(data, "val")
    if not len(train) or not len(val):
        which = "training" if not len(train) else "validation"
        raise DataError(f"{data}: the {which} split holds no pictures")
    if dict(train.names) != dict(val.names):
        raise DataError(f"{data}: the training and validation splits name different classes")
    names = {0: "object"} if options.single_cls else dict(train.names)
    indices = range(max(math.ceil(options.fraction * len(train)), 1))
    wanted = None if options.classes is None else set(options.classes)
    if wanted and not wanted <= set(names):
        raise UsageError(f"classes={sorted(wanted)}: {data} has classes 0..{len(names) - 1}")
    found = any(
        not truth.crowd and (wanted is None or truth.category in wanted)
        for index in indices
        for truth in train[index].truths
    )
    if not found:
        raise DataError(
            f"{data}: none of the {len(indices)} training pictures has a labelled object",
            hint=f"see what is wrong with: segx data check data={data}",
        )
    for problem in train.problems[:10]:
        logger.warning("%s", problem)
    return Splits(train=train, val=val, names=names, indices=indices)


def check_export(session: ModelSession, name: str, registry: Registry) -> None:
    """Export the untrained model to a scratch folder, so that a format that fails does so before the first epoch."""
    from segx.flows.export import export

    with tempfile.TemporaryDirectory(prefix="segx-") as folder:
        artifact = session.save(Path(folder) / "preflight.pt")
        export(artifact, format=name, options={"verify": False}, registry=registry)
    logger.info("export=%s works", name)


def make_job(
    session: ModelSession, options: TrainOptions, splits: Splits, record: Record, registry: Registry
) -> TrainJob:
    """Return what the trainer needs of the rest of segx."""
    task: Any = registry.load_task(session.info.task)
    architecture = registry.load_architecture(session.info.architecture)
    loader = task.train_loader(splits.train, options, stride=session.info.stride, indices=splits.indices)

    def validate(measured: Session) -> Mapping[str, float]:
        from segx.flows.val import measure

        settings = ValOptions.parse(
            {"imgsz": options.imgsz, "batch": min(options.batch, 16) if options.batch > 0 else 16}
        )
        return measure(measured, splits.val, settings, registry=registry)

    return TrainJob(
        options=options,
        names=splits.names,
        pictures=len(splits.indices),
        folder=record.folder,
        loader=loader,
        criterion=lambda module: architecture.criterion(module, options),
        validate=validate,
        tell=record.tell,
        settings={
            "data": str(options.data),
            REMEMBERED: plain(options),
            "fingerprint": {"train": splits.train.fingerprint, "val": splits.val.fingerprint},
        },
    )


class Record:
    """Writes down what a run does: options, manifest and a row of figures for each epoch; and tells the hooks.

    Args:
        options: What was asked for.
        model: What the user named as model.
        splits: The data.
        registry: Whom to tell.
    """

    def __init__(self, options: TrainOptions, *, model: str, splits: Splits, registry: Registry) -> None:
        self._options, self._model, self._splits, self._registry = options, model, splits, registry
        self._rows: list[Mapping[str, float]] = []
        self._run: Run | None = None

    def folder(self) -> Path:
        """Make the run's folder, or take that of the run that is resumed, and begin the record."""
        options = self._options
        if isinstance(options.resume, Path):
            folder = options.resume.resolve().parent.parent
            self._rows = _read_rows(folder / "results.csv")
        else:
            folder = make_run_folder("train", project=options.project, name=options.name, exist_ok=options.exist_ok)
        self._run = Run(mode="train", model=self._model, options=plain(options), folder=folder)
        files.write_text(folder / "args.yaml", yaml.safe_dump(plain(options), sort_keys=False))
        files.write_text(folder / "manifest.json", json.dumps(self._manifest(), indent=2))
        self._registry.tell("run_started", run=self._run)
        return folder

    def tell(self, step: Step) -> None:
        """Hear of a batch or an epoch, write the row of an epoch, and pass it on."""
        if self._run is None or self._run.folder is None:
            return
        if step.kind == "epoch":
            kept = [row for row in self._rows if row["epoch"] < step.metrics["epoch"]]
            self._rows = [*kept, step.metrics]
            path = self._run.folder / "results.csv"
            files.write_text(path, _csv(self._rows))
            step = dataclasses.replace(step, files=(*step.files, path))
        self._registry.tell("step_ended", run=self._run, step=step)

    def ended(self, trained: Trained) -> None:
        """Tell that the run has ended well."""
        if self._run is not None:
            self._registry.tell("run_ended", run=self._run, metrics=trained.metrics)

    def failed(self, error: BaseException) -> None:
        """Tell that the run has failed."""
        if self._run is not None:
            self._registry.tell("run_failed", run=self._run, error=error)

    def _manifest(self) -> dict[str, Any]:
        return {
            "command": sys.argv,
            "started": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "versions": _versions(),
            "data": {
                "name": str(self._options.data),
                "train": {"pictures": len(self._splits.indices), "fingerprint": self._splits.train.fingerprint},
                "val": {"pictures": len(self._splits.val), "fingerprint": self._splits.val.fingerprint},
            },
            "seed": self._options.seed,
        }


def plain(options: TrainOptions) -> dict[str, Any]:
    """Return options as values that JSON and YAML know; those that were not given are left out."""
    values = {name: str(value) if isinstance(value, Path) else value for name, value in options.as_dict().items()}
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items() if value is not None
    }


def _tell_transfer(report: LoadReport | None, names: Mapping[int, str]) -> None:
    if report is not None:
        logger.info(
            "%d classes: %d tensors moved over, %d begin anew", len(names), len(report.loaded), len(report.skipped)
        )


def _versions() -> dict[str, str]:
    wanted = ("numpy", "opencv-python", "torch", "lightning-fabric")
    found = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name.startswith("segx") or name in wanted:
            found[name] = distribution.version
    return dict(sorted(found.items()))


def _csv(rows: Sequence[Mapping[str, float]]) -> str:
    """Return rows as a table; a column that a row lacks is left empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in rows)
    return text.getvalue()


def _read_rows(path: Path) -> list[Mapping[str, float]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
