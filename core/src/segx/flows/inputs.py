"""Which network input an image gets, and what is refused before anything runs; shared by predict and val."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

from segx.errors import ModelError, UsageError
from segx.options.schema import ImageSize, image_size
from segx.records import Record
from segx.runtime import check_fits, cores
from segx.words import counted

if TYPE_CHECKING:
    from segx.artifact import ArtifactInfo
    from segx.options.verbs import DecodeOptions
    from segx.plugin.interfaces import Session, Task
    from segx.structures.batch import SourceImage

logger = logging.getLogger(__name__)

_CPU_PIXELS = 640 * 640
"""Input pixels that eight cores take at once. More are no faster there, and what a network holds between its layers
grows with them: validating at 16 images of 640x640 a run took 2.0 GB with YOLOv8n-seg, at one 0.8 GB."""


class InputRequest(NamedTuple):
    """Requested input size, batch size and padding."""

    imgsz: ImageSize | None
    batch: int | None
    rect: bool


class InputPlan(Record):
    """Which network input an image gets.

    Attributes:
        size: (height, width) asked for, or what the file is fixed to.
        stride: What sides are multiples of.
        rect: Images are padded only to the stride.
        free: The model takes any height and width.
        batch: Images per run.
        filled: Fewer than ``batch`` images are filled up: the model takes no other number, or it is on a GPU,
            where another number is another shape, and new shapes take longest of all.
    """

    size: tuple[int, int]
    stride: int
    rect: bool
    free: bool
    batch: int
    filled: bool

    @classmethod
    def make(cls, session: Session, options: InputRequest, *, model: str) -> InputPlan:
        """Return the plan for an open model and options.

        On a CPU, images of a batch that are large enough to fill it go through one after the other: what is found is
        the same, in less memory.

        """
        info = session.info
        size = _input_size(info, options, model)
        free = {"height", "width"} <= info.dynamic
        fixed_batch = "batch" not in info.dynamic
        asked = options.batch or info.batch
        if fixed_batch and asked > info.batch:
            takes = counted(info.batch, "image")
            logger.warning("%s takes %s a run: batch=%d has no effect", model, takes, asked)
        batch = info.batch if fixed_batch else asked
        if session.device == "cpu" and not fixed_batch:
            batch = min(batch, max(1, _CPU_PIXELS * max(1, cores() // 8) // (size[0] * size[1])))
        check_fits(*size, batch, device=session.device, asked=options.imgsz is not None or (options.batch or 1) > 1)
        return cls(
            size=size,
            stride=info.stride,
            rect=options.rect and free,
            free=free,
            batch=batch,
            filled=fixed_batch or session.device != "cpu",
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


def allowed_decoding(
    info: ArtifactInfo, task: Task, options: DecodeOptions, usual: DecodeOptions, *, model: str
) -> DecodeOptions:
    """Return how outputs are read, as far as the model leaves a choice; what it has settled otherwise is told.

    Args:
        info: What is known of the model.
        task: What its outputs mean.
        options: How they are to be read.
        usual: The same where nothing is asked for: what differs from it was asked for.
        model: What the user named as model.

    Raises:
        UsageError: Something was asked for that a finished graph has settled otherwise.
    """
    nearest = task.limits(info, options)
    if nearest == options:
        return options
    settled = [
        name
        for name, value in options.as_dict().items()
        if value == getattr(usual, name) and value != getattr(nearest, name)
    ]
    options = options.replace(**{name: getattr(nearest, name) for name in settled})
    task.check(info, options)
    if settled:
        words = ", ".join(f"{name}={getattr(nearest, name)}" for name in settled)
        logger.warning("%s suppresses by itself, with %s: what it left out is not there to be found", model, words)
    return options


def _input_size(info: ArtifactInfo, options: InputRequest, model: str) -> tuple[int, int]:
    """Return the input size that was asked for, in whole strides, or the model's own."""
    if options.imgsz is None:
        return info.imgsz
    size = image_size(options.imgsz, info.stride)
    asked = (options.imgsz, options.imgsz) if isinstance(options.imgsz, int) else options.imgsz
    height, width = (
        side if axis in info.dynamic else own
        for axis, side, own in zip(("height", "width"), size, info.imgsz, strict=True)
    )
    if (taken := (height, width)) != size:
        why = f"{model} takes that only; export it again with imgsz={asked[0]},{asked[1]} or dynamic=true for another"
        logger.warning("imgsz=%s becomes %s: %s", by(*asked), by(*taken), why)
    elif size != asked:
        logger.warning("imgsz=%s is rounded up to %s: multiples of %d", by(*asked), by(*size), info.stride)
    return taken


def _shape(source: SourceImage) -> tuple[int, int]:
    height, width = source.image.shape[:2]
    return height, width


def by(height: int, width: int) -> str:
    """Return a size as people write it: ``640x480``, height first."""
    return f"{height}x{width}"
