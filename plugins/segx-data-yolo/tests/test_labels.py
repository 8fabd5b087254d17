"""Rows of label files, good and bad."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segx_data_yolo.labels import LONGEST, parse

SQUARE = "0.1 0.1 0.3 0.1 0.3 0.3 0.1 0.3"


def test_polygons_and_boxes_in_one_file() -> None:
    labels = parse([f"2 {SQUARE}\r\n\n0 0.5 0.5 0.2 0.4\n".encode()])
    table = labels.table
    assert table.category.tolist() == [2, 0]
    assert labels.line.tolist() == [1, 3]
    polygon, box = table.truths(0, (100, 200))
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
    assert labels.table.rows.tolist() == [0, 1, 3, 3, 3]
    assert labels.table.category.tolist() == [0, 1, 2]
    assert [entry for entry in labels.bad if entry[0] == 1] == [(1, 2, reason)]
    assert len(labels.bad) == 1 + bool(company)


def test_rounding_past_the_edge_is_clipped() -> None:
    labels = parse([b"0 -0.004 0.1 1.005 0.1 0.5 0.9"])
    (truth,) = labels.table.truths(0, (100, 100))
    np.testing.assert_allclose(truth.box, (0, 10, 100, 80), atol=1e-4)


def test_byte_order_mark_and_endless_spaces() -> None:
    labels = parse([f"\ufeff1   {SQUARE}  \t\n".encode(), b"   \n\n", b""])
    assert labels.table.category.tolist() == [1]
    assert not labels.bad


def test_nothing() -> None:
    assert len(parse([]).table) == 0
    assert parse([b"", b"\n"]).table.rows.tolist() == [0, 0, 0]
    assert LONGEST > 1 << 20


NUMBER = st.floats(0, 1).map(lambda value: round(value, 6))
ROW = st.one_of(
    st.lists(NUMBER, min_size=4, max_size=4),
    st.lists(NUMBER, min_size=6, max_size=14),
    st.just([float("nan")] * 6),
    st.lists(st.floats(-2, 3), max_size=9),
)


@given(st.lists(st.lists(st.tuples(st.integers(0, 90), ROW), max_size=5), max_size=5))
def test_every_row_is_either_taken_or_named(files: list[list[tuple[int, list[float]]]]) -> None:
    contents = ["\n".join(f"{number} {' '.join(map(repr, row))}" for number, row in rows).encode() for rows in files]
    labels = parse(contents)
    told = {(file, line) for file, line, _ in labels.bad}
    taken = [
        (file, int(line))
        for file in range(len(files))
        for line in labels.line[labels.table.rows[file] : labels.table.rows[file + 1]]
    ]
    every = {(file, line) for file, rows in enumerate(files) for line in range(1, len(rows) + 1)}
    assert told.isdisjoint(taken)
    assert told | set(taken) == every
    for row in range(len(labels.table)):
        x, y, width, height = labels.table.box[row].tolist()
        assert 0 <= x < 1
        assert 0 <= y < 1
        assert width > 0 or np.float32(width) == 0  # a float32 may lose what a float64 held
        assert height > 0 or np.float32(height) == 0
