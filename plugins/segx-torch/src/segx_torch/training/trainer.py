"""The training loop: batches in, gradients, steps, average, validation, checkpoint; readable top to bottom."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import statistics
import time
from contextlib import AbstractContextManager, nullcontext
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from segx.errors import DataError, ModelError, UsageError, reason
from segx.plugin.training import Trained
from segx.runs import EnoughError, Step
from segx.words import counted
from segx_torch.memory import retain_heap
from segx_torch.training import rng
from segx_torch.training.ema import ModelEMA
from segx_torch.training.freezing import freeze, keep_frozen_statistics
from segx_torch.training.optimizer import OptimizerConfig, Schedule, build_optimizer, choose
from segx_torch.training.processes import lost_process, restore_scaler, scaler_state
from segx_torch.training.state import Snapshot, TrainerState
from segx_torch.training.statistics import take_statistics, without_statistics
from segx_torch.training.stop import Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from lightning_fabric import Fabric

    from segx.plugin.training import TrainJob
    from segx.structures.batch import TrainBatch

logger = logging.getLogger("segx.train")

_LOOK_EVERY = 50  # batches between looks at the loss; on a GPU each look waits for the device
_CLIP = 10.0
_FEW = 10  # steps of the optimiser
_IMAGES = 64  # to take statistics from
_PACE = 5  # epochs whose median is the pace, with ``time``


class Trainer:
    """Trains one model.

    Args:
        job: What to train, on what, and who listens.
        module: The model, in float32.
        batch: Images per step on all processes together.
        fabric: Devices, precision and processes, launched.
        save: Writes a checkpoint, atomically.
        validate: Measures a module.
        resume: Where to go on from.

    Attributes:
        steps: Steps of the optimiser in all.
    """

    def __init__(
        self,
        job: TrainJob,
        module: torch.nn.Module,
        *,
        batch: int,
        fabric: Fabric,
        save: Callable[[Path, Snapshot], None],
        validate: Callable[[torch.nn.Module], Mapping[str, float]],
        resume: Snapshot | None = None,
    ) -> None:
        self.job, self.options, self.fabric, self.batch = job, job.options, fabric, batch
        self._save, self._measure = save, validate
        with _sound(resume):
            self.progress = TrainerState() if resume is None else TrainerState.read(resume.progress)
        self._enough = False
        self._started = time.monotonic() - self.progress.hours * 3600
        self._refuse_finished()
        self._prepare(module, resume)

    def train(self) -> Trained:
        """Run to the end.

        Raises:
            KeyboardInterrupt: The user stopped it; ``last.pt`` holds the state after the last whole batch.
        """
        try:
            with (
                Stop() as stop,
                retain_heap(),
                determinism(self.options.deterministic),
                contextlib.closing(self.loader),
            ):
                while not self._over():
                    self._begin_stage("train")
                    losses = self._train_epoch(stop)
                    self._refuse_spoiled()
                    self._share_waiting()
                    self._begin_stage("val")
                    self._finish_epoch(losses, self._validate())
                    if self._agreed(stop):
                        break
            if not self.options.save:
                self._checkpoint("last")
            if not self._over():
                self._say_stopped()
                raise KeyboardInterrupt
        except ModelError as error:
            last = self._weights("last")
            error.hint = error.hint or (f"to go on: segx segment train resume={last}" if last.exists() else "")
            raise
        except RuntimeError as error:
            if self.fabric.world_size > 1 and lost_process(error):
                hint = f"to go on: segx segment train resume={self._weights('last')}"
                raise ModelError("another process of this run has ended", hint=hint) from error
            if not out_of_memory(error):
                raise
            msg = f"out of memory on {self.fabric.device} with batch={self.batch} imgsz={self.options.imgsz}"
            find = ", or batch=-1 to find a size" if self.fabric.device.type == "cuda" else ""
            raise UsageError(msg, hint=f"try batch={max(self.batch // 2, 1)}{find}") from error
        return self._result()

    # -- before the first batch -----------------------------------------------------------------------------------

    def _refuse_finished(self) -> None:
        """Say how a run that has nothing left to do can be made longer.

        Raises:
            UsageError: It has nothing left to do.
        """
        done, limit = self.progress.epoch, self.options.time
        if not (done and self.job.finished):  # one that was stopped after its last epoch is still to be measured
            return
        if limit is not None and self.progress.hours >= limit:
            longer = f"time={2 * limit:g}"
        elif limit is None and done >= self.options.epochs:
            longer = f"epochs={2 * done}"
        elif self._stands_still():
            longer = f"patience={2 * self.options.patience}"
        else:
            return
        hint = f"to train for longer: {longer}; its best weights are in best.pt"
        raise UsageError(f"this run has finished, after {counted(done, 'epoch')}", hint=hint)

    def _prepare(self, module: torch.nn.Module, resume: Snapshot | None) -> None:
        """Build everything that has state, in an order that is the same for a new and a resumed run."""
        options, fabric = self.options, self.fabric
        self.folder = Path(fabric.broadcast(str(self.job.folder()) if fabric.is_global_zero else ""))
        freeze(module.float(), options.freeze)  # whoever has the model may have made it half
        self.optimizer_config: OptimizerConfig = choose(
            options,
            batch=self.batch,
            images=self.job.images,
            classes=len(self.job.names),
            began=self.progress.optimizer,
        )
        self._refuse_other_optimizer()
        self.progress.optimizer = self.optimizer_config.name
        self.progress.change_batch(self.batch)
        per_device = max(self.batch // fabric.world_size, 1)
        self.loader = self.job.loader(
            rank=fabric.global_rank,
            world=fabric.world_size,
            batch=per_device,
            processes=fabric.device.type != "cpu",  # there, every layer is launched by a thread of Python
        )
        make = self.job.val_loader
        self._val_loader = None if make is None else make(rank=0, world=1, batch=per_device)
        self.schedule = Schedule.of(options, self.optimizer_config, steps_per_epoch=len(self.loader))
        self._look_every = 1 if fabric.device.type == "cpu" else _LOOK_EVERY
        self.raw = module.to(fabric.device)
        if resume is None:
            self._fill_statistics()
        self.ema = ModelEMA(self.raw)
        self.criterion = self.job.criterion(self.raw)
        self.model, self.optimizer = fabric.setup(self.raw, build_optimizer(self.raw, self.optimizer_config))
        if resume is not None:
            with _sound(resume):
                self._restore(resume)
            self._fit_to_time()
        logger.info(
            "%s, lr %g, momentum %g; %s of %d an epoch, %d to a step; on %s",
            self.optimizer_config.name,
            self.optimizer_config.lr,
            self.optimizer_config.momentum,
            counted(len(self.loader), "batch"),
            self.batch,
            self.optimizer_config.accumulate,
            fabric.device if fabric.world_size == 1 else f"{fabric.world_size} processes, {fabric.device.type}",
        )
        self.steps = math.ceil(len(self.loader) / self.optimizer_config.accumulate) * options.epochs
        if self.steps < _FEW:
            few = counted(self.steps, "step")
            logger.warning("%s of the optimiser in all teach little: more epochs, or a smaller batch and nbs", few)

    def _fill_statistics(self) -> None:
        """Give weights that were folded once the statistics that training needs, from some images of the data."""
        layers = without_statistics(self.raw)
        if not layers:
            return
        count = min(math.ceil(_IMAGES / self.batch), len(self.loader))
        batches = islice(self.loader.epoch(self.options.epochs), count)  # of an epoch that is not trained on
        images = (to_device(batch, self.fabric.device)["images"] for batch in batches)
        take_statistics(self.raw, layers, images, together=self._shared_mean)
        logger.info(
            "%s had no statistics, as in weights that were folded: taken from %s",
            counted(len(layers), "BatchNorm layer"),
            counted(min(count * self.batch, self.job.images), "image"),
        )

    def _refuse_other_optimizer(self) -> None:
        """Say that the state of one optimiser is of no use to another.

        Raises:
            UsageError: The run was begun with another.
        """
        began = self.progress.optimizer
        if began not in {"", self.optimizer_config.name}:
            msg = f"this run was begun with {began}, and cannot go on with {self.optimizer_config.name}"
            raise UsageError(
                msg, hint=f"leave optimizer out to go on, or begin a new run: model={self._weights('last')}"
            )

    # -- one epoch ------------------------------------------------------------------------------------------------

    def _begin_stage(self, name: str) -> None:
        """Notify listeners that a part of the epoch begins."""
        self._notify(Step(kind="stage", index=self.progress.epoch, total=self.options.epochs, name=name))

    def _train_epoch(self, stop: Stop) -> dict[str, float]:
        """Go through the rest of the epoch under way and return its mean losses."""
        progress = self.progress
        self.model.train()
        keep_frozen_statistics(self.raw)
        sums = {name: torch.tensor(value, device=self.fabric.device) for name, value in progress.sums.items()}
        progress.mosaic_off = self._closes()
        for batch in self.loader.epoch(progress.epoch, start=progress.batch, closed=progress.mosaic_off):
            for name, value in self._train_batch(batch).items():
                sums[name] = sums[name] + value if name in sums else value
            progress.batch += 1
            progress.step += 1
            if progress.batch % self._look_every == 0 or progress.batch == len(self.loader):
                progress.sums, progress.logged_at = self._finite(sums), progress.batch
            self._notify(self._step(batch))
            if self._asked(stop):
                self._interrupt(sums)
        return {name: value / progress.batch for name, value in progress.sums.items()}

    def _asked(self, stop: Stop) -> bool:
        """Return True if to stop here; several processes ask each other only so often."""
        together = self.progress.batch % _LOOK_EVERY == 0 or self.progress.batch == len(self.loader)
        return stop.asked if self.fabric.world_size == 1 else together and self._agreed(stop)

    def _closes(self) -> bool:
        """Return True if the epoch is one of the last; plans change with ``time``: what late is closed stays so."""
        progress, limit = self.progress, self.options.time
        last = min(self.options.close_mosaic, self.options.epochs // 2)
        near = progress.epoch >= self.options.epochs - last
        return near or (progress.mosaic_off and limit is not None and progress.hours >= limit / 2)

    def _step(self, batch: TrainBatch) -> Step:
        """Return what is reported a batch: its objects, and the mean losses as of the last look at them."""
        progress = self.progress
        means = {f"train/{name}_loss": value / progress.logged_at for name, value in progress.sums.items()}
        metrics = {"instances": float(len(batch.classes)), **means}
        return Step(kind="batch", index=progress.batch - 1, total=len(self.loader), name=_shape(batch), metrics=metrics)

    def _train_batch(self, batch: TrainBatch) -> dict[str, torch.Tensor]:
        """Forward, backward and, when enough batches have come together, one step of the optimiser."""
        progress = self.progress
        self.schedule.apply(self.optimizer, step=progress.step, epoch=progress.epoch)
        due = progress.pending + 1 >= self.schedule.accumulate(progress.step) or self._last_batch()
        with self._together(due):
            tensors = to_device(batch, self.fabric.device)
            loss, items = self.criterion(self.model(tensors["images"]), tensors)
            self.fabric.backward(loss * (batch.images.shape[0] * self.fabric.world_size))
        progress.pending += 1
        if due:
            self.fabric.clip_gradients(self.model, self.optimizer, max_norm=_CLIP, error_if_nonfinite=False)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.ema.update(self.raw)
            progress.pending = 0
        return {name: value.detach() for name, value in items.items()}

    def _last_batch(self) -> bool:
        """Return True if no batch comes after this one, and its gradients would be lost."""
        epochs, batches = self.options.epochs, len(self.loader)
        return self.progress.epoch + 1 >= epochs and self.progress.batch + 1 >= batches

    def _interrupt(self, sums: Mapping[str, torch.Tensor]) -> None:
        """Keep what is done, in the middle of an epoch, and stop."""
        self._refuse_spoiled()
        self._share_waiting()
        self.progress.sums, self.progress.logged_at = self._finite(sums), self.progress.batch
        self.progress.hours = self._hours()
        self._checkpoint("last")
        self._say_stopped()
        raise KeyboardInterrupt

    def _say_stopped(self) -> None:
        if self.fabric.is_global_zero:
            logger.warning("stopped; to go on: segx segment train resume=%s", self._weights("last"))

    def _agreed(self, stop: Stop) -> bool:
        """Return True if the first process was asked to stop; all processes hear the same."""
        stop.asked, self._enough = self.fabric.broadcast((stop.asked, self._enough))
        return stop.asked

    def _together(self, due: bool) -> AbstractContextManager[Any]:  # noqa: FBT001 - one private caller
        """Exchange gradients between processes only when a step is due."""
        if self.fabric.world_size == 1:
            return nullcontext()
        return self.fabric.no_backward_sync(self.model, enabled=not due)

    def _finite(self, sums: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Return the sums as numbers, the mean of all processes; one that is not a number ends the run.

        Raises:
            ModelError: One is not, on any process.
        """
        means = self._shared_mean(torch.stack(list(sums.values())))
        values = dict(zip(sums, means.tolist(), strict=True))
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise self._not_a_number(f"the {bad[0]} loss is")
        return values

    def _refuse_spoiled(self) -> None:
        """End the run before weights that are not numbers take the place of good ones.

        Raises:
            ModelError: Some are not: the loss may be one where its gradient is none.
        """
        finite = torch.stack([value.isfinite().all() for value in self.raw.state_dict().values()]).all()
        if self._shared_mean(finite.float()) < 1:
            raise self._not_a_number("weights are")

    def _shared_mean(self, value: torch.Tensor) -> torch.Tensor:
        """Return the mean over all processes: where one fails, all do."""
        return cast("torch.Tensor", self.fabric.all_reduce(value, reduce_op="mean"))

    def _not_a_number(self, what: str) -> ModelError:
        hint = f"learn slower: optimizer={self.optimizer_config.name} lr0={self.optimizer_config.lr / 10:g}"
        if self._half:
            hint += "; or set amp=false"
        if self._weights("last").exists():
            hint += f"; the state before this epoch is in {self._weights('last')}"
        return ModelError(f"{what} not a number in epoch {self.progress.epoch + 1}", hint=hint)

    # -- between epochs -------------------------------------------------------------------------------------------

    def _validate(self) -> Mapping[str, float]:
        """Measure the average on the first process; the others wait."""
        last = self.progress.epoch + 1 >= self.options.epochs
        metrics: Mapping[str, float] = {}
        if self.fabric.is_global_zero and (self.options.val or last):
            metrics = {**self._val_losses(), **self._measure(self.ema.module)}
        shared: Mapping[str, float] = self.fabric.broadcast(metrics)
        return shared

    @torch.no_grad()
    def _val_losses(self) -> dict[str, float]:
        """Return the mean losses of the average on the validation images; nothing of it is changed."""
        if self._val_loader is None:
            return {}
        module, sums, count = self.ema.module, dict[str, torch.Tensor](), 0
        began = module.training
        try:
            module.eval()
            module.training = True  # of the whole alone: it answers as the loss takes it, statistics stay as they are
            for batch in self._val_loader.epoch(0, closed=True):
                tensors = to_device(batch, self.fabric.device)
                _, items = self.criterion(module(tensors["images"]), tensors)
                for name, value in items.items():
                    sums[name] = sums.get(name, torch.zeros_like(value)) + value * len(batch.images)
                count += len(batch.images)
        finally:
            module.train(began)
        return {f"val/{name}_loss": float(value) / max(count, 1) for name, value in sums.items()}

    def _share_waiting(self) -> None:
        """Give all processes the mean of the gradients that wait for a step: the checkpoint of the first holds all."""
        if self.fabric.world_size == 1 or not self.progress.pending:
            return
        for parameter in self.raw.parameters():
            if parameter.grad is not None:
                parameter.grad.copy_(self._shared_mean(parameter.grad))

    def _finish_epoch(self, losses: Mapping[str, float], metrics: Mapping[str, float]) -> None:
        """Write down what the epoch gave, then count it as done."""
        progress = self.progress
        progress.hours = self.fabric.broadcast(self._hours())
        train = {f"train/{name}_loss": value for name, value in losses.items()}
        rates = {f"lr/pg{number}": group["lr"] for number, group in enumerate(self.optimizer.param_groups)}
        row = {"epoch": progress.epoch + 1, "time": progress.hours * 3600, **train, **metrics, **rates}
        progress.history.append({name: float(value) for name, value in row.items()})
        improved = metrics.get("fitness", -1.0) > progress.best
        if improved:
            progress.best, progress.best_epoch = float(metrics["fitness"]), progress.epoch
        progress.epoch, progress.batch, progress.sums, progress.logged_at = progress.epoch + 1, 0, {}, 0
        self._fit_to_time()
        names = ["best"] if improved else []
        if self.options.save_period > 0 and progress.epoch % self.options.save_period == 0:
            names.append(f"epoch{progress.epoch}")
        names.append("last")  # last: a run that is killed before does the epoch again, and writes the others again
        for name in names if self.options.save else ():
            self._checkpoint(name)
        done = Step(kind="epoch", index=progress.epoch - 1, total=self.options.epochs, metrics=progress.history[-1])
        try:
            self._notify(done)
        except EnoughError:
            self._enough = True

    def _over(self) -> bool:
        """Return True if all epochs are done, more would be in vain, or a callback has had enough."""
        return self._enough or self.progress.epoch >= self.options.epochs or self._stands_still()

    def _stands_still(self) -> bool:
        """Return True if the fitness has not improved for ``patience`` epochs."""
        progress, patience = self.progress, self.options.patience
        return bool(patience) and progress.best_epoch >= 0 and progress.epoch - 1 - progress.best_epoch >= patience

    def _fit_to_time(self) -> None:
        """With ``time``, plan as many epochs as there is time for at the pace of the last, and fit the schedule."""
        done, hours, limit = self.progress.epoch, self.progress.hours, self.options.time
        if limit is None or not done:
            return
        ends = [0.0, *(row["time"] / 3600 for row in self.progress.history)]
        pace = statistics.median([end - begin for begin, end in pairwise(ends)][-_PACE:])
        room = max(int((limit - hours) / max(pace, 1e-9)), 0)
        self.options = self.options.replace(epochs=done + room)
        self.schedule = Schedule.of(self.options, self.optimizer_config, steps_per_epoch=len(self.loader))
        if not room:
            logger.info("the %g hours are used: the run ends with epoch %d", limit, done)

    def _hours(self) -> float:
        return (time.monotonic() - self._started) / 3600

    def _notify(self, step: Step) -> None:
        if self.fabric.is_global_zero:
            self.job.notify(step)

    def _result(self) -> Trained:
        if self._enough:
            logger.info("a callback has ended the training after epoch %d", self.progress.epoch)
        elif self.progress.epoch < self.options.epochs:
            logger.info("no better than in epoch %d: ended", self.progress.best_epoch + 1)
        files = {name: path if (path := self._weights(name)).exists() else None for name in ("best", "last")}
        rows = self.progress.history
        return Trained(
            folder=self.folder, best=files["best"], last=files["last"], metrics=rows[-1] if rows else {}, history=rows
        )

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def _weights(self, name: str) -> Path:
        return self.folder / "weights" / f"{name}.pt"

    def _checkpoint(self, name: str) -> None:
        if not self.fabric.is_global_zero:
            return
        path = self._weights(name)
        try:
            self._save(path, self.snapshot())
        except DataError as error:
            last = self._weights("last")
            go_on = f"; the state before is safe, to go on from it: segx segment train resume={last}"
            raise DataError(error.message, hint=f"make room{go_on if last.exists() else ''}") from error

    def snapshot(self) -> Snapshot:
        """Return all that decides how the run goes on."""
        waiting = {
            name: parameter.grad
            for name, parameter in self.raw.named_parameters()
            if parameter.grad is not None and self.progress.pending
        }
        return Snapshot(
            weights=self.raw.state_dict(),
            ema=self.ema.module.state_dict(),
            updates=self.ema.updates,
            optimizer=self.optimizer.state_dict(),
            precision=scaler_state(self.fabric),
            rng=rng.state(),
            gradients=waiting,
            progress=dataclasses.asdict(self.progress),
        )

    def _restore(self, saved: Snapshot) -> None:
        self.raw.load_state_dict(saved.weights)
        self.ema.restore(saved.ema, saved.updates)
        self._restore_optimizer(saved.optimizer)
        if self._half != bool(saved.precision):  # the gradients that wait are scaled, or are to be
            if self.progress.pending:
                lost = counted(self.progress.pending, "batch")
                logger.warning("another amp than before: what %s gave before the stop is dropped", lost)
            self.progress.pending = 0
        elif self._half:
            restore_scaler(self.fabric, saved.precision)
        for name, parameter in self.raw.named_parameters():
            if self.progress.pending and name in saved.gradients:
                parameter.grad = saved.gradients[name].to(parameter.device)
        if self.fabric.is_global_zero:  # the others draw nothing but what each sample is seeded with
            rng.restore(saved.rng)

    def _restore_optimizer(self, saved: Mapping[str, Any]) -> None:
        """Take over what an optimiser has learned, but not its options: those are the ones given now.

        Raises:
            UsageError: It was made for other parameters.
        """
        sizes = [
            [len(group["params"]) for group in state["param_groups"]] for state in (saved, self.optimizer.state_dict())
        ]
        if sizes[0] != sizes[1]:
            raise UsageError(f"freeze={self.options.freeze}: this run was begun with other layers frozen")
        fresh = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(dict(saved))
        for group, options in zip(self.optimizer.param_groups, fresh, strict=True):
            group.update(options)

    @property
    def _half(self) -> bool:
        """Whether gradients are scaled, for half precision."""
        return bool(scaler_state(self.fabric))


