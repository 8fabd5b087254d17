"""BatchNorm folded into convolutions, and unfolded again, in modules and in weights."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from segx_model_yolov8.layers import BN_EPS, Conv

if TYPE_CHECKING:
    from collections.abc import Mapping

    from segx_model_yolov8.network import SegmentationModel


def fuse(model: SegmentationModel) -> SegmentationModel:
    """Return a copy in eval mode whose convolutions have taken over their BatchNorm; the outputs stay the same."""
    fused = copy.deepcopy(model).eval()
    for layer in fused.modules():
        if isinstance(layer, Conv) and isinstance(layer.bn, nn.BatchNorm2d):
            layer.conv, layer.bn = _fold(layer.conv, layer.bn), nn.Identity()
    return fused.requires_grad_(requires_grad=False)


def adapt(model: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in the form this model has: with BatchNorm, or with BatchNorm folded into the convolutions.

    Weights with folded BatchNorm get one that does nothing in eval mode and holds the bias, so that the outputs are
    those of the folded model and training can go on; weights with BatchNorm are folded for a fused model. All other
    weights are handed on as they are, also those the model has no use for.
    """
    adapted = dict(weights)
    for name, layer in model.named_modules():
        if not isinstance(layer, Conv):
            continue
        bias = f"{name}.conv.bias"
        if isinstance(layer.bn, nn.BatchNorm2d) and f"{name}.bn.weight" not in weights and bias in weights:
            adapted.update(_unfolded(name, adapted.pop(bias), layer.bn.eps))
        elif isinstance(layer.bn, nn.Identity) and f"{name}.bn.weight" in weights:
            _fold_in_place(name, adapted)
    return adapted


def _unfolded(name: str, bias: Tensor, eps: float) -> dict[str, Tensor]:
    """Return a BatchNorm that only adds ``bias``: the variance is 1 once ``eps`` is added to it."""
    bias = bias.float()  # 1 - eps is not a half-precision number
    ones = torch.ones_like(bias)
    return {
        f"{name}.bn.weight": ones,
        f"{name}.bn.bias": bias,
        f"{name}.bn.running_mean": torch.zeros_like(bias),
        f"{name}.bn.running_var": ones - eps,
        f"{name}.bn.num_batches_tracked": torch.zeros((), dtype=torch.long),
    }


def _fold_in_place(name: str, weights: dict[str, Tensor]) -> None:
    norm = {key: weights.pop(f"{name}.bn.{key}") for key in ("weight", "bias", "running_mean", "running_var")}
    weights.pop(f"{name}.bn.num_batches_tracked", None)
    kernel = weights[f"{name}.conv.weight"]
    weights[f"{name}.conv.weight"], weights[f"{name}.conv.bias"] = _folded(kernel, norm, eps=BN_EPS)


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Return one convolution that does what the two do in eval mode."""
    weight, bias = _folded(conv.weight, norm.state_dict(), eps=norm.eps)
    conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(bias)
    return conv


@torch.no_grad()
def _folded(kernel: Tensor, norm: Mapping[str, Tensor], *, eps: float) -> tuple[Tensor, Tensor]:
    """Return the kernel and the bias of a convolution that has taken over its BatchNorm.

    Computed in float64, and on the CPU, as not every device has it.
    """
    scale, shift, mean, var = (norm[name].cpu().double() for name in ("weight", "bias", "running_mean", "running_var"))
    factor = scale / (var + eps).sqrt()
    weight = kernel.cpu().double() * factor.view(-1, 1, 1, 1)
    return weight.to(kernel), (shift - mean * factor).to(kernel)
