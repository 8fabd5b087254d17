"""Declares the task ``segment``."""

from __future__ import annotations

from segx import hookimpl
from segx.plugin.specs import Head, TaskSpec, lazy

SEGX_API = (1, 0)

FAMILY = "yolov8-seg"
HEADS = (
    Head(id="yolov8-seg/1", family=FAMILY),
    Head(
        id="yolov8-seg-raw/1",
        family=FAMILY,
        form="raw",
        outputs=("boxes", "scores", "coefficients", "prototypes"),
        decoding={"strides": [8, 16, 32], "bins": 16},
    ),
    Head(
        id="yolov8-seg-final/1",
        family=FAMILY,
        form="final",
        outputs=("detections", "prototypes"),
        options=("conf", "iou", "max_det"),
    ),
)
"""What :mod:`segx_task_segment.decode` reads."""


@hookimpl
def segx_tasks() -> list[TaskSpec]:
    """Declare instance segmentation."""
    return [
        TaskSpec(
            name="segment",
            summary="instance segmentation: a box, a class and a mask per object",
            load=lazy("segx_task_segment.task:SegmentTask"),
            heads=HEADS,
        )
    ]