@contextlib.contextmanager
def _sound(saved: Snapshot | None) -> Iterator[None]:
    """Say of a checkpoint that its state of a run cannot be gone on with, whatever is wrong with it.

    Raises:
        ModelError: It cannot.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError, OverflowError) as error:
        if saved is None or (isinstance(error, RuntimeError) and out_of_memory(error)):
            raise
        msg = f"the checkpoint does not hold the state of a run that could go on ({reason(error)[:200]})"
        raise ModelError(msg, hint="begin a new run with its weights: model= in place of resume=") from error


@contextlib.contextmanager
def determinism(wanted: bool) -> Iterator[None]:  # noqa: FBT001 - it is what the context is about
    """Have torch use deterministic algorithms where it has them, for as long as the training lasts.

    By default it also fills all memory that it takes with NaN, which nothing here reads: a tenth of the time of a step.
    """
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    filled, settings.fill_uninitialized_memory = settings.fill_uninitialized_memory, False
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(wanted, warn_only=True)
    torch.backends.cudnn.benchmark = not wanted
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        settings.fill_uninitialized_memory = filled
        torch.backends.cudnn.benchmark = benchmark


def out_of_memory(error: RuntimeError) -> bool:
    """Return True if torch has run out of memory, on whatever device; only CUDA has an error of its own for it."""
    words = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in words or "can't allocate memory" in words


def to_device(batch: TrainBatch, device: torch.device) -> dict[str, Any]:
    """Return a batch as tensors on the device; images in 0..1.

    On a CPU images have channels last, and so has every map that is made of them: oneDNN's convolutions, else, bring
    each map into a layout of their own and back.
    """

    def move(array: Any) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if device.type != "cuda":
            return tensor.to(device)
        return tensor.pin_memory().to(device, non_blocking=True)

    fields = ("batch_idx", "classes", "boxes", "masks", "has_mask")
    layout = torch.channels_last if device.type == "cpu" else torch.contiguous_format
    return {
        "images": move(batch.images).to(torch.float32, memory_format=layout).div_(255),
        **{name: move(getattr(batch, name)) for name in fields},
        "overlap": batch.overlap,
    }


def _shape(batch: TrainBatch) -> str:
    return f"{batch.images.shape[2]}x{batch.images.shape[3]}"
