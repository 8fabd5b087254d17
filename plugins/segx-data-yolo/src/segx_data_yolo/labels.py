"""Parses label files by the thousand and checks every row: a bad one is named and only it is left out.

A row is ``class x1 y1 x2 y2 x3 y3 ...`` (a polygon) or ``class cx cy width height`` (a box), in fractions of the
image's width and height. A file may mix both.
"""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from segx.ops.polygons import areas, clip, encloses
from segx.structures.annotations import AnnotationTable, starts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

SLACK = 0.01
"""Coordinates may leave 0..1 by this much, as tools round; it is not reported."""

EDGE = 0.25
"""An outline may leave 0..1 by this much, and is cut there; beyond, its numbers are no fractions."""

LONGEST = 64 << 20
"""Bytes beyond which a file is no label file."""

MAX_CLASSES = 1 << 20
"""A class number beyond is none; each class below costs a name, also where no row is of it."""

_BOM = b"\xef\xbb\xbf"
_BOX = 5
_FEWEST = 7
"""Class and three points."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """What some label files hold.

    Attributes:
        table: The objects, in fractions; one "image" for each file. A box may reach out of it.
        line: int32 (objects), line of each in its file, from 1.
        bad: (file, line, reason) of each row left out; line 0 is the whole file.
        cut: (file, line, what) of each row that is kept, but not as it is written.
    """

    table: AnnotationTable
    line: NDArray[np.int32]
    bad: Sequence[tuple[int, int, str]]
    cut: Sequence[tuple[int, int, str]] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Rows:
    """Rows as numbers; row ``i`` holds ``values[starts[i]:starts[i + 1]]``, its class first."""

    file: NDArray[np.int64]
    line: NDArray[np.int64]
    starts: NDArray[np.int64]
    values: NDArray[np.float64]

    @property
    def length(self) -> NDArray[np.int64]:
        return np.diff(self.starts)


def parse(contents: Sequence[bytes]) -> Labels:
    """Return what the contents of label files hold."""
    contents = [_plain(content) for content in contents]
    try:
        rows = _numbers(contents)
        bad: list[tuple[int, int, str]] = []
    except ValueError:  # something in one of them is no number: find it
        rows, bad = _numbers_one_by_one(contents)
    return _check(rows, len(contents), bad)


def _plain(content: bytes) -> bytes:
    """Return a content without byte order mark, each line ended by a line feed, as some programs do not."""
    content = content.removeprefix(_BOM)
    return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in content else content


def _numbers(contents: Sequence[bytes]) -> _Rows:
    """Return all rows of all files, read in one go.

    Raises:
        ValueError: Something is no number.
    """
    text = b"\n".join(contents)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        try:
            values = np.fromstring(text, np.float64, sep=" ") if text.strip() else np.zeros(0)
        except DeprecationWarning as warning:
            raise ValueError(str(warning)) from warning
    data = np.frombuffer(text, np.uint8)
    blank = data <= ord(" ")
    begins = np.flatnonzero(~blank & np.concatenate([[True], blank[:-1]])) if data.size else np.zeros(0, np.int64)
    if begins.size != values.size:
        raise ValueError("something is no number")
    breaks = np.flatnonzero(data == ord("\n"))
    line_of_value = np.searchsorted(breaks, begins)
    lines, first = np.unique(line_of_value, return_index=True)
    line_counts = np.array([content.count(b"\n") + 1 for content in contents], np.int64)
    first_lines = np.cumsum(line_counts) - line_counts
    file = np.searchsorted(first_lines, lines, side="right") - 1
    return _Rows(
        file=file,
        line=lines - first_lines[file] + 1 if file.size else lines,
        starts=np.concatenate([first, [values.size]]),
        values=values,
    )


def _numbers_one_by_one(contents: Sequence[bytes]) -> tuple[_Rows, list[tuple[int, int, str]]]:
    """Return the rows that are numbers, and name those that are not."""
    bad: list[tuple[int, int, str]] = []
    files, lines, sizes, values = [], [], [], []
    for file, content in enumerate(contents):
        for line, row in enumerate(content.split(b"\n"), start=1):
            words = row.decode("utf-8", "replace").split()
            try:
                numbers = [_number(word) for word in words]
            except ValueError:
                bad.append((file, line, f"{next(word for word in words if not _is_number(word))[:40]!r} is no number"))
                continue
            if numbers:
                files.append(file)
                lines.append(line)
                sizes.append(len(numbers))
                values.extend(numbers)
    rows = _Rows(
        file=np.array(files, np.int64),
        line=np.array(lines, np.int64),
        starts=starts_of(np.array(sizes, np.int64)),
        values=np.array(values, np.float64),
    )
    return rows, bad


def _is_number(word: str) -> bool:
    try:
        _number(word)
    except ValueError:
        return False
    return True


def _number(word: str) -> float:
    """Return a number written as in data; Python alone would take 1_000 and the digits of every script.

    Raises:
        ValueError: It is none.
    """
    if "_" in word or not word.isascii():
        raise ValueError(word)
    return float(word)


def _check(rows: _Rows, files: int, bad: list[tuple[int, int, str]]) -> Labels:
    """Return the rows that hold as objects, and name the others."""
    reasons = np.full(len(rows.file), "", object)
    length, number = rows.length, rows.values[rows.starts[:-1]]
    is_polygon = (length >= _FEWEST) & (length % 2 == 1)
    wrong = ~is_polygon & (length != _BOX)
    _name(reasons, wrong, lambda i: f"{length[i]} values: a box has 5, a polygon 7, 9, 11, ...")
    _name(reasons, ~_whole(number), lambda i: f"class {number[i]:g} is no class number")
    coordinates = rows.values.copy()
    coordinates[rows.starts[:-1]] = 0.0
    worst = _worst(rows, coordinates)
    _name(reasons, ~np.isfinite(worst), lambda _: "holds NaN or infinity")
    limit = np.where(is_polygon, EDGE, SLACK)
    _name(reasons, (worst < -limit) | (worst > 1 + limit), lambda i: f"coordinate {worst[i]:g} is outside 0..1")
    over = np.maximum(-worst, worst - 1)
    rows = _inside(rows, np.flatnonzero(is_polygon & (over > 0) & (reasons == "")).tolist())
    length, coordinates = rows.length, rows.values.copy()
    coordinates[rows.starts[:-1]] = 0.0
    xy = np.clip(np.nan_to_num(coordinates), 0.0, 1.0)
    box, area = _boxes(rows, xy, is_polygon)
    flat = (box[:, 2:] <= 0).any(axis=1) | (area <= 1e-6 * box[:, 2] * box[:, 3])  # or what rounding leaves of it
    for i in np.flatnonzero(flat & is_polygon & (reasons == "")).tolist():  # or lobes that turn against each other
        flat[i] = not encloses(xy[rows.starts[i] + 1 : rows.starts[i + 1]].reshape(-1, 2))
    _name(reasons, flat, lambda i: "a polygon without area" if is_polygon[i] else "a box without area")
    _name(reasons, _repeated(rows, reasons), lambda _: "the same row is there before")
    kept, dropped = np.flatnonzero(reasons == ""), np.flatnonzero(reasons != "").tolist()
    bad = sorted([*bad, *((int(rows.file[i]), int(rows.line[i]), str(reasons[i])) for i in dropped)])
    line = rows.line[kept].astype(np.int32)
    polygons = kept[is_polygon[kept]]
    table = AnnotationTable(
        offsets=starts_of(np.bincount(rows.file[kept], minlength=files)),
        category=number[kept].astype(np.int32),
        crowd=np.zeros(len(kept), np.bool_),
        area=np.full(len(kept), np.nan),
        id=line.astype(np.int64),
        box=box[kept].astype(np.float32),
        parts=starts_of(is_polygon[kept]),
        points=starts_of(length[polygons] // 2),
        xy=_points(rows, xy, polygons).astype(np.float32),
        runs=np.zeros(len(kept) + 1, np.int64),
        counts=np.zeros(0, np.uint8),
        relative=True,
    )
    far = kept[is_polygon[kept] & (over[kept] > SLACK)].tolist()
    cut = [(int(rows.file[i]), int(rows.line[i]), f"the outline reaches {over[i]:.2g} out of 0..1") for i in far]
    return Labels(table=table, line=line, bad=bad, cut=cut)


def _inside(rows: _Rows, chosen: Sequence[int]) -> _Rows:
    """Return rows with some polygons cut at the edges of 0..1; one that lies outside becomes a point."""
    if not chosen:
        return rows
    parts = [rows.values[start:stop] for start, stop in itertools.pairwise(rows.starts.tolist())]
    for i in chosen:
        ring = clip(parts[i][1:].reshape(-1, 2), 1.0, 1.0)
        parts[i] = np.concatenate([parts[i][:1], ring.ravel() if len(ring) > 2 else np.zeros(_FEWEST - 1)])
    return dataclasses.replace(rows, starts=starts_of([len(part) for part in parts]), values=np.concatenate(parts))


def _name(reasons: NDArray[Any], wrong: NDArray[np.bool_], reason: Callable[[int], str]) -> None:
    """Write the reason of the rows that are wrong and have none yet."""
    for i in np.flatnonzero(wrong & (reasons == "")).tolist():
        reasons[i] = reason(i)


def _whole(number: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(number) & (number >= 0) & (number < MAX_CLASSES) & (number == np.floor(number)))


def _worst(rows: _Rows, coordinates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return of each row the coordinate farthest from 0.5; NaN where one is NaN."""
    if not len(rows.file):
        return np.zeros(0)
    smallest = np.minimum.reduceat(coordinates, rows.starts[:-1])
    largest = np.maximum.reduceat(coordinates, rows.starts[:-1])
    return np.asarray(np.where(largest - 0.5 > 0.5 - smallest, largest, smallest))


