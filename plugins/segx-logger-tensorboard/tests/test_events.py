"""What is reported a run can be read back from its folder, as TensorBoard reads it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segx.plugin.registry import get_registry
from segx.runs import Run, Step
from segx.testing.interpreter import run_fresh

if TYPE_CHECKING:
    from pathlib import Path


def row(epoch: int, loss: float) -> dict[str, float]:
    return {"epoch": epoch, "time": 2.0 * epoch, "train/box_loss": loss, "metrics/mAP50(B)": math.nan, "fitness": 0.5}


def epoch(number: int, loss: float, **more: Any) -> Step:
    return Step(kind="epoch", index=number - 1, total=3, metrics=row(number, loss), **more)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(mode="train", model="tiny.yaml", options={"epochs": 3, "lr0": 0.01}, folder=tmp_path)


def notify(run: Run, *steps: Step, end: bool = True) -> None:
    registry = get_registry()
    registry.notify("run_started", run=run)
    for step in steps:
        registry.notify("step_ended", run=run, step=step)
    if end:
        registry.notify(
            "run_ended", run=run, metrics={"metrics/mAP50(M)": 0.25, "fitness": 0.5, "coco/AP_small(B)": 0.1}
        )
    else:
        registry.notify("run_failed", run=run, error=KeyboardInterrupt())


def read(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(tag)]


def test_figures_of_each_epoch_and_of_the_best_weights(run: Run, tmp_path: Path) -> None:
    notify(run, Step(kind="batch", index=0, metrics={"instances": 3.0}), epoch(1, 0.5), epoch(2, 0.25))
    assert scalars(tmp_path, "train/box_loss") == [(1, 0.5), (2, 0.25)]
    assert scalars(tmp_path, "time") == [(1, 2.0), (2, 4.0)]
    assert scalars(tmp_path, "best/mAP50(M)") == [(2, 0.25)]
    assert scalars(tmp_path, "best/fitness") == [(2, 0.5)]
    tags = read(tmp_path).Tags()
    assert "metrics/mAP50(B)" not in tags["scalars"], "what is not a number leaves a gap"
    assert "best/coco/AP_small(B)" not in tags["scalars"]
    assert len(list(tmp_path.iterdir())) == 1


def test_images_and_options(run: Run, tmp_path: Path) -> None:
    pixels = np.zeros((20, 30, 3), np.uint8)
    files = (tmp_path / "train_batch0.jpg", tmp_path / "labels.png", tmp_path / "results.csv")
    for path in files[:2]:
        cv2.imwrite(str(path), pixels)
    files[2].write_text("epoch\n")
    notify(run, epoch(1, 0.5, files=files[:1]), Step(kind="stage", index=0, name="record", files=files[1:]))
    accumulator = read(tmp_path)
    assert sorted(accumulator.Tags()["images"]) == ["labels", "train_batch0"]
    (image,) = accumulator.Images("train_batch0")
    assert (image.height, image.width, image.step) == (20, 30, 1)
    assert image.encoded_image_string == files[0].read_bytes()
    (text,) = accumulator.Tensors("options/text_summary")
    assert "| lr0 | 0.01 |" in text.tensor_proto.string_val[0].decode()


def test_a_run_that_goes_on_replaces_what_it_does_again(run: Run, tmp_path: Path) -> None:
    notify(run, epoch(1, 0.5), epoch(2, 9.0), end=False)
    notify(run, epoch(2, 0.25), epoch(3, 0.125))
    assert scalars(tmp_path, "train/box_loss") == [(1, 0.5), (2, 0.25), (3, 0.125)]


def test_it_can_be_read_while_the_run_goes_on(run: Run, tmp_path: Path) -> None:
    registry = get_registry()
    registry.notify("run_started", run=run)
    registry.notify("step_ended", run=run, step=epoch(1, 0.5))
    assert scalars(tmp_path, "train/box_loss") == [(1, 0.5)]
    registry.notify("run_failed", run=run, error=KeyboardInterrupt())


@pytest.mark.parametrize("mode", ["val", "predict", "export"])
def test_other_runs_are_left_alone(mode: Any, tmp_path: Path) -> None:
    notify(Run(mode=mode, model="m.pt", folder=tmp_path), epoch(1, 0.5))
    notify(Run(mode="train", model="m.pt", folder=None), epoch(1, 0.5))
    assert list(tmp_path.iterdir()) == []


def test_the_validation_at_the_end_does_not_close_it(run: Run, tmp_path: Path) -> None:
    """Its run has the same folder."""
    registry = get_registry()
    registry.notify("run_started", run=run)
    registry.notify("step_ended", run=run, step=epoch(1, 0.5))
    val = Run(mode="val", model="best.pt", folder=tmp_path)
    registry.notify("run_started", run=val)
    registry.notify("run_ended", run=val, metrics={"fitness": 0.1})
    registry.notify("run_ended", run=run, metrics={"fitness": 0.5})
    assert scalars(tmp_path, "best/fitness") == [(1, 0.5)]


_WITHOUT = """
    import json, sys, pathlib
    sys.modules["torch"] = sys.modules["tensorflow"] = None
    from segx.plugin.registry import get_registry
    from segx.runs import Run, Step
    registry = get_registry()
    run = Run(mode="train", model="m", folder=pathlib.Path(sys.argv[1]))
    registry.notify("run_started", run=run)
    registry.notify("step_ended", run=run, step=Step(kind="epoch", index=0, metrics={"epoch": 1, "fitness": 0.5}))
    registry.notify("run_ended", run=run, metrics={})
    print(json.dumps(len(list(pathlib.Path(sys.argv[1]).iterdir()))))
"""


def test_it_needs_neither_torch_nor_tensorflow(tmp_path: Path) -> None:
    assert run_fresh(_WITHOUT, str(tmp_path)) == 1
