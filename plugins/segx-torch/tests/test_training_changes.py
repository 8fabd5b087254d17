"""Runs that go on otherwise than they began: in another precision, with another batch; and runs that fail together."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

from segx.errors import ModelError, UsageError
from segx.options.verbs import TrainOptions
from segx.testing.training import DrawnLoader, tiny_run
from segx_torch.training import processes, run
from segx_torch.training.processes import make_fabric
from segx_torch.training.state import TrainerState
from segx_torch.training.trainer import determinism

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from segx.structures.batch import TrainBatch

WAITING = {"nbs": 8, "warmup_epochs": 0}
"""With these, gradients of two batches wait for a step at times."""


def stopped(folder: Path, *, after: int = 2, **options: Any) -> dict[str, Any]:
    """Stop a run after some batches, and return what its checkpoint holds."""
    with pytest.raises(KeyboardInterrupt):
        tiny_run(folder, kill=f"SIGINT:{after}", **options)
    content: dict[str, Any] = torch.load(folder / "weights" / "last.pt", weights_only=True)["training"]
    return content


def trained(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(folder / "weights" / "last.pt", weights_only=True)["training"]
    return content


@pytest.fixture
def mixed(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Half precision with a loss scaler, on the CPU."""

    def make(_: TrainOptions) -> Fabric:
        precision = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=64.0))
        fabric = Fabric(accelerator="cpu", devices=1, plugins=[precision])
        fabric.launch()
        return fabric

    with monkeypatch.context() as patch:
        patch.setattr(run, "make_fabric", make)
        yield patch


def test_half_precision_trains_and_goes_on_to_the_bit(tmp_path: Path, mixed: pytest.MonkeyPatch) -> None:
    tiny_run(tmp_path / "straight", **WAITING)
    saved = stopped(tmp_path / "resumed", after=6, **WAITING)
    assert saved["precision"]["scale"] == 64
    assert saved["gradients"]
    tiny_run(tmp_path / "resumed", resume=True, **WAITING)
    one, two = (trained(tmp_path / name)["weights"] for name in ("straight", "resumed"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    plain = tmp_path / "plain"
    mixed.undo()
    tiny_run(plain, **WAITING)
    other = trained(plain)["weights"]
    assert not all(torch.equal(value, other[name]) for name, value in one.items()), "half precision was at work"


@pytest.mark.parametrize("began", ["half", "full"])
def test_a_run_goes_on_in_another_precision(
    tmp_path: Path, mixed: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, began: str
) -> None:
    """Gradients that wait are scaled in one of them: they are dropped, and all else is kept."""
    with pytest.MonkeyPatch.context() as patch:
        if began == "full":
            patch.setattr(run, "make_fabric", FULL)
        assert stopped(tmp_path / "run", **WAITING)["gradients"]
    if began == "half":
        mixed.undo()
    rows = tiny_run(tmp_path / "run", resume=True, **WAITING).history
    assert len(rows) == 3
    assert all(math.isfinite(value) for value in rows[-1].values())
    assert "another amp than before: what 2 batches gave before the stop is dropped" in caplog.text


FULL = run.make_fabric


@pytest.mark.parametrize(("size", "seen"), [(1, 8), (2, 8), (4, 8), (8, 8)])
def test_another_batch_leaves_no_image_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, seen: int
) -> None:
    stopped(tmp_path / "run", after=2, epochs=1)  # two batches of two, of four
    images: list[int] = []
    epoch = DrawnLoader.epoch

    def watched(self: DrawnLoader, number: int, *, start: int = 0, closed: bool = False) -> Iterator[TrainBatch]:
        images.append(start * self.size)
        for batch in epoch(DrawnLoader(size=self.size, batches=8 // self.size), number, start=start, closed=closed):
            images.append(len(batch.images))
            yield batch

    monkeypatch.setattr(DrawnLoader, "epoch", watched)
    monkeypatch.setattr(DrawnLoader, "__len__", lambda self: 8 // self.size)
    rows = tiny_run(tmp_path / "run", resume=True, epochs=1, batch=size).history
    assert sum(images) == seen
    assert images[0] == (4 if size < 8 else 0)
    assert 0 < rows[0]["train/cls_loss"] < 1e4


def test_losses_so_far_count_in_batches_of_the_new_size() -> None:
    progress = TrainerState(size=2, batch=6, logged_at=6, sums={"box": 12.0})
    progress.change_batch(4)
    assert (progress.batch, progress.logged_at, progress.sums) == (3, 3, {"box": 6.0})
    progress.change_batch(64)
    assert (progress.batch, progress.logged_at, progress.sums) == (0, 0, {})


def test_a_batch_that_was_found_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_DEFAULT_BATCH", 4)
    assert stopped(tmp_path / "run", batch=-1)["progress"]["size"] == 4
    monkeypatch.setattr(run, "_DEFAULT_BATCH", 2)
    tiny_run(tmp_path / "run", batch=-1, resume=True)
    assert trained(tmp_path / "run")["progress"]["size"] == 4


def test_options_of_the_optimiser_are_those_given_now(tmp_path: Path) -> None:
    stopped(tmp_path / "run", optimizer="AdamW", weight_decay=0.5, momentum=0.9)
    tiny_run(tmp_path / "run", resume=True, optimizer="AdamW", weight_decay=0.25, momentum=0.8)
    groups = {group["role"]: group for group in trained(tmp_path / "run")["optimizer"]["param_groups"]}
    assert groups["weight"]["weight_decay"] == 0.25
    assert tuple(groups["weight"]["betas"]) == (0.8, 0.999)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"optimizer": "Adam"}, "begun with AdamW, and cannot go on with Adam"),
        ({"freeze": 3}, "freeze=3: this run was begun with other layers frozen"),
        ({"freeze": -1}, "freeze=-1: give how many layers"),
        ({"num_nodes": 2}, r"several machines are started by torchrun[\s\S]*--nnodes 2"),
        ({"freeze": 11}, r"freeze=11 leaves nothing to train; layers are numbered 0\.\.10"),
    ],
)
def test_what_a_run_cannot_go_on_with(tmp_path: Path, options: dict[str, Any], expected: str) -> None:
    stopped(tmp_path / "run")
    with pytest.raises(UsageError, match=expected):
        tiny_run(tmp_path / "run", resume=True, **options)


