"""Rows of label files, good and bad."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from segx_data_yolo.label_index import read_labels
from segx_data_yolo.labels import LONGEST, parse

if TYPE_CHECKING:
    from pathlib import Path

SQUARE = "0.1 0.1 0.3 0.1 0.3 0.3 0.1 0.3"


def test_polygons_and_boxes_in_one_file() -> None:
    labels = parse([f"2 {SQUARE}\r\n\n0 0.5 0.5 0.2 0.4\n".encode()])
    table = labels.table
    assert table.category.tolist() == [2, 0]
    assert labels.line.tolist() == [1, 3]
    polygon, box = table.annotations(0, (100, 200))
    np.testing.assert_allclose(polygon.polygons[0], np.array([[20, 10], [60, 10], [60, 30], [20, 30]]), atol=1e-4)
    np.testing.assert_allclose(polygon.box, (20, 10, 40, 20), atol=1e-4)
    np.testing.assert_allclose(box.box, (80, 30, 40, 40), atol=1e-4)
    assert (polygon.has_mask, box.has_mask, polygon.area) == (True, False, None)
    assert not labels.bad


BAD = {
    "6 values: a box has 5, a polygon 7, 9, 11, ...": "0 0.1 0.1 0.3 0.3 0.9",
    "3 values: a box has 5, a polygon 7, 9, 11, ...": "0 0.1 0.1",
    "class 1.5 is no class number": f"1.5 {SQUARE}",
    "class -1 is no class number": f"-1 {SQUARE}",
    "class 2.14748e+09 is no class number": f"2147483647 {SQUARE}",
    "class nan is no class number": f"nan {SQUARE}",
    "holds NaN or infinity": "0 0.1 0.1 nan 0.1 0.3 0.3",
    "coordinate 12.5 is outside 0..1": "0 0.1 0.1 12.5 0.1 0.3 0.3",
    "coordinate -0.4 is outside 0..1": "0 0.1 0.1 -0.4 0.1 0.3 0.3",
    "a polygon without area": "0 0.1 0.1 0.2 0.2 0.3 0.3",
    "a box without area": "0 0.5 0.5 0 0.2",
    "the same row is there before": f"1 {SQUARE}",
    "'cat' is no number": f"cat {SQUARE}",
}


@pytest.mark.parametrize("reason", BAD)
@pytest.mark.parametrize("company", ["", "5 nonsense here"], ids=["alone", "beside what is no number"])
def test_a_bad_row_is_named_and_only_it_is_left_out(reason: str, company: str) -> None:
    content = f"1 {SQUARE}\n{BAD[reason]}\n2 0.5 0.5 0.1 0.1"
    labels = parse([b"0 0.5 0.5 1 1", content.encode(), company.encode(), b""])
    assert labels.table.offsets.tolist() == [0, 1, 3, 3, 3]
    assert labels.table.category.tolist() == [0, 1, 2]
    assert [entry for entry in labels.bad if entry[0] == 1] == [(1, 2, reason)]
    assert len(labels.bad) == 1 + bool(company)


def test_rounding_past_the_edge_is_clipped() -> None:
    labels = parse([b"0 -0.004 0.1 1.005 0.1 0.5 0.9"])
    (annotation,) = labels.table.annotations(0, (100, 100))
    np.testing.assert_allclose(annotation.box, (0, 10, 100, 80), atol=1e-4)


def test_a_box_that_reaches_out_is_kept_as_written() -> None:
    labels = parse([b"0 0.1 0.1 0.5 0.5\n0 0.1 0.1 0.21 0.2"])
    out, rounded = labels.table.annotations(0, (100, 100))
    np.testing.assert_allclose(out.box, (-15, -15, 50, 50), atol=1e-4)
    np.testing.assert_allclose(rounded.box, (0, 0, 20.5, 20), atol=1e-4)


def test_byte_order_mark_and_endless_spaces() -> None:
    labels = parse([f"\ufeff1   {SQUARE}  \t\n".encode(), b"   \n\n", b""])
    assert labels.table.category.tolist() == [1]
    assert not labels.bad


def test_nothing() -> None:
    assert len(parse([]).table) == 0
    assert parse([b"", b"\n"]).table.offsets.tolist() == [0, 0, 0]


def test_a_file_too_long_for_labels_is_named_and_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGX_CACHE", str(tmp_path / "cache"))
    for name in ("a", "long", "z"):
        (tmp_path / f"{name}.txt").write_text(f"1 {SQUARE}\n")
    os.truncate(tmp_path / "long.txt", LONGEST + 1)  # takes no room on the disk
    files = [str(tmp_path / f"{name}.txt") for name in ("a", "long", "z")]
    for index in (read_labels(files, "val"), read_labels(files, "val")):  # from the files, and from the cache
        assert index.labels.table.offsets.tolist() == [0, 1, 1, 2]
        assert index.labels.bad == [(1, 0, "more than 64 MiB: no label file")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_may_end_as_any_system_ends_them(end: str) -> None:
    labels = parse([end.join([f"1 {SQUARE}", "2 0.5 0.5 0.2 0.2", "7 nonsense", f"0 {SQUARE}"]).encode()])
    assert labels.table.category.tolist() == [1, 2, 0]
    assert labels.line.tolist() == [1, 2, 4]
    assert labels.bad == [(0, 3, "'nonsense' is no number")]


ODD = [
    *(
        b"x",
        b"nan",
        b"-inf",
        b"1e400",
        b"-1e308",
        b"1e308",
        b"1" + b"0" * 30,
        b"-1",
        b"1.5",
        b"\xff\xfe",
        b"0x10",
        b"1_0",
    ),
    *(b"\x00", b"1e", b"--1", b"1,5", b"0" * 400, b"1e-400", b"\xd9\xa1", b"\x0b", b"\x1c", b"\xc2\xa0", b"2147483648"),
]


@pytest.mark.parametrize("odd", ODD)
def test_an_odd_value_costs_its_row_at_most(odd: bytes) -> None:
    rows = [f"1 {SQUARE}".encode(), b"3 0.5 0.5 0.2 0.2", b"1 .1 .1 .2 .1 .2 .2"]
    for line, row in enumerate(rows):
        for place in range(len(row.split())):
            words = row.split()
            words[place] = odd
            content = b"\n".join([*rows[:line], b" ".join(words), *rows[line + 1 :]])
            labels = parse([rows[0], content, rows[1]])
            assert np.isfinite(labels.table.box).all()
            assert np.diff(labels.table.offsets)[[0, 2]].tolist() == [1, 1]
            taken = labels.line[labels.table.offsets[1] : labels.table.offsets[2]].tolist()
            assert sorted([*taken, *(bad for _, bad, _ in labels.bad)]) == [1, 2, 3]
            assert {bad for _, bad, _ in labels.bad} <= {line + 1}


NUMBER = st.floats(0, 1).map(lambda value: round(value, 6))
ROW = st.one_of(
    st.lists(NUMBER, min_size=4, max_size=4),
    st.lists(NUMBER, min_size=6, max_size=14),
    st.just([float("nan")] * 6),
    st.lists(st.floats(-2, 3), max_size=9),
)


@example([[(0, [0.0, 1.6668680600862692e-37, 0.0, 0.0, 1.0, 0.0])]])  # added to 1 this height is nothing
@given(st.lists(st.lists(st.tuples(st.integers(0, 90), ROW), max_size=5), max_size=5))
def test_every_row_is_either_taken_or_named(files: list[list[tuple[int, list[float]]]]) -> None:
    contents = ["\n".join(f"{number} {' '.join(map(repr, row))}" for number, row in rows).encode() for rows in files]
    labels = parse(contents)
    reported = {(file, line) for file, line, _ in labels.bad}
    taken = [
        (file, int(line))
        for file in range(len(files))
        for line in labels.line[labels.table.offsets[file] : labels.table.offsets[file + 1]]
    ]
    every = {(file, line) for file, rows in enumerate(files) for line in range(1, len(rows) + 1)}
    assert reported.isdisjoint(taken)
    assert reported | set(taken) == every
    for row in range(len(labels.table)):
        x, y, width, height = labels.table.box[row].tolist()
        assert max(x, y) < 1
        for start, length in ((x, width), (y, height)):  # a float32 may lose what a float64 held
            assert start + length > 0 or np.float32(length) == 0
            assert length > 0 or np.float32(length) == 0


def test_an_outline_a_little_over_the_edge_is_cut_where_it_crosses_it() -> None:
    labels = parse([b"0 -0.2 0 0.2 0.4 0.2 0.8 -0.2 0.8\n1 0.1 0.1 0.3 0.1 0.3 0.3\n", b"1 1.1 0.1 1.2 0.1 1.2 0.2"])
    first, second = labels.table.annotations(0, (100, 100))
    assert [0, 20] in np.round(first.polygons[0], 4).tolist()  # by coordinate it would have become 0, 0
    np.testing.assert_allclose(first.box, (0, 20, 20, 60), atol=1e-4)
    assert len(second.polygons[0]) == 3
    assert labels.cut == [(0, 1, "the outline reaches 0.2 out of 0..1")]
    assert labels.bad == [(1, 1, "a polygon without area")]


def test_an_outline_of_equal_lobes_is_an_object() -> None:
    labels = parse([b"0 0.1 0.1 0.5 0.1 0.1 0.5 0.5 0.5\n0 0.1 0.1 0.5 0.1 0.5 0.5 0.5 0.1"])
    assert len(labels.table) == 1
    line = parse([b"0 0.1 0.1 0.37 0.37 0.9 0.9 0.63 0.63 0.21 0.21"])
    assert line.bad == [(0, 1, "a polygon without area")]
    assert labels.bad == [(0, 2, "a polygon without area")]
