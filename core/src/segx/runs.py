"""What listeners get: the run of a verb, and its steps."""

from __future__ import annotations

import itertools
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from segx.errors import DataError, UsageError
from segx.io.paths import expanded
from segx.records import Record

if TYPE_CHECKING:
    from collections.abc import Mapping

Mode = Literal["train", "val", "predict", "export", "benchmark"]


class Run(Record):
    """One call of one of the verbs.

    Attributes:
        mode: The verb.
        options: The settings it runs with, as plain values.
        model: What the user named as model.
        folder: The run's own folder, when it has one.
    """

    mode: Mode
    model: str
    options: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None


class Step(Record):
    """One thing done within a run.

    Attributes:
        kind: ``"batch"``, ``"epoch"`` or ``"stage"``.
        index: Zero-based count within its kind.
        total: How many there will be, when known.
        name: What was done, for stages; for batches of a training the size of their images, ``"640x640"``. A training
            tells the stages ``"train"`` and ``"val"`` as they begin, with the epoch as ``index``.
        metrics: Figures of this step: for an epoch its row of ``results.csv``, for a batch of a training its
            ``instances`` and the mean losses of the epoch so far.
        files: Images and tables this step has written.
    """

    kind: Literal["batch", "epoch", "stage"]
    index: int
    total: int | None = None
    name: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    files: tuple[Path, ...] = ()


class EnoughError(Exception):
    """A callback wants a training to end after the epoch that it is told of, as if it were the last."""


def make_run_folder(
    mode: Mode, *, task: str, project: Path | None = None, name: str | None = None, exist_ok: bool = False
) -> Path:
    """Make a run's own folder and return it: ``runs/segment/predict``, then ``predict2``, ``predict3``, ...

    Two runs that start at once get two folders.

    Args:
        mode: The verb; the folder's name when none is given.
        task: The task; names the default project.
        project: The folder that holds run folders; default: ``runs/<task>``.
        name: Name of the folder.
        exist_ok: Take the folder as it is when it is already there.

    Raises:
        UsageError: The name leads out of the project.
        DataError: The folder cannot be made.
    """
    inner = Path(name or mode)
    if inner.is_absolute() or ".." in inner.parts or not inner.parts:
        raise UsageError(
            f"name={name}: a run's folder lies in its project's", hint="say where to write with project=FOLDER"
        )
    first = expanded(project or Path("runs") / task) / (name or mode)
    try:
        first.parent.mkdir(parents=True, exist_ok=True)
        if exist_ok:
            first.mkdir(exist_ok=True)
            return first
        for number in itertools.count(1):
            folder = first if number == 1 else first.with_name(f"{first.name}{number}")
            try:
                folder.mkdir()
            except FileExistsError:
                continue
            return folder
    except OSError as error:
        hint = "say where to write with project=FOLDER"
        raise DataError(f"run folder {first} cannot be made: {error.strerror}", hint=hint) from error
    raise AssertionError("unreachable: numbers do not end")
