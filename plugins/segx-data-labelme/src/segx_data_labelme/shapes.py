"""The shapes of one JSON become objects: parts of a group together, a bad shape named and only it left out."""

from __future__ import annotations

import base64
import binascii
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from segx.ops.polygons import clip
from segx.structures.annotations import Annotation
from segx.structures.masks import Masks

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

OUTLINES = {"polygon", "circle", "mask"}
BOXES = {"rectangle", "rotation"}
WITHOUT_AREA = {"line", "linestrip", "point", "points"}
_CORNERS = 64
"""Of the polygon that a circle becomes."""
_MAX_POINTS = 1_000_000
_FEWEST = 3


class BadShapeError(ValueError):
    """A shape that is left out, and why."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """One shape, checked.

    Attributes:
        ring: float64 (points, 2), x and y, inside the image.
        bitmap: For a mask, bool (h, w), and where it begins.
        boxed: Only the box is known.
    """

    ring: NDArray[np.float64]
    bitmap: tuple[NDArray[np.bool_], tuple[int, int]] | None = None
    boxed: bool = False


def objects_of(
    shapes: Any, numbers: Mapping[str, int], shape: tuple[int, int]
) -> tuple[list[Annotation], list[str], list[str]]:
    """Return the objects of an image, a line for each shape that is left out, and one for each that was cut.

    Shapes of one class and one ``group_id`` are parts of one object.

    Args:
        shapes: As the JSON has them.
        numbers: Class name to class number.
        shape: (height, width) of the image.
    """
    if not isinstance(shapes, list):
        return [], ["'shapes' is not a list"], []
    groups: dict[object, list[_Part]] = {}
    classes: dict[object, int] = {}
    problems: list[str] = []
    notes: list[str] = []
    for place, item in enumerate(shapes, start=1):
        try:
            label = label_of(item)
            if label not in numbers:
                raise BadShapeError(f"label {label!r} is none of the classes")  # noqa: TRY301
            part, cut = _part(item, shape)
        except BadShapeError as reason:
            problems.append(f"shape {place}: {reason}")
            continue
        if cut:
            notes.append(f"shape {place} reaches {cut:.1f} pixels out of the image and is cut")
        group = item.get("group_id")
        key = (label, group) if isinstance(group, int | str) and not isinstance(group, bool) else place
        groups.setdefault(key, []).append(part)
        classes[key] = numbers[label]
    return (
        [_object(classes[key], parts, number, shape) for number, (key, parts) in enumerate(groups.items(), 1)],
        problems,
        notes,
    )


def label_of(item: Any) -> str:
    """Return the label of a shape.

    Raises:
        BadShapeError: It has none.
    """
    label = item.get("label") if isinstance(item, dict) else None
    if not isinstance(label, str | int) or isinstance(label, bool) or not str(label).strip():
        raise BadShapeError("it has no label")
    return str(label).strip()


def _object(category: int, parts: list[_Part], number: int, shape: tuple[int, int]) -> Annotation:
    corners = np.concatenate([part.ring for part in parts])
    (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    box = (left, top, right - left, bottom - top)
    outlined = [part for part in parts if not part.boxed]
    if not any(part.bitmap for part in outlined):
        return Annotation(category=category, box=box, polygons=tuple(part.ring for part in outlined), id=number)
    dense = np.zeros(shape, np.bool_)
    for part in outlined:
        if part.bitmap is None:
            dense |= Masks.from_polygons([[part.ring]], shape).data[0].astype(np.bool_)
        else:
            bitmap, (x, y) = part.bitmap
            dense[y : y + bitmap.shape[0], x : x + bitmap.shape[1]] |= bitmap
    (rle,) = Masks.from_dense(dense[None]).rle
    return Annotation(category=category, box=box, rle=rle, id=number)


def _part(item: Mapping[str, Any], shape: tuple[int, int]) -> tuple[_Part, float]:
    """Return a shape, cut to the image, and by how many pixels it reached out of it.

    Raises:
        BadShapeError: It has no area, or makes no sense.
    """
    kind = item.get("shape_type") or "polygon"  # the oldest files say nothing of it
    if not isinstance(kind, str):
        raise BadShapeError(f"shape_type {str(kind)[:40]!r} is not known")
    if kind in WITHOUT_AREA:
        raise BadShapeError(f"{kind} has no area")
    points = _points(item.get("points"))
    if kind == "mask":
        return _mask(item.get("mask"), points, shape), 0.0
    boxed = kind in BOXES
    if kind == "circle":
        points = _circle(points)
    elif kind == "rectangle" and len(points) == 2:
        (x1, y1), (x2, y2) = points
        points = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
    elif kind not in OUTLINES | BOXES:
        raise BadShapeError(f"shape_type {str(kind)[:40]!r} is not known")
    if len(points) < _FEWEST:
        raise BadShapeError(f"{kind} of {len(points)} points has no area")
    size = np.array(shape[::-1], np.float64)
    cut = float(np.maximum(-points, points - size).max(initial=0))
    ring = _inside(points, shape) if cut else points
    if len(ring) < _FEWEST or not np.ptp(ring, axis=0).all():
        raise BadShapeError(f"{kind} covers nothing of the image")
    return _Part(ring=ring, boxed=boxed), cut if cut > 1 else 0.0


def _points(values: Any) -> NDArray[np.float64]:
    if not isinstance(values, list) or not values or len(values) > _MAX_POINTS:
        raise BadShapeError("'points' is not a list of x, y")
    try:
        points = np.array(values, np.float64)
    except (ValueError, TypeError, OverflowError):
        raise BadShapeError("'points' is not a list of x, y") from None
    if points.ndim != 2 or points.shape[1] != 2:
        raise BadShapeError("'points' is not a list of x, y")
    if not np.isfinite(points).all() or np.abs(points).max() > 1e7:
        raise BadShapeError("a point is no place in an image")
    return points


def _circle(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a circle, given by its centre and a point of its edge, as a polygon of the same area."""
    if len(points) != 2:
        raise BadShapeError(f"circle of {len(points)} points: it takes its centre and one of its edge")
    radius = float(np.hypot(*(points[1] - points[0])))
    turn = 2 * math.pi / _CORNERS
    angles = turn * np.arange(_CORNERS)
    radius *= math.sqrt(turn / math.sin(turn))
    return np.asarray(points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1), np.float64)


