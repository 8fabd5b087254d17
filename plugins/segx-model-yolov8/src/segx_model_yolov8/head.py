"""The segmentation head: what it says of every cell of the grid, and how that is read as boxes, scores and masks."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from segx_model_yolov8.layers import DFL, Conv, Proto

REG_MAX = 16
"""Bins of the distribution for each side of a box: distances of 0..15 cells."""

BOX_BIAS = 1.0
PRIOR_IMAGE = 640
PRIOR_OBJECTS = 5

Size = tuple[int, int]


class RawMaps(NamedTuple):
    """What the head says, before decoding; A anchors are the cells of all levels, row by row, finest level first.

    Attributes:
        boxes: (N, 4 * 16, A), logits of the distances to left, top, right, bottom.
        scores: (N, nc, A), class logits.
        coefficients: (N, 32, A), mask coefficients.
        prototypes: (N, 32, H / 4, W / 4), mask prototypes.
        sizes: (height, width) of each level in cells.
    """

    boxes: Tensor
    scores: Tensor
    coefficients: Tensor
    prototypes: Tensor
    sizes: tuple[Size, ...]


class Anchors(NamedTuple):
    """Where the cells are.

    Attributes:
        points: (2, A), x and y of the cells' centres, in cells of their level.
        strides: (1, A), pixels in a cell.
    """

    points: Tensor
    strides: Tensor


class Predictions(NamedTuple):
    """What the model says of an image.

    Attributes:
        anchors: (N, 4 + nc + 32, A): box as centre x, centre y, width, height in input pixels; a probability for
            each class; mask coefficients.
        prototypes: (N, 32, H / 4, W / 4); a mask's logits are its coefficients times these.
    """

    anchors: Tensor
    prototypes: Tensor


class Segment(nn.Module):
    """Decoupled anchor-free head with a mask branch.

    Every level has a branch for boxes (``cv2``), for classes (``cv3``) and for mask coefficients (``cv4``); the
    prototypes (``proto``) come from the finest level. The order of the members is the order in published weights.
    """

    def __init__(self, inputs: tuple[int, ...], classes: int, masks: int = 32, prototype_channels: int = 256) -> None:
        super().__init__()
        finest = inputs[0]
        box_width = max(16, finest // 4, 4 * REG_MAX)
        class_width = max(finest, min(classes, 100))
        mask_width = max(finest // 4, masks)
        self.nc = classes
        self.cv2 = nn.ModuleList(_branch(c, box_width, 4 * REG_MAX) for c in inputs)
        self.cv3 = nn.ModuleList(_branch(c, class_width, classes) for c in inputs)
        self.dfl = DFL(REG_MAX)
        self.proto = Proto(finest, prototype_channels, masks)
        self.cv4 = nn.ModuleList(_branch(c, mask_width, masks) for c in inputs)

    def forward(self, *levels: Tensor) -> RawMaps:
        """Return what the head says of feature maps (N, C, H, W), finest first."""
        return RawMaps(
            boxes=_flat_cat(self.cv2, levels),
            scores=_flat_cat(self.cv3, levels),
            coefficients=_flat_cat(self.cv4, levels),
            prototypes=self.proto(levels[0]),
            sizes=tuple((x.shape[2], x.shape[3]) for x in levels),
        )

    def decode(self, raw: RawMaps, anchors: Anchors) -> Predictions:
        """Return boxes in pixels, probabilities and coefficients, always as float32.

        Half precision would leave steps of half a pixel beyond x = 512.
        """
        left_top, right_bottom = self._distances(_float(raw.boxes)).chunk(2, 1)
        first, last = anchors.points - left_top, anchors.points + right_bottom
        boxes = torch.cat(((first + last) / 2, last - first), 1) * anchors.strides
        return Predictions(
            anchors=torch.cat((boxes, _float(raw.scores).sigmoid(), _float(raw.coefficients)), 1),
            prototypes=raw.prototypes,
        )

    def _distances(self, logits: Tensor) -> Tensor:
        device = logits.device.type
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            distances: Tensor = self.dfl(logits)
            return distances
        with torch.autocast(device, enabled=False):
            return self._distances(logits)

    @torch.no_grad()
    def initialise_biases(self, strides: tuple[int, ...]) -> None:
        """Start from boxes of about a cell and from classes as rare as five objects in a 640 px image."""
        for box, scores, stride in zip(self.cv2, self.cv3, strides, strict=True):
            cells = (PRIOR_IMAGE / stride) ** 2
            _last_bias(box).fill_(BOX_BIAS)
            _last_bias(scores).fill_(math.log(PRIOR_OBJECTS / self.nc / cells))


def anchors_for(sizes: tuple[Size, ...], strides: tuple[int, ...], device: torch.device) -> Anchors:
    """Return the cells of all levels; remembered for each shape, except while a graph is being recorded."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:  # noqa: SLF001 - untyped elsewhere
        return make_anchors(sizes, strides, device)
    return _cached_anchors(sizes, strides, device)


def make_anchors(sizes: tuple[Size, ...], strides: tuple[int, ...], device: torch.device) -> Anchors:
    """Return the cells of all levels; sizes may be symbolic, so that a graph stays open to other shapes."""
    points, pixels = [], []
    for (height, width), stride in zip(sizes, strides, strict=True):
        x = torch.arange(width, device=device, dtype=torch.float32) + 0.5
        y = torch.arange(height, device=device, dtype=torch.float32) + 0.5
        grid = torch.stack((x.view(1, -1).expand(height, width), y.view(-1, 1).expand(height, width)))
        points.append(grid.reshape(2, -1))
        pixels.append(torch.full_like(points[-1][:1], stride))
    return Anchors(torch.cat(points, 1), torch.cat(pixels, 1))


@lru_cache(maxsize=64)
def _cached_anchors(sizes: tuple[Size, ...], strides: tuple[int, ...], device: torch.device) -> Anchors:
    with torch.inference_mode(mode=False):  # so that what inference remembers, training may use
        return make_anchors(sizes, strides, device)


def _branch(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(Conv(inputs, width, 3), Conv(width, width, 3), nn.Conv2d(width, outputs, 1))


def _flat_cat(branches: nn.ModuleList, levels: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([branch(x).flatten(2) for branch, x in zip(branches, levels, strict=True)], 2)


def _last_bias(branch: nn.Module) -> Tensor:
    return cast("Tensor", cast("nn.Sequential", branch)[-1].bias)


def _float(x: Tensor) -> Tensor:
    # A cast that changes nothing would still be written into exported graphs.
    return x if x.dtype == torch.float32 else x.float()
