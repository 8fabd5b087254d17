"""One image: a background, and objects painted over it from back to front with light, texture and shadow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from segx_data_synth.shapes import SHAPES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Field = NDArray[np.float32]

_SAMPLES = 4  # outlines are drawn at this many times the size and averaged
_NAMES = tuple(SHAPES)


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """An object as it is seen.

    Attributes:
        category: Its class number.
        mask: bool (H, W), the pixels where it is what one sees.
    """

    category: int
    mask: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A drawn image.

    Attributes:
        image: uint8 (H, W, 3), BGR.
        objects: What is visible in it, from back to front.
    """

    image: NDArray[np.uint8]
    objects: tuple[SceneObject, ...]


def draw_scene(rng: np.random.Generator, *, height: int, width: int, most: int = 12) -> Scene:
    """Return an image with one to ``most`` objects; one that is nearly all hidden is not counted."""
    canvas = _background(rng, height, width)
    light = rng.uniform(0, 2 * np.pi)
    masks: list[NDArray[np.bool_]] = []
    categories: list[int] = []
    areas: list[int] = []
    for _ in range(int(rng.integers(1, most + 1))):
        category = int(rng.integers(len(_NAMES)))
        cover, place = _outline(rng, category, height, width)
        solid = cover >= 0.5
        if solid.sum() < 24:
            continue
        _shadow(canvas, cover, light, float(place[2]))
        _paint(canvas, cover, _surface(rng, place, height, width, light))
        masks = [mask & ~solid for mask in masks]
        masks.append(solid)
        categories.append(category)
        areas.append(int(solid.sum()))
    canvas += rng.normal(0, rng.uniform(0.5, 5.0), canvas.shape).astype(np.float32)
    visible = tuple(
        SceneObject(category=category, mask=mask)
        for category, mask, area in zip(categories, masks, areas, strict=True)
        if mask.sum() >= max(24, 0.15 * area)
    )
    return Scene(image=np.clip(np.rint(canvas), 0, 255).astype(np.uint8), objects=visible)


def _outline(rng: np.random.Generator, category: int, height: int, width: int) -> tuple[Field, NDArray[np.float64]]:
    """Return how much of each pixel an object covers, and its centre x, y and radius."""
    side = min(height, width)
    radius = side * float(np.exp(rng.uniform(np.log(0.05), np.log(0.28))))
    centre = rng.uniform((0.0, 0.0), (width, height))
    angle = rng.uniform(0, 2 * np.pi)
    squeeze = np.diag([1.0, rng.uniform(0.75, 1.0)])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    rings = [ring @ squeeze @ turn.T * radius + centre for ring in SHAPES[_NAMES[category]](rng)]
    fixed = [np.rint((ring * _SAMPLES - 0.5) * 16).astype(np.int32) for ring in rings]
    large = np.zeros((height * _SAMPLES, width * _SAMPLES), np.uint8)
    cv2.fillPoly(large, fixed, color=(255,), lineType=cv2.LINE_8, shift=4)
    cover = cv2.resize(large, (width, height), interpolation=cv2.INTER_AREA)
    return cover.astype(np.float32) / np.float32(255), np.array([*centre, radius])


def _surface(rng: np.random.Generator, place: NDArray[np.float64], height: int, width: int, light: float) -> Field:
    """Return the colours of an object: a hue, a texture and a light that falls from one side."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    u, v = (x - place[0]) / place[2], (y - place[1]) / place[2]
    first, second = _colour(rng), _colour(rng)
    pattern = _texture(rng, u, v)[..., None] * rng.uniform(0.2, 0.9)
    base = first * (1 - pattern) + second * pattern
    toward = u * np.cos(light) + v * np.sin(light)
    if rng.random() < 0.6:  # round: a bright spot and a dark rim
        shine = 1.15 - 0.55 * np.clip((u - 0.35 * np.cos(light)) ** 2 + (v - 0.35 * np.sin(light)) ** 2, 0, 1.5)
    else:  # flat: an even fall of light
        shine = 0.9 + 0.25 * np.clip(toward, -1, 1)
    surface: Field = (base * shine[..., None]).astype(np.float32)
    return surface


def _texture(rng: np.random.Generator, u: Field, v: Field) -> Field:
    """Return a pattern in 0..1."""
    angle, rate = rng.uniform(0, np.pi), rng.uniform(4, 14)
    a, b = u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
    match int(rng.integers(5)):
        case 0:
            pattern = np.zeros_like(u)
        case 1:
            pattern = (np.sin(a * rate) > 0).astype(np.float32)
        case 2:
            pattern = ((np.sin(a * rate) > 0) ^ (np.sin(b * rate) > 0)).astype(np.float32)
        case 3:
            pattern = (np.sin(a * rate) * np.sin(b * rate) > 0.45).astype(np.float32)
        case _:
            pattern = _cloud(rng, u.shape[0], u.shape[1], coarse=int(rng.integers(8, 32)))
    return pattern


def _background(rng: np.random.Generator, height: int, width: int) -> Field:
    """Return a background: two colours mixed by a gradient, clouds, stripes or tiles."""
    y, x = np.mgrid[:height, :width].astype(np.float32) / max(height, width)
    first, second = _colour(rng, dull=True), _colour(rng, dull=True)
    clouds = _cloud(rng, height, width, coarse=int(rng.integers(2, 9)))
    match int(rng.integers(4)):
        case 0:
            angle = rng.uniform(0, 2 * np.pi)
            mix = np.clip(0.5 + (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle), 0, 1)
        case 1:
            mix = clouds
        case 2:
            mix = 0.7 * _texture(rng, 6 * x, 6 * y) + 0.3 * clouds
        case _:
            mix = 0.5 * clouds + 0.5 * _cloud(rng, height, width, coarse=int(rng.integers(16, 64)))
    field: Field = (first * (1 - mix[..., None]) + second * mix[..., None]).astype(np.float32)
    return field


def _cloud(rng: np.random.Generator, height: int, width: int, *, coarse: int) -> Field:
    """Return smooth noise in 0..1: random values on a coarse grid, magnified."""
    grid = rng.random((coarse, coarse), dtype=np.float32)
    magnified = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(magnified, 0, 1).astype(np.float32)


def _colour(rng: np.random.Generator, *, dull: bool = False) -> Field:
    saturation = rng.uniform(20, 110) if dull else rng.uniform(90, 255)
    value = rng.uniform(60, 230) if dull else rng.uniform(90, 250)
    pixel = np.array([[[rng.uniform(0, 180), saturation, value]]]).astype(np.uint8)
    return np.asarray(cv2.cvtColor(pixel, cv2.COLOR_HSV2BGR)[0, 0], np.float32)


def _shadow(canvas: Field, cover: Field, light: float, radius: float) -> None:
    """Darken what lies behind an object, away from the light."""
    height, width = cover.shape
    offset = 0.18 * radius
    matrix = np.array([[1, 0, -offset * np.cos(light)], [0, 1, -offset * np.sin(light)]])
    moved = cv2.warpAffine(cover, matrix, (width, height))
    soft = cv2.GaussianBlur(moved, (0, 0), max(radius * 0.12, 0.8))
    canvas *= 1 - 0.45 * soft[..., None]


def _paint(canvas: Field, cover: Field, surface: Field) -> None:
    canvas += cover[..., None] * (surface - canvas)
