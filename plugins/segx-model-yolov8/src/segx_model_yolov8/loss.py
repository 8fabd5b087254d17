"""The training loss: boxes, masks, classes and distances, of the anchors that the assignment made positive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot, softplus

from segx_model_yolov8.assignment import Assignment, Objects, assign
from segx_model_yolov8.boxes import complete_iou
from segx_model_yolov8.head import REG_MAX, Anchors, RawMaps
from segx_model_yolov8.mask_loss import MaskTarget, mask_loss

if TYPE_CHECKING:
    from collections.abc import Mapping

    from segx_model_yolov8.network import SegmentationModel

DISTANCE_MARGIN = 0.01


@dataclass(frozen=True, kw_only=True)
class Gains:
    """Weights of the parts of the loss; masks weigh as much as boxes."""

    box: float = 7.5
    cls: float = 0.5
    dfl: float = 1.5


class SegmentationLoss:
    """The loss of a YOLOv8-seg model: :class:`segx.plugin.interfaces.Criterion`.

    Everything but the class loss is computed on the positives alone. Half precision is widened to float32.
    """

    def __init__(self, model: SegmentationModel, gains: Gains | None = None) -> None:
        self.strides = model.strides
        self.gains = gains or Gains()
        self._anchors = model.anchors

    def __call__(self, outputs: RawMaps, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the mean loss of an image and its parts ``box``, ``seg``, ``cls``, ``dfl``, gains applied.

        Without a single object the loss is that of the classes, and every parameter still gets a gradient.

        Args:
            outputs: What the model returns in training mode, or from :meth:`SegmentationModel.raw`.
            batch: Tensors on the model's device by name, as in :class:`segx.structures.batch.TrainBatch`: ``batch_idx``
                and ``classes`` (N,); ``boxes`` (N, 4), centre x, centre y, width, height as fractions; ``masks``, with
                ``overlap`` (the default) index maps (B, h, w), else each object's own (N, h, w); ``has_mask`` (N,),
                all when it is absent.
        """
        with torch.autocast(outputs.boxes.device.type, enabled=False):
            return self._loss(outputs, batch)

    def _loss(self, raw: RawMaps, batch: Mapping[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        anchors = self._anchors(raw)
        image_size = anchors.points.new_tensor(_image_size(raw, self.strides))
        fractions = _corners(batch["boxes"].float())
        objects = Objects(batch["batch_idx"].long(), batch["classes"].long(), fractions * image_size)
        positives = assign(raw.scores, _decode(raw, anchors), anchors.points * anchors.strides, objects)
        normaliser = positives.score.sum().clamp(min=1)

        box, dfl = _box_and_distance_losses(raw, anchors, objects.boxes, positives)
        parts = {
            "box": box / normaliser * self.gains.box,
            "seg": _mask_loss(raw, objects, fractions, positives, batch) * self.gains.box,
            "cls": _class_loss(raw.scores, objects, positives) / normaliser * self.gains.cls,
            "dfl": dfl / normaliser * self.gains.dfl,
        }
        return torch.stack(list(parts.values())).sum(), {name: part.detach() for name, part in parts.items()}


def _image_size(raw: RawMaps, strides: tuple[int, ...]) -> tuple[int, int, int, int]:
    (height, width), stride = raw.sizes[0], strides[0]
    return width * stride, height * stride, width * stride, height * stride


def _corners(boxes: Tensor) -> Tensor:
    """Return x1 y1 x2 y2 for centre x, centre y, width, height."""
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    return torch.cat((centre - half, centre + half), 1)


@torch.no_grad()
def _decode(raw: RawMaps, anchors: Anchors) -> Tensor:
    """Return the boxes of all anchors, float32 (B, 4, A), x1 y1 x2 y2 in pixels."""
    batch, _, count = raw.boxes.shape
    logits = raw.boxes.view(batch, 4, REG_MAX, count).float()
    left_top, right_bottom = _expectation(logits.softmax(2), dim=2).chunk(2, 1)
    return torch.cat((anchors.points - left_top, anchors.points + right_bottom), 1) * anchors.strides


def _expectation(probabilities: Tensor, *, dim: int) -> Tensor:
    """Return the mean bin along ``dim``."""
    bins = torch.arange(REG_MAX, device=probabilities.device, dtype=probabilities.dtype)
    return (probabilities.movedim(dim, -1) * bins).sum(-1)


def _class_loss(scores: Tensor, objects: Objects, positives: Assignment) -> Tensor:
    """Return the binary cross-entropy with the soft targets, summed; only positives have a target above 0."""
    aimed = scores[positives.image, objects.label[positives.object], positives.anchor].float()
    return softplus(scores.float()).sum() - (aimed * positives.score).sum()


def _box_and_distance_losses(
    raw: RawMaps, anchors: Anchors, boxes: Tensor, positives: Assignment
) -> tuple[Tensor, Tensor]:
    """Return 1 - CIoU and the distribution focal loss (arXiv:2006.04388), each weighted by score and summed."""
    points = anchors.points[:, positives.anchor].T
    goal = boxes[positives.object] / anchors.strides[0, positives.anchor, None]
    log_bins = raw.boxes.transpose(1, 2)[positives.image, positives.anchor].float()
    log_bins = log_bins.view(-1, 4, REG_MAX).log_softmax(2)

    left_top, right_bottom = _expectation(log_bins.exp(), dim=2).chunk(2, 1)
    found = torch.cat((points - left_top, points + right_bottom), 1)
    box = ((1 - complete_iou(found, goal)) * positives.score).sum()

    distances = torch.cat((points - goal[:, :2], goal[:, 2:] - points), 1).clamp(0, REG_MAX - 1 - DISTANCE_MARGIN)
    lower = distances.long()
    upper_weight = distances - lower
    near = log_bins.gather(2, lower.unsqueeze(2)).squeeze(2)
    far = log_bins.gather(2, lower.unsqueeze(2) + 1).squeeze(2)
    cross_entropy = -(near * (1 - upper_weight) + far * upper_weight)
    return box, (cross_entropy.mean(1) * positives.score).sum()


def _mask_loss(
    raw: RawMaps, objects: Objects, fractions: Tensor, positives: Assignment, batch: Mapping[str, Any]
) -> Tensor:
    """Return the mean mask loss of the positives whose object has a mask."""
    owner, has_mask = positives.object, batch.get("has_mask")
    kept = slice(None) if has_mask is None else has_mask[owner]
    numbers = _numbers(objects.image, len(raw.boxes)) if batch.get("overlap", True) else None
    coefficients = raw.coefficients.transpose(1, 2)[positives.image[kept], positives.anchor[kept]]
    masks = MaskTarget(objects.image, fractions, batch["masks"], numbers)
    return mask_loss(coefficients, raw.prototypes, owner[kept], masks)


def _numbers(image: Tensor, images: int) -> Tensor:
    """Return each object's place among those of its image, from 1."""
    return one_hot(image, images).cumsum(0).gather(1, image[:, None]).squeeze(1)
