"""Puts non-maximum suppression behind a model, as the operation that Core ML has for it.

torch has no such operation. One is declared here by name only, so that it can be traced; coremltools is told what it
becomes. What it chooses, and in which order, is Core ML's ``non_maximum_suppression``.
"""

from __future__ import annotations

from typing import Any

import torch
from coremltools.converters.mil import Builder
from coremltools.converters.mil.frontend.torch.torch_op_registry import register_torch_op
from torch import Tensor, nn

_APART = 2.0
"""Boxes of two classes are this many times the longest side apart while they are compared: they never overlap."""

_library = torch.library.Library("segx_coreml", "DEF")  # type: ignore[no-untyped-call]
_SCHEMA = "suppress(Tensor boxes, Tensor scores, float iou, float conf, int most) -> (Tensor, Tensor)"
_library.define(_SCHEMA)  # type: ignore[no-untyped-call]


def _in_torch(boxes: Tensor, _scores: Tensor, _iou: float, _conf: float, most: int) -> tuple[Tensor, Tensor]:
    """Return tensors of the right shape and type: enough for tracing, which is all that is done with it."""
    count = boxes.shape[0]
    return torch.zeros(count, most, dtype=torch.int32), torch.zeros(count, dtype=torch.int32)


_library.impl("suppress", _in_torch, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]


@register_torch_op(torch_alias=["segx_coreml::suppress"])  # type: ignore[untyped-decorator]  # coremltools has no types
def suppress(context: Any, node: Any) -> None:
    """Write the operation: boxes (N, A, 4) xywh, scores (N, A, 1) to indices (N, most) and how many hold (N,)."""
    boxes, scores, iou, conf, most = (context[name] for name in node.inputs)
    _, _, indices, count = Builder.non_maximum_suppression(
        boxes=boxes,
        scores=scores,
        iou_threshold=iou.val,
        score_threshold=conf.val,
        max_boxes=most.val,
        per_class_suppression=False,
    )
    for name, made in zip(node.outputs, (indices, count), strict=True):
        context.add(made, torch_name=name)


class Suppressed(nn.Module):
    """A model of ``yolov8-seg/1`` that ends in its detections.

    Args:
        model: Gives boxes, scores and coefficients (N, 4 + nc + coefficients, A), and prototypes.
        classes: Number of classes.
        coefficients: Number of mask coefficients.
        side: The longest side of the input, in pixels.
        conf: Smallest score that counts.
        iou: Boxes of a class that overlap more than this are one object.
        most: Rows of the output.
    """

    def __init__(
        self, model: nn.Module, *, classes: int, coefficients: int, side: int, conf: float, iou: float, most: int
    ) -> None:
        super().__init__()
        self.model = model
        self.classes = classes
        self.coefficients = coefficients
        self.apart = _APART * side
        self.conf = conf
        self.iou = iou
        self.most = most

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows (N, most, 6 + coefficients) x1 y1 x2 y2 score class coefficients, zeros where there are no more,
        and the prototypes.
        """  # noqa: D205 - the shape takes the line
        found, prototypes = self.model(images)
        boxes, scores, coefficients = found.transpose(1, 2).split((4, self.classes, self.coefficients), dim=2)
        best, kind = scores.max(dim=2, keepdim=True)
        kind = kind.float()
        centres, sizes = boxes.split((2, 2), dim=2)
        placed = torch.cat((centres + kind * self.apart, sizes), dim=2)
        chosen, count = torch.ops.segx_coreml.suppress(placed, best, self.iou, self.conf, self.most)
        rows = torch.cat((centres - sizes / 2, centres + sizes / 2, best, kind, coefficients), dim=2)
        # What stands in unused places is not the same in every version of Core ML: it is neither read nor passed on.
        held = (torch.arange(self.most, dtype=torch.int32)[None] < count[:, None]).float()
        places = chosen.clamp(min=0).long()[:, :, None].expand(-1, -1, 6 + self.coefficients)
        return rows.gather(1, places) * held[:, :, None], prototypes
