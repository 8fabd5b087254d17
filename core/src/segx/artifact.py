"""A model on disk, and what is known of it without opening it."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import zlib
from dataclasses import field
from typing import TYPE_CHECKING, Any, TypeVar

from segx import metadata as read
from segx.errors import ModelError
from segx.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

T = TypeVar("T")

logger = logging.getLogger(__name__)

Axis = str
"""One of ``"batch"``, ``"height"``, ``"width"``."""

AXES: frozenset[Axis] = frozenset({"batch", "height", "width"})

_MADE_HERE = "made by segx"
_SHARED = frozenset({"description", "date", "stride", "task", "batch", "imgsz", "names", "args", "segx"})
"""The keys that :meth:`ArtifactInfo.to_metadata` writes; ``segx`` is the last."""
_MARKS = {"nms": "final", "end2end": "end2end"}
"""What other tools say of a graph that goes on where ours ends, and what the head it ends in is called."""
_SETTLED = ("conf", "iou", "max_det")
"""How such a graph suppresses, where a tool says so."""
_PRECISIONS = {"8": "int8", "16": "fp16", "32": "fp32", "half": "fp16"}
"""Bits that a tool says it quantised to, and the precision that is."""


class Parity(Record):
    """How close an exported model came to its source, measured when it was made.

    Attributes:
        images: Number of images compared.
        raw: Largest absolute difference of each raw output, in its own unit.
        box: Largest difference of a side of a matched box, in input pixels.
        score: Largest difference of a matched object's score.
        mask_iou: Smallest IoU of a matched object's mask.
        objects: Number of objects compared.
        matched: Fraction of objects that have a counterpart on the other side.
        typical_box: Median over the matched objects of the largest difference of a side, in input pixels.
        typical_mask_iou: 5th percentile of the IoU of the masks of matched objects.
        quality: Mean IoU of the masks of all objects of both sides, 0 for one that the other side has not, not even
            with half the score that is asked of what is compared.
    """

    images: int
    raw: Mapping[str, float]
    box: float
    score: float
    mask_iou: float
    objects: int
    matched: float
    typical_box: float = 0.0
    typical_mask_iou: float = 1.0
    quality: float = 1.0


class ArtifactInfo(Record):
    """What travels with every model file.

    Attributes:
        task: Name of the task: ``"segment"``.
        head: What the raw outputs are, with a version: ``"yolov8-seg/1"``.
        architecture: Name of the architecture that made it: ``"yolov8-seg"``.
        variant: Name of the configuration: ``"yolov8n-seg"``.
        names: Class number to class name.
        imgsz: Input (height, width) in pixels; for a model that takes any size, the one it was made for.
        stride: Input sides are multiples of this.
        batch: Images per run; of an open batch how many there are where none are asked for.
        dynamic: The axes that take any length.
        outputs: Names of the raw outputs, in the order ``Session.run`` returns them.
        decoding: Numbers that whoever reads the outputs needs besides: of a raw head its strides and bins, of a final
            one the scores and overlaps it kept.
        precision: ``"fp32"``, ``"fp16"``, ``"int8"``, ...
        settings: Options of the command that made it, and for a trained model the data and settings it remembers.
        versions: Versions of what made it.
        date: When it was made, ISO 8601.
        parity: What verification measured, or None when it was not verified.
        files: What a model that is a folder is made of: path in it to size and CRC-32. An export over it takes away
            nothing else, and one that is cut short is not opened.
        extra: Keys written by other tools, kept as they are.
    """

    task: str = "segment"
    head: str = "yolov8-seg/1"
    architecture: str = "yolov8-seg"
    variant: str = ""
    names: Mapping[int, str] = field(default_factory=dict)
    imgsz: tuple[int, int] = (640, 640)
    stride: int = 32
    batch: int = 1
    dynamic: frozenset[Axis] = frozenset()
    outputs: tuple[str, ...] = ("output0", "output1")
    decoding: Mapping[str, Any] = field(default_factory=dict)
    precision: str = "fp32"
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    date: str = ""
    parity: Parity | None = None
    files: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    extra: Mapping[str, str] = field(default_factory=dict)

    def replace(self, **changes: Any) -> ArtifactInfo:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_metadata(self) -> dict[str, str]:
        """Return flat text keys, for formats that carry strings.

        ``names stride task imgsz batch date args`` keep the names and the shapes other tools read;
        everything of our own is one JSON document under ``segx``.
        """
        own = {
            "head": self.head,
            "architecture": self.architecture,
            "variant": self.variant,
            "dynamic": sorted(self.dynamic),
            "outputs": list(self.outputs),
            "decoding": dict(self.decoding),
            "precision": self.precision,
            "settings": dict(self.settings),
            "versions": dict(self.versions),
            "files": {name: list(about) for name, about in self.files.items()},
            "parity": None if self.parity is None else _newest_first(dataclasses.asdict(self.parity)),
        }
        return {
            **self.extra,
            "description": f"{self.variant or self.architecture} {_MADE_HERE}",
            "date": self.date,
            "stride": str(self.stride),
            "task": self.task,
            "batch": str(self.batch),
            "imgsz": str(list(self.imgsz)),
            "names": str(dict(self.names)),
            "args": str(self._arguments()),
            "segx": json.dumps(own, default=str),
        }

    def _arguments(self) -> dict[str, Any]:
        """Return what other tools want to know of how a file was made: without ``nms`` they suppress once more."""
        return {
            "batch": self.batch,
            "half": self.precision == "fp16",
            "int8": self.precision == "int8",
            "dynamic": bool(self.dynamic),
            "nms": f"-{_MARKS['nms']}/" in self.head,
        }

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], *, where: str = "metadata") -> ArtifactInfo:
        """Read what :meth:`to_metadata` wrote, or the keys other tools write.

        Args:
            metadata: Keys and values; values may be text or already parsed (YAML, JSON).
            where: The file, for errors.

        Raises:
            ModelError: A key cannot be read.
        """
        try:
            return cls._from_metadata(metadata)
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ModelError(f"{where}: the metadata cannot be read ({reason})", hint=_EXPORT_AGAIN) from error

    def checked(self, *, where: str) -> ArtifactInfo:
        """Return this, once the numbers a graph says of itself are such as images can have.

        Raises:
            ModelError: They are not.
        """
        try:
            read.size(self.imgsz)
            read.integer(self.batch, "batch")
            read.texts(self.outputs, "outputs", most=read.MAX_OUTPUTS)
        except ValueError as error:
            raise ModelError(f"{where}: its graph cannot be used ({error})", hint=_EXPORT_AGAIN) from error
        return self

    def check_files(self, folder: Path, *, contents: bool = False) -> None:
        """Refuse a folder of which a file is missing or cut short.

        Args:
            folder: The model.
            contents: Read each file whole, so that a changed byte is seen too.

        Raises:
            ModelError: With the file.
        """
        for name, (size, crc) in self.files.items():
            try:
                there = (folder / name).stat().st_size
                changed = contents and there == size and crc_of(folder / name) != crc
            except OSError as error:
                reason = error.strerror or str(error)
                raise ModelError(f"{folder}: {name} in it cannot be read ({reason})", hint=_EXPORT_AGAIN) from error
            if there != size:
                raise ModelError(f"{folder}: {name} in it has {there} bytes, not {size}", hint=_EXPORT_AGAIN)
            if changed:
                raise ModelError(f"{folder}: {name} in it is damaged", hint=_EXPORT_AGAIN)

    @classmethod
    def _from_metadata(cls, metadata: Mapping[str, Any]) -> ArtifactInfo:
        defaults = cls()
        own = metadata.get("segx")
        if own is None and str(metadata.get("description", "")).endswith(_MADE_HERE):
            raise ValueError("they are cut short")
        info = cls(
            task=read.text(metadata.get("task", defaults.task), "task"),
            names=read.classes(read.literal(metadata.get("names", {}), "names")),
            imgsz=read.size(read.literal(metadata.get("imgsz", defaults.imgsz), "imgsz")),
            stride=read.integer(metadata.get("stride", defaults.stride), "stride"),
            batch=read.integer(metadata.get("batch", 1), "batch"),
            date=read.text(metadata.get("date", ""), "date"),
            extra={str(key): _as_text(value, str(key)) for key, value in metadata.items() if key not in _SHARED},
        )
        return _foreign(info, metadata) if own is None else _own(info, own)


_EXPORT_AGAIN = "copy or export it again"


def crc_of(file: Path) -> int:
    """Return the CRC-32 of a file's content."""
    crc = 0
    with file.open("rb") as content:
        while block := content.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return crc


