"""What the telling hooks are told: a run of one of the verbs and the steps it takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Mode = Literal["train", "val", "predict", "export", "benchmark"]


@dataclass(frozen=True, kw_only=True)
class Run:
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


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing done within a run.

    Attributes:
        kind: ``"batch"``, ``"epoch"`` or ``"stage"``.
        index: Zero-based count within its kind.
        total: How many there will be, when known.
        name: What was done, for stages.
        metrics: Figures of this step.
        files: Pictures and tables this step has written.
    """

    kind: Literal["batch", "epoch", "stage"]
    index: int
    total: int | None = None
    name: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
