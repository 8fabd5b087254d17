"""Two layers of the prototypes as one, for running on a CPU: four tenths of their work, the same numbers.

The prototypes' branch doubles its maps by a transposed convolution of 2x2 and stride 2, and convolves what comes of it
by 3x3. Nothing lies between, so both together are linear. A pixel of the doubled maps sees, through the 3x3, nine of
its neighbours, which come from four cells only: a convolution of 2x2 over the cells does it, another one for each of
the four places that a pixel may have in its cell. A cell takes 16 products for each pair of channels instead of 40: of
the 12.6 GFLOP of yolov8n-seg at 640 pixels 1.3 are gone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from segx_model_yolov8.layers import Conv, Proto

if TYPE_CHECKING:
    from segx_model_yolov8.network import SegmentationModel

_SIDES = 2
"""Places in a cell, along each axis."""


def join_prototypes(fused: SegmentationModel) -> SegmentationModel:
    """Return a fused model, changed in place, whose prototypes are made by :class:`JoinedProto` where they can be."""
    proto = fused.head.proto
    if _is_usual(proto):
        fused.head.proto = JoinedProto(proto)  # type: ignore[assignment]  # it stands in for it
    return fused


def _is_usual(proto: Proto) -> bool:
    doubled: nn.Module = proto.upsample
    convolution = proto.cv2.conv
    if type(proto) is not Proto or type(doubled) is not nn.ConvTranspose2d:
        return False
    plain = isinstance(proto.cv2.bn, nn.Identity) and isinstance(proto.cv3.bn, nn.Identity)
    two = doubled.kernel_size == doubled.stride == (2, 2) and doubled.padding == doubled.output_padding == (0, 0)
    three = convolution.kernel_size == (3, 3) and convolution.stride == convolution.padding == (1, 1)
    one = proto.cv3.conv.kernel_size == (1, 1)
    single = doubled.groups == convolution.groups == 1 and doubled.dilation == convolution.dilation == (1, 1)
    return plain and two and three and one and single and doubled.bias is not None and convolution.bias is not None


class JoinedProto(nn.Module):
    """Mask prototypes as :class:`Proto` makes them, from a fused one, whose layers it takes over.

    The four convolutions of 2x2 are one with four times the channels, over cells with a ring of nothing around: its
    outputs (N, 4 * hidden, H + 1, W + 1) hold for each window of 2x2 cells what it means for each of the four places;
    the pixel (2y + i, 2x + j) is what the window that begins i rows and j columns after (y - 1, x - 1) means for the
    place (i, j). Beyond the edge the doubled maps are nothing, where a doubled cell of nothing would be the bias; what
    it adds there is taken off.
    """

    def __init__(self, proto: Proto) -> None:
        super().__init__()
        self.cv1, self.act, self.cv3 = proto.cv1, proto.cv2.act, proto.cv3
        kernel, bias, *edges = _joined(proto.upsample, proto.cv2)
        places, hidden, cells = kernel.shape[0], kernel.shape[1], kernel.shape[2]
        self.conv = nn.Conv2d(cells, places * hidden, 2, padding=1).requires_grad_(requires_grad=False)
        self.conv.weight.copy_(kernel.flatten(0, 1))
        self.conv.bias = nn.Parameter(bias.flatten().to(self.conv.weight), requires_grad=False)
        self.conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's overloads leave it out
        for name, values in zip(("rows", "columns", "corners"), edges, strict=True):
            self.register_buffer(name, values.flatten().to(self.conv.weight))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, prototypes, 2H, 2W) for (N, inputs, H, W)."""
        y = self.conv(self.cv1(x))
        rows, columns, corners = (self.get_buffer(name)[:, None] for name in ("rows", "columns", "corners"))
        for edge in (0, -1):  # of the places that the edge is not next to, nothing is used there
            y[:, :, edge] -= rows
            y[:, :, :, edge] -= columns
        y[:, :, :: y.shape[2] - 1, :: y.shape[3] - 1] += corners[..., None]
        y = self.act(y).permute(0, 2, 3, 1)
        count, height, width, channels = y.shape
        places = y.reshape(count, height, width * _SIDES**2, channels // _SIDES**2).permute(0, 3, 1, 2)
        found = self.cv3(places).permute(0, 2, 3, 1).reshape(count, height, width, _SIDES, _SIDES, -1)
        pixels = found.new_empty(count, height - 1, _SIDES, width - 1, _SIDES, found.shape[-1])
        for i in range(_SIDES):
            for j in range(_SIDES):
                pixels[:, :, i, :, j] = found[:, i : i + height - 1, j : j + width - 1, i, j]
        rows_of_pixels: Tensor = pixels.flatten(3, 4).flatten(1, 2)
        return rows_of_pixels.permute(0, 3, 1, 2)


@torch.no_grad()
def _joined(doubling: nn.ConvTranspose2d, convolution: Conv) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return what two layers come to for each place in a cell, in float64; P places, row by row.

    Returns:
        (P, hidden, inputs, 2, 2) kernels, (P, hidden) biases, and what is too much at the edges: (P, hidden) in the
        row next to one, in the column next to one, and, taken off twice, in the corner.
    """
    inner, outer = doubling.weight.double(), convolution.conv.weight.double()
    hidden, inputs = outer.shape[0], inner.shape[0]
    kernels = inner.new_zeros(_SIDES, _SIDES, hidden, inputs, 2, 2)
    per_tap = torch.einsum("omrq,m->rqo", outer, _bias(doubling))
    for i in range(_SIDES):
        for j in range(_SIDES):
            for row in range(3):
                for column in range(3):
                    down, across = i + row - 1, j + column - 1  # of the doubled maps, from the cell's first
                    tap = outer[:, :, row, column] @ inner[:, :, down % _SIDES, across % _SIDES].T
                    kernels[i, j, :, :, down // _SIDES + 1 - i, across // _SIDES + 1 - j] += tap
    bias = _bias(convolution.conv) + per_tap.sum((0, 1))
    rows = [per_tap[2 * i].sum(0) for i in range(_SIDES) for _ in range(_SIDES)]
    columns = [per_tap[:, 2 * j].sum(0) for _ in range(_SIDES) for j in range(_SIDES)]
    corners = [per_tap[2 * i, 2 * j] for i in range(_SIDES) for j in range(_SIDES)]
    return (
        kernels.flatten(0, 1),
        bias.repeat(_SIDES**2, 1),
        torch.stack(rows),
        torch.stack(columns),
        torch.stack(corners),
    )


def _bias(layer: nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    if layer.bias is None:
        raise ValueError("it has no bias")
    return layer.bias.double()
