"""``make demo``: every step runs as it is printed, and everything it promises is there at the end."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

import cv2
import pytest

from segx_cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="module")
def demo(script: Callable[[str], Any]) -> Any:
    """The script."""
    return script("demo")


@pytest.mark.filterwarnings("default")  # as in the processes that it starts
def test_it_runs_offline_from_nothing_to_the_end(
    demo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With fewer images and epochs than it has, its commands in this process: they are what is tried, not the model."""

    def run(command: str, folder: Path) -> None:
        print(f"$ {command}", flush=True)
        monkeypatch.chdir(folder)
        assert main(shlex.split(command)[1:]) == 0, command

    smaller = {"images=128 val_images=32": "images=16 val_images=12", "epochs=6": "epochs=1"}
    for few, many in ((few, many) for many, few in smaller.items()):
        assert sum(many in command for command in demo.STEPS.values()) == 1
        steps = {step: command.replace(many, few) for step, command in demo.STEPS.items()}
        monkeypatch.setattr(demo, "STEPS", steps)
    monkeypatch.setattr(demo, "run", run)
    monkeypatch.setenv("SEGX_OFFLINE", "1")
    folder = tmp_path / "demo"
    demo.main(folder)
    ended = capfd.readouterr()
    assert re.findall(r"^\$ (segx .*)$", ended.out, re.MULTILINE) == list(demo.STEPS.values())
    for path in demo.RESULTS.values():
        assert str(folder / path) in ended.out
        assert (folder / path).stat().st_size > 1000
    drawn = [cv2.imread(str(folder / demo.RESULTS[name])) for name in ("image", "image by ONNX")]
    original = cv2.imread(str(folder / demo.IMAGE))
    assert all((image != original).any() for image in drawn), "nothing was found"
    assert "mask IoU at least" in ended.err, "the export was not proven"


def test_a_step_that_fails_ends_it_with_its_exit_code(
    demo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "STEPS", {"ask for nonsense": "segx predict modl=x", "never": "segx --version"})
    with pytest.raises(SystemExit) as ended:
        demo.main(tmp_path / "demo")
    assert ended.value.code == 2
    printed = capfd.readouterr()
    assert "$ segx predict modl=x" in printed.out
    assert "segx --version" not in printed.out
    assert "did you mean 'model'" in printed.err


def test_what_was_promised_and_is_not_there_is_reported(
    demo: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "STEPS", {"ask for little": "segx --version"})
    with pytest.raises(SystemExit, match="weights") as ended:
        demo.main(tmp_path / "demo")
    assert "not written" in str(ended.value.code)


def test_a_folder_of_somebody_is_left_alone(demo: Any, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SystemExit, match="is not empty"):
        demo.main(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
