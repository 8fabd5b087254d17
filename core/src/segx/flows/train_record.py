"""Record of a training run: options, manifest, metrics of each epoch; and the notification of listeners."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import datetime as dt
import importlib.metadata
import io
import json
import logging
import math
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from segx.errors import DataError, UsageError
from segx.flows.train_drawings import Drawings
from segx.flows.train_lines import EpochLines
from segx.io import files
from segx.io.locks import Busy, holding
from segx.runs import Run, Step, make_run_folder
from segx.words import counted, csv_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from segx.options.verbs import TrainOptions
    from segx.plugin.interfaces import Dataset, Metrics, TrainDrawings
    from segx.plugin.registry import Registry

logger = logging.getLogger("segx.train")

WEIGHTS = "weights"
_OPTIONS = "args.yaml"
_MANIFEST = "manifest.json"
_LOCK = ".lock"
_LONGEST_WAIT = 5.0
"""Seconds in which the helpers of a run that was killed let go of its lock."""
_FINISHED = "finished"
"""What a manifest has once the best weights were measured, and exported where that was asked for."""
_NAMED = ("numpy", "opencv-python", "torch", "lightning-fabric")
"""Distributions other than segx's own whose versions decide what a run comes to."""


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The data of a run.

    Attributes:
        train: The training split.
        val: The split it is validated on.
        names: Class number to class name.
        indices: The images of the training split that are used.
        classes: The numbers of the classes that are learned; None: all.
    """

    train: Dataset
    val: Dataset
    names: Mapping[int, str]
    indices: Sequence[int]
    classes: tuple[int, ...] | None = None

    @property
    def fingerprint(self) -> dict[str, str]:
        """Hashes of the ground truth of both splits."""
        return {"train": self.train.fingerprint, "val": self.val.fingerprint}


class Record:
    """Write the record of a run, have it drawn, and notify people and hooks. On the first process only.

    Args:
        options: What was asked for.
        model: What the user named as model.
        task: The task of the model.
        splits: The data.
        images: Draws batches, labels and curves; None: nothing is drawn.
        registry: Who listens.
    """

    def __init__(
        self,
        options: TrainOptions,
        *,
        model: str,
        task: str,
        splits: Splits,
        images: TrainDrawings | None,
        registry: Registry,
    ) -> None:
        self._options, self._model, self._task = options, model, task
        self._splits, self._images, self._registry = splits, images, registry
        self._rows: list[Mapping[str, float]] = []
        self._lines = EpochLines(epochs=options.epochs, shown=options.verbose)
        self._epoch = 0
        self._begun = False
        self._run: Run | None = None
        self._lock = contextlib.ExitStack()
        self.drawings: Drawings | None = None

    @property
    def finished(self) -> bool:
        """Whether the resumed run was validated at its end; unknown for a checkpoint that was moved."""
        folder = self._resumed_folder()
        if folder is None:
            return True
        manifest = _read_manifest(folder)
        return manifest is None or _FINISHED in manifest

    def folder(self) -> Path:
        """Make the run's folder, or take that of the run that is resumed, and begin the record.

        Raises:
            DataError: It cannot be made or written to.
            UsageError: Another process is training in it.
        """
        folder = self._resumed_folder() or make_run_folder(
            "train",
            task=self._task,
            project=self._options.project,
            name=self._options.name,
            exist_ok=self._options.exist_ok,
        )
        self._lock.enter_context(_alone(folder))
        _make_writable(folder / WEIGHTS)
        if isinstance(self._options.resume, Path):
            _remove_halves(folder / WEIGHTS)
            self._rows = _read_rows(folder / "results.csv")
            self._lines.begin(self._rows[-1]["time"] if self._rows else 0.0)
            self._epoch = len(self._rows)
        options = plain(self._options)
        self._run = Run(mode="train", model=self._model, options=options, folder=folder)
        named = {"task": self._task, "mode": "train", "model": self._model, **options, "save_dir": str(folder)}
        files.write_text(folder / _OPTIONS, yaml.safe_dump(named, sort_keys=False))
        _write_manifest(folder, self._manifest(folder))
        train, val = self._counts()
        logger.info("%s to train on, %d to validate; %s", counted(train, "image"), val, folder)
        self._registry.notify("run_started", run=self._run)
        if self._images is not None:
            self.drawings = Drawings(self._images, folder)
            self.drawings.labels(self._splits.train, self._splits.indices)
        return folder

    def notify(self, step: Step) -> None:
        """Write the metrics of an epoch, and pass a step on to the hooks with the plots drawn meanwhile."""
        if self._run is None or self._run.folder is None:
            return
        self._begun = self._begun or step.kind != "stage"
        self._lines.on_step(step, epoch=self._epoch)
        written = () if self.drawings is None else self.drawings.done()
        if step.kind == "epoch":
            self._epoch = step.index + 1
            written = (*written, *self._write_row(self._run.folder, step.metrics))
        self._registry.notify("step_ended", run=self._run, step=_with_files(step, written))

    def trained(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Complete the table, draw the last plots, and notify the hooks.

        Args:
            rows: One for each epoch; one may be missing in the table when the run was killed before it was written.
        """
        self._lines.close()
        if self._run is None or self._run.folder is None:
            return
        written = self._write_table(self._run.folder, rows)
        if self.drawings is not None:
            self.drawings.curves(rows, last=True)
            written = (*written, *self.drawings.close())
        step = Step(kind="stage", index=0, name="record", files=written)
        self._registry.notify("step_ended", run=self._run, step=step)

    def ended(self, metrics: Mapping[str, float], result: Metrics) -> None:
        """Write the manifest, and notify the hooks that the run has succeeded.

        Args:
            metrics: The figures of the last epoch.
            result: What the best weights measure.
        """
        best = result.results_dict
        if self._run is not None and self._run.folder is not None:
            done = {"time": _now(), "metrics": {k: v if math.isfinite(v) else None for k, v in best.items()}}
            _write_manifest(self._run.folder, {**(_read_manifest(self._run.folder) or {}), _FINISHED: done})
            self._registry.notify("run_ended", run=self._run, metrics={**metrics, **best}, result=result)
        self._lock.close()

    def failed(self, error: BaseException) -> None:
        """Notify the hooks that the run has failed; remove the folder of a run that never began."""
        self._lines.close()
        if self.drawings is not None:
            self.drawings.close(wait=self._begun)
        self._lock.close()
        if self._run is None or self._run.folder is None:
            return
        self._registry.notify("run_failed", run=self._run, error=error)
        if not self._begun and self._resumed_folder() is None and not self._options.exist_ok:
            shutil.rmtree(self._run.folder, ignore_errors=True)

    def _resumed_folder(self) -> Path | None:
        """Return the folder of the run that goes on; a checkpoint that was moved elsewhere begins a new one."""
        if not isinstance(self._options.resume, Path):
            return None
        return run_folder(self._options.resume)

    def _write_row(self, folder: Path, row: Mapping[str, float]) -> tuple[Path, ...]:
        """Append the metrics of an epoch to the table; remove later epochs that an interrupted run has left."""
        self._rows = [*(kept for kept in self._rows if kept["epoch"] < row["epoch"]), row]
        if self.drawings is not None:
            self.drawings.curves(self._rows)
        return self._write_table(folder, self._rows)

    def _write_table(self, folder: Path, rows: Sequence[Mapping[str, float]]) -> tuple[Path, ...]:
        """Write the table; a program that keeps it open, as spreadsheets do, does not end the run."""
        try:
            return (files.write_text(folder / "results.csv", as_csv(rows)),)
        except DataError as error:
            logger.warning("%s; the figures are in the checkpoint, and are written with the next epoch", error.message)
            return ()

    def _counts(self) -> tuple[int, int]:
        return len(self._splits.indices), len(self._splits.val)

    def _manifest(self, folder: Path) -> dict[str, Any]:
        """Return what this process is and works on; where a run goes on, below what it began with."""
        now: dict[str, Any] = {
            "command": sys.argv,
            "started": _now(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "versions": _versions(),
            "data": self._data(),
            "seed": self._options.seed,
        }
        began = _read_manifest(folder) if isinstance(self._options.resume, Path) else None
        if began is None:
            return now
        began.pop(_FINISHED, None)
        before = began.get("resumed")
        return {**began, "resumed": [*(before if isinstance(before, list) else []), now]}

    def _data(self) -> dict[str, Any]:
        train, val = self._counts()
        hashes = self._splits.fingerprint
        return {
            "name": str(self._options.data),
            "train": {"images": train, "fingerprint": hashes["train"]},
            "val": {"images": val, "fingerprint": hashes["val"]},
        }


def run_folder(checkpoint: Path) -> Path | None:
    """Return the folder of the run that a checkpoint lies in, None for one that lies anywhere else."""
    weights = checkpoint.resolve().parent
    there = weights.name == WEIGHTS and (weights.parent / _OPTIONS).is_file()
    return weights.parent if there else None


def plain(options: TrainOptions) -> dict[str, Any]:
    """Return options as values that JSON and YAML know; those that were not given are left out."""
    values = {name: str(value) if isinstance(value, Path) else value for name, value in options.as_dict().items()}
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in values.items() if value is not None
    }


