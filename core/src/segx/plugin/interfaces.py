"""What a plugin implements: the protocols behind the specs.

Borders are arrays. ``Images`` are float32 (N, 3, H, W) in 0..1, RGB; raw outputs are arrays in the order of
``ArtifactInfo.outputs``. NumPy is the common tongue; a session on a GPU may return arrays that stay there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from segx.artifact import Artifact, ArtifactInfo, Parity
    from segx.options.verbs import DecodeOptions, ExportOptions, SessionOptions, TrainOptions
    from segx.plugin.jobs import EvalSpec, ExportJob, ExportModule, ModelConfig, ModelSummary
    from segx.plugin.writing import WriteJob
    from segx.structures.annotations import DatasetSource, Sample
    from segx.structures.batch import Batch, SourceImage, TrainBatch
    from segx.structures.results import Results
    from segx.structures.types import Array, Image, Images


class Session(Protocol):
    """An open model.

    Attributes:
        info: What is known of the model.
        device: Where it runs: ``"cpu"``, ``"cuda:0"``.

    One that has ``channels_last``, true, is handed images of the same axes whose channels lie side by side in memory,
    and need not turn them round.
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


class Architecture(Protocol):
    """A family of models.

    One that has ``traceable``, true, computes in the same steps whatever the images hold: no ``if`` asks for values,
    and nothing is counted. On a CPU such a model, once fused, is recorded and replayed without Python. One that has
    ``streamline``, a function of a fused module, says there what runs in its place on a CPU where nobody looks at its
    layers: other layers, of which the same comes out.
    """

    name: str

    def detects(self, definition: Mapping[str, Any]) -> bool:
        """Return True if a YAML's content is a model of this family; must not raise."""
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

    def class_tensors(self, module: Any) -> Sequence[str]:
        """Return the names of the tensors that have a row for each class; rows move with the names of their classes."""
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

    def export(self, source: ExportModule | Artifact, job: ExportJob) -> ArtifactInfo:
        """Write ``job.destination`` and return the info that describes it.

        Args:
            source: The module, or for a format made from another one that artefact.
            job: What is asked for.

        Raises:
            ExportError: It cannot be made.
        """
        ...

    def write_info(self, path: Path, info: ArtifactInfo) -> None:
        """Embed the info in what :meth:`export` has written, once its proof is in it.

        Only called for ``metadata="embedded"``, and once; until then the info lies beside the file.
        """
        ...


class Task(Protocol):
    """A task: preprocessing, decoding, drawing, comparison and evaluation.

    Attributes:
        name: Its name.
        heads: Ids of the heads that it decodes.
        results: The type of what it finds in an image.
    """

    name: str
    heads: tuple[str, ...]
    results: type[Results]

    def input_shape(
        self, image: tuple[int, int], imgsz: tuple[int, int], *, stride: int, rect: bool
    ) -> tuple[int, int]:
        """Return the (height, width) of the network input for an image of this (height, width)."""
        ...

    def preprocess(
        self, sources: Sequence[SourceImage], shape: tuple[int, int], *, channels_last: bool = False
    ) -> Batch:
        """Return images, resized and padded to one (height, width), as network input.

        ``channels_last`` says how it had best lie in memory; the axes are the same.
        """
        ...

    def decode(
        self, outputs: Sequence[Array], batch: Batch, info: ArtifactInfo, options: DecodeOptions
    ) -> list[Results]:
        """Return what was found in each image."""
        ...

    def limits(self, info: ArtifactInfo, options: DecodeOptions) -> DecodeOptions:
        """Return the options nearest to these that a model lets one choose: a graph that suppresses has settled some.

        Called for every run; a task whose heads leave everything open returns the options.
        """
        ...

    def check(self, info: ArtifactInfo, options: DecodeOptions) -> None:
        """Refuse what a model no longer lets one choose: whatever :meth:`limits` would change.

        Raises:
            UsageError: With the option and what the model does: ``iou=0.5: the file suppresses at 0.7``.
        """
        ...

    def draw_annotations(self, sample: Sample, names: Mapping[int, str]) -> Image:
        """Return an image of a data set, uint8 (H, W, 3) BGR, with its annotations drawn in."""
        ...

    def parity(self, reference: Sequence[Any], other: Sequence[Any]) -> Parity:
        """Compare what two models found in the same images; ``raw`` is filled by core.

        ``quality`` is twice the sum of the IoUs of matched masks over the number of objects of both sides together.
        """
        ...

    def evaluator(self, spec: EvalSpec) -> Evaluator:
        """Return what measures a model on a data set."""
        ...

    def train_loader(
        self, dataset: Dataset, options: TrainOptions, *, stride: int, indices: Sequence[int] | None = None
    ) -> LoaderMaker:
        """Return what makes the loader of augmented batches once the number of processes is known."""
        ...

    def train_drawings(self, names: Mapping[int, str], options: TrainOptions) -> TrainDrawings:
        """Return what draws the batches, the labels and the curves of a training run."""
        ...