@pytest.mark.parametrize("after", [3, 4, 12])
def test_without_save_a_stop_still_writes_where_to_go_on(tmp_path: Path, after: int) -> None:
    stopped(tmp_path / "run", after=after, save=False)
    assert [path.name for path in (tmp_path / "run" / "weights").iterdir()] == ["last.pt"]
    assert len(tiny_run(tmp_path / "run", resume=True, save=False).history) == 3


def test_torch_is_left_as_it_was() -> None:
    assert not torch.are_deterministic_algorithms_enabled()
    with determinism(True):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


# Devices


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"device": "0,0"}, "device=0,0: several devices are different GPUs"),
        ({"device": "cpu,cpu"}, "several devices are different GPUs"),
        ({"device": "0,1", "devices": 3}, "device=0,1 are 2 devices, not devices=3"),
        ({"device": "2", "devices": 2}, "device=2 is one device, not devices=2"),
    ],
)
def test_devices_that_contradict_each_other(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], expected: str
) -> None:
    three_gpus(monkeypatch)
    with pytest.raises(UsageError, match=expected):
        processes._devices(TrainOptions(**options))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"device": "0,2"}, ("cuda", [0, 2])),
        ({"device": "[1]"}, ("cuda", [1])),
        ({"device": "1", "devices": 1}, ("cuda", [1])),
        ({"device": "cuda", "devices": 2}, ("cuda", 2)),
        ({"accelerator": "cuda"}, ("cuda", 1)),
        ({"accelerator": "cpu", "devices": 2}, ("cpu", 2)),
        ({}, ("cuda", 1)),
    ],
)
def test_devices_that_are_meant(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], expected: object) -> None:
    three_gpus(monkeypatch)
    assert processes._devices(TrainOptions(**options)) == expected


def three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)


# Failing together

