"""What a plugin implements: the protocols behind the specs.

Borders are arrays. ``Images`` are float32 (N, 3, H, W) in 0..1, RGB; raw outputs are arrays in the order of
``ArtifactInfo.outputs``. NumPy is the common tongue; a session on a GPU may return arrays that stay there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from segx.artifact import Artifact, ArtifactInfo, Parity
    from segx.options import DecodeOptions, ExportOptions, SessionOptions, TrainOptions, ValOptions
    from segx.results import Results
    from segx.runs import Step
    from segx.sources import SourceImage

    Image = NDArray[np.uint8]
    Images = NDArray[np.float32]
    Array = Any


@dataclass(frozen=True, kw_only=True)
class Letterbox:
    """Where a picture lies inside the network input.

    Attributes:
        original: (height, width) of the picture.
        input: (height, width) of the network input.
        left: First column of the picture in the input.
        top: First row of the picture in the input.
        width: Columns of the picture in the input.
        height: Rows of the picture in the input.
    """

    original: tuple[int, int]
    input: tuple[int, int]
    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Pictures on their way through the network.

    Attributes:
        sources: The pictures as they were read.
        geometry: Where each lies in the input.
        images: float32 (N, 3, H, W) in 0..1, RGB.
    """

    sources: tuple[SourceImage, ...]
    geometry: tuple[Letterbox, ...]
    images: Images


class Session(Protocol):
    """An open model.

    Attributes:
        info: What is known of the model.
        device: Where it runs: ``"cpu"``, ``"cuda:0"``.
    """

    info: ArtifactInfo
    device: str

    def run(self, images: Images) -> tuple[Array, ...]:
        """Return the raw outputs for float32 (N, 3, H, W) images in 0..1, RGB.

        Raises:
            ModelError: The shape is not one the model takes.
        """
        ...

    def close(self) -> None:
        """Free what the runtime holds."""
        ...


class Backend(Protocol):
    """A runtime that opens models."""

    def read_info(self, artifact: Artifact) -> ArtifactInfo:
        """Return what is known of a model, without preparing it to run.

        Raises:
            ModelError: The file is missing, damaged or of another kind.
        """
        ...

    def open(self, artifact: Artifact, options: SessionOptions) -> Session:
        """Return a session that runs the model.

        Raises:
            ModelError: The file is missing, damaged or of another kind.
            UsageError: The device is not there.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What happened when weights were moved into a model.

    Attributes:
        loaded: Names that fit in name and shape.
        skipped: Name to the reason it was not moved.
        missing: Names of the model for which the source has nothing.
    """

    loaded: tuple[str, ...]
    skipped: Mapping[str, str]
    missing: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class ExportModule:
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


@runtime_checkable
class ModelSession(Session, Protocol):
    """A session whose model can be changed, saved and exported: what ``.pt`` and ``.yaml`` open to."""

    def load_weights(self, artifact: Artifact) -> LoadReport:
        """Move the weights of a file that fit in name and shape into this model, and say what was skipped."""
        ...

    def for_classes(self, names: Mapping[int, str], *, seed: int = 0) -> tuple[ModelSession, LoadReport | None]:
        """Return a session of the same model for other classes, and what of its weights moved over.

        Weights that were never loaded are drawn from the seed.
        """
        ...

    def save(self, path: Path) -> Artifact:
        """Write the model, atomically, as segx's own checkpoint."""
        ...

    def export_module(self, options: ExportOptions, info: ArtifactInfo) -> ExportModule:
        """Return the model as exporters take it."""
        ...

    def describe(self) -> ModelSummary:
        """Return what there is to say of the model: parameters, FLOPs, layers."""
        ...