def _own(info: ArtifactInfo, document: Any) -> ArtifactInfo:
    """Return an info with what segx itself wrote beside the keys that other tools share."""
    own = read.table(read.document(document, "segx"), "segx")
    missing = [name for name in ("head", "dynamic", "outputs", "precision", "parity") if name not in own]
    if missing:
        raise ValueError(f"segx has no {', '.join(missing)}: they are cut short")
    dynamic = read.texts(own["dynamic"], "dynamic", most=len(AXES))
    if not AXES.issuperset(dynamic):
        raise ValueError(f"dynamic is {read.shown(dynamic)}; axes are {', '.join(sorted(AXES))}")
    versions = read.table(own.get("versions", {}), "versions")
    return info.replace(
        head=read.text(own["head"], "head"),
        architecture=read.text(own.get("architecture", info.architecture), "architecture"),
        variant=read.text(own.get("variant", ""), "variant"),
        dynamic=frozenset(dynamic),
        outputs=read.texts(own["outputs"], "outputs", most=read.MAX_OUTPUTS),
        decoding=read.table(own.get("decoding", {}), "decoding"),
        precision=read.text(own["precision"], "precision"),
        settings=read.table(own.get("settings", {}), "settings"),
        versions={name: read.text(value, f"version of {name}") for name, value in versions.items()},
        files={name: _about(about, name) for name, about in read.table(own.get("files", {}), "files").items()},
        parity=None if own["parity"] is None else _parity(read.table(own["parity"], "parity")),
    )


