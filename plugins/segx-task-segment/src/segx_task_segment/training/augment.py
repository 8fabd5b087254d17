"""Mosaic, affine and perspective warps, copy-paste, mix-up and colour: one random generator a sample.

The order is: mosaic (or letterbox), warp and flips; objects that are hardly visible go; copy-paste; mix-up of two such
images; colour. All geometry of a sample (tile placement, letterbox, random warp, flips) is one 3 x 3 matrix for each
tile, so every image is resampled once and the points of its objects are moved by the very same matrix.

The recipe of YOLOv8 names another order: mosaic, copy-paste, warp, mix-up, colour, flips. Flips come to the same before
mix-up as after it, as both images are flipped alike, and before colour as after it. Copy-paste, done here on the
finished image, mirrors objects about its middle instead of about the middle of the canvas, which the warp then moves
there, up to its random shift; what is not visible is not pasted, and mirrored copies stand as upright as their models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from segx.options.verbs import TrainOptions
from segx.structures.batch import GREY, fit_matrix
from segx_task_segment.training.instances import Instance, Polygons, place

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class LabelledImage:
    """An image as it is read for training.

    Attributes:
        image: uint8 (H, W, 3), BGR.
        shapes: The objects in it, in pixels of ``image``.
    """

    image: Image
    shapes: Polygons

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""
        return self.image.nbytes + self.shapes.nbytes


@dataclass(frozen=True, kw_only=True)
class Augmented:
    """An image as it is trained on.

    Attributes:
        image: uint8 (H, W, 3), BGR.
        objects: What is visible in it.
    """

    image: Image
    objects: tuple[Instance, ...]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How strongly images are changed; :class:`~segx.options.verbs.TrainOptions` says what each option means."""

    hsv_h: float = TrainOptions.hsv_h
    hsv_s: float = TrainOptions.hsv_s
    hsv_v: float = TrainOptions.hsv_v
    degrees: float = TrainOptions.degrees
    translate: float = TrainOptions.translate
    scale: float = TrainOptions.scale
    shear: float = TrainOptions.shear
    perspective: float = TrainOptions.perspective
    flipud: float = TrainOptions.flipud
    fliplr: float = TrainOptions.fliplr
    mosaic: float = TrainOptions.mosaic
    mixup: float = TrainOptions.mixup
    copy_paste: float = TrainOptions.copy_paste

    @classmethod
    def none(cls) -> Augmentation:
        """Return the setting that leaves images as they are."""
        zeros: dict[str, Any] = dict.fromkeys(cls.__dataclass_fields__, 0.0)
        return cls(**zeros)

    def closed(self) -> Augmentation:
        """Return the setting of the last epochs: no mosaic, mix-up or copy-paste."""
        return Augmentation(**{**self.__dict__, "mosaic": 0.0, "mixup": 0.0, "copy_paste": 0.0})


def augment(
    first: LabelledImage,
    other: Callable[[], LabelledImage],
    *,
    size: tuple[int, int],
    settings: Augmentation,
    rng: np.random.Generator,
) -> Augmented:
    """Return one training image.

    Args:
        first: The sample itself.
        other: Gives a further image each time, for mosaic and mix-up.
        size: (height, width) of the result.
        settings: How strongly to change it.
        rng: The sample's own generator: the same generator gives the same image.
    """
    result, flip = _compose(first, other, size, settings, rng)
    if settings.mixup and rng.random() < settings.mixup:
        blend = rng.beta(32.0, 32.0)
        second, _ = _compose(other(), other, size, settings, rng, flip=flip)
        image = np.asarray(cv2.addWeighted(result.image, blend, second.image, 1 - blend, 0.0), np.uint8)
        result = Augmented(image=image, objects=(*result.objects, *second.objects))
    return Augmented(image=jitter_colour(result.image, settings, rng), objects=result.objects)


