"""Declares the task ``segment``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx import hookimpl
from segx.plugin.specs import TaskSpec, lazy

if TYPE_CHECKING:
    from collections.abc import Iterable

SEGX_API = (1, 0)


@hookimpl
def segx_tasks() -> Iterable[TaskSpec]:
    """Declare instance segmentation."""
    return [
        TaskSpec(
            name="segment",
            summary="instance segmentation: a box, a class and a mask per object",
            load=lazy("segx_task_segment.task:SegmentTask"),
        )
    ]
