"""Parameters and true FLOPs of a model."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from segx.plugin.jobs import ModelSummary
from segx_model_yolov8.blocks import IMAGE_CHANNELS
from segx_model_yolov8.layers import Conv

if TYPE_CHECKING:
    from torch import Tensor

    from segx_model_yolov8.network import SegmentationModel


def summarise(model: SegmentationModel, imgsz: tuple[int, int]) -> ModelSummary:
    """Return modules, parameters and FLOPs; a multiply-add counts as two, at one image of (height, width)."""
    convs = [layer for layer in model.modules() if isinstance(layer, Conv)]
    # A BatchNorm has a weight and a bias for each channel, a fused convolution has one bias instead of both.
    as_built = sum(parameter.numel() for parameter in model.parameters())
    as_built += sum(layer.conv.out_channels for layer in convs if isinstance(layer.bn, nn.Identity))
    saved = sum(layer.conv.out_channels for layer in convs)
    gflops = count_flops(model, imgsz) / 1e9
    return ModelSummary(
        layers=len(list(model.modules())),
        parameters=as_built,
        fused_parameters=as_built - saved,
        gflops=gflops,
        imgsz=imgsz,
        gradients=sum(weights.numel() for weights in model.parameters() if weights.requires_grad),
        notes=(_note_on_older_counts(model, gflops, imgsz),),
    )


@torch.no_grad()
def count_flops(model: SegmentationModel, imgsz: tuple[int, int]) -> int:
    """Return the floating-point operations of all convolutions for one image of (height, width).

    They are counted while a copy of the model sees an image of one largest stride, and grow with the pixels.
    """
    total = 0

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        # Every weight is used once for each pixel: of the output, or of a transposed convolution's input.
        pixels = (inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output).shape[2:]
        total += 2 * cast("Tensor", layer.weight).numel() * math.prod(pixels)

    probe = copy.deepcopy(model).eval()
    for layer in probe.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(count)
    side = max(model.strides)
    parameter = next(probe.parameters())
    probe.raw(torch.zeros(1, IMAGE_CHANNELS, side, side, device=parameter.device, dtype=parameter.dtype))
    return total * imgsz[0] * imgsz[1] // side**2


def _note_on_older_counts(model: SegmentationModel, gflops: float, imgsz: tuple[int, int]) -> str:
    """Say why published tables show more: they count each tap of the transposed convolution for every output pixel."""
    stride = model.strides[0] // 2
    pixels = (imgsz[0] // stride) * (imgsz[1] // stride)
    published = gflops + 3 * 2 * model.head.proto.upsample.in_channels**2 * pixels / 1e9
    return (
        f"older tables say {published:.1f} GFLOPs: they count the prototypes' transposed convolution (2x2, stride 2) "
        "four times over"
    )
