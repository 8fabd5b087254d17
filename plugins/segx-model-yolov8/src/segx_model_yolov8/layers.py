"""The blocks that YOLOv8-seg is made of; attribute names are the names in published weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

BN_EPS = 1e-3
BN_MOMENTUM = 0.03

DEFAULT_ACTIVATION: nn.Module = nn.SiLU(inplace=True)


class Conv(nn.Module):
    """Convolution, BatchNorm, activation; padded so that stride 1 keeps the size.

    Once fused, ``bn`` is an identity and ``conv`` has a bias.
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        padding: int | None = None,
        groups: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        if padding is None:
            padding = dilation * (kernel - 1) // 2
        self.conv = nn.Conv2d(inputs, channels, kernel, stride, padding, dilation, groups, bias=False)
        self.bn: nn.BatchNorm2d | nn.Identity = nn.BatchNorm2d(channels, eps=BN_EPS, momentum=BN_MOMENTUM)
        self.act = DEFAULT_ACTIVATION

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, channels, H / stride, W / stride) for (N, inputs, H, W)."""
        x = self.bn(self.conv(x))
        if self.training and type(self.act) is nn.SiLU:
            return nn.functional.silu(x)  # in place, what goes in would be copied first, for the gradient
        y: Tensor = self.act(x)
        return y


class Bottleneck(nn.Module):
    """Two 3x3 convolutions, added to the input where ``shortcut`` is set and the shapes allow."""

    def __init__(
        self, inputs: int, channels: int, *, shortcut: bool = True, groups: int = 1, expansion: float = 0.5
    ) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        self.cv1 = Conv(inputs, hidden, 3)
        self.cv2 = Conv(hidden, channels, 3, groups=groups)
        self.add = shortcut and inputs == channels

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, channels, H, W) for (N, inputs, H, W)."""
        y: Tensor = self.cv2(self.cv1(x))
        return x + y if self.add else y


class C2f(nn.Module):
    """Cross-stage block: half of the channels pass a chain of bottlenecks, and every link of it is kept."""

    def __init__(
        self,
        inputs: int,
        channels: int,
        repeats: int = 1,
        *,
        shortcut: bool = False,
        groups: int = 1,
        expansion: float = 0.5,
    ) -> None:
        super().__init__()
        hidden = int(channels * expansion)
        self.cv1 = Conv(inputs, 2 * hidden)
        self.cv2 = Conv((2 + repeats) * hidden, channels)
        self.m = nn.ModuleList(
            Bottleneck(hidden, hidden, shortcut=shortcut, groups=groups, expansion=1.0) for _ in range(repeats)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, channels, H, W) for (N, inputs, H, W)."""
        links = list(self.cv1(x).chunk(2, 1))
        for bottleneck in self.m:
            links.append(bottleneck(links[-1]))
        y: Tensor = self.cv2(torch.cat(links, 1))
        return y


class SPPF(nn.Module):
    """Spatial pyramid pooling: one small max-pool three times in a row sees what three larger ones would."""

    def __init__(self, inputs: int, channels: int, kernel: int = 5) -> None:
        super().__init__()
        hidden = inputs // 2
        self.cv1 = Conv(inputs, hidden)
        self.cv2 = Conv(4 * hidden, channels)
        self.m = nn.MaxPool2d(kernel, stride=1, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, channels, H, W) for (N, inputs, H, W)."""
        near = self.cv1(x)
        middle = self.m(near)
        far = self.m(middle)
        y: Tensor = self.cv2(torch.cat((near, middle, far, self.m(far)), 1))
        return y


class Concat(nn.Module):
    """Joins feature maps of one size, along the channels unless told otherwise."""

    def __init__(self, dim: int = 1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, *maps: Tensor) -> Tensor:
        """Return the maps, joined."""
        return torch.cat(maps, self.dim)


class Proto(nn.Module):
    """Mask prototypes at twice the resolution of the input (YOLACT, arXiv:1904.02689)."""

    def __init__(self, inputs: int, hidden: int, prototypes: int) -> None:
        super().__init__()
        self.cv1 = Conv(inputs, hidden, 3)
        self.upsample = nn.ConvTranspose2d(hidden, hidden, 2, stride=2)
        self.cv2 = Conv(hidden, hidden, 3)
        self.cv3 = Conv(hidden, prototypes)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, prototypes, 2H, 2W) for (N, inputs, H, W)."""
        y: Tensor = self.cv3(self.cv2(self.upsample(self.cv1(x))))
        return y


class DFL(nn.Module):
    """Expected distance from a distribution over bins 0, 1, 2, ... (arXiv:2006.04388), as a frozen 1x1 convolution."""

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.bins = bins
        self.conv = nn.Conv2d(bins, 1, 1, bias=False).requires_grad_(requires_grad=False)
        # Not torch.arange: on the meta device it imports sympy, which takes seconds.
        self.conv.weight.data = torch.tensor([float(i) for i in range(bins)]).view(1, bins, 1, 1)

    def forward(self, logits: Tensor) -> Tensor:
        """Return distances (N, 4, A) in bins for logits (N, 4 * bins, A)."""
        anchors = logits.shape[2]
        probabilities = logits.view(-1, 4, self.bins, anchors).transpose(1, 2).softmax(1)
        weight = self.conv.weight if self.conv.weight.dtype == logits.dtype else self.conv.weight.to(logits.dtype)
        return nn.functional.conv2d(probabilities, weight).view(-1, 4, anchors)
