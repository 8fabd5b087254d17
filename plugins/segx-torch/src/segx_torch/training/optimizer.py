"""The optimiser, its parameter groups and the schedules of learning rate and momentum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from segx.options.verbs import TrainOptions

_NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d, torch.nn.GroupNorm, torch.nn.LayerNorm)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """What ``optimizer`` and its companions come to for a given data set.

    Attributes:
        name: The optimiser.
        lr: Learning rate after the warm-up.
        momentum: Momentum, or the first beta.
        warmup_bias_lr: Learning rate of biases at the start of the warm-up.
        accumulate: Batches per step after the warm-up.
        weight_decay: Weight decay for the batch that is accumulated.
    """

    name: str
    lr: float
    momentum: float
    warmup_bias_lr: float
    accumulate: int
    weight_decay: float


def choose(options: TrainOptions, *, batch: int, images: int, classes: int, began: str = "") -> OptimizerConfig:
    """Return the recipe: for ``auto``, AdamW for up to 10,000 steps and SGD for more, or what the run began with.

    Args:
        options: What was asked for.
        batch: Images per batch on all devices.
        images: Images in the training split.
        classes: Number of classes; AdamW's learning rate falls with it.
        began: The optimiser of the run that goes on; its state fits no other.
    """
    accumulate = max(min(round(options.nbs / batch), math.ceil(images / batch)), 1)  # a step in each epoch
    decay = options.weight_decay * batch * accumulate / options.nbs
    name, lr, momentum, bias_lr = options.optimizer, options.lr0, options.momentum, options.warmup_bias_lr
    if name == "auto":
        steps = math.ceil(images / max(batch, options.nbs)) * options.epochs
        long = began == "SGD" if began else steps > 10_000
        name = "SGD" if long else "AdamW"
        lr = 0.01 if long else round(0.002 * 5 / (4 + classes), 6)
        momentum, bias_lr = 0.9, 0.0
    return OptimizerConfig(
        name=name, lr=lr, momentum=momentum, warmup_bias_lr=bias_lr, accumulate=accumulate, weight_decay=decay
    )


def build_optimizer(module: torch.nn.Module, optimizer_config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return the optimiser with three groups: biases, weights that decay, weights of normalisation layers."""
    biases, weights, norms = [], [], []
    for layer in module.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            if name == "bias":
                biases.append(parameter)
            elif isinstance(layer, _NORMS):
                norms.append(parameter)
            else:
                weights.append(parameter)
    groups = [
        {"params": biases, "weight_decay": 0.0, "role": "bias"},
        {"params": weights, "weight_decay": optimizer_config.weight_decay, "role": "weight"},
        {"params": norms, "weight_decay": 0.0, "role": "norm"},
    ]
    groups = [group for group in groups if group["params"]]
    beta = (optimizer_config.momentum, 0.999)
    makers: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "SGD": lambda: torch.optim.SGD(
            groups, lr=optimizer_config.lr, momentum=optimizer_config.momentum, nesterov=True
        ),
        "RMSprop": lambda: torch.optim.RMSprop(groups, lr=optimizer_config.lr, momentum=optimizer_config.momentum),
        "Adam": lambda: torch.optim.Adam(groups, lr=optimizer_config.lr, betas=beta),
        "AdamW": lambda: torch.optim.AdamW(groups, lr=optimizer_config.lr, betas=beta),
        "Adamax": lambda: torch.optim.Adamax(groups, lr=optimizer_config.lr, betas=beta),
        "NAdam": lambda: torch.optim.NAdam(groups, lr=optimizer_config.lr, betas=beta),
        "RAdam": lambda: torch.optim.RAdam(groups, lr=optimizer_config.lr, betas=beta),
    }
    return makers[optimizer_config.name]()


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Learning rate, momentum and accumulation at any step: a pure function of step and epoch, so resuming is exact.

    Attributes:
        optimizer_config: Where the warm-up ends.
        epochs: Length of the run.
        steps_per_epoch: Batches of an epoch on this rank.
        lrf: Final learning rate as a fraction of the first.
        cosine: Fall along a cosine instead of a line.
        warmup: Batches of warm-up.
        warmup_momentum: Momentum at its start.
    """

    optimizer_config: OptimizerConfig
    epochs: int
    steps_per_epoch: int
    lrf: float
    cosine: bool
    warmup: int
    warmup_momentum: float

    @classmethod
    def of(cls, options: TrainOptions, optimizer_config: OptimizerConfig, *, steps_per_epoch: int) -> Schedule:
        """Return the schedule: warm-up of at least 100 batches, but never more than half of the run."""
        wanted = max(round(options.warmup_epochs * steps_per_epoch), 100) if options.warmup_epochs > 0 else 0
        return cls(
            optimizer_config=optimizer_config,
            epochs=options.epochs,
            steps_per_epoch=steps_per_epoch,
            lrf=options.lrf,
            cosine=options.cos_lr,
            warmup=min(wanted, options.epochs * steps_per_epoch // 2),
            warmup_momentum=options.warmup_momentum,
        )

    def factor(self, epoch: int) -> float:
        """Return the learning rate of an epoch as a fraction of the first."""
        share = epoch / self.epochs
        fall = (1 - math.cos(share * math.pi)) / 2 if self.cosine else share
        return 1 - fall * (1 - self.lrf)

    def accumulate(self, step: int) -> int:
        """Return how many batches make a step of the optimiser."""
        if step >= self.warmup:
            return self.optimizer_config.accumulate
        return max(1, round(1 + (self.optimizer_config.accumulate - 1) * step / self.warmup))

    def apply(self, optimizer: torch.optim.Optimizer, *, step: int, epoch: int) -> None:
        """Set learning rates and momentum for a batch."""
        target = self.optimizer_config.lr * self.factor(epoch)
        share = min(step / self.warmup, 1.0) if self.warmup else 1.0
        momentum = self.warmup_momentum + share * (self.optimizer_config.momentum - self.warmup_momentum)
        for group in optimizer.param_groups:
            start = self.optimizer_config.warmup_bias_lr if group["role"] == "bias" else 0.0
            group["lr"] = start + share * (target - start)
            if "momentum" in group:
                group["momentum"] = momentum
