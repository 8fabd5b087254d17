"""Images resized, with their channels last, and many on one sheet."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Image = NDArray[np.uint8]

PAPER = 245
"""Grey of a sheet between its images."""


def channels_last(images: NDArray[np.float32], before: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """Return images (N, C, H, W) as (N, H, W, C), contiguous, in a tenth of the time that NumPy takes.

    Args:
        images: The images.
        before: What this has returned before, to be written over where it fits: fresh memory costs more than the work.
            It begins at the beginning of a page, as runtimes like it.
    """
    count, channels, *size = images.shape
    shape = (count, *size, channels)
    if before is None or before.shape != shape:
        before = np.frombuffer(mmap.mmap(-1, images.nbytes), np.float32).reshape(shape)
    for image, place in zip(images, before, strict=True):
        cv2.merge(list(image), place)
    return before


def shrink(image: Image, side: int) -> Image:
    """Return an image no higher or wider than ``side``."""
    height, width = image.shape[:2]
    gain = min(side / max(height, width), 1.0)
    size = max(round(width * gain), 1), max(round(height * gain), 1)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8) if gain < 1 else image


def fit(image: Image, height: int, width: int) -> Image:
    """Return an image in the middle of a tile of this size."""
    tile = np.full((height, width, 3), PAPER, np.uint8)
    gain = min(height / image.shape[0], width / image.shape[1])
    small = scale(image, round(max(image.shape[:2]) * gain))[:height, :width]
    top, left = (height - small.shape[0]) // 2, (width - small.shape[1]) // 2
    tile[top : top + small.shape[0], left : left + small.shape[1]] = small
    return tile


def scale(image: Image, side: int) -> Image:
    """Return an image whose longer side is ``side``."""
    gain = side / max(image.shape[:2])
    size = max(round(image.shape[1] * gain), 1), max(round(image.shape[0] * gain), 1)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA if gain < 1 else cv2.INTER_LINEAR), np.uint8)


def sheet(tiles: Sequence[Image], columns: int) -> Image:
    """Return images in rows, each in the middle of its place; a row is as high as its highest image."""
    columns = min(columns, len(tiles))
    width = max(tile.shape[1] for tile in tiles)
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    bands = []
    for row in rows:
        height = max(tile.shape[0] for tile in row)
        band = np.full((height, columns * width, 3), PAPER, np.uint8)
        for place, tile in enumerate(row):
            top, left = (height - tile.shape[0]) // 2, place * width + (width - tile.shape[1]) // 2
            band[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
        bands.append(band)
    return np.vstack(bands)
