"""From a session and a job to a trained model: devices, batch size, checkpoints, resuming."""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy

from segx.errors import ModelError, UsageError
from segx.options.verbs import SessionOptions
from segx_torch.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from segx_torch.devices import resolve_device
from segx_torch.session import TorchSession
from segx_torch.training import rng
from segx_torch.training.autobatch import find_batch
from segx_torch.training.state import Snapshot
from segx_torch.training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from torch import nn

    from segx.options.verbs import TrainOptions
    from segx.plugin.training import Trained, TrainJob

logger = logging.getLogger("segx.train")

_WAIT = dt.timedelta(hours=2)  # how long processes wait for the first one to validate
_GRACE = 5  # seconds in which a helper that fails is ended by the first process, if that fails too
_DEFAULT_BATCH = 16
_KEPT: list[Any] = []  # the last work of process groups that are no more; see _end_helpers


def train(session: TorchSession, job: TrainJob, *, resume: Path | None = None) -> Trained:
    """Train the session's model, or go on with the run that wrote ``resume``.

    Raises:
        UsageError: The device is not there, or the batch does not fit.
        ModelError: The loss is no longer a number, or ``resume`` holds no run to go on with.
    """
    saved = None if resume is None else read_snapshot(resume)
    fabric = make_fabric(job.options)
    rng.seed_all(job.options.seed + fabric.global_rank)
    with _failing_together(fabric):
        trainer = Trainer(
            job,
            session.module,
            batch=_batch_size(session.module, job, fabric, saved),
            fabric=fabric,
            save=_saver(session, job),
            validate=_validator(session, job, fabric.device),
            resume=saved,
        )
        trained = trainer.train()
    _end_helpers(fabric)
    return trained


def make_fabric(options: TrainOptions) -> Fabric:
    """Return devices, precision and processes, launched.

    ``device=0,1`` or ``accelerator=cpu devices=2`` start one process each, which run the same command; under
    ``torchrun`` its processes are taken as they are, and their number is torchrun's.

    Raises:
        UsageError: A device is not there.
    """
    accelerator, devices = _devices(options)
    nodes = options.num_nodes
    if "TORCHELASTIC_RUN_ID" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    elif nodes > 1:
        hint = f"torchrun --nnodes {nodes} --nproc-per-node {options.devices or 1} -m segx_cli segment train ..."
        raise UsageError(f"num_nodes={nodes}: several machines are started by torchrun, on each of them", hint=hint)
    count = len(devices) if isinstance(devices, list) else devices
    several = count * nodes > 1
    half = options.amp and accelerator == "cuda"
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # what it tells is told by the trainer
    fabric = Fabric(
        accelerator=accelerator,
        devices=devices,
        num_nodes=nodes,
        strategy=DDPStrategy(timeout=_WAIT) if several else "auto",
        precision="16-mixed" if half else "32-true",
    )
    fabric.launch()
    return fabric


@contextlib.contextmanager
def _failing_together(fabric: Fabric) -> Iterator[None]:
    """When the first process fails, end its helpers, which would wait for it; it alone speaks.

    A helper that fails waits for that first: most failures are the same on all. Failing alone it speaks, and ends, and
    Lightning or torchrun ends the others.
    """
    try:
        yield
    except BaseException:
        if fabric.global_rank:
            time.sleep(_GRACE)
            raise
        helpers = getattr(fabric.strategy.launcher, "procs", [])
        for helper in helpers:
            helper.kill()
            helper.wait()
        if helpers:
            helpers.clear()  # Lightning watches them, and would end this process for their sake
            _forget_processes()
        raise


def _end_helpers(fabric: Fabric) -> None:
    """End the processes that only shared the work; the first one goes on alone, as if it had been alone all the time.

    The helpers leave without a farewell: torch's process group can wait for itself for ever when Python takes it apart
    (its thread needs the interpreter's lock to let go of its last piece of work, while the destructor, holding the
    lock, waits for the thread). The first process keeps that piece of work, so that its thread need not let go of it.
    """
    if fabric.world_size == 1:
        return
    last_work = torch.distributed.barrier(async_op=True)
    last_work.wait()
    if fabric.global_rank:
        if torch.distributed.get_backend() == "nccl":  # where it has to be taken apart by all
            torch.distributed.destroy_process_group()
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # closed by who started the process
                stream.flush()
        os._exit(0)
    _KEPT.append(last_work)
    torch.distributed.destroy_process_group()
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        _forget_processes()


