"""The grammar of a line: every way of writing an option means the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segx.errors import UsageError
from segx.options.verbs import PredictOptions
from segx_cli.commands import MODEL, argument
from segx_cli.line import Switches, UnknownOptionError, join, read, take_switches

if TYPE_CHECKING:
    from pathlib import Path

KNOWN = {info.name: info for info in (MODEL, argument("source", ""), *PredictOptions.describe())}


def parse(*tokens: str) -> dict[str, object]:
    values, words = read(join(tokens), KNOWN, command="segx predict")
    assert words == []
    return values


@pytest.mark.parametrize(
    "line",
    [
        "model=a.pt conf=0.4",
        "conf=0.4 model=a.pt",
        "--model a.pt --conf 0.4",
        "--model=a.pt --conf=0.4",
        "--conf 0.4 model=a.pt",
        "model = a.pt conf = 0.4",
        "model= a.pt conf =0.4",
        "model=a.pt, conf=0.4",
        "conf=0.4 model=a.pt conf=0.4",
    ],
)
def test_one_meaning_many_ways_of_writing(line: str) -> None:
    assert parse(*line.split()) == {"model": "a.pt", "conf": "0.4"}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("save", {"save": True}),
        ("--save", {"save": True}),
        ("--save true", {"save": "true"}),
        ("--save False", {"save": "False"}),
        ("--no-save", {"save": False}),
        ("--no_save_txt", {"save_txt": False}),
        ("--save-txt retina_masks", {"save_txt": True, "retina_masks": True}),
        ("--save photo=1", None),
        ("save_crop", {"save_crop": True}),
        ("--save_crop box", {"save_crop": "box"}),
        ("--max-det 7", {"max_det": "7"}),
        ("max-det=7", {"max_det": "7"}),
        ("--conf -1", {"conf": "-1"}),
        ("classes=[0, 2]", {"classes": "[0, 2]"}),
        ("--classes [0, 2]", {"classes": "[0, 2]"}),
        ("imgsz=(480, 640) conf=0.1", {"imgsz": "(480, 640)", "conf": "0.1"}),
        ("source=http://127.0.0.1/a.jpg?size=2&x=3", {"source": "http://127.0.0.1/a.jpg?size=2&x=3"}),
        ("source=[ab]*.jpg", {"source": "[ab]*.jpg"}),
        ("name=a=b", {"name": "a=b"}),
    ],
)
def test_switches_lists_and_odd_values(line: str, expected: dict[str, object] | None) -> None:
    if expected is None:
        with pytest.raises(UsageError):
            parse(*line.split())
    else:
        assert parse(*line.split()) == expected


def test_a_list_written_with_blanks_is_read_as_the_list() -> None:
    values = parse("classes=[0,", "2]", "imgsz=(480,", "640)")
    options = PredictOptions.parse(values)
    assert (options.classes, options.imgsz) == ((0, 2), (480, 640))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("modl=a.pt", r"option 'modl' is not known; did you mean 'model'\?"),
        ("--retina-mask", r"did you mean 'retina_masks'\?"),
        ("--no-model", "option 'no-model' is not known"),
        ("model", "option 'model' needs a value: model=..."),
        ("--model", "option 'model' needs a value"),
        ("--model --save", "option 'model' needs a value"),
        ("model= conf=0.4", "model= has no value"),
        ("conf=,", "conf= has no value"),
        ("conf=0.9 model=a.pt --conf 0.4", "conf is given twice: 0.9, then 0.4"),
        ("--no-save save=true", "save is given twice: False, then true"),
        ("classes=[0, 2", r"the bracket in 'classes=\[0,' is not closed"),
        ("-x", "switch '-x' is not known"),
    ],
)
def test_what_is_wrong_is_reported(line: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse(*line.split())


def test_an_unknown_name_is_kept_for_who_knows_more() -> None:
    with pytest.raises(UnknownOptionError) as caught:
        parse("--op-set", "3")
    assert caught.value.name == "op_set"


def test_words_are_left_for_the_command() -> None:
    assert read(["segment", "conf=0.4", "photo.jpg", "-5"], KNOWN, command="")[1] == ["segment", "photo.jpg", "-5"]


def test_files_the_shell_found_for_source_are_all_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.jpg", "save"):
        (tmp_path / name).write_bytes(b"")
    assert parse("--source", "a.jpg", "b.jpg", "save") == {"source": ["a.jpg", "b.jpg"], "save": True}
    assert parse("--source", "a.jpg", "--save") == {"source": "a.jpg", "save": True}


def test_switches_stand_anywhere() -> None:
    assert take_switches(["--json", "predict", "-q", "model=a", "--debug"]) == (
        Switches(json=True, quiet=True, debug=True),
        ["predict", "model=a"],
    )


@given(
    st.lists(st.sampled_from([*"[]()=,-", "conf", "--conf", "conf=", "=", "save", "x y", "1", "--", ""]), max_size=8)
)
def test_no_line_crashes(tokens: list[str]) -> None:
    try:
        read(join(tokens), KNOWN, command="segx predict")
    except UsageError as error:
        assert "\n" not in error.message  # noqa: PT017 - any other error fails the test
