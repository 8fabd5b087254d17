"""The model as exporters take it: plain tensors in, plain tensors out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from segx.errors import UsageError
from segx.plugin.jobs import ExportModule
from segx_model_yolov8.head import REG_MAX, Anchors, RawMaps, make_anchors
from segx_model_yolov8.plugin import HEADS
from segx_model_yolov8.weights import fuse

if TYPE_CHECKING:
    from segx.artifact import ArtifactInfo
    from segx_model_yolov8.network import SegmentationModel

_OF_ANCHORS, _OF_MASKS = {0: "batch", 2: "anchors"}, {0: "batch", 2: "mask_height", 3: "mask_width"}
OUTPUT_AXES = (_OF_ANCHORS, _OF_MASKS)
RAW_OUTPUTS = ("boxes", "scores", "coefficients", "prototypes")


class ExportableModel(nn.Module):
    """A fused model that returns ``(output0, output1)``.

    output0 is (N, 4 + nc + 32, A): boxes (centre x, centre y, width, height, in input pixels), probabilities,
    coefficients. output1 is (N, 32, H / 4, W / 4): prototypes. The cells of the grid are constants where the image
    size is fixed, and computed in the graph from the size of the input where it is not.
    """

    def __init__(self, model: SegmentationModel, sizes: tuple[tuple[int, int], ...] | None) -> None:
        super().__init__()
        self.model = fuse(model)
        self.sizes = sizes
        if sizes is not None:
            device = next(self.model.parameters()).device
            fixed = make_anchors(sizes, model.strides, device)
            self.register_buffer("points", fixed.points, persistent=False)
            self.register_buffer("strides", fixed.strides, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return output0 and output1 for (N, 3, H, W) images."""
        raw = self.model.raw(images)
        predictions = self.model.head.decode(raw, self._anchors(raw))
        return predictions.anchors, predictions.prototypes

    def _anchors(self, raw: RawMaps) -> Anchors:
        if self.sizes is None:
            return make_anchors(raw.sizes, self.model.strides, raw.boxes.device)
        return Anchors(self.get_buffer("points"), self.get_buffer("strides"))


class RawModel(nn.Module):
    """A fused model that returns what its head says: ``(boxes, scores, coefficients, prototypes)``.

    boxes are (N, 4 * 16, A), logits of the distances to the sides; scores (N, nc, A) are probabilities; coefficients
    (N, 32, A); prototypes (N, 32, H / 4, W / 4). Boxes are left to whoever reads the outputs: numbers of 8 bits, for
    instance, hold logits well and pixels badly.
    """

    def __init__(self, model: SegmentationModel) -> None:
        super().__init__()
        self.model = fuse(model)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the four outputs for (N, 3, H, W) images."""
        raw = self.model.raw(images)
        return raw.boxes, raw.scores.sigmoid(), raw.coefficients, raw.prototypes


def make_export_module(model: SegmentationModel, info: ArtifactInfo) -> ExportModule:
    """Return a copy of the model that ends in ``info.head``, open along the axes that ``info.dynamic`` names.

    Raises:
        UsageError: It cannot end there.
    """
    height, width = info.imgsz
    images = np.random.default_rng(0).random((info.batch, 3, height, width), dtype=np.float32)
    if info.head == HEADS["raw"]:
        decoding = {"strides": list(model.strides), "bins": REG_MAX}
        info = info.replace(outputs=RAW_OUTPUTS, decoding=decoding)
        axes = (_OF_ANCHORS, _OF_ANCHORS, _OF_ANCHORS, _OF_MASKS)
        return ExportModule(module=RawModel(model).eval(), example=images, info=info, output_axes=axes)
    if info.head != HEADS["decoded"]:
        raise UsageError(f"a {info.architecture} model does not end in {info.head!r}: {' or '.join(HEADS.values())}")
    open_size = bool({"height", "width"} & info.dynamic)
    sizes = None if open_size else tuple((height // stride, width // stride) for stride in model.strides)
    return ExportModule(module=ExportableModel(model, sizes).eval(), example=images, info=info, output_axes=OUTPUT_AXES)
