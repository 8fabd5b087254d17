"""Options as they are written: in Python, on a command line, in scripts written for other versions."""

from __future__ import annotations

import pytest

from segx.errors import UsageError
from segx.options import TrainOptions


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
