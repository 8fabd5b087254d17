"""BatchNorm layers that hold no statistics, as of weights that were folded once: training would undo what they know."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

_SETTLED = 100  # batches after which 95 % of a running mean are of the data, at momentum 0.03
_LEAST_VARIANCE = 1e-6

Summed = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Count, sum and sum of squares of each channel."""


def without_statistics(module: torch.nn.Module) -> list[torch.nn.BatchNorm2d]:
    """Return the layers that normalise by statistics of hardly any data, but have learned weights; not frozen ones.

    Such a layer passes its input on nearly as it is in eval mode. In training mode it divides by the deviation of each
    batch, and the layers behind it see what they have never seen.
    """
    norms = [layer for layer in module.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    return [layer for layer in norms if layer.weight.requires_grad and _unsettled(layer) and not _fresh(layer)]


def take_statistics(
    module: torch.nn.Module,
    layers: Sequence[torch.nn.BatchNorm2d],
    batches: Iterable[torch.Tensor],
    *,
    together: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor,
) -> None:
    """Give the layers the statistics of their inputs, and weights with which they compute what they did before.

    Args:
        module: The model they are part of.
        layers: Its layers, from :func:`without_statistics`.
        batches: Images, float (N, 3, H, W) in 0..1, on the model's device.
        together: Returns the mean of a tensor over all processes.
    """
    sums = _measured(module, layers, batches)
    for layer in layers:
        count, total, squares = map(together, sums[layer])  # of which only the ratios matter
        mean = total / count
        _normalise_by(layer, mean, (squares / count - mean**2).clamp(min=_LEAST_VARIANCE))


def _unsettled(layer: torch.nn.BatchNorm2d) -> bool:
    return layer.num_batches_tracked is not None and int(layer.num_batches_tracked) < _SETTLED


def _fresh(layer: torch.nn.BatchNorm2d) -> bool:
    """Return True if the layer is as it was made, random like what is before it."""
    return bool((layer.weight == 1).all() and (layer.bias == 0).all())


@torch.no_grad()
def _measured(
    module: torch.nn.Module, layers: Sequence[torch.nn.Module], batches: Iterable[torch.Tensor]
) -> dict[torch.nn.Module, Summed]:
    """Return what goes into each layer in eval mode, summed."""
    sums: dict[torch.nn.Module, Summed] = {}

    def watch(layer: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        values = inputs[0].float() if inputs[0].device.type == "mps" else inputs[0].double()  # it has no double
        here = (
            values.new_tensor(values.numel() / values.shape[1]),
            values.sum((0, 2, 3)),
            values.square().sum((0, 2, 3)),
        )
        before = sums.get(layer)
        sums[layer] = here if before is None else (before[0] + here[0], before[1] + here[1], before[2] + here[2])

    training = module.training
    hooks = [layer.register_forward_pre_hook(watch) for layer in layers]
    try:
        module.eval()
        for images in batches:
            module(images)
    finally:
        module.train(training)
        for hook in hooks:
            hook.remove()
    return sums


@torch.no_grad()
def _normalise_by(layer: torch.nn.BatchNorm2d, mean: torch.Tensor, variance: torch.Tensor) -> None:
    """Change the statistics, and the weights so that eval mode computes the same: y = scale * x + shift."""
    running_mean, running_var = cast("tuple[torch.Tensor, torch.Tensor]", (layer.running_mean, layer.running_var))
    scale = layer.weight.to(mean) / (running_var.to(mean) + layer.eps).sqrt()
    shift = layer.bias.to(mean) - running_mean.to(mean) * scale
    layer.weight.copy_(scale * (variance + layer.eps).sqrt())
    layer.bias.copy_(shift + scale * mean)
    running_mean.copy_(mean)
    running_var.copy_(variance)
    if layer.num_batches_tracked is not None:
        layer.num_batches_tracked.fill_(_SETTLED)
