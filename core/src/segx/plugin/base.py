"""What every format does alike, done once: a plugin inherits, and writes what is the format's own.

An exporter writes ``_export``, a backend ``_read`` and ``_open``, a session ``_run``. Importing this imports nothing
heavy, so that the info of a file is had without its runtime.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from segx.artifact import Artifact, ArtifactInfo
from segx.errors import ExportError, ModelError, SegxError, UsageError, reason
from segx.io import sidecar
from segx.io.files import irregular
from segx.options.verbs import ExportOptions, SuppressionOptions
from segx.records import Record

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from segx.options.verbs import SessionOptions
    from segx.plugin.interfaces import Session
    from segx.plugin.jobs import ExportJob, ExportModule
    from segx.structures.types import Array, Images

Chosen = TypeVar("Chosen", bound=ExportOptions)
Model = TypeVar("Model")

INPUT_AXES: Mapping[int, str] = {0: "batch", 2: "height", 3: "width"}
"""The axes of the images that may be left open, and what they are called."""
_LETTERS: Mapping[str, str] = {"batch": "N", "height": "H", "width": "W"}
_EXPORT_AGAIN = "copy or export it again"
_MAX_FILES = 10_000
"""In the folder of a model; the formats have up to ten, and their weights may be in shards."""


class FormatExporter(ABC, Generic[Chosen]):
    """Writes one format: :class:`segx.plugin.interfaces.Exporter`.

    Attributes:
        title: What people call the format: ``"ONNX"``.
        format: What is typed as ``format=``.
        options: The options it takes.
        source: The format it is made from; ``"model"``: from the model itself.
        packages: The packages whose versions travel with the file.
    """

    title: ClassVar[str]
    format: ClassVar[str]
    options: type[Chosen]
    source: ClassVar[str] = "model"
    packages: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def _export(self, source: Any, job: ExportJob, options: Chosen) -> ArtifactInfo | None:
        """Write ``job.destination``; return the info where the file turned out to be other than ``job.info`` says.

        Args:
            source: An ``ExportModule``, or the ``Artifact`` of the format it is made from.
            job: What is asked for; its info holds the versions of :meth:`made_by`.
            options: The options of the job, as this format's own.
        """

    def _check(self, info: ArtifactInfo, options: Chosen) -> None:
        """Refuse what this format cannot do: :meth:`check` calls it with its own options."""

    def made_by(self, options: Chosen) -> tuple[str, ...]:  # noqa: ARG002 - some leave a package out
        """Return the packages whose versions travel with a file of these options: :attr:`packages`."""
        return self.packages

    def write_info(self, path: Path, info: ArtifactInfo) -> None:
        """Embed the info in the finished file; only formats of ``metadata="embedded"`` have anything to do here."""
        raise NotImplementedError

    def check(self, info: ArtifactInfo, options: ExportOptions) -> None:
        """Refuse wrong combinations of options before any work is done.

        Raises:
            UsageError: With the combination and what to type instead.
        """
        chosen = self._own(options)
        if isinstance(chosen, SuppressionOptions) and not chosen.nms:
            for name in ("conf", "iou", "max_det"):
                if (value := getattr(chosen, name)) != getattr(SuppressionOptions, name):
                    msg = f"{name}={value} is for graphs that suppress by themselves"
                    raise UsageError(msg, hint=f"nms=True, or leave it out: predict and val take {name}=")
        self._check(info, chosen)

    def export(self, source: ExportModule | Artifact, job: ExportJob) -> ArtifactInfo:
        """Write ``job.destination`` and return the info that describes it.

        Raises:
            ExportError: It cannot be made of this source.
        """
        wanted, given = self.source.partition("@")[0], source.format if isinstance(source, Artifact) else "model"
        if given != wanted:
            what = "a model" if wanted == "model" else f"format {wanted!r}"
            came = source.path if isinstance(source, Artifact) else "a model"
            msg = f"{self.title} is made from {what}, not from {came}"
            raise ExportError(msg, hint=f"segx export model=yolov8n-seg.pt format={self.format}")
        options = self._own(job.options)
        info = job.info.replace(versions={**job.info.versions, **_versions(self.made_by(options))})
        return self._export(source, replace(job, info=info), options) or info

    def _own(self, options: ExportOptions) -> Chosen:
        """Return options as this format's own, so that a caller may hand over plain ones."""
        return options if isinstance(options, self.options) else self.options.parse(options.as_dict())


