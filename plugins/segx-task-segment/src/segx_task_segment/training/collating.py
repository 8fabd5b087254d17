"""Images that were made one by one into a batch; what an image takes is done where it was made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np

from segx.structures.batch import TrainBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from segx_task_segment.training.augment import Augmented
    from segx_task_segment.training.instances import Instance


class Part(NamedTuple):
    """What a batch holds of one image besides its pixels; n objects by visible area, largest first.

    Attributes:
        classes: int64 (n,).
        boxes: float32 (n, 4), centre x, centre y, width, height as fractions of the image.
        has_mask: bool (n,).
        masks: As in :class:`TrainBatch`, of this image: uint8 or int32 (h, w), or uint8 (n, h, w).
    """

    classes: NDArray[np.int64]
    boxes: NDArray[np.float32]
    has_mask: NDArray[np.bool_]
    masks: NDArray[np.uint8] | NDArray[np.int32]


def part_of(sample: Augmented, pixels: NDArray[np.uint8], *, mask_ratio: int, overlap: bool) -> Part:
    """Write an image into its place in the batch, uint8 (3, H, W) RGB, and return what else there is of it."""
    height, width = pixels.shape[1:]
    cv2.split(sample.image, list(pixels[::-1]))
    objects = sorted(sample.objects, key=lambda item: -item.area)
    boxes = np.array([item.box for item in objects], np.float32).reshape(-1, 4)
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    extent = np.array([width, height], np.float32)
    draw = _index_map if overlap else _own_masks
    return Part(
        classes=np.array([item.category for item in objects], np.int64),
        boxes=np.concatenate([centres / extent, sides / extent], axis=1).astype(np.float32),
        has_mask=np.array([item.has_mask for item in objects], bool),
        masks=draw(objects, (height // mask_ratio, width // mask_ratio), mask_ratio),
    )


def batch_of(
    images: NDArray[np.uint8], parts: Sequence[Part], paths: tuple[str, ...], *, overlap: bool = True
) -> TrainBatch:
    """Return uint8 (B, 3, H, W) images and what else there is of each as a batch."""
    join: Any = np.stack if overlap else np.concatenate
    return TrainBatch(
        images=images,
        batch_idx=np.repeat(np.arange(len(parts)), [len(part.classes) for part in parts]),
        classes=np.concatenate([part.classes for part in parts]),
        boxes=np.concatenate([part.boxes for part in parts]),
        masks=join([part.masks for part in parts]),
        overlap=overlap,
        has_mask=np.concatenate([part.has_mask for part in parts]),
        paths=paths,
    )


def _index_map(
    objects: Sequence[Instance], shape: tuple[int, int], ratio: int
) -> NDArray[np.uint8] | NDArray[np.int32]:
    drawn = np.zeros(shape, np.uint8 if len(objects) <= 255 else np.int32)
    for number, item in enumerate(objects, 1):
        if item.has_mask:
            small, top, left = shrink(item, shape, ratio)
            drawn[top : top + small.shape[0], left : left + small.shape[1]][small > 0] = number
    return drawn


def _own_masks(objects: Sequence[Instance], shape: tuple[int, int], ratio: int) -> NDArray[np.uint8]:
    masks = np.zeros((len(objects), *shape), np.uint8)
    for mask, item in zip(masks, objects, strict=True):
        if item.has_mask:
            small, top, left = shrink(item, shape, ratio)
            mask[top : top + small.shape[0], left : left + small.shape[1]] = small
    return masks


def shrink(item: Instance, shape: tuple[int, int], ratio: int) -> tuple[NDArray[np.uint8], int, int]:
    """Return an object's bitmap at mask resolution, of 0 and 1, with its first row and column there.

    A mask pixel is set where at least half of the image's pixels in it are, or, for an object too small for that
    anywhere, the one it covers most.
    """
    left, top = item.left // ratio, item.top // ratio
    right = min(-(-(item.left + item.bitmap.shape[1]) // ratio), shape[1])
    bottom = min(-(-(item.top + item.bitmap.shape[0]) // ratio), shape[0])
    aligned = np.zeros(((bottom - top) * ratio, (right - left) * ratio), np.uint8)
    y, x = item.top - top * ratio, item.left - left * ratio
    height, width = min(item.bitmap.shape[0], aligned.shape[0] - y), min(item.bitmap.shape[1], aligned.shape[1] - x)
    aligned[y : y + height, x : x + width] = item.bitmap[:height, :width]
    if ratio == 1:
        return aligned, top, left
    share = cv2.resize(aligned * 255, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    small = (share >= 128).view(np.uint8)
    if not small.any():
        small.flat[int(share.argmax())] = 1
    return small, top, left