def _about(value: Any, name: str) -> tuple[int, int]:
    if not all(part.strip(".") and not set("\0\\:") & set(part) for part in name.split("/")):
        raise ValueError(f"files names {read.shown(name)}, which is no file of the model")
    size, crc = value if isinstance(value, list | tuple) and len(value) == 2 else (None, None)
    return read.integer(size, f"size of {name}", least=0, most=1 << 50), read.integer(crc, name, least=0, most=1 << 32)


def _newest_first(parity: dict[str, Any]) -> dict[str, Any]:
    return dict(reversed(parity.items()))


def _parity(table: Mapping[str, Any]) -> Parity:
    counts = ("images", "objects")
    numbers = ("box", "score", "mask_iou", "matched", "typical_box", "typical_mask_iou", "quality")
    # Files of before had none of the last. They stand first, so that what is cut short lacks others too.
    table = {"typical_box": 0.0, "typical_mask_iou": 1.0, "quality": 1.0, **table}
    missing = [name for name in (*counts, *numbers, "raw") if name not in table]
    if missing:
        raise ValueError(f"parity has no {', '.join(missing)}: they are cut short")
    raw = read.table(table["raw"], "raw")
    whole = {name: read.integer(table[name], name, least=0, most=1 << 40) for name in counts}
    real = {name: read.real(table[name], name) for name in numbers}
    return Parity(raw={name: read.real(value, name) for name, value in raw.items()}, **whole, **real)  # type: ignore[arg-type]


