"""The ten hooks: the whole plugin API of segx on one page.

Six hooks declare: they are called once, must be quick, import nothing heavy and return specs.
Four hooks notify: they are called while segx works and return nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from segx.plugin.specs import ArchitectureSpec, BackendSpec, CommandSpec, DatasetFormatSpec, ExporterSpec, TaskSpec
    from segx.runs import Run, Step

hookspec = pluggy.HookspecMarker("segx")
hookimpl = pluggy.HookimplMarker("segx")


@hookspec
def segx_tasks() -> Iterable[TaskSpec]:  # type: ignore[empty-body]
    """Declare tasks: what raw outputs mean and how they become results."""


@hookspec
def segx_architectures() -> Iterable[ArchitectureSpec]:  # type: ignore[empty-body]
    """Declare families of models, the configurations they ship and where their weights are published."""


@hookspec
def segx_exporters() -> Iterable[ExporterSpec]:  # type: ignore[empty-body]
    """Declare export formats."""


@hookspec
def segx_backends() -> Iterable[BackendSpec]:  # type: ignore[empty-body]
    """Declare runtimes that open models of one or more formats."""


@hookspec
def segx_dataset_formats() -> Iterable[DatasetFormatSpec]:  # type: ignore[empty-body]
    """Declare ways of writing ground truth down."""


@hookspec
def segx_commands() -> Iterable[CommandSpec]:  # type: ignore[empty-body]
    """Declare sub-commands of ``segx``."""


@hookspec
def segx_run_started(run: Run) -> None:
    """Called when a run starts; ``run.mode`` is train, val, predict, export or benchmark."""


@hookspec
def segx_step_ended(run: Run, step: Step) -> None:
    """Called when a batch, an epoch or a stage is done."""


@hookspec
def segx_run_ended(run: Run, metrics: Mapping[str, float]) -> None:
    """Called when a run has succeeded, with its metrics."""


@hookspec
def segx_run_failed(run: Run, error: BaseException) -> None:
    """Called when a run has failed; the error is raised to the caller afterwards."""
