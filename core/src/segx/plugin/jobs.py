"""What core and plugins hand each other about a model: how it is built, loaded, exported, measured."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any, Protocol

from segx.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from segx.artifact import ArtifactInfo
    from segx.options.verbs import ExportOptions, ValOptions
    from segx.structures.types import Images

_FEW = 10
"""Classes that are listed one by one."""


class LoadReport(Record):
    """What happened when weights were moved into a model.

    Attributes:
        loaded: Names that fit in name and shape.
        skipped: Name to the reason it was not moved.
        missing: Names of the model for which the source has nothing.
        classes: Numbers of the classes that kept what the source knows of them, where they were paired by name.
    """

    loaded: tuple[str, ...]
    skipped: Mapping[str, str]
    missing: tuple[str, ...]
    classes: tuple[int, ...] | None = None

    def fresh(self, names: Mapping[int, str]) -> list[str]:
        """Return which of the model's classes begin anew, where they were paired by name."""
        kept = names if self.classes is None else self.classes
        return [name for number, name in names.items() if number not in kept]

    def about_classes(self, names: Mapping[int, str]) -> str:
        """Return what to say of the model's classes; nothing where they were not paired by name."""
        if self.classes is None:
            return ""
        kept, fresh = _few([names[number] for number in self.classes]), _few(self.fresh(names))
        return f"classes are moved by name: known from the weights: {kept}; begin anew: {fresh}"


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return (", ".join(names[:_FEW]) or "none") + more


class ExportModule(Record):
    """A model as exporters get it: plain tensors in, plain tensors out, nothing else to know.

    Attributes:
        module: A ``torch.nn.Module`` in eval mode; ``module(images)`` returns a tuple of tensors.
        example: float32 (batch, 3, height, width), a sample input.
        info: What will travel with the file; ``outputs`` names the tuple, ``dynamic`` says which axes to leave open.
        output_axes: For each output, axis number to the name of the length it has when dynamic.
    """

    module: Any
    example: Images
    info: ArtifactInfo
    output_axes: tuple[Mapping[int, str], ...]


def _say_nothing(_stage: str, _done: int, _total: int | None) -> None:
    """Nobody wants to know how far an export is."""


class CalibrationImages(Protocol):
    """Network input to calibrate on, the same for every format; it can be gone through again and again."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def __iter__(self) -> Iterator[Images]:
        """Return float32 (batch, 3, height, width) in 0..1, RGB, of the size and batch that the file is made for."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for a child process: ``segx.plugin.calibration.Calibration.from_dict`` reads them."""
        ...


class ExportJob(Record):
    """Request of one export: a record, so that what a later format needs breaks no plugin.

    Attributes:
        info: What is to travel with the file.
        options: The format's own options.
        destination: A temporary name beside the final one; core renames it when all is proven.
        scratch: An empty folder on the same disk, removed afterwards, for what a converter litters.
        images: Network input to calibrate on, where the format has demanded it.
        notify: Called with a stage, how much of it is done, and of how much: ``notify("calibrating", 12, 300)``.
    """

    info: ArtifactInfo
    options: ExportOptions
    destination: Path
    scratch: Path
    images: CalibrationImages | None = None
    notify: Callable[[str, int, int | None], None] = _say_nothing


class ModelConfig(Record):
    """A model as its YAML describes it, checked.

    Attributes:
        architecture: Name of the architecture it is built by.
        variant: Name with the scale in it: ``"yolov8n-seg"``.
        scale: The scale letter.
        nc: Number of classes.
        definition: ``nc``, ``scales``, ``backbone``, ``head`` as read.
    """

    architecture: str
    variant: str
    scale: str
    nc: int
    definition: Mapping[str, Any]


class ModelSummary(Record):
    """What there is to say of a model; taken apart it is layers, parameters, gradients and GFLOPs.

    Attributes:
        layers: Number of modules.
        parameters: Number of parameters as built.
        fused_parameters: Number of parameters with BatchNorm folded into the convolutions.
        gflops: 1e9 floating-point operations per image at ``imgsz``, a multiply-add counted as two.
        imgsz: The input (height, width) the FLOPs are counted at.
        notes: Lines worth saying beside the numbers.
        gradients: Number of parameters that can learn.
    """

    layers: int
    parameters: int
    fused_parameters: int
    gflops: float
    imgsz: tuple[int, int]
    notes: tuple[str, ...] = ()
    gradients: int = 0

    def __iter__(self) -> Iterator[int | float]:
        return iter((self.layers, self.parameters, self.gradients, self.gflops))

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: Any) -> Any:
        return tuple(self)[index]


class EvalSpec(Record):
    """Request of an evaluation: classes, options and output folder.

    Attributes:
        names: Class number to class name of the data set.
        category_ids: Class number to the id the data set itself uses.
        options: What was asked for.
        images: How many images there will be.
        folder: The run's folder; None: nothing is written.
        settings: What the figures are made with, shown beside them.
        file_names: Id of each image to its ``file_name`` in COCO's JSON, where that is written.
    """

    names: Mapping[int, str]
    category_ids: Mapping[int, int]
    options: ValOptions
    images: int
    folder: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    file_names: Mapping[int | str, str] = field(default_factory=dict)