def _points(rows: _Rows, xy: NDArray[np.float64], polygons: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return (points, 2) of some rows, one row after another."""
    chosen = np.zeros(len(rows.file), np.bool_)
    chosen[polygons] = True
    inside = np.repeat(chosen, rows.length)
    inside[rows.starts[:-1]] = False
    return xy[inside].reshape(-1, 2)


def _boxes(
    rows: _Rows, xy: NDArray[np.float64], is_polygon: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return x, y, width, height (rows, 4) and the area enclosed (rows)."""
    box, area = np.zeros((len(rows.file), 4)), np.zeros(len(rows.file))
    polygons, plain = np.flatnonzero(is_polygon), np.flatnonzero(rows.length == _BOX)
    if polygons.size:
        points, starts = _points(rows, xy, polygons), starts_of(rows.length[polygons] // 2)
        low = np.minimum.reduceat(points, starts[:-1])
        box[polygons, :2] = low
        box[polygons, 2:] = np.maximum.reduceat(points, starts[:-1]) - low
        area[polygons] = areas(points, starts)
    if plain.size:
        values = xy[rows.starts[plain][:, None] + np.arange(1, _BOX)]
        low, high = (_rounded(values[:, :2] + side * values[:, 2:] / 2) for side in (-1, 1))
        box[plain, :2] = low
        box[plain, 2:] = high - low
        area[plain] = box[plain, 2:].prod(axis=1)
    return box, area


def _rounded(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return edges with those clipped that leave the image by no more than tools round; others stay as written."""
    inside = np.clip(edges, 0.0, 1.0)
    return np.where(np.abs(edges - inside) <= SLACK, inside, edges)


def _repeated(rows: _Rows, reasons: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which rows have an equal one before them in their file."""
    repeated = np.zeros(len(rows.file), np.bool_)
    kept = np.flatnonzero(reasons == "")
    if kept.size < 2:
        return repeated
    place = np.arange(rows.values.size) - np.repeat(rows.starts[:-1], rows.length)
    with np.errstate(over="ignore", invalid="ignore"):  # in rows that are not kept
        mark = np.add.reduceat(rows.values * np.sqrt(place + 2.0), rows.starts[:-1])[kept]
    order = np.lexsort((kept, mark, rows.file[kept]))
    ordered = kept[order]
    same = (np.diff(rows.file[ordered]) == 0) & (np.diff(mark[order]) == 0)
    for position in np.flatnonzero(same).tolist():
        one, other = ordered[position], ordered[position + 1]
        repeated[other] = np.array_equal(
            rows.values[rows.starts[one] : rows.starts[one + 1]],
            rows.values[rows.starts[other] : rows.starts[other + 1]],
        )
    return repeated
