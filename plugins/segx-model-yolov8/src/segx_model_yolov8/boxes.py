"""Overlap of boxes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

EPS = 1e-7


def complete_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return the complete IoU of pairs of boxes: overlap, less distance of centres and difference of aspect.

    Boxes are (..., 4), x1 y1 x2 y2, in one unit. The result (...) lies in -1.5..1. Distance-IoU Loss, arXiv:1911.08287;
    the weight of the aspect term is taken as a constant, as there.
    """
    ax1, ay1, ax2, ay2 = first.unbind(-1)
    bx1, by1, bx2, by2 = second.unbind(-1)
    aw, ah, bw, bh = ax2 - ax1, ay2 - ay1 + EPS, bx2 - bx1, by2 - by1 + EPS
    width = (torch.minimum(ax2, bx2) - torch.maximum(ax1, bx1)).clamp(min=0)
    height = (torch.minimum(ay2, by2) - torch.maximum(ay1, by1)).clamp(min=0)
    intersection = width * height
    iou = intersection / (aw * ah + bw * bh - intersection + EPS)

    across = torch.maximum(ax2, bx2) - torch.minimum(ax1, bx1)
    down = torch.maximum(ay2, by2) - torch.minimum(ay1, by1)
    diagonal = across**2 + down**2 + EPS
    distance = ((bx1 + bx2 - ax1 - ax2) ** 2 + (by1 + by2 - ay1 - ay2) ** 2) / 4
    aspect = (4 / math.pi**2) * ((bw / bh).atan() - (aw / ah).atan()) ** 2
    with torch.no_grad():
        weight = aspect / (aspect - iou + (1 + EPS))
    return iou - (distance / diagonal + aspect * weight)