def _versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the version of each package, as it says itself where it is imported: its build is part of that."""
    from importlib import metadata as distributions

    said = {name: getattr(sys.modules.get(name), "__version__", None) for name in packages}
    return {name: str(version or distributions.version(name)) for name, version in said.items()}


class Graph(Record):
    """What a file's graph says of itself, which goes before what its metadata say.

    Attributes:
        input: Lengths of the images it takes, (N, 3, H, W); anything but a number takes any length. None: not known.
        outputs: Names of its outputs; none: not known.
        precision: What its numbers are, for files of other tools that do not say so.
    """

    input: Sequence[int | str | None] | None = None
    outputs: Sequence[str] = ()
    precision: str = ""


def describe(metadata: Mapping[str, Any] | None, path: Path, *, graph: Graph | None = None) -> ArtifactInfo:
    """Return what is known of a file: what it carries, else what lies beside it, corrected by its graph.

    Args:
        metadata: What the file carries, ours or another tool's; None: it carries none.
        path: The file or folder.
        graph: What the graph says of itself.

    Raises:
        ModelError: Nothing says what it is, or what does so cannot be read.
    """
    if not metadata or "task" not in metadata:
        metadata = sidecar.read_metadata(path)
    if not metadata or "task" not in metadata:
        place = sidecar.location(path).name
        msg = f"{path}: carries no metadata: task, names, stride and head (NMS inside?) are unknown"
        raise ModelError(msg, hint=f"export it with segx, or write them into {place}")
    info = ArtifactInfo.from_metadata(metadata, where=str(path))
    if graph is None:
        return info
    if graph.precision and "segx" not in metadata:
        info = info.replace(precision=graph.precision)
    if graph.outputs:
        info = info.replace(outputs=tuple(graph.outputs))
    if graph.input is not None:
        batch, _, height, width = (length if isinstance(length, int) else None for length in graph.input)
        info = info.replace(
            imgsz=tuple(info.imgsz[i] if side is None else side for i, side in enumerate((height, width))),
            batch=info.batch if batch is None else batch,
            dynamic=frozenset(name for axis, name in INPUT_AXES.items() if not isinstance(graph.input[axis], int)),
        )
    return info.checked(where=str(path))


def open_shape(info: ArtifactInfo) -> list[int | None]:
    """Return the lengths of a file's input (N, 3, H, W), None for those that are open."""
    lengths = (info.batch, 3, *info.imgsz)
    return [None if INPUT_AXES.get(axis) in info.dynamic else length for axis, length in enumerate(lengths)]


class FormatBackend(ABC):
    """Opens files of one or more formats: :class:`segx.plugin.interfaces.Backend`.

    Attributes:
        title: What people call such a file: ``"ONNX"``.
        runtime: What people call what runs it: ``"ONNX Runtime"``.
    """

    title: ClassVar[str]
    runtime: ClassVar[str]

    @abstractmethod
    def _read(self, path: Path) -> tuple[Mapping[str, Any] | None, Graph | None]:
        """Return the metadata that a file carries and what its graph says; whatever is raised is damage.

        Read a header, not the weights, and import the runtime only if there is no other way. A verb asks once.
        """

    @abstractmethod
    def _open(self, artifact: Artifact, info: ArtifactInfo, options: SessionOptions) -> Session:
        """Return a session that runs a file that has been read."""

    def read_info(self, artifact: Artifact) -> ArtifactInfo:
        """Return what is known of a file, without preparing it to run.

        Raises:
            ModelError: The file is missing, damaged, of another kind, or nothing says what it is.
        """
        path = artifact.path
        if what := irregular(path):
            raise ModelError(f"{path}: it is {what}, not a regular file", hint=_EXPORT_AGAIN)
        if path.is_dir():
            _check_folder(path)
        if path.is_file() and not path.stat().st_size:
            raise ModelError(f"{path}: the file is empty", hint=_EXPORT_AGAIN)
        try:
            metadata, graph = artifact.once(self._read)
        except SegxError:
            raise
        except OSError as error:
            raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from error
        except Exception as error:  # readers answer to damage with errors of every class
            msg = f"{path}: is damaged or no {self.title} model ({reason(error)})"
            raise ModelError(msg, hint=_EXPORT_AGAIN) from error
        info = describe(metadata, path, graph=graph)
        if path.is_dir():
            info.check_files(path)
        return info

    def open(self, artifact: Artifact, options: SessionOptions) -> Session:
        """Return a session that runs the model.

        Raises:
            ModelError: The file is missing, damaged, or the runtime does not know what it uses.
            UsageError: The device is not there, or half precision is asked of a file that has it not.
        """
        info = self.read_info(artifact)
        if options.half and info.precision != "fp16":
            msg = f"half=True: {artifact.path} holds {info.precision} numbers, and {self.runtime} runs it as it is"
            raise UsageError(msg, hint=f"export it again: segx export model=... format={artifact.format} half=True")
        try:
            return self._open(artifact, info, options)
        except SegxError:
            raise
        except Exception as error:  # runtimes raise errors of every class
            msg = f"{artifact.path}: {self.runtime} cannot open it ({reason(error)})"
            raise ModelError(msg, hint=f"{_EXPORT_AGAIN}; or the runtime is too old for it") from error


def _check_folder(folder: Path) -> None:
    """Refuse a folder with pipes and devices in it, which runtimes would read for ever."""
    for count, file in enumerate(folder.rglob("*")):
        if count == _MAX_FILES:
            raise ModelError(f"{folder}: holds more than {_MAX_FILES:,} files, so it is no model")
        if what := irregular(file):
            raise ModelError(f"{folder}: {file.name} in it is {what}, not a regular file", hint=_EXPORT_AGAIN)


