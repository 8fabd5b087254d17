"""How long a run takes and what it tells meanwhile: time budgets, checkpoints at the end only, words of each batch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from segx.errors import UsageError
from segx.options.verbs import TrainOptions
from segx.testing.training import DrawnLoader, tiny_run
from segx_torch.training import processes, trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from segx.runs import Step
    from segx.structures.batch import TrainBatch


class Clock:
    """A clock on which each epoch takes an hour, or as many as it is told."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._hours = 1.0

    def pace(self, hours: float) -> None:
        self._hours = hours

    def on_step(self, step: Step) -> None:
        if step.kind == "batch":
            self._seconds += self._hours * 3600 / 4

    def monotonic(self) -> float:
        return self._seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(trainer, "time", made)
    return made


class Steps(list["Step"]):
    """Steps as they are told, each moving the clock on."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def append(self, step: Step) -> None:
        super().append(step)
        self._clock.on_step(step)


def closings(monkeypatch: pytest.MonkeyPatch, begin: Callable[[int], None] = lambda _: None) -> list[bool]:
    """Return a list that gets, for each epoch, whether the mosaic is closed; ``begin`` hears its number first."""
    closed: list[bool] = []
    epoch = DrawnLoader.epoch

    def watched(self: DrawnLoader, number: int, **named: Any) -> Iterator[TrainBatch]:
        closed.append(named["closed"])
        begin(number)
        return epoch(self, number, **named)

    monkeypatch.setattr(DrawnLoader, "epoch", watched)
    return closed


def test_time_decides_how_many_epochs_there_are_and_the_schedule_fits(tmp_path: Path, clock: Clock) -> None:
    steps = Steps(clock)
    given = {"epochs": 100, "optimizer": "SGD", "lr0": 0.01, "lrf": 0.1, "warmup_epochs": 0, "close_mosaic": 2}
    trained = tiny_run(tmp_path / "run", steps=steps, time=6.5, **given)
    assert len(trained.history) == 6
    assert [step.total for step in steps if step.kind == "epoch"] == [6] * 6
    rates = [row["lr/pg1"] for row in trained.history]
    assert rates[-1] == pytest.approx(0.01 * (1 - 5 / 6 * 0.9)), "the end of the schedule is the end of the run"


def test_time_may_be_for_more_epochs_than_are_asked_for(tmp_path: Path, clock: Clock) -> None:
    assert len(tiny_run(tmp_path / "run", steps=Steps(clock), epochs=2, time=4.1).history) == 4


def test_at_least_one_epoch_is_done(tmp_path: Path, clock: Clock) -> None:
    assert len(tiny_run(tmp_path / "run", steps=Steps(clock), time=0.1).history) == 1


def test_time_goes_on_where_a_run_goes_on(tmp_path: Path, clock: Clock) -> None:
    tiny_run(tmp_path / "run", steps=Steps(clock), time=2.1)
    with pytest.raises(UsageError, match=r"has finished, after 2 epochs[\s\S]*time=4"):
        tiny_run(tmp_path / "run", steps=Steps(clock), time=2.0, resume=True)
    assert len(tiny_run(tmp_path / "run", steps=Steps(clock), time=5.1, resume=True).history) == 5


def test_a_mosaic_that_is_closed_stays_closed_when_plans_grow(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = closings(monkeypatch, lambda number: clock.pace(1.0 if number < 2 else 0.1))
    tiny_run(tmp_path / "run", steps=Steps(clock), epochs=100, time=3.35, close_mosaic=2)
    assert closed[:3] == [False, False, True]
    assert len(closed) > 5
    assert all(closed[2:])


def test_at_most_half_of_a_run_goes_without_mosaic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = closings(monkeypatch)
    tiny_run(tmp_path / "run", epochs=3, close_mosaic=10)
    assert closed == [False, False, True]


def test_a_slow_beginning_does_not_decide_the_run(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Caches fill and kernels are chosen in the first epoch: it says little of the others."""
    closed = closings(monkeypatch, lambda number: clock.pace(0.1 if number else 1.0))
    tiny_run(tmp_path / "run", steps=Steps(clock), epochs=100, time=3.05, close_mosaic=4)
    assert len(closed) == 21
    assert sum(closed) <= 6


def test_a_real_clock_is_kept_to(tmp_path: Path) -> None:
    began = time.monotonic()
    trained = tiny_run(tmp_path / "run", epochs=100_000, time=2 / 3600)
    assert trained.history[-1]["time"] < 4
    assert time.monotonic() - began < 15


def test_without_save_only_the_last_weights_are_written(tmp_path: Path) -> None:
    trained = tiny_run(tmp_path / "run", save=False)
    assert trained.best is None
    assert trained.last is not None
    assert [path.name for path in trained.last.parent.iterdir()] == ["last.pt"]


def test_each_batch_reports_its_objects_and_the_losses_so_far(tmp_path: Path) -> None:
    steps: list[Step] = []
    trained = tiny_run(tmp_path / "run", epochs=1, steps=steps)
    batches = [step for step in steps if step.kind == "batch"]
    assert [step.metrics["instances"] for step in batches] == [2.0] * 4
    assert [(step.index, step.total, step.name) for step in batches] == [(n, 4, "64x64") for n in range(4)]
    assert batches[-1].metrics["train/seg_loss"] == pytest.approx(trained.history[0]["train/seg_loss"])


def test_torchrun_says_how_many_processes_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, object] = {}

    class Fabric:
        def __init__(self, **options: object) -> None:
            made.update(options)

        def launch(self) -> None:
            pass

    monkeypatch.setattr(processes, "Fabric", Fabric)
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"}.items():
        monkeypatch.setenv(name, value)
    processes.make_fabric(TrainOptions(device="cpu"))
    assert (made["devices"], made["num_nodes"], type(made["strategy"]).__name__) == (2, 3, "DDPStrategy")
