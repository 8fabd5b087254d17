"""What a checkpoint remembers of its run is a proposal: its folder, its devices, its data."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from segx.artifact import ArtifactInfo
from segx.errors import ModelError, UsageError
from segx.flows import train_record
from segx.flows.train import resumed

if TYPE_CHECKING:
    from pathlib import Path

STRANGE = {
    "data": "coco8-seg.yaml",
    "project": "/home/you",
    "name": ".config",
    "exist_ok": True,
    "accelerator": "cpu",
    "devices": 64,
    "epochs": 3,
}


def info(began: object) -> ArtifactInfo:
    return ArtifactInfo(task="segment", settings={"train": began})


def checkpoint(folder: Path, *, own: bool) -> Path:
    path = folder / "run" / "weights" / "last.pt"
    path.parent.mkdir(parents=True)
    path.touch()
    if own:
        (path.parents[1] / "args.yaml").touch()
    return path


def test_a_strangers_checkpoint_chooses_no_folder_and_starts_no_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = resumed({}, checkpoint(tmp_path, own=False), info(STRANGE))
    assert (options.project, options.name, options.exist_ok) == (None, None, False)
    assert (options.accelerator, options.devices, options.epochs) == (None, None, 3)
    assert "devices=64" in caplog.text
    assert resumed({"devices": 2, "accelerator": "cpu"}, tmp_path / "last.pt", info(STRANGE)).devices == 2


def test_a_run_in_its_own_folder_keeps_its_devices(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = resumed({}, checkpoint(tmp_path, own=True), info(STRANGE))
    assert (options.project, options.devices) == (None, 64)
    assert not caplog.records
    with pytest.raises(UsageError, match="goes on in its own folder"):
        resumed({"project": "elsewhere"}, tmp_path / "run" / "weights" / "last.pt", info(STRANGE))


@pytest.mark.parametrize("began", [{"epochs": "many"}, {"epochs": [[1]]}, {"lr0": float("nan")}, {"data": {"a": 1}}])
def test_options_that_are_none_are_reported_the_file(tmp_path: Path, began: object) -> None:
    with pytest.raises(ModelError, match=r"last\.pt") as caught:
        resumed({}, tmp_path / "last.pt", info(began))
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 2000


def test_of_two_processes_one_trains_in_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(train_record, "_LONGEST_WAIT", 0.2)
    alone, second = train_record._alone(tmp_path), train_record._alone(tmp_path)
    with alone, pytest.raises(UsageError, match="in use by another process"), second:
        pass
    with train_record._alone(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
