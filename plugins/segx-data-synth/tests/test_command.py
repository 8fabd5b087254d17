"""``segx data synth`` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from segx.data.splits import open_dataset

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def segx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The command line, in this process, in an empty folder."""
    main = pytest.importorskip("segx_cli.main").main
    monkeypatch.chdir(tmp_path)
    return lambda *words: main(list(words))


def test_it_draws_what_can_be_opened(
    segx: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [f"folder={tmp_path / 'drawn'}", "images=2", "val_images=1", "imgsz=64", "seed=3"]
    assert segx("data", "synth", *line) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == str(tmp_path / "drawn" / "drawn.yaml")
    assert [len(open_dataset(printed.out.strip(), split)) for split in ("train", "val")] == [2, 1]


def test_json_says_where_it_is(segx: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert segx("data", "synth", f"folder={tmp_path / 'd'}", "images=1", "val_images=1", "imgsz=64", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["data"] == str(tmp_path / "d" / "d.yaml")
    assert document["seed"] == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["images=2"], 2, "--folder"),
        (["folder=new", "images=0"], 2, "--images"),
        (["folder=new", "imgz=64"], 2, "--imgsz"),
        (["folder=taken"], 3, "holds something already"),
    ],
)
def test_what_cannot_be_is_reported_in_a_line(
    words: list[str],
    code: int,
    said: str,
    segx: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("taken").mkdir()
    Path("taken/file").touch()
    assert segx("data", "synth", *words) == code
    assert said in capsys.readouterr().err
    assert not Path("new").exists()


def test_the_list_of_what_can_be_done_with_data_names_it(
    segx: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert segx("data") == 0
    assert "synth" in capsys.readouterr().out
    assert segx("--help") == 0
    assert "data-synth" not in capsys.readouterr().out