def _inside(points: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
    return np.asarray(clip(points, float(shape[1]), float(shape[0])), np.float64)


def _mask(text: Any, points: NDArray[np.float64], shape: tuple[int, int]) -> _Part:
    """Return a bitmap, which is a PNG in base64, from the pixel of its first point on."""
    if not isinstance(text, str) or len(points) != 2:
        raise BadShapeError("mask takes two points and a PNG in base64")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadShapeError("mask is no base64") from None
    bitmap = _png(data, shape)
    x, y = np.floor(points.min(axis=0)).astype(int).tolist()
    left, top = max(x, 0), max(y, 0)
    bitmap = bitmap[top - y : shape[0] - y, left - x : shape[1] - x]
    rows, columns = np.flatnonzero(bitmap.any(axis=1)), np.flatnonzero(bitmap.any(axis=0))
    if not rows.size:
        raise BadShapeError("mask covers nothing of the image")
    x1, y1, x2, y2 = left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1
    ring = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float64)
    return _Part(ring=ring, bitmap=(bitmap, (left, top)))


def _png(data: bytes, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a PNG as bits; one larger than its image is not decoded at all."""
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    if not data.startswith(b"\x89PNG\r\n\x1a\n") or not (0 < width <= shape[1] + 1 and 0 < height <= shape[0] + 1):
        raise BadShapeError("mask is no PNG that fits into the image")
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        decoded = None
    if decoded is None:
        raise BadShapeError("mask is a damaged PNG")
    plain = decoded if decoded.ndim == 2 else decoded[..., :3].max(axis=2)
    return np.asarray(plain != 0)
