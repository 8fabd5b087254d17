"""Console output of a training run: a progress bar within an epoch, one line after it."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import sys
from typing import TYPE_CHECKING

from segx.console import progress
from segx.words import visible

if TYPE_CHECKING:
    from collections.abc import Mapping

    from segx.console import Bar
    from segx.runs import Step

logger = logging.getLogger("segx.train")

_TITLES = {
    "metrics/mAP50(B)": "Box mAP50",
    "metrics/mAP50-95(B)": "Box mAP",
    "metrics/mAP50(M)": "Mask mAP50",
    "metrics/mAP50-95(M)": "Mask mAP",
}
_HEADER_EVERY = 20
"""Lines after which the titles are printed again."""


class EpochLines:
    """Show each batch on a progress bar, and each epoch in one line.

    Args:
        epochs: How many there are to be.
        shown: Whether anything is to be printed.
    """

    def __init__(self, *, epochs: int, shown: bool = True) -> None:
        self._epochs = epochs
        self._shown = shown
        self._bar: Bar | None = None
        self._closing = contextlib.ExitStack()
        self._instances: int | None = None
        self._seen = False
        self._size = "-"
        self._lines = 0
        self._seconds: list[float] = []
        self._clock = 0.0

    def begin(self, seconds: float) -> None:
        """Take the time that a resumed run has spent already."""
        self._clock = seconds

    def on_step(self, step: Step, *, epoch: int) -> None:
        """Show a batch or an epoch.

        Args:
            step: What was done.
            epoch: The epoch under way, from 0.
        """
        if not self._shown:
            return
        if step.kind == "batch":
            self._batch(step, epoch)
        elif step.kind == "epoch":
            self._epoch(step)

    def close(self) -> None:
        """Close the progress bar."""
        self._closing.close()
        self._bar = None

    def _batch(self, step: Step, epoch: int) -> None:
        self._count(step)
        if self._bar is None:
            name, shown = f"{epoch + 1}/{self._epochs}", logger.isEnabledFor(logging.INFO) or _unheard()
            bar = progress(step.total, name, shown=shown, unit=" batches", start=step.index)
            self._bar = self._closing.enter_context(bar)
        losses = {_loss(name): f"{value:.3f}" for name, value in step.metrics.items() if _is_loss(name)}
        self._bar(1, **losses, instances=self._instances_text, size=self._size)

    def _count(self, step: Step) -> None:
        """Count the objects of an epoch; of one that was begun by a run before this one they are not known."""
        if not self._seen:
            self._instances = 0 if step.index == 0 else None
        self._seen = True
        if self._instances is not None:
            self._instances += int(step.metrics.get("instances", 0))
        self._size = step.name

    @property
    def _instances_text(self) -> str:
        return "-" if self._instances is None else f"{self._instances}"

    def _epoch(self, step: Step) -> None:
        self.close()
        self._epochs = step.total or self._epochs
        row = step.metrics
        self._seconds = [*self._seconds[-9:], row["time"] - self._clock]
        self._clock = row["time"]
        left = (self._epochs - step.index - 1) * sum(self._seconds) / len(self._seconds)
        cells = self._cells(row, left)
        if self._lines % _HEADER_EVERY == 0:
            say("  ".join(title.rjust(len(value)) for title, value in cells))
        say("  ".join(value for _, value in cells))
        self._lines += 1
        self._instances, self._seen = None, False

    def _cells(self, row: Mapping[str, float], left: float) -> list[tuple[str, str]]:
        """Return title and value of each column; values are as wide as they will ever be."""
        width = max(len(f"{self._epochs}/{self._epochs}"), len("Epoch"))
        cells = [("Epoch", f"{int(row['epoch'])}/{self._epochs}".rjust(width))]
        cells += [(_loss(name), f"{value:.4g}".rjust(7)) for name, value in row.items() if _is_loss(name)]
        cells += [("Instances", self._instances_text.rjust(9)), ("Size", self._size.rjust(9))]
        cells += [
            (title, (f"{row[name]:.4f}" if name in row else "-").rjust(10))
            for name, title in _TITLES.items()
            if title in {"Box mAP", "Mask mAP"}
        ]
        cells.append(("Time", clock(self._seconds[-1]).rjust(8)))
        cells.append(("Left", clock(left).rjust(8)))
        return cells


def say(text: str) -> None:
    """Log a line for people; a script that keeps no log at all still sees it, on standard error."""
    if not _unheard():
        logger.info("%s", text)
    elif sys.stderr is not None:  # it is None where standard error is closed
        sys.stderr.write(f"{visible(text)}\n")


def clock(seconds: float) -> str:
    """Return a length of time as ``0:01:30``."""
    return str(dt.timedelta(seconds=max(round(seconds), 0)))


def _unheard() -> bool:
    """Return True if no one has set up logging: then its words for people go nowhere."""
    return not logger.hasHandlers()


def _is_loss(name: str) -> bool:
    return name.startswith("train/") and name.endswith("_loss")


def _loss(name: str) -> str:
    return name.removeprefix("train/").removesuffix("_loss")
