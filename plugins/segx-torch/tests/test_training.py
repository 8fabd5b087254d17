"""Training: a run that is killed and resumed ends where the straight run ends, to the bit."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch

from segx.errors import ModelError, UsageError
from segx.options.verbs import TrainOptions
from segx.testing.training import DrawnLoader, tiny_run
from segx_torch.checkpoint import Checkpoint, write_checkpoint
from segx_torch.training.ema import ModelEMA
from segx_torch.training.freezing import freeze
from segx_torch.training.optimizer import OptimizerConfig, Schedule, build_optimizer, choose
from segx_torch.training.run import _advise, read_snapshot
from segx_torch.training.state import Snapshot, TrainerState
from segx_torch.training.trainer import Trainer, _sound, to_device

if TYPE_CHECKING:
    from pathlib import Path


def weights(path: Path) -> dict[str, torch.Tensor]:
    """Return what was trained, its average, and the state of the optimiser, as flat tensors."""
    content = torch.load(path, weights_only=True)
    state = content["training"]["optimizer"]["state"]
    moments = {f"{index}.{name}": value for index, entry in state.items() for name, value in entry.items()}
    return {
        **{f"raw.{name}": value for name, value in content["training"]["weights"].items()},
        **{f"ema.{name}": value for name, value in content["weights"].items()},
        **{name: torch.as_tensor(value) for name, value in moments.items()},
    }


def same(first: Path, second: Path) -> bool:
    one, two = weights(first), weights(second)
    return one.keys() == two.keys() and all(torch.equal(value, two[name]) for name, value in one.items())


_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["segx.testing.training", "segx_torch.training.run", "lightning_fabric"])


def in_a_process(folder: Path, **options: object) -> int:
    """Train in a process of its own, forked from one that has imported torch already; return its exit code."""
    process = _SERVER.Process(target=quietly, args=(folder,), kwargs=options)
    process.start()
    process.join()
    return process.exitcode


def quietly(folder: Path, **options: object) -> None:
    torch.set_num_threads(1)
    try:
        tiny_run(folder, **options)
    except KeyboardInterrupt:
        os._exit(130)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As many threads as in the processes that are killed: sums of several threads may differ in the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def straight(one_thread, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of a run of three epochs that nobody disturbed."""
    trained = tiny_run(tmp_path_factory.mktemp("straight") / "run")
    assert trained.last is not None
    return trained.last


def test_a_checkpoint_predicts_and_goes_on(straight):
    content = torch.load(straight, weights_only=True)
    assert set(content["training"]) >= {"weights", "optimizer", "precision", "rng", "gradients", "progress", "updates"}
    assert content["training"]["progress"]["epoch"] == 3
    assert (
        "training" not in (best := torch.load(straight.with_name("best.pt"), weights_only=True)) or not best["training"]
    )


@pytest.mark.parametrize("kill", ["SIGKILL:5", "SIGKILL:9", "SIGINT:2", "SIGTERM:7", "SIGINT:11"])
def test_a_run_that_is_stopped_and_resumed_is_the_straight_run(straight, tmp_path, kill):
    folder = tmp_path / "run"
    assert in_a_process(folder, kill=kill) != 0
    assert (folder / "weights" / "last.pt").exists() or kill.startswith("SIGKILL")
    assert in_a_process(folder, resume=True) == 0
    assert same(straight, folder / "weights" / "last.pt")


