"""The mask loss, computed only inside the boxes, in memory that does not grow with the number of positives."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHUNK = 1 << 22
"""Most numbers in any intermediate result."""

SMALLEST_CROP = 8
"""Side of the smallest window, in prototype pixels; windows double from there."""


class MaskTarget(NamedTuple):
    """The masks of a batch of N objects.

    Attributes:
        image: int64 (N,), the image each object is in.
        boxes: float (N, 4), x1 y1 x2 y2 as fractions of the image.
        maps: With ``numbers``, (B, h, w), the number of the object seen at each pixel, 0 for none. Without, (N, h, w),
            each object's own mask. Any size; the nearest pixel is taken.
        numbers: int64 (N,), the number each object has in its image's map, or None.
    """

    image: Tensor
    boxes: Tensor
    maps: Tensor
    numbers: Tensor | None


@dataclass(frozen=True, kw_only=True)
class _Window:
    """Objects whose boxes fit in one size of window; G objects, at most K positives each.

    Attributes:
        height: Rows of the window.
        width: Columns of the window.
        objects: int64 (G,).
        corners: (image, top, left) of each window, on the CPU.
        positives: int64 (G, K), the positives of each object; padded.
        weights: float (G, K), of each positive; 0 where padded.
    """

    height: int
    width: int
    objects: Tensor
    corners: tuple[tuple[int, int, int], ...]
    positives: Tensor
    weights: Tensor

    def places(self, maps: Tensor) -> Iterator[Tensor]:
        """Yield what lies in each window of (B, M, H, W) maps: (M, height, width), no copies."""
        for image, top, left in self.corners:
            yield maps[image, :, top : top + self.height, left : left + self.width]


def mask_loss(coefficients: Tensor, prototypes: Tensor, owner: Tensor, masks: MaskTarget) -> Tensor:
    """Return the mean over positives of the binary cross-entropy of their masks.

    A mask's logits are its coefficients times the prototypes of its image. Its loss is the sum over the prototype
    pixels whose centre is inside its object's box, divided by the pixels of the whole map and by the part of the image
    the box covers: as YOLACT, arXiv:1904.02689, section 3.

    Gradients are found along with the loss, window by window, so that nothing of the size of positives times pixels is
    ever kept; the second derivative is not available.

    Args:
        coefficients: (P, M), of each positive.
        prototypes: (B, M, H, W).
        owner: int64 (P,), the object each positive is to predict.
        masks: Boxes and masks of the objects.
    """
    with torch.autocast(prototypes.device.type, enabled=False):
        apply: Callable[..., Tensor] = _MaskLoss.apply
        return apply(coefficients.float(), prototypes.float(), owner, masks)


class _MaskLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, prototypes: Tensor, owner: Tensor, masks: MaskTarget) -> Tensor:
        channels, height, width = prototypes.shape[1:]
        want_gradients = any(ctx.needs_input_grad[:2])
        d_coefficients = torch.zeros_like(coefficients) if want_gradients else None
        d_prototypes = torch.zeros_like(prototypes) if want_gradients else None
        loss = prototypes.new_zeros(())
        for window in _windows(owner, masks, height, width, channels):
            index, inside = _window_pixels(window, masks.boxes, height, width)
            target = _targets(window, masks, index, height, width)
            crops = torch.stack(list(window.places(prototypes))).flatten(2)
            theirs = coefficients[window.positives]
            logits = theirs @ crops
            weights = window.weights.unsqueeze(2) * inside.unsqueeze(1)
            loss += ((softplus(logits) - logits * target.unsqueeze(1)) * weights).sum()
            if d_coefficients is None or d_prototypes is None:
                continue
            d_logits = logits.sigmoid_().sub_(target.unsqueeze(1)).mul_(weights)
            real = window.weights > 0
            d_coefficients[window.positives[real]] = (d_logits @ crops.transpose(1, 2))[real]
            for place, values in zip(window.places(d_prototypes), theirs.transpose(1, 2) @ d_logits, strict=True):
                place.add_(values.view_as(place))  # one by one: in the same order, the same sum
        if d_coefficients is not None and d_prototypes is not None:
            ctx.save_for_backward(d_coefficients, d_prototypes)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        d_coefficients, d_prototypes = ctx.saved_tensors
        return d_coefficients * gradient, d_prototypes * gradient, None, None


def _windows(owner: Tensor, masks: MaskTarget, height: int, width: int, channels: int) -> Iterator[_Window]:
    """Sort the objects that have positives into windows of few sizes, none larger than memory allows."""
    objects, counts = torch.unique(owner, return_counts=True)  # sorted
    order = owner.argsort(stable=True)
    first = counts.cumsum(0) - counts
    edges = _edges(masks.boxes[objects], height, width)
    scale = 1.0 / (height * width * max(len(owner), 1))
    area = (masks.boxes[:, 2:] - masks.boxes[:, :2]).prod(1)
    groups: dict[tuple[int, int], list[tuple[int, int, int, int, int]]] = defaultdict(list)
    listed = torch.cat((masks.image[objects, None], edges, counts[:, None]), 1).tolist()
    for position, (image, left, top, right, bottom, count) in enumerate(listed):
        size = _side(bottom - top, height), _side(right - left, width)
        groups[size].append((position, count, image, min(top, height - size[0]), min(left, width - size[1])))
    for (rows, columns), members in sorted(groups.items()):
        most = max(count for _, count, *_ in members)
        step = max(CHUNK // (rows * columns * max(channels, most)), 1)
        for start in range(0, len(members), step):
            part = members[start : start + step]
            chosen = torch.tensor([position for position, *_ in part], device=owner.device)
            slots = torch.arange(most, device=owner.device).expand(len(part), most)
            real = slots < counts[chosen, None]
            weights = real * (scale / area[objects[chosen], None])
            yield _Window(
                height=rows,
                width=columns,
                objects=objects[chosen],
                corners=tuple((image, top, left) for _, _, image, top, left in part),
                positives=order[torch.where(real, first[chosen, None] + slots, 0)],
                weights=weights,
            )


def _side(length: int, limit: int) -> int:
    """Return the side of the window for a box: doubling, so that there are few, and never beyond the map."""
    side = SMALLEST_CROP
    while side < length:
        side *= 2
    return min(side, limit)


def _edges(boxes: Tensor, height: int, width: int) -> Tensor:
    """Return left, top, right, bottom of the pixels inside boxes: those with x1 <= column < x2."""
    limits = boxes.new_tensor((width, height, width, height))
    return (boxes * limits).ceil().clamp(min=0).minimum(limits).long()


def _window_pixels(window: _Window, boxes: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the numbers of a window's pixels in the map, and which are inside the box; both (G, height * width)."""
    device = boxes.device
    corners = torch.tensor(window.corners, device=device)
    left, top, right, bottom = _edges(boxes[window.objects], height, width).unbind(1)
    y = corners[:, 1:2] + torch.arange(window.height, device=device)
    x = corners[:, 2:3] + torch.arange(window.width, device=device)
    rows = (y >= top[:, None]) & (y < bottom[:, None])
    columns = (x >= left[:, None]) & (x < right[:, None])
    index = y[:, :, None] * width + x[:, None, :]
    return index.flatten(1), (rows[:, :, None] & columns[:, None, :]).flatten(1)


def _targets(window: _Window, masks: MaskTarget, index: Tensor, height: int, width: int) -> Tensor:
    """Return what the masks are at a window's pixels, float (G, pixels)."""
    rows, columns = masks.maps.shape[1:]
    y = index.div(width, rounding_mode="floor") * rows // height
    x = index % width * columns // width
    if masks.numbers is None:
        return (masks.maps[window.objects[:, None], y, x] > 0).float()
    seen = masks.maps[masks.image[window.objects, None], y, x]
    return (seen == masks.numbers[window.objects, None]).float()
