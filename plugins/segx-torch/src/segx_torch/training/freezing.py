"""Layers that are left as they are."""

from __future__ import annotations

import torch

from segx.errors import UsageError


def freeze(module: torch.nn.Module, layers: int | tuple[int, ...] | None) -> None:
    """Leave the numbered layers, or the first so many, out of training.

    Raises:
        UsageError: There is no layer of that number, or none is left to train.
    """
    if layers is None:
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise UsageError("all of model.model is frozen: nothing to train", hint="model.model.requires_grad_(True)")
        return
    if isinstance(layers, int) and layers < 0:
        raise UsageError(f"freeze={layers}: give how many layers, or their numbers", hint="freeze=10, or freeze=0,1,2")
    numbers = range(layers) if isinstance(layers, int) else layers
    known = {int(name.split(".")[1]) for name, _ in module.named_parameters() if name.startswith("model.")}
    beyond = [number for number in numbers if not 0 <= number <= max(known)]
    if beyond:
        msg = f"freeze={layers}: there is no layer {beyond[0]}; they are numbered 0..{max(known)}"
        raise UsageError(msg)
    prefixes = tuple(f"model.{number}." for number in numbers)
    for name, parameter in module.named_parameters():
        if name.startswith(prefixes):
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise UsageError(f"freeze={layers} leaves nothing to train; layers are numbered 0..{max(known)}")


def keep_frozen_statistics(module: torch.nn.Module) -> None:
    """Put normalisation layers whose weights are frozen in eval mode, so that their statistics stay too."""
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d) and not layer.weight.requires_grad:
            layer.eval()