class FormatSession(ABC, Generic[Model]):
    """An open model: :class:`segx.plugin.interfaces.Session`.

    Attributes:
        runtime: What people call what runs it.
        path: The file or folder.
        info: What is known of it.
        device: Where it runs.
        channels_last: It takes images whose channels lie side by side in memory, and would turn others round.
    """

    runtime: ClassVar[str]
    channels_last: bool = False

    def __init__(self, model: Model, *, path: Path, info: ArtifactInfo, device: str) -> None:
        self.path = path
        self.info = info
        self.device = device
        self._model: Model | None = model

    @abstractmethod
    def _run(self, model: Model, images: Images) -> Sequence[Array] | Mapping[str, Array]:
        """Return the raw outputs: in the order of ``info.outputs``, or by their names.

        Args:
            model: What the runtime holds.
            images: float32 (N, 3, H, W) in 0..1, RGB, of a shape that the model takes; the caller's. Contiguous, or,
                of a session that takes them so, with channels last in memory.
        """

    def run(self, images: Images) -> tuple[Array, ...]:
        """Return the raw outputs, float32, for float32 (N, 3, H, W) images in 0..1, RGB.

        Raises:
            ModelError: The shape is not one the model takes, the session is closed, the runtime fails, or the model
                gives other outputs than it says.
        """
        import numpy as np

        from segx.ops.arrays import has_channels_last

        model = self._model
        if model is None:
            raise ModelError(f"{self.path}: the session is closed", hint="open the model again")
        check_images(images.shape, self.info, where=str(self.path))
        try:
            lie_well = self.channels_last and has_channels_last(images)
            images = np.asarray(images, np.float32) if lie_well else np.ascontiguousarray(images, np.float32)
            outputs = self._run(model, images)
        except SegxError:
            raise
        except Exception as error:  # runtimes raise errors of every class
            raise ModelError(f"{self.path}: {self.runtime} failed ({reason(error)})") from error
        names = self.info.outputs
        if len(outputs) != len(names) or (isinstance(outputs, Mapping) and set(outputs) != set(names)):
            came = f"{len(outputs)} outputs" + (f" ({', '.join(outputs)})" if isinstance(outputs, Mapping) else "")
            raise ModelError(f"{self.path}: the model gave {came}; its metadata name {', '.join(names)}")
        ordered = [outputs[name] for name in names] if isinstance(outputs, Mapping) else outputs
        # What is no array of numbers, such as sequences and texts, is core's to refuse.
        halves = [isinstance(output, np.ndarray) and output.dtype.kind == "f" for output in ordered]
        return tuple(
            np.asarray(output, dtype=np.float32) if is_float else output
            for output, is_float in zip(ordered, halves, strict=True)
        )

    def close(self) -> None:
        """Free what the runtime holds."""
        self._model = None


def check_images(shape: Sequence[int], info: ArtifactInfo, *, where: str) -> None:
    """Refuse images that a model does not take.

    Args:
        shape: Of the images.
        info: What is known of the model.
        where: The file, for errors.

    Raises:
        ModelError: With the shape that came, and what is taken.
    """
    wanted = (info.batch, 3, *info.imgsz)
    open_axes = {axis: _LETTERS[name] for axis, name in INPUT_AXES.items() if name in info.dynamic}
    fits = len(shape) == len(wanted) and all(
        length > 0 and (axis in open_axes or length == wanted[axis]) for axis, length in enumerate(shape)
    )
    if not fits:
        takes = "x".join(open_axes.get(axis, str(length)) for axis, length in enumerate(wanted))
        msg = f"{where}: takes images {takes}, got {'x'.join(map(str, shape))}"
        raise ModelError(msg, hint=f"imgsz={info.imgsz[0]},{info.imgsz[1]} batch={info.batch}")
    if shape[2] % info.stride or shape[3] % info.stride:
        msg = f"{where}: sides must be multiples of {info.stride}, got {shape[2]}x{shape[3]}"
        raise ModelError(msg, hint=f"round imgsz up to a multiple of {info.stride}")


def paired_outputs(ranks: Mapping[str, int], names: Sequence[str], path: Path) -> dict[str, str]:
    """Return what a model calls each output, by the name that its metadata give it.

    Files of other tools may call them otherwise: then the flat one comes first and the maps second, as everywhere.

    Args:
        ranks: What the model calls its outputs, with the number of their axes.
        names: What its metadata call them.
        path: The file, for errors.

    Raises:
        ModelError: They are not the same outputs.
    """
    if ranks.keys() == set(names):
        return {name: name for name in names}
    if sorted(ranks.values()) != [3, 4] or len(names) != 2:
        msg = f"{path}: the model gives {', '.join(sorted(ranks))}; its metadata name {', '.join(names)}"
        raise ModelError(msg, hint="export it again")
    return dict(zip(names, sorted(ranks, key=ranks.__getitem__), strict=True))
