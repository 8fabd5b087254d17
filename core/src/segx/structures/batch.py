"""Images on their way to and through the network: resized to fit, padded evenly, nothing cut, nothing distorted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Self

import cv2
import numpy as np

from segx.ops.arrays import has_channels_last
from segx.records import Record

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from segx.structures.types import Image, Images

GREY = 114
"""What the padding is filled with, of 255."""
_UNIT = np.arange(256, dtype=np.float32) / np.float32(255)
"""Each 8-bit value in 0..1: read there it is written in one pass, divided in two."""


class Letterbox(Record):
    """Placement of an image in the network input (letterbox).

    Attributes:
        original: (height, width) of the image.
        input: (height, width) of the network input.
        left: First column of the image in the input.
        top: First row of the image in the input.
        width: Columns of the image in the input.
        height: Rows of the image in the input.
    """

    original: tuple[int, int]
    input: tuple[int, int]
    left: int
    top: int
    width: int
    height: int


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


def rect_shape(image: tuple[int, int], imgsz: tuple[int, int], stride: int) -> tuple[int, int]:
    """Return the smallest input (height, width), in multiples of the stride, for an image scaled to fit ``imgsz``."""
    ratio = min(imgsz[0] / image[0], imgsz[1] / image[1])
    height, width = (max(round(side * ratio), 1) for side in image)
    return imgsz[0] - (imgsz[0] - height) // stride * stride, imgsz[1] - (imgsz[1] - width) // stride * stride


def place(image: tuple[int, int], shape: tuple[int, int], *, scaleup: bool = True) -> Letterbox:
    """Return where an image of (height, width) lies in an input of (height, width).

    The image is scaled to the largest size that fits once sides are rounded, and centred; of an odd remainder the
    smaller half goes to the left and the top.

    Args:
        image: (height, width) of the image.
        shape: (height, width) of the input.
        scaleup: Whether an image smaller than the input is enlarged.
    """
    ratios = sorted((shape[0] / image[0], shape[1] / image[1]), reverse=True)
    limit = np.inf if scaleup else 1.0
    for ratio in (min(ratio, limit) for ratio in ratios):
        height, width = (max(round(side * ratio), 1) for side in image)
        if height <= shape[0] and width <= shape[1]:
            break
    top, left = round((shape[0] - height) / 2 - 0.1), round((shape[1] - width) / 2 - 0.1)
    return Letterbox(original=image, input=shape, left=left, top=top, width=width, height=height)


def fit_matrix(image: tuple[int, int], shape: tuple[int, int]) -> NDArray[np.float64]:
    """Return the 3 x 3 matrix that fits an image of (height, width) centred into an input, to fractions of a pixel."""
    gain = min(shape[0] / image[0], shape[1] / image[1])
    matrix = np.diag([gain, gain, 1.0])
    matrix[:2, 2] = (shape[1] - image[1] * gain) / 2, (shape[0] - image[0] * gain) / 2
    return matrix


def fit(image: Image, geometry: Letterbox, out: NDArray[np.float32]) -> None:
    """Write an image into its place in the input.

    Args:
        image: uint8 (H, W, 3), BGR.
        geometry: Where it goes.
        out: float32 (3, height, width), RGB in 0..1; every value is written. In memory its channels may be last.
    """
    size = (geometry.width, geometry.height)
    resized = image if image.shape[1::-1] == size else cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    top, left = geometry.top, geometry.left
    bottom, right = top + geometry.height, left + geometry.width
    grey = _UNIT[GREY]
    out[:, :top], out[:, bottom:] = grey, grey
    out[:, top:bottom, :left], out[:, top:bottom, right:] = grey, grey
    inside = out[:, top:bottom, left:right]
    if has_channels_last(out[None]):
        cv2.LUT(cv2.cvtColor(resized, cv2.COLOR_BGR2RGB), _UNIT, inside.transpose(1, 2, 0))
    else:
        for plane, channel in zip(inside[::-1], cv2.split(resized), strict=True):  # each read in one stride
            cv2.LUT(channel, _UNIT, plane)


def letterbox(
    images: list[Image], shape: tuple[int, int], *, scaleup: bool = True, channels_last: bool = False
) -> tuple[Images, list[Letterbox]]:
    """Return images, uint8 (H, W, 3) BGR of any sizes, as one network input, and where each lies in it.

    Args:
        images: The images.
        shape: (height, width) of the input.
        scaleup: Whether an image smaller than the input is enlarged.
        channels_last: Whether in memory the channels of a pixel lie side by side; the axes are the same.

    Returns:
        float32 (N, 3, height, width) in 0..1, RGB; and one :class:`Letterbox` for each.
    """
    if channels_last:
        batch = np.empty((len(images), *shape, 3), np.float32).transpose(0, 3, 1, 2)
    else:
        batch = np.empty((len(images), 3, *shape), np.float32)
    geometry = [place((image.shape[0], image.shape[1]), shape, scaleup=scaleup) for image in images]
    for image, where, out in zip(images, geometry, batch, strict=True):
        fit(image, where, out)
    return batch, geometry


def boxes_to_image(boxes: NDArray[np.float32], geometry: Letterbox) -> NDArray[np.float32]:
    """Return boxes (N, 4) of x1, y1, x2, y2 in pixels of the input as pixels of the image, clipped to it."""
    height, width = geometry.original
    corner = np.array([geometry.left, geometry.top] * 2, np.float32)
    gain = np.array([width / geometry.width, height / geometry.height] * 2)
    limit = np.array([width, height] * 2, np.float32)
    moved = ((boxes - corner) * gain).astype(np.float32)
    clipped: NDArray[np.float32] = np.minimum(np.maximum(moved, np.float32(0)), limit)
    return clipped
