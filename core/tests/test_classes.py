"""Classes are named by number or by name, and paired by name."""

from __future__ import annotations

import pytest

from segx.errors import UsageError
from segx.options.verbs import PredictOptions
from segx.structures.classes import numbers_of, paired_by_name

NAMES = {0: "person", 1: "traffic light", 2: "yes", 3: "1.5", 4: "007", 5: "cup", 6: "cup"}


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("person", (0,)),
        ("2", (2,)),
        ("yes", (2,)),
        ("1.5", (3,)),
        ("007", (4,)),
        ("cup", (5, 6)),
        ("0,traffic_light", (0, 1)),
        ("[traffic light, 4]", (1, 4)),
        ("['person', 'yes']", (0, 2)),
        (["Traffic Light", 3], (1, 3)),
        (0, (0,)),
        ("none", None),
        (None, None),
    ],
)
def test_classes_are_named_or_numbered(written: object, read: tuple[int, ...] | None) -> None:
    options = PredictOptions.parse({"classes": written})
    assert numbers_of(options.classes, NAMES, of="the model") == read


@pytest.mark.parametrize(
    ("written", "told"),
    [("persn", r"classes=\['persn'\]: the model has 0..6; did you mean 'person'\?"), ([7, 8], r"classes=\[7, 8\]")],
)
def test_a_class_that_is_not_there_is_named(written: object, told: str) -> None:
    options = PredictOptions.parse({"classes": written})
    with pytest.raises(UsageError, match=told):
        numbers_of(options.classes, NAMES, of="the model")


def test_of_a_model_without_names_only_numbers_can_be_asked_for() -> None:
    assert numbers_of((3,), {}, of="the model") == (3,)
    with pytest.raises(UsageError, match="no names"):
        numbers_of(("person",), {}, of="the model")


@pytest.mark.parametrize("written", [True, 1.5, [1.5], [None]])
def test_what_is_neither_number_nor_name_is_no_class(written: object) -> None:
    with pytest.raises(UsageError, match="classes="):
        PredictOptions.parse({"classes": written})


def test_classes_are_paired_whatever_the_case_and_the_first_of_namesakes_counts() -> None:
    theirs, ours = {0: "cup", 1: "Traffic_Light", 2: "cup"}, {0: "traffic light", 1: "x", 2: "cup"}
    assert paired_by_name(theirs, ours) == {0: 1, 2: 0}
