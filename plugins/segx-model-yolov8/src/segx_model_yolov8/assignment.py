"""Which anchors are to predict which objects, and with what score (task-aligned assignment, arXiv:2108.07755)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from segx_model_yolov8.boxes import complete_iou

TOP = 10
SCORE_POWER = 0.5
OVERLAP_POWER = 6.0
EPS = 1e-9

CHUNK = 1 << 24
"""Most object-anchor pairs that are tested at once."""


class Objects(NamedTuple):
    """The ground truth of a batch: N objects.

    Attributes:
        image: int64 (N,), the image each is in.
        label: int64 (N,), its class.
        boxes: float (N, 4), x1 y1 x2 y2 in pixels.
    """

    image: Tensor
    label: Tensor
    boxes: Tensor


class Assignment(NamedTuple):
    """The positives of a batch: P anchors that are to predict an object; sorted by image and anchor.

    Attributes:
        image: int64 (P,), its image.
        anchor: int64 (P,), its number.
        object: int64 (P,), the object it is to predict.
        score: float (P,), the score it is to give to the object's class; 0 is meant for all others.
    """

    image: Tensor
    anchor: Tensor
    object: Tensor
    score: Tensor


@torch.no_grad()
def assign(scores: Tensor, boxes: Tensor, points: Tensor, objects: Objects) -> Assignment:
    """Return which anchors are positive, for what, and with what score.

    An object's candidates are the anchors inside its box; the ten best by ``score ** 0.5 * overlap ** 6`` predict it.
    An anchor chosen for several objects goes to the one it overlaps most. Scores are normalised so that an object's
    best anchor is to say the largest overlap any of its anchors has. Works on pairs of object and candidate alone, so
    that time and memory grow with the area of the objects.

    Args:
        scores: (B, nc, A), class logits.
        boxes: (B, 4, A), predicted boxes, x1 y1 x2 y2 in pixels.
        points: (2, A), the anchors in pixels.
        objects: The ground truth.
    """
    owner, anchor = _candidates(points, objects.boxes)
    image = objects.image[owner]
    overlap = complete_iou(objects.boxes[owner], boxes.transpose(1, 2)[image, anchor].float()).clamp(min=0)
    score = scores[image, objects.label[owner], anchor].float().sigmoid()
    metric = score**SCORE_POWER * overlap**OVERLAP_POWER

    chosen = _best(metric, owner)
    cell = image * points.shape[1] + anchor
    kept = _resolve(chosen, overlap, cell, cells=len(scores) * points.shape[1])
    owner, metric, overlap = owner[kept], metric[kept], overlap[kept]
    most = _largest(metric, owner, len(objects.boxes))
    widest = _largest(overlap, owner, len(objects.boxes))
    return Assignment(image[kept], anchor[kept], owner, metric * widest / (most + EPS))


def _candidates(points: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return all pairs of object and anchor where the anchor is inside the box, sorted by object."""
    x, y = points
    step = max(CHUNK // max(points.shape[1], 1), 1)
    owners, anchors = [], []
    for start in range(0, max(len(boxes), 1), step):
        x1, y1, x2, y2 = boxes[start : start + step].T.unsqueeze(-1)
        owner, anchor = ((x > x1) & (x < x2) & (y > y1) & (y < y2)).nonzero(as_tuple=True)
        owners.append(owner + start)
        anchors.append(anchor)
    return torch.cat(owners), torch.cat(anchors)


def _best(metric: Tensor, owner: Tensor) -> Tensor:
    """Return which pairs are among their object's ten best; an object that nothing fits gets none."""
    order = metric.argsort(descending=True, stable=True)
    order = order[owner[order].argsort(stable=True)]
    ranked, owners = metric[order], owner[order]
    first = torch.searchsorted(owners, owners)
    rank = torch.arange(len(order), device=order.device) - first
    chosen = torch.zeros_like(metric, dtype=torch.bool)
    chosen[order] = (rank < TOP) & (ranked > 0) & (ranked[first] > EPS)
    return chosen


def _resolve(chosen: Tensor, overlap: Tensor, cell: Tensor, *, cells: int) -> Tensor:
    """Return one pair for each chosen cell: the one that chose it, or of all its pairs the one of largest overlap."""
    wanted = torch.zeros(cells, dtype=torch.bool, device=cell.device)
    wanted[cell[chosen]] = True
    pairs = wanted[cell].nonzero().squeeze(1)
    # Within a cell: the largest overlap first; but where only one object chose the cell, that one.
    counts = torch.zeros(cells, dtype=torch.int32, device=cell.device)
    counts.index_put_((cell[chosen],), torch.ones((), dtype=torch.int32, device=cell.device), accumulate=True)
    lone = counts[cell[pairs]] == 1
    pairs = pairs[~lone | chosen[pairs]]
    pairs = pairs[overlap[pairs].argsort(descending=True, stable=True)]
    pairs = pairs[cell[pairs].argsort(stable=True)]
    cell = cell[pairs]
    first = torch.ones_like(cell, dtype=torch.bool)
    first[1:] = cell[1:] != cell[:-1]
    return pairs[first]


def _largest(values: Tensor, owner: Tensor, objects: int) -> Tensor:
    """Return for each pair the largest value of its object."""
    return values.new_zeros(objects).scatter_reduce(0, owner, values, "amax")[owner]
