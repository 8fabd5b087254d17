"""YOLOv8-seg as the rest of segx sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch

from segx.artifact import ArtifactInfo
from segx_model_yolov8 import config as configs
from segx_model_yolov8 import weights
from segx_model_yolov8.blocks import strides
from segx_model_yolov8.export import make_export_module
from segx_model_yolov8.joined import join_prototypes
from segx_model_yolov8.loss import Gains, SegmentationLoss
from segx_model_yolov8.network import SegmentationModel
from segx_model_yolov8.plugin import HEADS
from segx_model_yolov8.summary import summarise

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from torch import Tensor, nn

    from segx.options.verbs import TrainOptions
    from segx.plugin.jobs import ExportModule, ModelConfig, ModelSummary

OUTPUTS = ("output0", "output1")


class YOLOv8Seg:
    """The YOLOv8-seg family: :class:`segx.plugin.interfaces.Architecture`."""

    name = configs.ARCHITECTURE
    traceable = True

    def detects(self, definition: Mapping[str, Any]) -> bool:
        """Return True if a YAML's content has a backbone, and a head that ends in Segment."""
        return configs.is_segmentation_definition(definition)

    def read_config(self, source: str | Path, *, nc: int | None = None) -> ModelConfig:
        """Return the configuration of ``yolov8m-seg``, ``yolov8m-seg.yaml`` or a YAML file of the user's own.

        Raises:
            ModelError: There is no such file or variant, or a row of it is wrong; the error names file and row.
        """
        return configs.read_config(source, nc=nc)

    def config_from_definition(
        self, definition: Mapping[str, Any], *, variant: str, nc: int | None = None
    ) -> ModelConfig:
        """Return the configuration that a checkpoint carries.

        Takes ``ModelConfig.definition``, and the ``yaml`` attribute of models in published ``.pt`` files (there the
        scale is in ``scale``, in ``variant``, or in the name in ``yaml_file``).

        Raises:
            ModelError: Something in it is missing or wrong.
        """
        return configs.make_config(definition, variant=variant, nc=nc)

    def build(self, config: ModelConfig) -> SegmentationModel:
        """Return a new model with random weights, in training mode.

        Under ``torch.device("meta")`` no memory is taken; ``load_state_dict(..., assign=True)`` then fills it.
        """
        return SegmentationModel(config)

    def info(self, config: ModelConfig, names: Mapping[int, str] | None = None) -> ArtifactInfo:
        """Return what will travel with files of this model; without names, classes are called class0, class1, ..."""
        return ArtifactInfo(
            task="segment",
            head=HEADS["decoded"],
            architecture=self.name,
            variant=config.variant,
            names=dict(names) if names else {index: f"class{index}" for index in range(config.nc)},
            stride=max(strides(configs.config_rows(config))),
            outputs=OUTPUTS,
        )

    def adapt_weights(self, module: SegmentationModel, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights in the form this module has; call it on any state dict before matching names and shapes.

        Some files hold weights with BatchNorm folded into the convolutions (``conv.bias`` and no ``bn``). For a module
        with BatchNorm they get one that only adds the bias, so that outputs in eval mode are equal and training can go
        on; a fused module gets weights with BatchNorm folded. Names the module does not have are kept.
        """
        return weights.adapt(module, state)

    def class_tensors(self, module: SegmentationModel) -> list[str]:
        """Return the names of the weights and biases that score the classes, a row for each."""
        scoring = [cast("nn.Sequential", branch)[-1] for branch in module.head.cv3]
        layers = [name for name, layer in module.named_modules() if any(layer is one for one in scoring)]
        return [f"{name}.{part}" for name in layers for part in ("weight", "bias")]

    def criterion(self, module: SegmentationModel, options: TrainOptions) -> SegmentationLoss:
        """Return the loss that trains this module, with the gains of the options."""
        return SegmentationLoss(module, Gains(box=options.box, cls=options.cls, dfl=options.dfl))

    def fuse(self, module: SegmentationModel) -> SegmentationModel:
        """Return a copy in eval mode with BatchNorm folded into the convolutions, laid out for speed.

        Weights are channels-last, which makes every convolution run so, whatever the layout of the images.
        """
        fused = weights.fuse(module)
        fused.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's overloads leave it out
        return fused

    def streamline(self, fused: SegmentationModel) -> SegmentationModel:
        """Return a fused copy, changed in place, whose prototypes take a third of the work; see :mod:`.joined`."""
        return join_prototypes(fused)

    def export_module(self, module: SegmentationModel, info: ArtifactInfo) -> ExportModule:
        """Return a fused copy that ends in ``info.head`` and is open along the axes in ``info.dynamic``.

        Its info names the outputs and holds the numbers that reading them needs.

        Dynamic heights and widths are multiples of ``info.stride``: for ``torch.export`` give them as
        ``info.stride * torch.export.Dim(...)``.
        """
        return make_export_module(module, info)

    def summarise(self, module: SegmentationModel, imgsz: tuple[int, int]) -> ModelSummary:
        """Return layers, parameters and true FLOPs of one image of (height, width)."""
        return summarise(module, imgsz)