class ModelBackend(Backend, Protocol):
    """A backend that can also build models that have no file yet."""

    def build(self, config: ModelConfig, architecture: Architecture, options: SessionOptions) -> ModelSession:
        """Return a session of a new model with random weights."""
        ...

    def train(self, session: ModelSession, job: TrainJob, *, resume: Path | None = None) -> Trained:
        """Train the session's model, or go on with the run that wrote ``resume``.

        Of several processes that share the work only the first returns; the others end here.

        Raises:
            UsageError: The device is not there, or the batch does not fit.
            ModelError: The loss is no longer a number, or ``resume`` is not a checkpoint of a run.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
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


@dataclass(frozen=True, kw_only=True)
class ModelSummary:
    """What there is to say of a model.

    Attributes:
        layers: Number of modules.
        parameters: Number of parameters as built.
        fused_parameters: Number of parameters with BatchNorm folded into the convolutions.
        gflops: 1e9 floating-point operations per image at ``imgsz``, a multiply-add counted as two.
        imgsz: The input (height, width) the FLOPs are counted at.
        notes: Lines worth saying beside the numbers.
    """

    layers: int
    parameters: int
    fused_parameters: int
    gflops: float
    imgsz: tuple[int, int]
    notes: tuple[str, ...] = ()


class Architecture(Protocol):
    """A family of models."""

    name: str

    def detects(self, definition: Mapping[str, Any]) -> bool:
        """Say whether a YAML's content is a model of this family; must not raise."""
        ...

    def read_config(self, source: str | Path, *, nc: int | None = None) -> ModelConfig:
        """Return the configuration of a shipped variant name or of a user's own YAML.

        Raises:
            ModelError: The file is missing, or names a block that is not known; the error lists those that are.
        """
        ...

    def config_from_definition(
        self, definition: Mapping[str, Any], *, variant: str, nc: int | None = None
    ) -> ModelConfig:
        """Return the configuration that a checkpoint carries."""
        ...

    def build(self, config: ModelConfig) -> Any:
        """Return a new ``torch.nn.Module`` with random weights."""
        ...

    def info(self, config: ModelConfig, names: Mapping[int, str] | None = None) -> ArtifactInfo:
        """Return task, head id, outputs, stride and names of a model of this configuration."""
        ...

    def adapt_weights(self, module: Any, state: Mapping[str, Any]) -> dict[str, Any]:
        """Return tensors by name in the form this module has, for files that hold another form of the same weights.

        Called before names and shapes are matched. What needs no change, and what is not known, is handed on as it is.
        """
        ...

    def criterion(self, module: Any, options: TrainOptions) -> Criterion:
        """Return the loss that trains this module; its weights and gains are those of the options."""
        ...

    def fuse(self, module: Any) -> Any:
        """Return a copy for inference with BatchNorm folded into the convolutions."""
        ...

    def export_module(self, module: Any, info: ArtifactInfo) -> ExportModule:
        """Return the module wrapped for export; its layers stay untouched and know no format."""
        ...

    def summarise(self, module: Any, imgsz: tuple[int, int]) -> ModelSummary:
        """Return layers, parameters and true FLOPs."""
        ...


class Exporter(Protocol):
    """Writes one format."""

    def check(self, info: ArtifactInfo, options: ExportOptions) -> None:
        """Refuse wrong combinations of options before any work is done.

        Raises:
            UsageError: With the combination and what to type instead.
        """
        ...

    def export(
        self, source: ExportModule | Artifact, info: ArtifactInfo, options: ExportOptions, destination: Path
    ) -> ArtifactInfo:
        """Write ``destination`` and return the info that describes it.

        Args:
            source: The module, or for a format made from another one that artefact.
            info: What is to travel with the file.
            options: This format's own options.
            destination: A temporary name beside the final one; core renames it when all is proven.
        """
        ...

    def write_info(self, path: Path, info: ArtifactInfo) -> None:
        """Embed the info in the finished file; only called for ``metadata="embedded"``."""
        ...


class Task(Protocol):
    """What raw outputs mean."""

    name: str
    heads: tuple[str, ...]

    def input_shape(
        self, image: tuple[int, int], imgsz: tuple[int, int], *, stride: int, rect: bool
    ) -> tuple[int, int]:
        """Return the (height, width) of the network input for a picture of this (height, width)."""
        ...

    def preprocess(self, sources: Sequence[SourceImage], shape: tuple[int, int]) -> Batch:
        """Return pictures, resized and padded to one (height, width), as network input."""
        ...

    def decode(
        self, outputs: Sequence[Array], batch: Batch, info: ArtifactInfo, options: DecodeOptions
    ) -> list[Results]:
        """Return what was found in each picture."""
        ...

    def draw(self, results: Results, **style: Any) -> Image:
        """Return the picture, uint8 (H, W, 3) BGR, with the results drawn in."""
        ...

    def parity(self, reference: Sequence[Results], other: Sequence[Results]) -> Parity:
        """Compare what two models found in the same pictures; ``raw`` is filled by core."""
        ...

    def evaluator(self, measurement: Measurement) -> Evaluator:
        """Return what measures a model on a data set."""
        ...

    def train_loader(
        self, dataset: Dataset, options: TrainOptions, *, stride: int, indices: Sequence[int] | None = None
    ) -> LoaderMaker:
        """Return what makes the loader of augmented batches once the number of processes is known."""
        ...

    def train_pictures(self, names: Mapping[int, str], options: TrainOptions) -> TrainPictures:
        """Return what draws the batches, the labels and the curves of a training run."""
        ...