def _forget_processes() -> None:
    """Remove what Lightning has set for the helpers; a further run starts its own."""
    for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)


def _devices(options: TrainOptions) -> tuple[str, list[int] | int]:
    """Return Lightning's name of the accelerator and the devices of it."""
    names = [name.strip() for name in (options.device or "").strip("[]() ").split(",") if name.strip()]
    if len(names) > 1:
        found = [resolve_device(name) for name in names]
        if any(device.type != "cuda" for device in found) or len(set(found)) < len(found):
            raise UsageError(f"device={options.device}: several devices are different GPUs", hint="device=0,1")
        if options.devices not in {None, len(found)}:
            raise UsageError(f"device={options.device} are {len(found)} devices, not devices={options.devices}")
        return "cuda", [device.index or 0 for device in found]
    device = resolve_device(names[0] if names else options.accelerator)
    if device.type == "cuda" and names and names[0] != "cuda":
        if options.devices not in {None, 1}:
            hint = f"device={','.join(map(str, range(options.devices or 1)))}"
            raise UsageError(f"device={options.device} is one device, not devices={options.devices}", hint=hint)
        return "cuda", [device.index or 0]
    if device.type == "cuda" and (options.devices or 1) > torch.cuda.device_count():
        raise UsageError(f"devices={options.devices}: there are {torch.cuda.device_count()} GPUs here")
    return device.type, options.devices or 1


def _batch_size(module: nn.Module, job: TrainJob, fabric: Fabric, saved: Snapshot | None) -> int:
    """Return images per step on all processes together; one that was found once is kept."""
    batch = job.options.batch
    if batch == 0:
        raise UsageError("batch=0: give a number of images, or -1 to find one")
    if batch == -1 and saved is not None:
        batch = int(saved.progress.get("size", 0)) or -1
    if batch == -1:
        batch = _DEFAULT_BATCH * fabric.world_size
        if fabric.device.type == "cuda":
            found = torch.tensor(find_batch(module, job, fabric.device), device=fabric.device)
            batch = int(cast("torch.Tensor", fabric.all_gather(found)).min()) * fabric.world_size
        logger.info("batch=%d", batch)
    if batch % fabric.world_size:
        raise UsageError(f"batch={batch} cannot be shared evenly by {fabric.world_size} devices")
    return batch


def _saver(session: TorchSession, job: TrainJob) -> Callable[[Path, Snapshot], None]:
    """Return what writes a checkpoint: the average to predict with, and for ``last`` all there is to go on from."""

    def save(path: Path, snapshot: Snapshot) -> None:
        training = snapshot.as_dict()
        average = training.pop("ema")
        info = session.info.replace(
            names=dict(job.names),
            imgsz=(job.options.imgsz, job.options.imgsz),
            settings=dict(job.settings),
            date=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        )
        checkpoint = Checkpoint(
            info=info,
            definition={**session.config.definition, "nc": session.config.nc, "scale": session.config.scale},
            weights=average,
            training=None if path.stem == "best" else training,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        write_checkpoint(path, checkpoint)

    return save


def _validator(
    session: TorchSession, job: TrainJob, device: torch.device
) -> Callable[[nn.Module], Mapping[str, float]]:
    """Return what measures a module as any other session is measured."""
    side = job.options.imgsz
    info = session.info.replace(names=dict(job.names), imgsz=(side, side))

    def validate(module: nn.Module) -> Mapping[str, float]:
        options = SessionOptions(device=str(device) if device.type == "cuda" else device.type)
        measured = TorchSession(module, session.config, session.architecture, info, options)
        try:
            return job.validate(measured)
        finally:
            measured.close()

    return validate


def read_snapshot(path: Path) -> Snapshot:
    """Return where a run stood when it wrote a checkpoint.

    Raises:
        ModelError: The file holds no run, only a model.
    """
    checkpoint = read_checkpoint(path, training=True)
    if checkpoint.training is None or not checkpoint.training.keys() >= set(_KEPT_OF_A_RUN):
        name = os.fspath(path)
        msg = f"{name} holds a model, but not the state of a run"
        raise ModelError(msg, hint=f"resume from last.pt, or start anew from it: model={name}")
    return Snapshot(ema=checkpoint.weights, **_only(checkpoint.training))


_KEPT_OF_A_RUN = ("weights", "updates", "optimizer", "precision", "rng", "gradients", "progress")


def _only(training: Mapping[str, Any]) -> dict[str, Any]:
    return {name: training[name] for name in _KEPT_OF_A_RUN}
