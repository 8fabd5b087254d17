"""The prototypes' doubling and the convolution behind it as one layer, for running on a CPU: the same numbers.

Of the 12.6 GFLOP of yolov8n-seg at 640 pixels 1.3 are gone; see :mod:`segx.ops.convolutions`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from segx.ops.convolutions import joined
from segx_model_yolov8.layers import Proto

if TYPE_CHECKING:
    from numpy.typing import NDArray

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


class _Given(nn.Conv2d):
    """A convolution for which no numbers are drawn: random ones are the program's, and its own are given."""

    def reset_parameters(self) -> None:
        """Leave them as they are."""


class JoinedProto(nn.Module):
    """Mask prototypes as :class:`Proto` makes them, from a fused one, whose layers it takes over.

    The convolutions of 2x2 for the four places of a pixel in its cell are one of four times the channels. What the
    bias of the doubling adds at the edges, where there are no doubled maps, is taken off.
    """

    def __init__(self, proto: Proto) -> None:
        super().__init__()
        self.cv1, self.act, self.cv3 = proto.cv1, proto.cv2.act, proto.cv3
        doubling, convolution = proto.upsample, proto.cv2.conv
        both = joined(_numpy(doubling.weight), _numpy(doubling.bias), _numpy(convolution.weight))
        places, cells = _SIDES**2, both.kernels.shape[3]
        bias = np.tile(_numpy(convolution.bias), places) + both.ones.sum((3, 4)).ravel()
        given = convolution.weight
        made = _Given(cells, len(bias), 2, padding=1, device=given.device, dtype=given.dtype)
        self.conv = made.requires_grad_(requires_grad=False)
        self.conv.weight.copy_(torch.from_numpy(both.kernels.reshape(self.conv.weight.shape)))
        self.conv.get_parameter("bias").copy_(torch.from_numpy(bias))
        self.conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's overloads leave it out
        # What lies beyond the edge is the first row of a window for the upper places, the second for the lower ones.
        rows = np.stack([both.ones[i, :, :, i].sum(-1) for i in range(_SIDES)])
        columns = np.stack([both.ones[:, j, :, :, j].sum(-1) for j in range(_SIDES)], 1)
        corners = np.stack([both.ones[i, j, :, i, j] for i in range(_SIDES) for j in range(_SIDES)])
        for name, values in {"rows": rows, "columns": columns, "corners": corners}.items():
            self.register_buffer(name, torch.from_numpy(values.ravel()).to(self.conv.weight))

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


def _numpy(values: Tensor | None) -> NDArray[np.float32]:
    if values is None:
        raise ValueError("it has no bias")
    return values.detach().float().numpy()  # NumPy has no bfloat16