class DatasetReader(Protocol):
    """Reads ground truth of one format; with a method ``strays(source)`` it also names label files of no image."""

    def read(self, source: DatasetSource) -> Dataset:
        """Return one split of a data set.

        Raises:
            DataError: The data are missing or of another shape; every path tried is listed.
        """
        ...


class DatasetWriter(Protocol):
    """Writes annotations in one format."""

    def place(self, split: str) -> str:
        """Return where a split lies in the data set's folder, as its YAML names it."""
        ...

    def write(self, dataset: Dataset, job: WriteJob) -> Iterator[tuple[Path, list[int]]]:
        """Write images and annotations of a split; yields of each image its new file and which objects were written.

        What the format cannot hold is counted in ``job.losses``.
        """
        ...


@runtime_checkable
class PartWriter(DatasetWriter, Protocol):
    """Writes a format in which a part of a data set is a file of its own, not a list of images."""

    def write_part(self, path: Path, dataset: Dataset, indices: Sequence[int], name: Callable[[Path], str]) -> None:
        """Write some images of a data set; the images stay where they are.

        Args:
            path: The file.
            dataset: The data set.
            indices: Its images to write.
            name: Returns how an image is named in the file.
        """
        ...


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
        """Return the image files, in order, without reading anything."""
        ...

    def shapes(self) -> NDArray[np.int32]:
        """Return int32 (samples, 2): height and width of each image, orientation applied."""
        ...


class TrainLoader(Protocol):
    """Yields the batches of an epoch, from any batch on."""

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

    def close(self) -> None:
        """Free what it holds beyond an epoch; harmless when done already."""
        ...


class LoaderMaker(Protocol):
    """Makes the loader once the number of processes is known."""

    def __call__(self, *, rank: int, world: int, batch: int, processes: bool = False) -> TrainLoader:
        """Return the loader of one process.

        Args:
            rank: Number of this process.
            world: Number of processes.
            batch: Its own share of images.
            processes: Its workers had better be processes: the thread that trains wants Python's lock for itself.
        """
        ...


class TrainDrawings(Protocol):
    """Draws what a training run sees and how it goes.

    Each method writes one file, whole or not at all, and returns it. They are called one after the other, in a thread
    beside the training.
    """

    def batch(self, batch: TrainBatch, path: Path) -> Path:
        """Draw images as they are trained on, with their objects."""
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
        """Return the mean loss of an image, to be multiplied by the batch, and its parts by name.

        Args:
            outputs: What the module returns in training mode.
            batch: The arrays of :class:`TrainBatch` as tensors; ``images`` float32 in 0..1.
        """
        ...


class Metrics(Protocol):
    """The metrics of a validation."""

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
        """Images that could not be measured, and why."""
        ...

    def to_table(self, *, verbose: bool = True) -> str:
        """Return the table for people; a row for each class when ``verbose``."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        ...


class Evaluator(Protocol):
    """Accumulates detections and ground truth image by image, and computes the metrics."""

    def update(self, sample: Sample, results: Results) -> None:
        """Add the results of one image; called in order, one image at a time.

        The results carry no image: ``segx.io.images.image_of(sample)`` reads it, for whoever draws.
        """
        ...

    def finish(self, *, speed: Mapping[str, float], problems: Sequence[str]) -> Metrics:
        """Return the figures, and write what was asked for.

        Args:
            speed: Milliseconds an image for each stage.
            problems: Images that could not be measured, and why.
        """
        ...

    def close(self) -> None:
        """Close files, and remove unfinished ones."""
        ...
