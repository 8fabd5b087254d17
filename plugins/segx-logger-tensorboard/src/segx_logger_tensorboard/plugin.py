"""Listener that writes training runs to an event file in the run's folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx import hookimpl

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from segx.runs import Run, Step
    from segx_logger_tensorboard.events import RunEvents

SEGX_API = (1, 0)

_open: dict[Path, RunEvents] = {}


@hookimpl
def segx_run_started(run: Run) -> None:
    """Open an event file when a training run begins."""
    if run.mode == "train" and run.folder is not None:
        from segx_logger_tensorboard.events import RunEvents

        _open[run.folder] = RunEvents(run.folder, options=run.options)


@hookimpl
def segx_step_ended(run: Run, step: Step) -> None:
    """Write the figures of an epoch, and the images drawn meanwhile."""
    events = _events(run)
    if events is not None:
        events.on_step(step)


@hookimpl
def segx_run_ended(run: Run, metrics: Mapping[str, float]) -> None:
    """Write what the best weights measure, and close the file."""
    events = _events(run, leaving=True)
    if events is not None:
        events.end(metrics)
        events.close()


@hookimpl
def segx_run_failed(run: Run, error: BaseException) -> None:  # noqa: ARG001 - the hook's signature
    """Close the file; what was written stays."""
    events = _events(run, leaving=True)
    if events is not None:
        events.close()


def _events(run: Run, *, leaving: bool = False) -> RunEvents | None:
    """Return the event file of a training run; of other runs in the same folder there is none."""
    if run.mode != "train" or run.folder is None:
        return None
    return _open.pop(run.folder, None) if leaving else _open.get(run.folder)
