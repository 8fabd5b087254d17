"""From a session and a job to a trained model: batch size, checkpoints, resuming."""

from __future__ import annotations

import datetime as dt
import logging
import os
from typing import TYPE_CHECKING, Any, cast

import torch

from segx.errors import ModelError, UsageError
from segx.options.verbs import SessionOptions
from segx.words import counted
from segx_torch.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from segx_torch.session import TorchSession
from segx_torch.training import rng
from segx_torch.training.autobatch import find_batch
from segx_torch.training.processes import end_helpers, failing_together, make_fabric
from segx_torch.training.state import Snapshot
from segx_torch.training.trainer import Trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from lightning_fabric import Fabric
    from torch import nn

    from segx.options.verbs import TrainOptions
    from segx.plugin.training import Trained, TrainJob

logger = logging.getLogger("segx.train")

_DEFAULT_BATCH = 16
_SHORT = 100
"""Steps of the optimiser below which the recipe, which is made for thousands, unlearns more than it teaches."""


def train(session: TorchSession, job: TrainJob, *, resume: Path | None = None) -> Trained:
    """Train the session's model, or go on with the run that wrote ``resume``.

    Raises:
        UsageError: The device is not there, or the batch does not fit.
        ModelError: The loss is no longer a number, or ``resume`` holds no run to go on with.
    """
    saved = None if resume is None else read_snapshot(resume)
    fabric = make_fabric(job.options)
    rng.seed_all(job.options.seed + fabric.global_rank)
    with failing_together(fabric):
        trainer = Trainer(
            job,
            session.module,
            batch=_batch_size(session.module, job, fabric, saved),
            fabric=fabric,
            save=_saver(session, job),
            validate=_validator(session, job, fabric.device),
            resume=saved,
        )
        if resume is None and fabric.is_global_zero:
            _advise(trainer.steps, trainer.optimizer_config.lr, session, job.options)
        trained = trainer.train()
    end_helpers(fabric)
    return trained


def _advise(steps: int, rate: float, session: TorchSession, options: TrainOptions) -> None:
    """Say how weights that know something are taught in few steps, where nothing else was asked for."""
    learned = 2 * len(session.random_weights) < len(session.module.state_dict())
    if steps < _SHORT and learned and options.optimizer == "auto" and options.freeze is None:
        keeps = f"freeze=10 optimizer=AdamW lr0={rate / 2:.2g} warmup_epochs=1 keeps more of what the weights know"
        logger.info("%s of the optimiser in all: in so few %s", counted(steps, "step"), keeps)


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
