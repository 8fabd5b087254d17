"""Train: from options to a run folder with weights, metrics and a manifest; the backend does the mathematics."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segx.artifact import Artifact
from segx.console import quieted
from segx.data.splits import open_splits, shared_images
from segx.data.tally import notify
from segx.errors import DataError, ModelError, SegxError, UsageError
from segx.flows import val
from segx.flows.export import check, export
from segx.flows.train_drawings import watched
from segx.flows.train_lines import say
from segx.flows.train_record import Record, Splits, plain, run_folder
from segx.io.paths import expanded
from segx.options.schema import image_size
from segx.options.verbs import SessionOptions, TrainOptions, ValOptions
from segx.plugin.training import TrainJob
from segx.runtime import check_fits, is_first_process
from segx.runtime.leftovers import scratch
from segx.sessions import MODEL_FORMAT, model_backend
from segx.structures.classes import numbers_of
from segx.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from segx.artifact import ArtifactInfo
    from segx.plugin.interfaces import Dataset, LoaderMaker, Metrics, Session
    from segx.plugin.jobs import LoadReport
    from segx.plugin.registry import Registry
    from segx.plugin.training import ModelBackend, ModelSession, Trained

logger = logging.getLogger("segx.train")

REMEMBERED = "train"
"""Where a checkpoint's settings hold the options it was trained with."""
_FINGERPRINT = "fingerprint"
_PLACE = ("project", "name", "exist_ok")
_DEVICES = ("device", "accelerator", "devices", "num_nodes")
"""What decides which processes a run starts, and where."""
_LESSON = ("classes", "single_cls", "crowds")
"""What a run is about: with others its figures could not be compared any more."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """The result of a training run.

    Attributes:
        trained: The weights, and a row of figures for each epoch.
        metrics: What the best weights measure on the validation split.
    """

    trained: Trained
    metrics: Metrics


def train(
    session: ModelSession,
    options: TrainOptions,
    *,
    model: str,
    registry: Registry,
    weights: Artifact | None = None,
    fetch: bool = True,
) -> TrainResult:
    """Train a model, measure the best weights, and return what the run leaves.

    Args:
        session: The model to start from.
        options: What was asked for; ``resume`` is a path here, or False.
        model: What the user named as model, for the record.
        registry: The plugins.
        weights: What fits of this file's weights is taken over, once the model has the classes of the data.
        fetch: Download data that are not here; False where a file and not the user names them.

    Raises:
        UsageError: No data are named, or an option cannot work.
        DataError: The data are missing or hold no objects, or something cannot be written.
    """
    if not is_first_process():
        logging.getLogger("segx").setLevel(logging.ERROR)  # the first one speaks for all
    data = options.data or session.info.settings.get("data")
    if not data:
        raise UsageError("no data set is named", hint="segx segment train data=coco8-seg.yaml model=yolov8n-seg.yaml")
    fetch = fetch and bool(options.data)
    options = options.replace(data=lasting(str(data)), imgsz=whole_strides(options.imgsz, session.info.stride))
    check_fits(options.imgsz, options.imgsz, options.batch, device=options.device or "cpu")
    if options.export is not None:
        check(session.info, options.export, registry=registry)
    if options.resume and is_first_process():
        devices = ", ".join(f"{name}={value}" for name in _DEVICES if (value := getattr(options, name)) is not None)
        logger.info("going on with %s: data=%s, %s", options.resume, options.data, devices)
    splits = read_splits(options, fetch=fetch)
    if options.export is not None and is_first_process():
        try_export(session, options.export, registry)
    session, report = _for_data(session, splits, options)
    if weights is not None and not options.resume:
        report = session.load_weights(weights)
        session, _ = session.for_classes(splits.names, seed=options.seed)  # by their own names again
    _log_transfer(report, splits.names)
    task = registry.tasks.load(session.info.task)
    seen = options.replace(classes=splits.classes)
    loader = task.train_loader(splits.train, seen, stride=session.info.stride, indices=splits.indices)
    record = Record(
        options,
        model=model,
        task=session.info.task,
        splits=splits,
        images=task.train_drawings(splits.names, seen) if options.plots else None,
        registry=registry,
    )
    backend = model_backend(registry)
    unchanged = {**dict.fromkeys(TrainOptions.groups["augmentation"], 0), "rect": True, "cache": False}
    val_loader = None
    with contextlib.suppress(DataError):  # images without masks: there are figures of them, but no losses
        if options.val:
            val_loader = task.train_loader(splits.val, seen.replace(**unchanged), stride=session.info.stride)
    job = make_job(session, options, splits, record, registry, loader=loader, val_loader=val_loader)
    with _notifying(record):
        trained = backend.train(session, job, resume=options.resume if isinstance(options.resume, Path) else None)
        record.trained(trained.history)
        result = finish(trained, options, splits, backend=backend, registry=registry)
        record.ended(trained.metrics, result.metrics)
    return result


def resumed(options: Mapping[str, Any], path: Path, info: ArtifactInfo) -> TrainOptions:
    """Return the options of a run that goes on: those it began with, and over them those given now.

    What a checkpoint remembers is a proposal. Its folder is the one it lies in; one that lies outside the folder of a
    run may be anybody's, so it starts no processes and chooses no device.

    Args:
        options: What is given now.
        path: The checkpoint to go on from.
        info: What that file says of itself.

    Raises:
        ModelError: It does not know of a run.
    """
    began = info.settings.get(REMEMBERED)
    if not isinstance(began, dict):
        raise ModelError(f"{path} does not come from a run that could go on", hint=f"begin one: model={path}")
    known = TrainOptions.names()
    own = run_folder(path)
    elsewhere = [name for name in _PLACE if name in options] if own else []
    if elsewhere:
        hint = f"leave {elsewhere[0]} out, or move {path.name} elsewhere first"
        raise UsageError(f"{elsewhere[0]}={options[elsewhere[0]]}: a run goes on in its own folder", hint=hint)
    left = {*_PLACE, *(() if own else _DEVICES)}
    forgotten = [
        f"{name}={reprlib.repr(began[name])}"
        for name in _DEVICES
        if name in began and name in left and name not in options
    ]
    if forgotten:
        logger.warning("%s ran with %s, which is not taken from a file: say so again", path, ", ".join(forgotten))
    before = {name: value for name, value in began.items() if name in known - left}
    try:
        then = TrainOptions.parse(before)
    except UsageError as error:
        raise ModelError(f"{path} does not hold a run that could go on: {error.message}") from error
    now = TrainOptions.parse({**before, **options, "resume": path})
    for name in _LESSON:
        if getattr(then, name) != getattr(now, name):
            hint = f"begin a new run: model={path} {name}={getattr(now, name)}"
            raise UsageError(f"{name}: this run began with {getattr(then, name)}", hint=hint)
    return now


def whole_strides(imgsz: int, stride: int) -> int:
    """Return a size that models can take, and say so where it is another than the one asked for."""
    side, _ = image_size(imgsz, stride)
    if side != imgsz:
        logger.warning("imgsz=%d is rounded up to %d: multiples of %d", imgsz, side, stride)
    return side


def lasting(data: str) -> str:
    """Return the name of a data set by which it is found from any folder: that of a file is made absolute."""
    path = expanded(data)
    return str(path.absolute()) if path.exists() else data


def read_splits(options: TrainOptions, *, fetch: bool = True) -> Splits:
    """Return the data of a run, checked; those that are not here are downloaded only when ``fetch``.

    Raises:
        DataError: A split is missing or empty, or there is no object to learn from or
            to be measured by.
        UsageError: ``classes`` names one that the data do not have.
    """
    data = str(options.data)
    opened = open_splits(data, ("train", "val"), fetch=fetch, crowds=options.crowds == "objects")
    train, val = (opened.splits[split].dataset for split in ("train", "val"))
    if not len(train) or not len(val):
        which = "training" if not len(train) else "validation"
        raise DataError(f"{data}: the {which} split holds no images")
    for note in opened.notes:
        logger.warning("%s", note)
    names = {0: "object"} if options.single_cls else dict(train.names)
    classes = numbers_of(options.classes, train.names, of=data)
    wanted = None if classes is None else set(classes)
    count = max(math.ceil(options.fraction * len(train)), 1)
    indices = [index * len(train) // count for index in range(count)]
    notify("train", train)
    notify("val", val)
    same = len(shared_images(train, val))
    if same:
        them = "the" if same == len(val) else f"{same} of the {len(val)}"
        logger.warning("%s validation images are the same as training images: figures tell little of others", them)
        logger.warning("segx data split data=%s output=FOLDER divides them", data)
    for which, split, used in (("training", train, indices), ("validation", val, range(len(val)))):
        if not any(_counts(split, index, wanted) for index in used):
            of = "" if wanted is None else f" of classes {sorted(wanted)}"
            raise DataError(
                f"{data}: none of the {len(used)} {which} images has a labelled object{of}",
                hint=f"see what is wrong with: segx data check data={data}",
            )
    return Splits(train=train, val=val, names=names, indices=indices, classes=classes)


def try_export(session: ModelSession, name: str, registry: Registry) -> None:
    """Export the model as it is to a scratch folder, so that a format that fails does so before the first epoch.

    Raises:
        ExportError: The model cannot be exported to it.
    """
    with scratch() as folder, quieted("segx.flows.export", below=logging.ERROR):
        artifact = session.save(folder / "preflight.pt")
        export(artifact, format=name, options={"verify": False}, registry=registry)
    logger.info("export=%s works; it is done at the end", name)


def make_job(
    session: ModelSession,
    options: TrainOptions,
    splits: Splits,
    record: Record,
    registry: Registry,
    *,
    loader: LoaderMaker,
    val_loader: LoaderMaker | None,
) -> TrainJob:
    """Return what the trainer needs of the rest of segx."""
    architecture = registry.architectures.load(session.info.architecture)
    settings = val_options(options).replace(plots=False)

    def validate(measured: Session) -> Mapping[str, float]:
        return val.validate(measured, settings, registry=registry, dataset=splits.val, announced=False).results_dict

    return TrainJob(
        options=options,
        names=splits.names,
        images=len(splits.indices),
        folder=record.folder,
        loader=watched(loader, lambda: record.drawings),
        criterion=lambda module: architecture.criterion(module, options),
        validate=validate,
        notify=record.notify,
        settings={"data": str(options.data), REMEMBERED: plain(options), _FINGERPRINT: splits.fingerprint},
        finished=record.finished,
        val_loader=val_loader,
    )


def val_options(options: TrainOptions) -> ValOptions:
    """Return how a model is measured that is trained so."""
    return ValOptions(
        data=options.data,
        imgsz=options.imgsz,
        batch=min(options.batch, 16) if options.batch > 0 else 16,
        single_cls=options.single_cls,
        classes=options.classes,
        crowds=options.crowds,
        plots=options.plots,
    )


def finish(
    trained: Trained, options: TrainOptions, splits: Splits, *, backend: ModelBackend, registry: Registry
) -> TrainResult:
    """Measure the best weights, with images in the run's folder, and export them when that was asked for.

    Raises:
        ExportError: The export failed; the weights are safe.
    """
    weights = trained.best or trained.last
    if weights is None:
        raise ModelError(f"{trained.folder}: training has written no weights")
    device = (options.device or options.accelerator or "").strip("[]() ").split(",")[0].strip() or None
    session = backend.open(Artifact(path=weights, format=MODEL_FORMAT), SessionOptions(device=device))
    try:
        metrics = val.validate(
            session,
            val_options(options),
            registry=registry,
            dataset=splits.val,
            folder=trained.folder,
            model=str(weights),
        )
    finally:
        session.close()
    if options.verbose:
        for line in metrics.to_table(verbose=True).splitlines():
            say(line)
    exported = None if options.export is None else _export(weights, options.export, registry)
    if exported is not None:
        say(f"exported to {exported}")
    return TrainResult(trained=dataclasses.replace(trained, exported=exported), metrics=metrics)


def _export(weights: Path, name: str, registry: Registry) -> Path:
    try:
        return export(Artifact(path=weights, format=MODEL_FORMAT), format=name, registry=registry).path
    except SegxError as error:
        hint = f"the weights are in {weights}; to try again: segx export model={weights} format={name}"
        raise type(error)(error.message, hint=f"{error.hint}\n  {hint}" if error.hint else hint) from error


@contextlib.contextmanager
def _notifying(record: Record) -> Iterator[None]:
    """Notify listeners when the run fails."""
    try:
        yield
    except BaseException as error:
        record.failed(error)
        raise


def _for_data(session: ModelSession, splits: Splits, options: TrainOptions) -> tuple[ModelSession, LoadReport | None]:
    """Return the model for the classes of the data; a run goes on only with the classes it began with.

    Raises:
        DataError: The data of a run that goes on have other classes now.
    """
    if not options.resume:
        return session.for_classes(splits.names, seed=options.seed)
    if dict(session.info.names) != dict(splits.names):
        raise DataError(
            f"{options.data} has other classes than the run {options.resume} began with",
            hint=f"begin a new one: model={options.resume} data={options.data}",
        )
    if session.info.settings.get(_FINGERPRINT, splits.fingerprint) != splits.fingerprint:
        logger.warning("%s has changed since the run began: it goes on, but not as it would have", options.data)
    return session, None


def _counts(dataset: Dataset, index: int, wanted: set[int] | None) -> bool:
    """Return True if an image has an object to learn from."""
    return any(
        not annotation.crowd and (wanted is None or annotation.category in wanted)
        for annotation in dataset[index].annotations
    )


def _log_transfer(report: LoadReport | None, names: Mapping[int, str]) -> None:
    if report is not None:
        logger.info(
            "%s: %s moved over, %d begin anew",
            counted(len(names), "class"),
            counted(len(report.loaded), "tensor"),
            len(report.skipped),
        )
        if line := report.about_classes(names):
            logger.info("%s", line)
