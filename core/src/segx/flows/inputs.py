"""From images to raw outputs: which input an image gets, and the network run on it; shared by predict and val."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from segx.console import counted
from segx.errors import ModelError, UsageError
from segx.flows.outputs import run
from segx.options.schema import ImageSize, image_size
from segx.runtime import check_fits, cores
from segx.structures.batch import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segx.artifact import ArtifactInfo
    from segx.plugin.interfaces import Session, Task
    from segx.structures.batch import SourceImage
    from segx.structures.types import Array

logger = logging.getLogger(__name__)

_CPU_PIXELS = 640 * 640
"""Input pixels that eight cores take at once. More are no faster there, and what a network holds between its layers
grows with them: validating at 16 images of 640x640 a run took 2.0 GB with YOLOv8n-seg, at one 0.8 GB."""


class InputRequest(NamedTuple):
    """Requested input size, batch size and padding."""

    imgsz: ImageSize | None
    batch: int
    rect: bool


class InputOptions(Protocol):
    """What the options of a verb say of the input."""

    @property
    def imgsz(self) -> ImageSize | None:
        """Size asked for."""
        ...

    @property
    def batch(self) -> int:
        """Images per run."""
        ...

    @property
    def rect(self) -> bool:
        """Pad only to the stride, where the model takes any size."""
        ...


@dataclass(frozen=True, kw_only=True)
class InputPlan:
    """Which network input an image gets.

    Attributes:
        size: (height, width) asked for, or what the file is fixed to.
        stride: What sides are multiples of.
        rect: Images are padded only to the stride.
        free: The model takes any height and width.
        batch: Images per run.
        fixed_batch: The model takes exactly ``batch`` images, so fewer are filled up.
    """

    size: tuple[int, int]
    stride: int
    rect: bool
    free: bool
    batch: int
    fixed_batch: bool

    @classmethod
    def make(cls, session: Session, options: InputOptions, *, model: str) -> InputPlan:
        """Return the plan for an open model and options.

        On a CPU, images of a batch that are large enough to fill it go through one after the other: what is found is
        the same, in less memory.

        Raises:
            UsageError: The model is fixed to another size than the one asked for.
        """
        info = session.info
        size = _input_size(info, options, model)
        free = {"height", "width"} <= info.dynamic
        fixed_batch = "batch" not in info.dynamic
        if fixed_batch and options.batch > info.batch:
            takes = counted(info.batch, "image")
            logger.warning("%s takes %s a run: batch=%d has no effect", model, takes, options.batch)
        batch = info.batch if fixed_batch else options.batch
        if session.device == "cpu" and not fixed_batch:
            batch = min(batch, max(1, _CPU_PIXELS * max(1, cores() // 8) // (size[0] * size[1])))
        check_fits(*size, batch, device=session.device, asked=options.imgsz is not None or options.batch > 1)
        return cls(
            size=size,
            stride=info.stride,
            rect=options.rect and free,
            free=free,
            batch=batch,
            fixed_batch=fixed_batch,
        )

    def shape(self, task: Task, source: SourceImage) -> tuple[int, int]:
        """Return the (height, width) of the input for an image.

        Raises:
            UsageError: It is a tensor of a size that the model does not take.
        """
        if source.network is None:
            return task.input_shape(_shape(source), self.size, stride=self.stride, rect=self.rect)
        height, width = source.network.shape[1:]
        if not self.free and (height, width) != self.size:
            raise UsageError(f"a tensor of {by(height, width)}: the model takes {by(*self.size)} only")
        if height % self.stride or width % self.stride:
            hint = "pad it, or give the image as an array (H, W, 3) BGR: it is then fitted"
            raise UsageError(f"a tensor of {by(height, width)}: sides have to be multiples of {self.stride}", hint=hint)
        return height, width

    def note(self, task: Task, source: SourceImage, shape: tuple[int, int], *, asked_rect: bool) -> str:
        """Return what to say of an input shape when it is first used."""
        said = f"input {by(*shape)}"
        if source.network is not None:
            return f"{said}: the tensor as it is"
        if self.rect:
            return f"{said}: padded to multiples of {self.stride} (rect)"
        free_shape = task.input_shape(_shape(source), self.size, stride=self.stride, rect=True)
        if asked_rect and not self.free and free_shape != shape:
            return f"{said}: the only one the file takes; rect is off, a .pt would pad this image to {by(*free_shape)}"
        return f"{said}: padded to the whole size"


class Inferred(NamedTuple):
    """The raw outputs of a batch, and the milliseconds that each image took."""

    outputs: tuple[Array, ...]
    milliseconds: float


def infer(session: Session, plan: InputPlan, batch: Batch) -> Inferred:
    """Run the network on a batch; one that is smaller than the model takes is filled up, and the rest cut off again."""
    count, images = len(batch.sources), batch.images
    if plan.fixed_batch and count < plan.batch:
        images = np.concatenate([images, np.zeros((plan.batch - count, *images.shape[1:]), np.float32)])
    start = time.perf_counter()
    outputs = run(session, images)
    taken = milliseconds_since(start) / count
    return Inferred(outputs if len(images) == count else tuple(output[:count] for output in outputs), taken)


def merged(parts: Sequence[Batch]) -> Batch:
    """Return batches of one input shape as one."""
    if len(parts) == 1:
        return parts[0]
    return Batch(
        sources=tuple(source for part in parts for source in part.sources),
        geometry=tuple(where for part in parts for where in part.geometry),
        images=np.concatenate([part.images for part in parts]),
    )


def check_head(info: ArtifactInfo, task: Task, *, model: str) -> None:
    """Refuse a model whose graph ends in something that the task does not read.

    Raises:
        ModelError: Its head is none of the task's.
    """
    if info.head not in task.heads:
        own = "it suppresses (NMS) by itself: " if "-final/" in info.head or "-end2end/" in info.head else ""
        hint = (
            f"{own}export it again so that it ends in {' or '.join(task.heads)}; in most tools nms=False end2end=False"
        )
        raise ModelError(f"{model}: ends in head {info.head!r}, which task {task.name!r} does not read", hint=hint)


def _input_size(info: ArtifactInfo, options: InputOptions, model: str) -> tuple[int, int]:
    """Return the input size that was asked for, in whole strides, or the model's own."""
    if options.imgsz is None:
        return info.imgsz
    size = image_size(options.imgsz, info.stride)
    asked = (options.imgsz, options.imgsz) if isinstance(options.imgsz, int) else options.imgsz
    fixed = {"height": info.imgsz[0], "width": info.imgsz[1]}
    if any(axis not in info.dynamic and side != fixed[axis] for axis, side in zip(fixed, size, strict=True)):
        hint = f"leave imgsz out, or export the model again with imgsz={asked[0]},{asked[1]} or dynamic=true"
        raise UsageError(f"imgsz={by(*asked)}: {model} takes {by(*info.imgsz)} only", hint=hint)
    if size != asked:
        logger.warning("imgsz=%s is rounded up to %s: multiples of %d", by(*asked), by(*size), info.stride)
    return size


def _shape(source: SourceImage) -> tuple[int, int]:
    height, width = source.image.shape[:2]
    return height, width


def by(height: int, width: int) -> str:
    """Return a size as people write it: ``640x480``, height first."""
    return f"{height}x{width}"


def milliseconds_since(start: float) -> float:
    """Return the milliseconds since ``time.perf_counter()`` was ``start``."""
    return (time.perf_counter() - start) * 1e3