TWO = """
from pathlib import Path
import os, sys
from segx.errors import SegxError
from segx.testing.training import tiny_run
from segx_torch.training.trainer import Trainer
rank = int(os.environ.get("LOCAL_RANK", 0))
print("process", rank, os.getpid(), flush=True)
{spoil}
try:
    tiny_run(Path(sys.argv[1]), epochs=3, device=None, accelerator="cpu", devices=2)
except (SegxError, OSError) as error:
    print("told", rank, error, flush=True)
assert "WORLD_SIZE" not in os.environ
"""
NOT_A_NUMBER = """
before = Trainer._train_batch
def spoiled(self, batch):
    items = before(self, batch)
    return {name: value * float("nan") if rank else value for name, value in items.items()}
Trainer._train_batch = spoiled
"""
FULL_DISK = """
def full(self, name):
    raise OSError(28, "No space left on device")
Trainer._checkpoint = full if not rank else Trainer._checkpoint
"""


HELPER_GONE = """
before = Trainer._train_batch
def killed(self, batch):
    if rank and self.progress.step == 5:
        os.kill(os.getpid(), 9)
    return before(self, batch)
Trainer._train_batch = killed
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (NOT_A_NUMBER, "told 0 the box loss is not a number in epoch 1"),
        (FULL_DISK, "told 0 [Errno 28] No space left"),
        (HELPER_GONE, "told 0 another process of this run has ended"),
    ],
    ids=["the helper's loss is no number", "only the first fails", "the helper is killed"],
)
def test_processes_fail_together_and_the_first_speaks(tmp_path: Path, spoil: str, expected: str) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO.format(spoil=spoil))
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    lines = done.stdout.splitlines()
    assert [line.startswith(expected) for line in lines if line.startswith("told")] == [True], done.stderr
    assert done.returncode == 0
    assert time.monotonic() - began < 100
    for line in lines:
        if line.startswith("process"):
            with pytest.raises(ProcessLookupError):
                os.kill(int(line.split()[2]), 0)


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("filled", [True, False])
def test_memory_is_not_filled_while_a_model_trains(wanted: bool, filled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: Any = torch.utils.deterministic
    monkeypatch.setattr(settings, "fill_uninitialized_memory", filled)
    with determinism(wanted):
        assert torch.are_deterministic_algorithms_enabled() is wanted
        assert settings.fill_uninitialized_memory is False
    assert settings.fill_uninitialized_memory is filled


# The loader


@pytest.mark.parametrize("kill", ["", "SIGINT:3"])
def test_a_loader_is_closed_however_the_run_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill: str) -> None:
    closed: list[bool] = []
    monkeypatch.setattr(DrawnLoader, "close", lambda _: closed.append(True))
    with pytest.raises(KeyboardInterrupt) if kill else contextlib.nullcontext():
        tiny_run(tmp_path / "run", kill=kill)
    assert closed == [True]


def test_where_preparing_fails_it_is_said_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def epoch(self: DrawnLoader, number: int, **_: Any) -> Iterator[TrainBatch]:
        if number:
            raise ModelError("process 1 of 2 that prepares images was ended by SIGKILL")
        yield from (self._draw(np.random.default_rng(index)) for index in range(self.batches))

    monkeypatch.setattr(DrawnLoader, "epoch", epoch)
    with pytest.raises(ModelError, match="was ended by SIGKILL") as error:
        tiny_run(tmp_path / "run")
    last = tmp_path / "run" / "weights" / "last.pt"
    assert error.value.hint == f"to go on: segx segment train resume={last}"
    monkeypatch.undo()
    assert len(tiny_run(tmp_path / "run", resume=True).history) == 3


@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
def test_images_are_prepared_in_processes_where_layers_run_on_an_accelerator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accelerator: str
) -> None:
    asked: list[dict[str, Any]] = []

    class Asked(Exception):  # noqa: N818 - no error
        pass

    def loader(**how: Any) -> None:
        asked.append(how)
        raise Asked

    fabric = make_fabric(TrainOptions(device="cpu"))
    monkeypatch.setattr(type(fabric), "device", property(lambda _: torch.device(accelerator)))
    monkeypatch.setattr(run, "make_fabric", lambda _: fabric)
    train = run.Trainer.__init__

    def begin(self: Any, job: Any, *words: Any, **options: Any) -> None:
        train(self, dataclasses.replace(job, loader=loader), *words, **options)

    monkeypatch.setattr(run.Trainer, "__init__", begin)
    with pytest.raises(Asked):
        tiny_run(tmp_path / "run")
    assert asked == [{"rank": 0, "world": 1, "batch": 2, "processes": accelerator != "cpu"}]
