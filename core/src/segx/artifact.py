"""A model on disk, and what is known of it without opening it."""

from __future__ import annotations

import ast
import dataclasses
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from segx.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Axis = str
"""One of ``"batch"``, ``"height"``, ``"width"``."""


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How close an exported model came to its source, measured when it was made.

    Attributes:
        images: Number of images compared.
        raw: Largest absolute difference of each raw output, in its own unit.
        box: Largest difference of a side of a matched box, in input pixels.
        score: Largest difference of a matched object's score.
        mask_iou: Smallest IoU of a matched object's mask.
        objects: Number of objects compared.
        matched: Fraction of objects that have a counterpart on the other side.
    """

    images: int
    raw: Mapping[str, float]
    box: float
    score: float
    mask_iou: float
    objects: int
    matched: float


@dataclass(frozen=True, kw_only=True)
class ArtifactInfo:
    """What travels with every model file.

    Attributes:
        task: Name of the task: ``"segment"``.
        head: What the raw outputs are, with a version: ``"yolov8-seg/1"``.
        architecture: Name of the architecture that made it: ``"yolov8-seg"``.
        variant: Name of the configuration: ``"yolov8n-seg"``.
        names: Class number to class name.
        imgsz: Input (height, width) in pixels; for a model that takes any size, the one it was made for.
        stride: Input sides are multiples of this.
        batch: Images per run; for a dynamic batch, 1.
        dynamic: The axes that take any length.
        outputs: Names of the raw outputs, in the order ``Session.run`` returns them.
        precision: ``"fp32"``, ``"fp16"``, ``"int8"``, ...
        settings: Options of the command that made it, and for a trained model the data and settings it remembers.
        versions: Versions of what made it.
        date: When it was made, ISO 8601.
        parity: What verification measured, or None when it was not verified.
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
    precision: str = "fp32"
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    date: str = ""
    parity: Parity | None = None
    extra: Mapping[str, str] = field(default_factory=dict)

    def replace(self, **changes: Any) -> ArtifactInfo:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_metadata(self) -> dict[str, str]:
        """Return flat text keys, for formats that carry strings.

        ``names stride task imgsz batch date`` keep the names and the shapes other tools read;
        everything of our own is one JSON document under ``segx``.
        """
        own = {
            "head": self.head,
            "architecture": self.architecture,
            "variant": self.variant,
            "dynamic": sorted(self.dynamic),
            "outputs": list(self.outputs),
            "precision": self.precision,
            "settings": dict(self.settings),
            "versions": dict(self.versions),
            "parity": None if self.parity is None else dataclasses.asdict(self.parity),
        }
        return {
            **self.extra,
            "description": f"{self.variant or self.architecture} made by segx",
            "date": self.date,
            "stride": str(self.stride),
            "task": self.task,
            "batch": str(self.batch),
            "imgsz": str(list(self.imgsz)),
            "names": str(dict(self.names)),
            "segx": json.dumps(own, default=str),
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
        except (ValueError, SyntaxError, TypeError, KeyError, AttributeError) as error:
            msg = f"{where}: the metadata cannot be read ({error})"
            raise ModelError(msg) from error

    @classmethod
    def _from_metadata(cls, metadata: Mapping[str, Any]) -> ArtifactInfo:
        known = {"description", "date", "stride", "task", "batch", "imgsz", "names", "segx"}
        own = _literal(metadata.get("segx", "{}"), json.loads)
        parity = own.get("parity")
        names = _literal(metadata.get("names", {}))
        size = _literal(metadata.get("imgsz", [640, 640]))
        height, width = (size, size) if isinstance(size, int) else size
        defaults = cls()
        return cls(
            task=str(metadata.get("task", defaults.task)),
            head=own.get("head", defaults.head),
            architecture=own.get("architecture", defaults.architecture),
            variant=own.get("variant", ""),
            names={int(k): str(v) for k, v in (names.items() if isinstance(names, dict) else enumerate(names))},
            imgsz=(int(height), int(width)),
            stride=int(float(metadata.get("stride", defaults.stride))),
            batch=int(metadata.get("batch", 1)),
            dynamic=frozenset(own.get("dynamic", ())),
            outputs=tuple(own.get("outputs", defaults.outputs)),
            precision=own.get("precision", defaults.precision),
            settings=own.get("settings", {}),
            versions=own.get("versions", {}),
            date=str(metadata.get("date", "")),
            parity=None if parity is None else Parity(**parity),
            extra={k: str(v) for k, v in metadata.items() if k not in known},
        )


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A model on disk.

    Attributes:
        path: The file or folder.
        format: Its format: ``"pt"``, ``"onnx"``, ...
    """

    path: Path
    format: str

    @property
    def size(self) -> int:
        """Bytes on disk, of the file or of all files in the folder."""
        if self.path.is_dir():
            return sum(item.stat().st_size for item in self.path.rglob("*") if item.is_file())
        return self.path.stat().st_size


def _literal(value: Any, parse: Any = ast.literal_eval) -> Any:
    return parse(value) if isinstance(value, str) else value