def _foreign(info: ArtifactInfo, metadata: Mapping[str, Any]) -> ArtifactInfo:
    """Return an info with what another tool says: of how it was asked (``args``), and of where its graph ends."""
    said = {**_arguments(metadata.get("args", {})), **metadata}
    ends = [end for key, end in _MARKS.items() if read.flag(said.get(key), key)]
    head = read.text(said["head"], "head") if said.get("head") is not None else info.head
    if head.lower() == info.task.lower():
        head = info.head  # tools that name the class of the last layer call the plain one as the task
    if ends:
        family, _, version = head.partition("/")
        head = f"{family}-{ends[0]}/{version or 1}"
    settled = {name: said[name] for name in _SETTLED if ends and isinstance(said.get(name), int | float)}
    return info.replace(
        head=head,
        decoding=settled,
        precision=_foreign_precision(said),
        dynamic=AXES if read.flag(said.get("dynamic"), "dynamic") else frozenset(),
    )


def _arguments(value: Any) -> dict[str, Any]:
    """Return the arguments a tool was called with; text that cannot be read says nothing, which is told."""
    try:
        found = read.literal(value, "args")
        return read.table({} if found is None else found, "args")
    except ValueError as error:
        logger.warning("%s: whether the file is quantised or suppresses by itself is taken from its shapes", error)
        return {}


def _foreign_precision(said: Mapping[str, Any]) -> str:
    quantised = said.get("quantize")
    if quantised is not None and quantised is not False:
        word = read.text(quantised, "quantize").lower()
        return _PRECISIONS.get(word, word)
    if read.flag(said.get("int8"), "int8"):
        return "int8"
    return "fp16" if read.flag(said.get("half"), "half") else "fp32"


def _as_text(value: Any, what: str) -> str:
    """Return another tool's value as text, whatever it is, as long as it is of a size that metadata have."""
    if isinstance(value, int) and abs(value) > 1 << 62:
        raise ValueError(f"{what} is a number that is too long")
    read.bounded(value, what)
    text = str(value)
    if len(text) > read.MAX_TEXT:
        raise ValueError(f"{what} has {len(text)} characters, more than {read.MAX_TEXT}")
    return text


class Artifact(Record):
    """A model on disk.

    Attributes:
        path: The file or folder.
        format: Its format: ``"pt"``, ``"onnx"``, ...
    """

    path: Path
    format: str
    _kept: dict[Any, tuple[object, Any]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, read: Callable[[Path], T]) -> T:
        """Return what a function reads of the file; who asks next gets the same, so that a verb reads it once.

        A file that has been written anew since, and one that another process has read, is read again.
        """
        stamp = self._stamp()
        kept = self._kept.get(read)
        if kept is None or kept[0] != stamp:
            kept = self._kept[read] = stamp, read(self.path)
        found: T = kept[1]
        return found

    def take(self, read: Callable[[Path], T]) -> T:
        """Return the same, for whoever uses it up, such as an open file: the next, in any thread, reads anew."""
        stamp, found = self._kept.pop(read, (None, None))
        taken: T = found if stamp is not None and stamp == self._stamp() else read(self.path)
        return taken

    def _stamp(self) -> object:
        try:
            now = self.path.stat()
        except OSError:  # reading says what is wrong
            return None
        return os.getpid(), now.st_ino, now.st_size, now.st_mtime_ns

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "format": self.format, "_kept": {}}

    @property
    def size(self) -> int:
        """Bytes on disk, of the file or of all files in the folder."""
        if self.path.is_dir():
            return sum(item.stat().st_size for item in self.path.rglob("*") if item.is_file())
        return self.path.stat().st_size


class WeightsFile(Record):
    """A file of weights known by name: published, and downloaded on first use, or part of the plugin.

    Attributes:
        url: Where the file is published.
        path: The file, for one that comes with the plugin; nothing is downloaded then.
        size: Its size in bytes, when known.
        sha256: Its hash, when known; a file that differs is refused.
    """

    url: str = ""
    path: Path | None = None
    size: int | None = None
    sha256: str | None = None