def as_csv(rows: Sequence[Mapping[str, float]]) -> str:
    """Return rows as a table; a column that a row lacks is left empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return csv_text(columns, ({name: f"{value:.6g}" for name, value in row.items()} for row in rows))


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder.

    Raises:
        DataError: The folder cannot be written.
        UsageError: Another process holds it.
    """
    lock = folder / _LOCK
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(
                holding(lock, wait=_LONGEST_WAIT, waiting=f"{folder} is in use by another process: waiting")
            )
        except Busy as busy:
            hint = "wait for it to end, or begin another run with name="
            raise UsageError(f"{folder} is in use by another process that trains", hint=hint) from busy
        except OSError as error:
            hint = "say where to write with project=FOLDER"
            raise DataError(f"{folder} cannot be written ({error.strerror or error})", hint=hint) from error
        yield
        with contextlib.suppress(OSError):  # while it is held: nobody else has it then
            lock.unlink()


def _make_writable(folder: Path) -> None:
    """Make the folder of the weights, and find out before the first epoch that nothing can be written there."""
    probe = folder / ".writable"
    try:
        folder.mkdir(exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written ({error.strerror or error})", hint="say where to write with project=FOLDER"
        ) from error


def _remove_halves(folder: Path) -> None:
    """Remove what a run that was killed while it wrote a checkpoint has left of it."""
    for path in folder.glob(".*-????????.pt"):
        with contextlib.suppress(OSError):
            path.unlink()


def _with_files(step: Step, written: tuple[Path, ...]) -> Step:
    return dataclasses.replace(step, files=(*step.files, *written)) if written else step


def _read_rows(path: Path) -> list[Mapping[str, float]]:
    """Return the table of a run that goes on; one that is gone or damaged begins anew, the weights hold the run."""
    try:
        lines = io.StringIO(files.read_text(path), newline="")
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(lines)]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, AttributeError, csv.Error) as error:
        logger.warning("%s cannot be read and begins anew (%s)", path, error)
        return []
    return [row for row in rows if "epoch" in row and "time" in row]


def _write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    files.write_text(folder / _MANIFEST, json.dumps(content, indent=2))


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(files.read_text(folder / _MANIFEST))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    found = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name.startswith("segx") or name in _NAMED:
            found[name] = distribution.version
    return dict(sorted(found.items()))