def _compose(
    first: LabelledImage,
    other: Callable[[], LabelledImage],
    size: tuple[int, int],
    settings: Augmentation,
    rng: np.random.Generator,
    *,
    flip: Matrix | None = None,
) -> tuple[Augmented, Matrix]:
    """Place the tiles, warp them once and draw their objects; flip as told, or at random and say how."""
    if settings.mosaic and rng.random() < settings.mosaic:
        tiles, frame = _mosaic([first, other(), other(), other()], size, rng)
    else:
        tiles, frame = [(first, fit_matrix(first.image.shape[:2], size))], size
    if flip is None:
        flip = _flip(size, settings, rng)
    warp = flip @ random_warp(frame, size, settings, rng)
    canvas = np.empty((*size, 4), np.uint8)
    canvas.fill(GREY)
    parts = []
    for tile, matrix in tiles:
        total = warp @ matrix
        _warp_into(canvas, tile.image, total)
        parts.append(tile.shapes.transform(total))
    shapes = Polygons.concatenate(parts)
    growth = _growth(warp, [matrix for _, matrix in tiles])
    before = np.concatenate([_sides(tile.shapes.boxes()) for tile, _ in tiles])
    limits = np.repeat(growth, [len(tile.shapes) for tile, _ in tiles])
    objects = tuple(
        item
        for item, sides, limit in zip(place(shapes, size), before, limits, strict=True)
        if item is not None and _worth_keeping(item, sides * limit)
    )
    result = Augmented(image=np.asarray(cv2.cvtColor(canvas, cv2.COLOR_BGRA2BGR), np.uint8), objects=objects)
    if settings.copy_paste:
        result = copy_paste(result, settings.copy_paste, rng)
    return result, flip


def _mosaic(
    images: Sequence[LabelledImage], size: tuple[int, int], rng: np.random.Generator
) -> tuple[list[tuple[LabelledImage, Matrix]], tuple[int, int]]:
    """Put four images around a random centre of a canvas of twice the size, each cut to its quarter."""
    height, width = size
    centre_x, centre_y = rng.uniform(width / 2, width * 1.5), rng.uniform(height / 2, height * 1.5)
    cx, cy = int(centre_x), int(centre_y)
    tiles = []
    for index, image in enumerate(images):
        h, w = image.image.shape[:2]
        x = cx - w if index in {0, 2} else cx
        y = cy - h if index in {0, 1} else cy
        cut = _cut(image, max(-x, 0), max(-y, 0), min(w, 2 * width - x), min(h, 2 * height - y))
        tiles.append((cut, _translation(max(x, 0), max(y, 0))))
    return tiles, (2 * height, 2 * width)


def _cut(image: LabelledImage, left: int, top: int, right: int, bottom: int) -> LabelledImage:
    """Return a window of an image; the parts of objects outside it go when they are drawn."""
    h, w = image.image.shape[:2]
    if (left, top, right, bottom) == (0, 0, w, h):
        return image
    shapes = image.shapes.transform(_translation(-left, -top)).clip((bottom - top, right - left))
    return LabelledImage(image=image.image[top:bottom, left:right], shapes=shapes)


def random_warp(
    canvas: tuple[int, int], size: tuple[int, int], settings: Augmentation, rng: np.random.Generator
) -> Matrix:
    """Return the random matrix from canvas to image: shift, shear, rotation with scale, perspective, centring."""
    degrees, translate, scale, shear = settings.degrees, settings.translate, settings.scale, settings.shear
    centre = _translation(-canvas[1] / 2, -canvas[0] / 2)
    perspective = np.eye(3)
    perspective[2, :2] = rng.uniform(-settings.perspective, settings.perspective, 2)
    angle, zoom = math.radians(rng.uniform(-degrees, degrees)), rng.uniform(1 - scale, 1 + scale)
    rotation = np.array(
        [
            [zoom * math.cos(angle), zoom * math.sin(angle), 0],
            [-zoom * math.sin(angle), zoom * math.cos(angle), 0],
            [0, 0, 1],
        ]
    )
    shearing = np.eye(3)
    shearing[0, 1], shearing[1, 0] = np.tan(np.radians(rng.uniform(-shear, shear, 2)))
    x, y = rng.uniform(0.5 - translate, 0.5 + translate, 2)
    matrix: Matrix = _translation(x * size[1], y * size[0]) @ shearing @ rotation @ perspective @ centre
    return matrix


def _flip(size: tuple[int, int], settings: Augmentation, rng: np.random.Generator) -> Matrix:
    matrix = np.eye(3)
    if rng.random() < settings.flipud:
        matrix = np.array([[1.0, 0, 0], [0, -1, size[0]], [0, 0, 1]]) @ matrix
    if rng.random() < settings.fliplr:
        matrix = np.array([[-1.0, 0, size[1]], [0, 1, 0], [0, 0, 1]]) @ matrix
    return matrix


