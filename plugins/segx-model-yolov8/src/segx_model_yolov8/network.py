"""The network: rows of a YAML, run one after the other, with a head at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, cast

from torch import Tensor, nn

from segx_model_yolov8.blocks import BLOCKS, Row, strides
from segx_model_yolov8.config import config_rows
from segx_model_yolov8.head import Anchors, Predictions, RawMaps, Segment, anchors_for
from segx_model_yolov8.layers import SPPF, Bottleneck, C2f, Concat, Conv

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from segx.plugin.jobs import ModelConfig


class SegmentationModel(nn.Module):
    """A YOLOv8-seg model.

    Images are float (N, 3, H, W), RGB in 0..1, with sides that are multiples of the largest stride. In training mode
    the model returns :class:`~segx_model_yolov8.head.RawMaps`, which the loss takes; in eval mode
    :class:`~segx_model_yolov8.head.Predictions`. Where both are wanted (the loss while validating), call
    :meth:`raw` and :meth:`decode`.

    Built under ``torch.device("meta")`` it takes no memory; ``load_state_dict(..., assign=True)`` then fills it.

    Attributes:
        config: What it was built from.
        strides: Pixels in a cell of each level of the head, finest first.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        rows = config_rows(config)
        self.config = config
        self.model = nn.Sequential(*(_build(row) for row in rows))
        self._sources = tuple(row.sources for row in rows)
        joined = {(index, source) for index, row in enumerate(rows) for source in row.sources}
        self._kept = frozenset(source for index, source in joined if source != index - 1)
        self.strides = strides(rows)
        if "activation" in config.definition:
            self._set_activation(config.definition["activation"])
        self.head.initialise_biases(self.strides)

    @property
    def head(self) -> Segment:
        """The last layer."""
        return cast("Segment", self.model[-1])

    @property
    def nc(self) -> int:
        """Number of classes."""
        return self.head.nc

    def requires_grad_(self, requires_grad: bool = True) -> Self:  # noqa: FBT001, FBT002 - torch's signature
        """Let all parameters learn, or none; the bins of the distance distribution are constants and never do."""
        super().requires_grad_(requires_grad)
        self.head.dfl.requires_grad_(requires_grad=False)
        return self

    def forward(self, images: Tensor) -> RawMaps | Predictions:
        """Return raw maps while training, else predictions."""
        raw = self.raw(images)
        return raw if self.training else self.decode(raw)

    def raw(self, images: Tensor) -> RawMaps:
        """Return what the head says of the images, before decoding, in either mode."""
        x = images
        kept: dict[int, Tensor] = {}
        for index, (layer, sources) in enumerate(zip(self.model, self._sources, strict=True)):
            x = layer(*(x if source == index - 1 else kept[source] for source in sources))
            if index in self._kept:
                kept[index] = x
        return cast("RawMaps", x)

    def decode(self, raw: RawMaps) -> Predictions:
        """Return boxes in pixels, probabilities, coefficients and prototypes for what the head said."""
        return self.head.decode(raw, self.anchors(raw))

    def anchors(self, raw: RawMaps) -> Anchors:
        """Return where the cells are that the head spoke of."""
        return anchors_for(raw.sizes, self.strides, raw.boxes.device)

    def _set_activation(self, name: str) -> None:
        """Let every convolution end in this activation; one module serves them all."""
        kind = getattr(nn, name)
        activation = kind() if name == "GELU" else kind(inplace=True)
        for layer in self.modules():
            if isinstance(layer, Conv):
                layer.act = activation


BUILDERS: Mapping[str, Callable[..., nn.Module]] = {
    "Conv": Conv,
    "Bottleneck": Bottleneck,
    "C2f": C2f,
    "SPPF": SPPF,
    "Upsample": lambda _, size, factor, mode: nn.Upsample(size, factor, mode),
    "Concat": lambda *_, dim: Concat(dim),
    "Segment": lambda *channels, **arguments: Segment(channels, **arguments),
}
"""Block name to a function of the channels of each source and of the block's arguments."""


def _build(row: Row) -> nn.Module:
    """Return the layer of a row; blocks that do not repeat within themselves are stacked."""
    build = BUILDERS[row.block]
    channels = [shape.channels for shape in row.inputs]
    if BLOCKS[row.block].repeats:
        return build(*channels, repeats=row.repeats, **row.arguments)
    first = build(*channels, **row.arguments)
    if row.repeats == 1:
        return first
    return nn.Sequential(first, *(build(row.output.channels, **row.arguments) for _ in range(row.repeats - 1)))
