"""Images on their way to and through the network."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Self

from segx.ops.letterbox import Letterbox
from segx.records import Record

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from segx.structures.types import Image, Images


__all__ = ["Batch", "Letterbox", "SourceImage", "TrainBatch"]


class Batch(Record):
    """A batch of preprocessed images.

    Attributes:
        sources: The images as they were read.
        geometry: Where each lies in the input.
        images: float32 (N, 3, H, W) in 0..1, RGB.
        milliseconds: What making the input of each took; empty where nobody asks.
    """

    sources: tuple[SourceImage, ...]
    geometry: tuple[Letterbox, ...]
    images: Images
    milliseconds: tuple[float, ...] = ()


class TrainBatch(Record):
    """One batch.

    Attributes:
        images: uint8 (B, 3, H, W), RGB.
        batch_idx: int64 (N,), the image each object is in.
        classes: int64 (N,).
        boxes: float32 (N, 4), centre x, centre y, width, height as fractions of the image.
        masks: With ``overlap`` one map per image, uint8 or int32 (B, h, w): 0 for background, k for the k-th of its
            objects, smaller ones over larger ones. Otherwise uint8 (N, h, w), each object's own pixels.
        overlap: Which of the two ``masks`` holds.
        has_mask: bool (N,), False for objects known by their box only.
        paths: The file of each image.
    """

    images: NDArray[np.uint8]
    batch_idx: NDArray[np.int64]
    classes: NDArray[np.int64]
    boxes: NDArray[np.float32]
    masks: NDArray[np.uint8] | NDArray[np.int32]
    overlap: bool
    has_mask: NDArray[np.bool_]
    paths: tuple[str, ...]


class SourceImage(Record):
    """One image of a source.

    Attributes:
        image: uint8 (H, W, 3), BGR, orientation applied; None once nobody needs it any more (:meth:`without_pixels`).
        path: The file, URL or name it came from; ``"image0"`` for an array.
        frame: Zero-based frame number for video and streams, else None.
        clip: The video or stream it is a frame of, else None.
        seconds: When it is shown, from the first frame of a video file on; None where that is not known.
        network: float32 (3, H, W), RGB in 0..1, when the user gave the network's own input (a tensor); it is used as
            it is, without resizing.
        stem: What its files are called in a run, different for each image and frame; empty where nothing is written.
    """

    image: Image
    path: str
    frame: int | None = None
    clip: Clip | None = None
    seconds: float | None = None
    network: Images | None = None
    stem: str = ""

    def without_pixels(self) -> Self:
        """Return this without the image, for what only has to know which it is: 12 megapixels are 36 MB."""
        return replace(self, image=None)  # type: ignore[arg-type]  # nobody looks at it any more


class Clip(Record):
    """What a frame belongs to.

    Attributes:
        name: The file, the address, or ``"camera0"``.
        fps: Frames per second as they are delivered: the file's rate over the stride.
        frames: How many will be delivered, as the file claims; None when it claims nothing.
        live: It does not wait for who watches it.
    """

    name: str
    fps: float
    frames: int | None = None
    live: bool = False