def test_a_run_in_the_background_of_a_script_hears_no_ctrl_c(straight, tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        tiny_run(tmp_path / "run", kill="SIGINT:2")
    finally:
        signal.signal(signal.SIGINT, before)
    assert same(straight, tmp_path / "run" / "weights" / "last.pt")


def test_a_run_that_is_killed_twice_is_the_straight_run(straight, tmp_path):
    folder = tmp_path / "run"
    assert in_a_process(folder, kill="SIGINT:3") != 0
    assert in_a_process(folder, kill="SIGINT:4", resume=True) != 0
    assert in_a_process(folder, resume=True) == 0
    assert same(straight, folder / "weights" / "last.pt")


def test_the_same_seed_gives_the_same_weights_and_another_others(straight, tmp_path):
    again = tiny_run(tmp_path / "a" / "run").last
    other = tiny_run(tmp_path / "b" / "run", seed=1).last
    assert same(straight, again)
    assert not same(straight, other)


def test_a_run_can_be_made_longer(tmp_path):
    short = tiny_run(tmp_path / "run", epochs=2)
    assert len(short.history) == 2
    longer = tiny_run(tmp_path / "run", epochs=4, resume=True)
    assert [row["epoch"] for row in longer.history] == [1, 2, 3, 4]


def test_a_finished_run_says_how_to_go_on(straight):
    with pytest.raises(UsageError, match=r"has finished, after 3 epochs[\s\S]*epochs=6"):
        tiny_run(straight.parents[1], resume=True)


def test_a_run_killed_after_its_last_epoch_is_still_to_be_measured(straight):
    before = straight.read_bytes()
    assert len(tiny_run(straight.parents[1], resume=True, finished=False).history) == 3
    assert straight.read_bytes() == before


def test_a_run_that_stood_still_says_how_to_go_on(tmp_path):
    tiny_run(tmp_path / "run", epochs=9, patience=2, fitness=0.5)
    with pytest.raises(UsageError, match=r"has finished, after 3 epochs[\s\S]*patience=4"):
        tiny_run(tmp_path / "run", epochs=9, patience=2, fitness=0.5, resume=True)
    assert len(tiny_run(tmp_path / "run", epochs=9, patience=4, fitness=0.5, resume=True).history) == 5


def test_another_optimiser_cannot_go_on(straight):
    with pytest.raises(UsageError, match="begun with AdamW, and cannot go on with SGD"):
        tiny_run(straight.parents[1], resume=True, epochs=9, optimizer="SGD")


def test_the_best_checkpoint_is_no_run(straight):
    with pytest.raises(ModelError, match=r"best\.pt holds a model"):
        read_snapshot(straight.with_name("best.pt"))


def test_a_cpu_sees_images_with_channels_last():
    batch = next(DrawnLoader().epoch(0))
    images = to_device(batch, torch.device("cpu"))["images"]
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(images, torch.from_numpy(batch.images).float() / 255)


def test_losses_fall(tmp_path):
    rows = tiny_run(tmp_path / "run", epochs=12, optimizer="AdamW", lr0=0.005, warmup_epochs=1, close_mosaic=0).history
    first, last = rows[0], rows[-1]
    total = [sum(row[f"train/{name}_loss"] for name in ("box", "seg", "cls", "dfl")) for row in (first, last)]
    assert total[1] < 0.8 * total[0]


def spoil_weights(monkeypatch: pytest.MonkeyPatch, *, at: int) -> None:
    """Fill a weight with what is no number after a batch of the epoch, as a step from such a gradient does."""
    train_batch = Trainer._train_batch

    def spoil(self: Trainer, batch: object) -> object:
        items = train_batch(self, batch)
        if self.progress.batch == at:
            next(self.raw.parameters()).data.fill_(float("nan"))
        return items

    monkeypatch.setattr(Trainer, "_train_batch", spoil)


def test_a_loss_that_is_no_number_ends_the_run_and_spoils_nothing(tmp_path, monkeypatch):
    tiny_run(tmp_path / "run", epochs=1, optimizer="SGD")
    path = tmp_path / "run" / "weights" / "last.pt"
    before = path.read_bytes()
    spoil_weights(monkeypatch, at=1)
    said = r"loss is not a number in epoch 2[\s\S]*optimizer=SGD lr0=0\.2[\s\S]*last\.pt"
    with pytest.raises(ModelError, match=said):
        tiny_run(tmp_path / "run", epochs=2, resume=True, lr0=2, optimizer="SGD", warmup_epochs=0)
    assert path.read_bytes() == before


@pytest.mark.parametrize(("batch", "kill"), [(1, "SIGINT:2"), (3, "")])
def test_weights_that_are_no_numbers_end_the_run_and_spoil_nothing(tmp_path, monkeypatch, batch, kill):
    """The last step of what is run: no loss has seen it."""
    tiny_run(tmp_path / "run", epochs=1)
    path = tmp_path / "run" / "weights" / "last.pt"
    before = path.read_bytes()
    spoil_weights(monkeypatch, at=batch)
    with pytest.raises(ModelError, match=r"weights are not a number in epoch 2[\s\S]*last\.pt"):
        tiny_run(tmp_path / "run", epochs=2, resume=True, kill=kill)
    assert path.read_bytes() == before


def test_a_batch_beyond_memory_ends_the_run_with_advice(tmp_path, monkeypatch):
    monkeypatch.setattr(Trainer, "_train_batch", lambda *_: torch.empty(2**50))
    with pytest.raises(UsageError, match=r"out of memory on cpu with batch=2 imgsz=64[\s\S]*batch=1"):
        tiny_run(tmp_path / "run")


def test_what_is_frozen_stays(tmp_path):
    trained = tiny_run(tmp_path / "run", freeze=4, epochs=1)
    other = tiny_run(tmp_path / "other", freeze=4, epochs=2)
    one, two = weights(trained.last), weights(other.last)
    frozen = [name for name in one if name.startswith(("raw.model.0.", "raw.model.3.")) and "batches" not in name]
    assert frozen
    assert all(torch.equal(one[name], two[name]) for name in frozen)
    assert not all(torch.equal(one[name], two[name]) for name in one if name.startswith("raw.model.10."))


def test_a_layer_that_is_not_there_cannot_be_frozen(tmp_path):
    with pytest.raises(UsageError, match=r"freeze=\(99,\).*0\.\.10"):
        tiny_run(tmp_path / "run", freeze=(99,))


def test_patience_ends_a_run(tmp_path):
    trained = tiny_run(tmp_path / "run", epochs=30, patience=2, fitness=0.5)
    assert len(trained.history) == 3


def test_checkpoints_are_kept_by_period(tmp_path):
    tiny_run(tmp_path / "run", epochs=3, save_period=2)
    names = {path.name for path in (tmp_path / "run" / "weights").iterdir()}
    assert names == {"last.pt", "best.pt", "epoch2.pt"}


def test_last_is_written_after_the_others_so_that_a_kill_between_them_loses_none(tmp_path, monkeypatch):
    names: list[str] = []

    def write(path: Path, checkpoint: Checkpoint) -> None:
        names.append(path.stem)
        write_checkpoint(path, checkpoint)

    monkeypatch.setattr("segx_torch.training.run.write_checkpoint", write)
    tiny_run(tmp_path / "run", epochs=2, save_period=1)
    assert names[:3] == ["best", "epoch1", "last"]
    assert names[-2:] == ["epoch2", "last"]


def test_the_run_reports_of_batches_and_epochs(tmp_path):
    steps: list = []
    tiny_run(tmp_path / "run", epochs=2, steps=steps)
    assert [step.kind for step in steps].count("batch") == 8
    epochs = [step for step in steps if step.kind == "epoch"]
    assert [step.index for step in epochs] == [0, 1]
    assert {"train/seg_loss", "fitness", "lr/pg0"} <= set(epochs[0].metrics)


def test_a_full_disk_keeps_the_checkpoint_that_was_there(tmp_path, monkeypatch):
    tiny_run(tmp_path / "run", epochs=1)
    path = tmp_path / "run" / "weights" / "last.pt"
    before = path.read_bytes()

    def full(*_args, **_named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(Exception, match="No space left"):
        tiny_run(tmp_path / "run", epochs=2, resume=True)
    assert path.read_bytes() == before
    assert [item.name for item in path.parent.iterdir() if item.name.startswith(".")] == []


def test_two_processes_train_one_model(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(
        "from pathlib import Path\n"
        "from segx.testing.training import tiny_run\n"
        f"tiny_run(Path({str(tmp_path / 'run')!r}), epochs=1, device=None, accelerator='cpu', devices=2)\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert torch.load(tmp_path / "run" / "weights" / "last.pt", weights_only=True)["training"]["progress"]["epoch"] == 1


def test_two_processes_go_on_to_the_bit(tmp_path):
    """Each epoch ends with gradients that wait for a step, in both processes."""
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    common = "device=None, accelerator='cpu', devices=2, nbs=8, warmup_epochs=0, save_period=1"

    def run(folder: Path, more: str) -> None:
        script = folder.with_suffix(".py")
        call = f"tiny_run(Path({str(folder)!r}), {common}{more})"
        script.write_text(f"from pathlib import Path\nfrom segx.testing.training import tiny_run\n{call}\n")
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([sys.executable, str(script)], check=True, timeout=120, env=environment)

    run(straight, "")
    first = straight / "weights" / "epoch1.pt"
    assert torch.load(first, weights_only=True)["training"]["gradients"]
    (resumed / "weights").mkdir(parents=True)
    shutil.copy(first, resumed / "weights" / "last.pt")
    run(resumed, ", resume=True")
    assert same(straight / "weights" / "last.pt", resumed / "weights" / "last.pt")


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path):
    with pytest.raises(UsageError, match="batch=0"):
        tiny_run(tmp_path / "run", batch=0)


@pytest.mark.parametrize(
    ("images", "name", "lr"), [(500, "AdamW", 0.000119), (1_000_000, "SGD", 0.01)], ids=["short", "long"]
)
def test_auto_chooses_by_length(images, name, lr):
    optimizer_config = choose(TrainOptions(), batch=16, images=images, classes=80)
    assert (optimizer_config.name, optimizer_config.lr, optimizer_config.momentum, optimizer_config.warmup_bias_lr) == (
        name,
        lr,
        0.9,
        0.0,
    )
    assert (optimizer_config.accumulate, optimizer_config.weight_decay) == (4, 0.0005)


@pytest.mark.parametrize(("began", "lr"), [("AdamW", 0.000119), ("SGD", 0.01)])
@pytest.mark.parametrize("images", [500, 1_000_000])
def test_a_run_that_is_made_longer_keeps_its_optimiser(images, began, lr):
    optimizer_config = choose(TrainOptions(), batch=16, images=images, classes=80, began=began)
    assert (optimizer_config.name, optimizer_config.lr) == (began, lr)


@pytest.mark.parametrize(
    ("steps", "learned", "asked", "told"),
    [
        (48, True, {}, True),
        (480, True, {}, False),
        (48, False, {}, False),
        (48, True, {"freeze": 10}, False),
        (48, True, {"optimizer": "SGD"}, False),
    ],
    ids=["few steps", "many", "from nothing", "layers are frozen", "a recipe of one's own"],
)
def test_few_steps_for_weights_that_know_something_are_told(steps, learned, asked, told, caplog):
    module = torch.nn.Linear(1, 1)
    session = SimpleNamespace(module=module, random_weights=frozenset() if learned else frozenset(module.state_dict()))
    caplog.set_level("INFO", "segx")
    _advise(steps, 0.002, session, TrainOptions.parse(asked))
    words = "48 steps of the optimiser in all: in so few freeze=10 optimizer=AdamW lr0=0.001 warmup_epochs=1 keeps more"
    assert (words in caplog.text) == told


def test_only_weights_decay():
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    optimizer_config = OptimizerConfig(
        name="SGD", lr=0.1, momentum=0.9, warmup_bias_lr=0.0, accumulate=1, weight_decay=0.01
    )
    groups = {group["role"]: group for group in build_optimizer(module, optimizer_config).param_groups}
    assert {role: (group["weight_decay"], len(group["params"])) for role, group in groups.items()} == {
        "bias": (0.0, 2),
        "weight": (0.01, 1),
        "norm": (0.0, 1),
    }


def test_the_warm_up_ramps_rates_momentum_and_accumulation():
    optimizer_config = OptimizerConfig(
        name="SGD", lr=0.01, momentum=0.937, warmup_bias_lr=0.1, accumulate=4, weight_decay=0.0
    )
    schedule = Schedule.of(TrainOptions(epochs=100), optimizer_config, steps_per_epoch=200)
    optimizer = build_optimizer(torch.nn.Conv2d(1, 1, 1), optimizer_config)
    rates = {}
    for step in (0, 300, 600, 700):
        schedule.apply(optimizer, step=step, epoch=0)
        rates[step] = {group["role"]: (group["lr"], group["momentum"]) for group in optimizer.param_groups}
    assert rates[0] == {"bias": (0.1, 0.8), "weight": (0.0, 0.8)}
    assert rates[300]["bias"] == pytest.approx((0.055, 0.8685))
    assert rates[600]["weight"] == rates[700]["weight"] == pytest.approx((0.01, 0.937))
    assert [schedule.accumulate(step) for step in (0, 300, 600)] == [1, 2, 4]
    assert schedule.factor(100) == pytest.approx(0.01)


def test_the_average_follows_the_formula():
    module = torch.nn.Linear(1, 1, bias=False)
    ema = ModelEMA(module)
    with torch.no_grad():
        module.weight.fill_(1.0)
        ema.module.weight.fill_(0.0)
    ema.update(module)
    decay = 0.9999 * (1 - torch.exp(torch.tensor(-1 / 2000)))
    assert ema.module.weight.item() == pytest.approx(1 - decay.item(), abs=1e-6)


def test_freezing_leaves_no_gradient():
    module = torch.nn.Module()
    module.model = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.Conv2d(1, 1, 1))
    freeze(module, 1)
    assert [p.requires_grad for p in module.parameters()] == [False, False, True, True]


@pytest.mark.parametrize(
    "wrong",
    [
        {"epoch": "1"},
        {"epoch": float("nan")},
        {"epoch": -(10**9)},
        {"hours": float("inf")},
        {"history": [1]},
        {"history": [{"loss": "x"}]},
        {"sums": []},
        {"optimizer": 3},
        {"mosaic_off": None},
    ],
)
def test_where_a_strangers_run_stands_is_checked(wrong):
    sound = dataclasses.asdict(TrainerState(epoch=2, history=[{"loss": 1.0}], optimizer="SGD"))
    assert TrainerState.read(sound) == TrainerState(**sound)
    with pytest.raises(ModelError, match="does not hold the state of a run"), _sound(Snapshot):
        TrainerState.read({**sound, **wrong})