@dataclass(frozen=True, kw_only=True)
class DatasetSource:
    """One split of a data set, as its definition names it.

    Attributes:
        origin: What the user named: the YAML, the JSON or the folder; for messages.
        split: Name of the split: ``"train"``, ``"val"``, ``"test"``.
        entries: The folders, lists and files that hold it; all exist.
        names: Class number to class name, where the definition says so; else the data set's own names hold.
        images: Folder of the pictures, where the user says so.
    """

    origin: Path
    split: str
    entries: tuple[Path, ...]
    names: Mapping[int, str] | None = None
    images: Path | None = None


class DatasetReader(Protocol):
    """Reads ground truth of one format."""

    def read(self, source: DatasetSource) -> Dataset:
        """Return one split of a data set.

        Raises:
            DataError: The data are missing or of another shape; every path tried is listed.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """One object of the ground truth.

    Attributes:
        category: Class number, 0-based.
        box: (x, y, width, height) in pixels of the original picture.
        polygons: Its parts, each float64 (points, 2) x, y in pixels; the object is their union.
        rle: COCO RLE at the original resolution, ``{"size": [h, w], "counts": bytes}``, where the data set gives a
            bitmap instead of polygons: holes, crowds. With neither, the object is known by its box only.
        crowd: COCO's iscrowd: matches are neither right nor wrong.
        area: Area in pixels as the data set gives it; None: that of its mask, else of its box.
        id: The annotation's id in its data set; 1-based position where it has none.
    """

    category: int
    box: tuple[float, float, float, float]
    polygons: tuple[NDArray[np.float64], ...] = ()
    rle: Mapping[str, Any] | None = None
    crowd: bool = False
    area: float | None = None
    id: int = 0

    @property
    def has_mask(self) -> bool:
        """Whether more than its box is known."""
        return bool(self.polygons) or self.rle is not None


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """A picture of a data set with its ground truth.

    Attributes:
        path: The picture's file.
        id: Its id in the data set: a number in COCO, the file's stem in YOLO sets.
        shape: (height, width) in pixels, orientation applied.
        truths: The objects in it.
    """

    path: Path
    id: int | str
    shape: tuple[int, int]
    truths: tuple[Truth, ...]


class Dataset(Protocol):
    """One split of a data set."""

    @property
    def names(self) -> Mapping[int, str]:
        """Class number to class name."""
        ...

    @property
    def category_ids(self) -> Mapping[int, int]:
        """Class number to the id the data set itself uses."""
        ...

    @property
    def problems(self) -> Sequence[str]:
        """Rows that were dropped: file, line and reason."""
        ...

    @property
    def fingerprint(self) -> str:
        """A hash of the ground truth, for the manifest of a run."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def __iter__(self) -> Iterator[Sample]: ...

    def paths(self) -> Sequence[Path]:
        """Return the picture files, in order, without reading anything."""
        ...

    def shapes(self) -> NDArray[np.int32]:
        """Return int32 (samples, 2): height and width of each picture, orientation applied."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainBatch:
    """One batch.

    Attributes:
        images: uint8 (B, 3, H, W), RGB.
        batch_idx: int64 (N,), the picture each object is in.
        classes: int64 (N,).
        boxes: float32 (N, 4), centre x, centre y, width, height as fractions of the picture.
        masks: With ``overlap`` one map per picture, uint8 or int32 (B, h, w): 0 for background, k for the k-th of its
            objects, smaller ones over larger ones. Otherwise uint8 (N, h, w), each object's own pixels.
        overlap: Which of the two ``masks`` holds.
        has_mask: bool (N,), False for objects known by their box only.
        paths: The file of each picture.
    """

    images: NDArray[np.uint8]
    batch_idx: NDArray[np.int64]
    classes: NDArray[np.int64]
    boxes: NDArray[np.float32]
    masks: NDArray[np.uint8] | NDArray[np.int32]
    overlap: bool
    has_mask: NDArray[np.bool_]
    paths: tuple[str, ...]


class TrainLoader(Protocol):
    """Gives the batches of any epoch, from any batch on."""

    def __len__(self) -> int:
        """Return the number of batches of an epoch on this process."""
        ...

    def epoch(self, number: int, *, start: int = 0, closed: bool = False) -> Iterator[TrainBatch]:
        """Yield the batches of an epoch, beginning with batch ``start``; those before it cost nothing.

        Args:
            number: The epoch, from 0; another number gives another order and other random choices.
            start: The first batch to make.
            closed: Without mosaic, mix-up and copy-paste, as in the last epochs.
        """
        ...


class LoaderMaker(Protocol):
    """Makes the loader once the number of processes is known."""

    def __call__(self, *, rank: int, world: int, batch: int) -> TrainLoader:
        """Return the loader of one process; ``batch`` is its own share of pictures."""
        ...


class TrainPictures(Protocol):
    """Draws what a training run sees and how it goes.

    Each method writes one file, whole or not at all, and returns it. They are called one after the other, in a thread
    beside the training.
    """

    def batch(self, batch: TrainBatch, path: Path) -> Path:
        """Draw pictures as they are trained on, with their objects."""
        ...

    def labels(self, samples: Iterable[Sample], path: Path) -> Path:
        """Draw how the classes, sizes and places of the objects are spread."""
        ...

    def curves(self, rows: Sequence[Mapping[str, float]], path: Path) -> Path:
        """Draw losses and figures over the epochs."""
        ...


class Criterion(Protocol):
    """The loss of an architecture."""

    def __call__(self, outputs: Any, batch: Mapping[str, Any]) -> tuple[Any, Mapping[str, Any]]:
        """Return the mean loss of a picture, to be multiplied by the batch, and its parts by name.

        Args:
            outputs: What the module returns in training mode.
            batch: The arrays of :class:`TrainBatch` as tensors; ``images`` float32 in 0..1.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """What a trainer needs of the rest of segx.

    Attributes:
        options: What was asked for.
        names: Class number to class name.
        pictures: Number of training pictures.
        folder: Returns the run's folder; called on the first process only.
        loader: Makes the loader.
        criterion: Returns the loss for a module.
        validate: Measures a session; called on the first process only. The figures hold ``"fitness"``.
        tell: Hears of each batch and epoch; called on the first process only.
        settings: What a checkpoint is to remember: data, settings, versions.
        finished: The run that goes on had come to its end and was measured; only more epochs can make it go on.
    """

    options: TrainOptions
    names: Mapping[int, str]
    pictures: int
    folder: Callable[[], Path]
    loader: LoaderMaker
    criterion: Callable[[Any], Criterion]
    validate: Callable[[Session], Mapping[str, float]]
    tell: Callable[[Step], None]
    settings: Mapping[str, Any]
    finished: bool = False


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training run leaves.

    Attributes:
        folder: The run's folder.
        best: The checkpoint of the best epoch, if any was written.
        last: The checkpoint of the last epoch.
        metrics: The figures of the last epoch.
        rows: One row of figures for each epoch.
        exported: What the best checkpoint was exported to, when that was asked for.
    """

    folder: Path
    best: Path | None
    last: Path | None
    metrics: Mapping[str, float]
    rows: Sequence[Mapping[str, float]]
    exported: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What is measured, and where what is written goes.

    Attributes:
        names: Class number to class name of the data set.
        category_ids: Class number to the id the data set itself uses.
        options: What was asked for.
        pictures: How many pictures there will be.
        folder: The run's folder; None: nothing is written.
        settings: What the figures are made with, told beside them.
        file_names: Id of each image to its ``file_name`` in COCO's JSON, where that is written.
    """

    names: Mapping[int, str]
    category_ids: Mapping[int, int]
    options: ValOptions
    pictures: int
    folder: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    file_names: Mapping[int | str, str] = field(default_factory=dict)


