"""Options as they are written: in Python, on a command line, in scripts written for other versions."""

from __future__ import annotations

import numpy as np
import pytest

from segx.errors import UsageError
from segx.options.verbs import PredictOptions, TrainOptions, ValOptions


@pytest.mark.parametrize(
    ("written", "read"), [(True, 0.5), ("true", 0.5), (False, 0.0), ("False", 0.0), ("0.3", 0.3), (0, 0.0)]
)
def test_a_fraction_that_used_to_be_a_switch_takes_both(written: object, read: float) -> None:
    assert TrainOptions.parse({"multi_scale": written}).multi_scale == read


@pytest.mark.parametrize("written", [True, "true", "much"])
def test_any_other_number_is_no_switch(written: object) -> None:
    with pytest.raises(UsageError, match=f"lr0={written} is not a float"):
        TrainOptions.parse({"lr0": written})


def test_names_that_are_no_options_are_reported_together() -> None:
    with pytest.raises(UsageError, match="options 'dropout', 'pose' are not known"):
        TrainOptions.parse({"dropout": 0.0, "epochs": 3, "pose": 12.0})
    with pytest.raises(UsageError, match="option 'epoch' is not known; did you mean 'epochs'"):
        TrainOptions.parse({"epoch": 3})


@pytest.mark.parametrize(
    ("name", "written", "read"),
    [
        ("imgsz", [96], 96),
        ("imgsz", np.int64(96), 96),
        ("imgsz", np.array([96, 128]), (96, 128)),
        ("imgsz", np.array([96.0]), 96),
        ("conf", np.float32(0.5), 0.5),
        ("conf", np.array(0.5), 0.5),
        ("classes", range(3), (0, 1, 2)),
        ("classes", {2, 1}, (1, 2)),
        ("classes", frozenset({1}), (1,)),
        ("classes", np.arange(2), (0, 1)),
        ("classes", [np.int16(1)], (1,)),
        ("save", np.bool_(True), True),
        ("save_crop", np.str_("box"), "box"),
        ("device", [0, 1], "0,1"),
        ("device", np.int64(0), "0"),
    ],
)
def test_what_numpy_gives_is_taken(name: str, written: object, read: object) -> None:
    value = getattr(PredictOptions.parse({name: written}), name)
    assert value == read
    assert type(value) is type(read)


def test_what_torch_gives_is_taken() -> None:
    torch = pytest.importorskip("torch")
    given = {"imgsz": torch.Size([96, 128]), "conf": torch.tensor(0.5), "classes": torch.tensor([1, 2])}
    options = PredictOptions.parse({**given, "device": torch.device("cpu"), "save": torch.tensor(True)})
    assert (options.imgsz, options.conf, options.classes) == ((96, 128), 0.5, (1, 2))
    assert (options.device, options.save) == ("cpu", True)


@pytest.mark.parametrize(
    ("name", "written"), [("save", [1, 2]), ("conf", {}), ("imgsz", [1, 2, 3]), ("conf", np.array([0.1, 0.2]))]
)
def test_several_values_are_not_one(name: str, written: object) -> None:
    with pytest.raises(UsageError, match=f"{name}="):
        PredictOptions.parse({name: written})


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
