"""State of a training run, and its form in a checkpoint."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch


@dataclass(kw_only=True)
class TrainerState:
    """State of a training run; with weights and optimiser state, all that resuming needs.

    Attributes:
        epoch: The epoch under way, from 0.
        size: Images of a batch, on all processes together.
        batch: Batches of it that are done.
        step: Batches done since the run began.
        pending: Batches whose gradients wait for a step of the optimiser.
        sums: Loss items summed over the epoch, as of the last look at them.
        logged_at: Batches of the epoch that were done then.
        best: The best fitness yet.
        best_epoch: When it was; -1 before the first validation.
        hours: Time spent.
        mosaic_off: Whether the mosaic is closed.
        optimizer: The optimiser the run began with.
        history: One row of figures for each finished epoch.
    """

    epoch: int = 0
    size: int = 0
    batch: int = 0
    step: int = 0
    pending: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    logged_at: int = 0
    best: float = -1.0
    best_epoch: int = -1
    hours: float = 0.0
    mosaic_off: bool = False
    optimizer: str = ""
    history: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def read(cls, saved: Mapping[str, Any]) -> TrainerState:
        """Return what a checkpoint says, which anybody may have written.

        Raises:
            ValueError: A value is of another type than it can be.
        """
        fresh = cls()
        for item in fields(cls):
            default = getattr(fresh, item.name)
            value, kind = saved.get(item.name, default), type(default)
            number = isinstance(value, int | float) and kind in {int, float}
            if not (isinstance(value, kind) or number) or (number and not (math.isfinite(value) and value >= -1)):
                raise ValueError(item.name)
        read = cls(**{item.name: saved[item.name] for item in fields(cls) if item.name in saved})
        table: list[Any] = [read.sums, *read.history]
        if not all(isinstance(row, dict) and all(isinstance(x, int | float) for x in row.values()) for row in table):
            raise ValueError("history")
        return read

    def change_batch(self, size: int) -> None:
        """Go on with batches of another size: what is done of the epoch counts in these, and nothing is left out."""
        done = self.batch
        if self.size and size != self.size and done:
            self.batch = done * self.size // size
            self.sums = {name: value * self.batch / done for name, value in self.sums.items() if self.batch}
            self.logged_at = self.batch
        self.size = size


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What a checkpoint holds of a run.

    Attributes:
        weights: State of the model that is trained.
        ema: State of the average.
        updates: How often the average was updated.
        optimizer: State of the optimiser.
        precision: State of the loss scaler.
        rng: State of every random generator.
        gradients: Gradients that wait for a step, by parameter.
        progress: Where the run stands.
    """

    weights: Mapping[str, torch.Tensor]
    ema: Mapping[str, torch.Tensor]
    updates: int
    optimizer: Mapping[str, Any]
    precision: Mapping[str, Any]
    rng: Mapping[str, Any]
    gradients: Mapping[str, torch.Tensor]
    progress: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return tensors and plain values only, as ``torch.load(weights_only=True)`` takes them."""
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
