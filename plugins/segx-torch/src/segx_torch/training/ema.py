"""A running average of the weights: what is validated and kept."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping


class ModelEMA:
    """Exponential moving average of everything in a model's state that is a floating-point tensor.

    The decay grows with the number of updates, ``decay * (1 - exp(-updates / tau))``, so that the first steps count.

    Args:
        module: The model to follow; it is copied.
        decay: Where the decay ends.
        tau: Updates after which it has come two thirds of the way.
    """

    def __init__(self, module: torch.nn.Module, *, decay: float = 0.9999, tau: float = 2000.0) -> None:
        self.module = copy.deepcopy(module).eval().requires_grad_(requires_grad=False)
        self.updates = 0
        self._decay, self._tau = decay, tau

    @torch.no_grad()
    def update(self, module: torch.nn.Module) -> None:
        """Take one step towards the model's present state."""
        self.updates += 1
        decay = self._decay * (1 - math.exp(-self.updates / self._tau))
        current = module.state_dict()
        floating, targets = [], []
        for name, average in self.module.state_dict().items():
            if average.dtype.is_floating_point:
                targets.append(average)
                floating.append(current[name].detach())
            else:
                average.copy_(current[name])
        torch._foreach_lerp_(targets, floating, 1 - decay)

    def restore(self, weights: Mapping[str, torch.Tensor], updates: int) -> None:
        """Go on from an average that was saved."""
        self.module.load_state_dict(weights)
        self.updates = updates
