"""Synthetic images with known ground truth, and a NumPy model that finds coloured shapes in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from segx.artifact import ArtifactInfo
from segx.errors import ModelError
from segx.structures.batch import SourceImage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from segx.structures.types import Image, Images

NAMES = {0: "red", 1: "green", 2: "blue"}
"""The classes of drawn objects."""

BACKGROUND = 96
HEAD = "yolov8-seg/1"

_MASKS = 32
_STEPS = (8, 16, 32)
_SCORES = (0.95, 0.90, 0.85)


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """One object of a scene.

    Attributes:
        category: Class number: of :data:`NAMES`.
        box: (x1, y1, x2, y2) in pixels of the image.
        mask: bool (H, W), every pixel of it.
    """

    category: int
    box: tuple[float, float, float, float]
    mask: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """A drawn image and what is in it.

    Attributes:
        image: uint8 (H, W, 3), BGR.
        objects: What is drawn, no two touching.
    """

    image: Image
    objects: tuple[Drawn, ...]

    @property
    def source(self) -> SourceImage:
        """The image as a source gives it."""
        return SourceImage(image=self.image, path="drawn.png")


def draw_scene(height: int = 240, width: int = 320, *, objects: int = 3) -> Scene:
    """Return a grey image with up to nine objects: discs, bars and rings in red, green and blue by turns."""
    image = np.full((height, width, 3), BACKGROUND, np.uint8)
    found = []
    for index in range(objects):
        category, shape = index % 3, (index + index // 3) % 3
        row, column = divmod(index, 3)
        cell_height, cell_width = height / (1 if objects <= 3 else 3), width / 3
        centre = (column + 0.5) * cell_width, (row + 0.5) * cell_height
        mask = _shape(shape, (height, width), centre, (cell_width * 0.36, cell_height * 0.36))
        # OpenCV's order: class 0 is red, the last channel.
        image[mask] = [255 if channel == 2 - category else 0 for channel in range(3)]
        ys, xs = np.nonzero(mask)
        box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
        found.append(Drawn(category=category, box=box, mask=mask))
    return Scene(image=image, objects=tuple(found))


def _shape(
    kind: int, size: tuple[int, int], centre: tuple[float, float], radius: tuple[float, float]
) -> NDArray[np.bool_]:
    """Return a filled ellipse, a bar, or an ellipse with a hole, as the pixels whose centres lie inside."""
    ys, xs = np.mgrid[: size[0], : size[1]] + 0.5
    across, down = (xs - centre[0]) / radius[0], (ys - centre[1]) / radius[1]
    if kind == 1:
        inside: NDArray[np.bool_] = (np.abs(across) <= 0.9) & (np.abs(down) <= 0.6)
        return inside
    distance = across**2 + down**2
    ring: NDArray[np.bool_] = distance <= 1
    return ring & (distance >= 0.15) if kind == 2 else ring


class ColorSession:
    """A model in NumPy that finds the red, green and blue objects of an image; its head is ``yolov8-seg/1``.

    It looks at its input and nothing else, so that an image that is wrongly resized, padded or ordered gives wrong
    results. Objects of one colour that do not touch are found apart, up to 32 in an image.

    Attributes:
        info: What is known of it.
        device: Where it runs.
    """

    def __init__(self, info: ArtifactInfo | None = None) -> None:
        dynamic = frozenset({"batch", "height", "width"})
        self.info = info or ArtifactInfo(names=NAMES, imgsz=(320, 320), dynamic=dynamic, variant="seeing")
        self.device = "cpu"

    def run(self, images: Images) -> tuple[Any, ...]:
        """Return boxes with scores and coefficients, (N, 4 + 3 + 32, A), and prototypes, (N, 32, H / 4, W / 4)."""
        if images.ndim != 4 or images.shape[1] != 3 or any(side % self.info.stride for side in images.shape[2:]):
            raise ModelError(f"images of shape {images.shape}; sides have to be multiples of {self.info.stride}")
        outputs = [_see(image) for image in images]
        return tuple(np.stack(parts) for parts in zip(*outputs, strict=True))

    def close(self) -> None:
        """Nothing to release."""


def _see(image: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    height, width = image.shape[1:]
    anchors = sum((height // step) * (width // step) for step in _STEPS)
    rows = np.zeros((4 + len(NAMES) + _MASKS, anchors), np.float32)
    prototypes = np.zeros((_MASKS, height // 4, width // 4), np.float32)
    count = 0
    for category in NAMES:
        colour = image[category] - image[[c for c in range(3) if c != category]].max(axis=0)
        total, labels, statistics, _ = cv2.connectedComponentsWithStats((colour > 0.5).astype(np.uint8), connectivity=8)
        for label in range(1, total):
            x, y, w, h, area = statistics[label]
            if area < 9 or count == _MASKS:
                continue
            rows[:4, count] = (x + w / 2, y + h / 2, w, h)
            rows[4 + category, count] = _SCORES[category]
            rows[4 + len(NAMES) + count, count] = 1
            # The share of colour in each cell, from -8 (none) to 8 (all).
            share = cv2.resize(
                np.where(labels == label, colour, 0), (width // 4, height // 4), interpolation=cv2.INTER_AREA
            )
            prototypes[count] = 16 * share - 8
            count += 1
    return rows, prototypes


def noise_images(shape: Sequence[int], *, seed: int = 0) -> NDArray[np.float32]:
    """Return float32 images in 0..1 of this shape, the same on every machine."""
    return np.random.default_rng(seed).random(tuple(shape), dtype=np.float32)