class Metrics(Protocol):
    """What a validation found out."""

    @property
    def results_dict(self) -> Mapping[str, float]:
        """Every figure under one flat name, ``"fitness"`` among them."""
        ...

    @property
    def fitness(self) -> float:
        """The one number that models are ranked by."""
        ...

    @property
    def protocol(self) -> str:
        """What the figures mean, in one line."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """What was written."""
        ...

    @property
    def problems(self) -> tuple[str, ...]:
        """Pictures that could not be measured, and why."""
        ...

    def rows(self, *, verbose: bool = True) -> str:
        """Return the table for people; a row for each class when ``verbose``."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        ...


class Evaluator(Protocol):
    """Measures what was found against the truth, picture by picture."""

    def update(self, sample: Sample, results: Results) -> None:
        """Take what was found in one picture; called in order, one picture at a time.

        The results carry no picture, ``orig_img`` is black: ``segx.pictures.picture_of(sample)`` reads it, for whoever
        draws.
        """
        ...

    def finish(self, *, speed: Mapping[str, float], problems: Sequence[str]) -> Metrics:
        """Return the figures, and write what was asked for.

        Args:
            speed: Milliseconds a picture for each stage.
            problems: Pictures that could not be measured, and why.
        """
        ...

    def close(self) -> None:
        """Let go of files; what was not finished is not left behind."""
        ...