def _warp_into(target: Image, image: Image, matrix: Matrix) -> None:
    """Resample a BGR image into the part of the target, BGRA, that it covers.

    The matrix speaks of continuous coordinates; OpenCV's are pixel centres, half a pixel off on both sides. It warps
    four channels in half the time that three take, to the same values.
    """
    h, w = image.shape[:2]
    corners = np.array([[0, 0, 1], [w, 0, 1], [0, h, 1], [w, h, 1]], np.float64) @ matrix.T
    corners = corners[:, :2] / corners[:, 2:]
    left, top = np.maximum(np.floor(corners.min(0)), 0).astype(int).tolist()
    right, bottom = np.minimum(np.ceil(corners.max(0)), target.shape[1::-1]).astype(int).tolist()
    if right <= left or bottom <= top:
        return
    centred = _translation(-left - 0.5, -top - 0.5) @ matrix @ _translation(0.5, 0.5)
    affine = np.abs(matrix[2] - (0, 0, 1)).max() <= 1e-8
    resample: Any = cv2.warpAffine if affine else cv2.warpPerspective
    resample(
        cv2.cvtColor(image, cv2.COLOR_BGR2BGRA),
        centred[:2] if affine else centred,
        (right - left, bottom - top),
        dst=target[top:bottom, left:right],
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_TRANSPARENT,
    )


def _growth(warp: Matrix, matrices: Sequence[Matrix]) -> NDArray[np.float64]:
    """Return by how much each tile's lengths grow on the way to the image."""
    return np.array([math.sqrt(abs(float(np.linalg.det((warp @ matrix)[:2, :2])))) for matrix in matrices])


def _sides(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    sides: NDArray[np.float32] = boxes[:, 2:] - boxes[:, :2]
    return sides


def _worth_keeping(item: Instance, before: NDArray[np.float64]) -> bool:
    """Keep objects wider and higher than 2 px, no thinner than 1:100, with enough of their box still visible.

    Enough is over 1 %, or over 10 % where only the box is known: little of a box need not show any of the object.
    """
    width, height = item.box[2] - item.box[0], item.box[3] - item.box[1]
    if width <= 2 or height <= 2 or max(width / height, height / width) >= 100:
        return False
    return width * height > (0.01 if item.has_mask else 0.10) * float(before[0]) * float(before[1])


def copy_paste(target: Augmented, fraction: float, rng: np.random.Generator) -> Augmented:
    """Copy a fraction of the objects to their mirrored place, where they would hide under 30 % of every other one.

    Ghiasi et al., Simple Copy-Paste is a Strong Data Augmentation Method, 2021; pixels that a copy hides are taken
    from the objects behind it.
    """
    width = target.image.shape[1]
    objects = list(target.objects)
    candidates = [item.flipped(width) for item in target.objects if item.has_mask]
    free = [item for item in candidates if all(placed.overlap_with(item) < 0.3 for placed in target.objects)]
    chosen = rng.permutation(len(free))[: round(fraction * len(free))].tolist()
    if not chosen:
        return target
    mirrored, image = target.image[:, ::-1], target.image.copy()
    for item in (free[index] for index in chosen):
        rows = slice(item.top, item.top + item.bitmap.shape[0])
        columns = slice(item.left, item.left + item.bitmap.shape[1])
        image[rows, columns] = np.where(item.bitmap[..., None] > 0, mirrored[rows, columns], image[rows, columns])
        objects = [left for each in objects if (left := each.minus(item)) is not None]
        objects.append(item)
    return Augmented(image=image, objects=tuple(objects))


def jitter_colour(image: Image, settings: Augmentation, rng: np.random.Generator) -> Image:
    """Return the image with hue, saturation and value scaled at random."""
    gains = np.array([settings.hsv_h, settings.hsv_s, settings.hsv_v])
    factors = rng.uniform(-1, 1, 3) * gains + 1
    if not gains.any():
        return image
    ramp = np.arange(256, dtype=np.float64)
    hue = ((ramp * factors[0]) % 180).astype(np.uint8)
    saturation = np.clip(ramp * factors[1], 0, 255).astype(np.uint8)
    value = np.clip(ramp * factors[2], 0, 255).astype(np.uint8)
    planes = list(np.empty((3, *image.shape[:2]), np.uint8))  # OpenCV looks up in one plane quicker than in three
    cv2.split(cv2.cvtColor(image, cv2.COLOR_BGR2HSV), planes)
    for plane, table in zip(planes, (hue, saturation, value), strict=True):
        cv2.LUT(plane, table, dst=plane)
    return np.asarray(cv2.cvtColor(cv2.merge(planes), cv2.COLOR_HSV2BGR), np.uint8)


def _translation(x: float, y: float) -> Matrix:
    return np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]])
