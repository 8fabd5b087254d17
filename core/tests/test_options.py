"""Options as they are written: in Python, on a command line, in scripts written for other versions."""

from __future__ import annotations

import pytest

from segx.errors import UsageError
from segx.options import PredictOptions, TrainOptions, ValOptions


@pytest.mark.parametrize(
    ("written", "read"), [(True, 0.5), ("true", 0.5), (False, 0.0), ("False", 0.0), ("0.3", 0.3), (0, 0.0)]
)
def test_a_fraction_that_used_to_be_a_switch_takes_both(written: object, read: float) -> None:
    assert TrainOptions.parse({"multi_scale": written}).multi_scale == read


@pytest.mark.parametrize("written", [True, "true", "much"])
def test_any_other_number_is_no_switch(written: object) -> None:
    with pytest.raises(UsageError, match=f"lr0={written} is not a float"):
        TrainOptions.parse({"lr0": written})


def test_names_that_are_no_options_are_told_together() -> None:
    with pytest.raises(UsageError, match="options 'dropout', 'pose' are not known"):
        TrainOptions.parse({"dropout": 0.0, "epochs": 3, "pose": 12.0})
    with pytest.raises(UsageError, match="option 'epoch' is not known; did you mean 'epochs'"):
        TrainOptions.parse({"epoch": 3})


def doubled() -> list[object]:
    """Return a list that is 2 ** 60 long when it is written out."""
    value: list[object] = []
    for _ in range(60):
        value = [value, value]
    return value


WRONG = {
    "digits": 10**5000,
    "infinite": float("inf"),
    "nan": float("nan"),
    "nested": [[1]],
    "mapping": {},
    "text": "9" * 10_000,
    "doubled": doubled(),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", ["imgsz", "batch", "conf", "line_width", "max_det", "threads", "save", "save_crop"])
def test_what_is_no_value_is_one_short_line(name: str, kind: str) -> None:
    with pytest.raises(UsageError) as caught:
        PredictOptions.parse({name: WRONG[kind]})
    assert name in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, item.name) for kind in (PredictOptions, ValOptions, TrainOptions) for item in kind.describe()],
)
def test_every_number_has_an_upper_bound(kind: type[PredictOptions | ValOptions | TrainOptions], name: str) -> None:
    (item,) = (item for item in kind.describe() if item.name == name)
    if item.type_name.split(" ")[0] in {"int", "float"}:
        with pytest.raises(UsageError, match=name):
            kind.parse({name: 10**15})
