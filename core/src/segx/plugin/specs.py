"""What a plugin declares: frozen records that name a thing and say how to load it."""

from __future__ import annotations

import dataclasses
import importlib
import math
from dataclasses import field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from segx.artifact import AXES
from segx.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from segx.artifact import ArtifactInfo, Axis, WeightsFile
    from segx.options.verbs import ExportOptions
    from segx.plugin.interfaces import Architecture, Backend, DatasetReader, DatasetWriter, Exporter, Task

API: tuple[int, int] = (1, 0)
"""The plugin API of this core; a ``plugin.py`` states the one it was written for as ``SEGX_API``."""


def nothing() -> None:
    """Do nothing: what has to be prepared for most libraries."""


def no_problem() -> str:
    """Return no problem: most declarations can be used wherever what they require is installed."""
    return ""


class lazy(Record, kw_only=False):  # noqa: N801 - a declaration reads load=lazy("package.module:Class")
    """What a spec loads: imported when it is called for; of a class an instance, of anything else the thing itself.

    Attributes:
        target: Module and name: ``"segx_export_foo.exporter:FooExporter"``.
    """

    target: str

    def __call__(self) -> Any:
        """Import it and return it."""
        module, _, name = self.target.partition(":")
        found = getattr(importlib.import_module(module), name)
        return found() if isinstance(found, type) else found


class Spec(Record):
    """What every declaration has in common.

    Attributes:
        name: What users type: ``"onnx"``, ``"segment"``.
        summary: One line for ``segx plugins`` and the documentation.
        load: Imports the implementation and returns it; the only place where heavy imports happen.
        requires: PEP 508 requirements that must be installed for ``load`` to work, checked without importing them;
            ``"onnxruntime>=1.20 | onnxruntime-gpu>=1.20"`` is met by either.
        platforms: ``sys.platform`` values where it can be used; empty means everywhere.
        problem: Says why it cannot be used here although it is installed: no GPU, no Node; an empty string if it can.
            A quick look at files, ``PATH`` and the platform, which imports nothing.
        prepare: Called once, before anything that any plugin requires is imported. It keeps a library from reporting
            or writing by itself: blocks a module, for instance. It imports nothing. A variable that is read when the
            library is imported is set there, with :func:`segx.runtime.variables`.
        provider: The distribution that declares it; filled in by the loader.
    """

    word: ClassVar[str]
    """What users call such a thing."""

    name: str
    summary: str
    load: Callable[[], Any]
    requires: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    problem: Callable[[], str] = no_problem
    prepare: Callable[[], None] = nothing
    provider: str = ""

    def with_provider(self, distribution: str) -> Self:
        """Return the same declaration, signed with the distribution it came from."""
        return dataclasses.replace(self, provider=distribution)


Form = Literal["decoded", "raw", "final"]
"""Where a graph ends: in boxes, in what the head says before they are made, or after suppression (NMS)."""


class Head(Record):
    """What the outputs of a graph are; the heads of one family are the same model, ending in different places.

    Attributes:
        id: What ``ArtifactInfo.head`` says, with a version: ``"yolo-raw/1"``.
        family: What heads that can be made of each other share: ``"yolo"``.
        form: Where the graph ends.
        outputs: Names of the outputs, in their order.
        decoding: Numbers that whoever reads the outputs needs, as most models of the family have them.
        options: Options of an export whose values are such numbers too: ``("conf", "iou", "max_det")``.
    """

    id: str
    family: str
    form: Form = "decoded"
    outputs: tuple[str, ...] = ("output0", "output1")
    decoding: Mapping[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] = ()

    def describe(self, info: ArtifactInfo, options: ExportOptions | None = None) -> ArtifactInfo:
        """Return the info of a graph that ends in this head instead of its own.

        Args:
            info: What is known of the graph.
            options: Those of the export that makes it end so.
        """
        chosen = {name: getattr(options, name) for name in self.options if hasattr(options, name)}
        return info.replace(head=self.id, outputs=self.outputs, decoding={**self.decoding, **chosen})


class TaskSpec(Spec):
    """A task: what a model's raw outputs mean.

    Attributes:
        heads: What it reads, so that an export from a finished graph, whose architecture need not be installed, knows
            which other form the graph can be given.
    """

    word: ClassVar[str] = "task"
    load: Callable[[], Task]
    heads: tuple[Head, ...] = ()

    def head(self, name: str) -> Head | None:
        """Return a head by its id; None: it is not known."""
        return next((head for head in self.heads if head.id == name), None)

    def head_in(self, form: str, name: str) -> Head | None:
        """Return the head of this form that is of one family with the head of this id; None: there is none."""
        own = self.head(name)
        same = [head for head in self.heads if own is not None and (head.family, head.form) == (own.family, form)]
        return same[0] if same else None


class ArchitectureSpec(Spec):
    """A family of models.

    Attributes:
        task: The task its outputs belong to.
        variants: Names of the configurations it ships, without suffix: ``"yolov8n-seg"``.
        weights: File name to where it is published; first use of the name downloads it.
        heads: Form to the id of the head that a model of the family can be exported with:
            ``{"raw": "yolo-raw/1"}``. Its usual one is that of ``info`` and needs no entry.
        pickled: Module to the names of its classes that other tools' checkpoints of the family hold; they are read as
            data and never imported.
    """

    word: ClassVar[str] = "architecture"
    load: Callable[[], Architecture]
    task: str
    variants: tuple[str, ...] = ()
    weights: Mapping[str, WeightsFile] = field(default_factory=dict)
    heads: Mapping[str, str] = field(default_factory=dict)
    pickled: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class Tolerance(Record):
    """Tolerances of the comparison of an export with its source.

    Attributes:
        box: Largest difference of a box side of a matched object, in input pixels.
        score: Largest difference of a matched object's score.
        mask_iou: Smallest IoU of a matched object's mask.
        matched: Smallest fraction of objects that have a counterpart on the other side.
        raw: Largest difference of a raw output, as a fraction of the largest value in its channel.
        typical_box: Largest median of the differences of matched boxes, in input pixels; None: not judged. What is
            quantised has a few objects far off whether it is good or bad; the median tells the two apart.
        typical_mask_iou: Smallest 5th percentile of the IoU of matched objects' masks; None: not judged.
        quality: Smallest mean IoU of masks, a missed object counting 0 (``Parity.quality``); None: not judged. Of few
            objects it is known only roughly: a file that may be on either side of it is neither proven nor refused.
    """

    box: float = 0.5
    score: float = 0.005
    mask_iou: float = 0.98
    matched: float = 0.98
    raw: float = 0.01
    typical_box: float | None = None
    typical_mask_iou: float | None = None
    quality: float | None = None


_TOLERANCES: Mapping[str, Tolerance] = {
    "fp32": Tolerance(box=0.1, score=0.001, mask_iou=0.99, matched=0.97, raw=0.001),
    "fp16": Tolerance(
        box=5.0, score=0.02, mask_iou=0.9, matched=0.95, raw=0.15, typical_box=0.5, typical_mask_iou=0.95
    ),
    "int8": Tolerance(box=math.inf, score=1.0, mask_iou=0.0, matched=0.0, raw=math.inf, typical_box=2.0, quality=0.7),
}
"""Extremes judge what is nearly exact. Of what is quantised some objects are far off whether it is good or bad: on 20
photographs good files had a median box of 0.6 to 1.5 pixels, a bad one 3.2 to 5.4. On 8 photographs beside the drawn
images (44 objects) good files of six formats had a quality of 0.89 to 0.97, of drawn images alone 0.64 to 0.95."""


def default_tolerances(*precisions: str) -> dict[str, Tolerance]:
    """Return the tolerance of each precision; a format that needs others measures them, and says why."""
    return {precision: _TOLERANCES[precision] for precision in precisions}


class Demands(Record):
    """What an export needs of what comes before it.

    Attributes:
        form: Where the graph ends that it is made from. A finished file of a format that can be cut
            (``ExporterSpec.cuts``) may still end in boxes: the exporter cuts it, and ``job.info`` says what it will be.
        makes: The form that the exporter itself gives the graph where that is another one: ``"final"`` for one that
            appends suppression. ``job.info`` says so already.
        source: Options of the format it is made from, which go before those of the user: ``{"int8": True}``.
        images: How many images to calibrate on; 0: none.
    """

    form: Form = "decoded"
    makes: Form | None = None
    source: Mapping[str, Any] = field(default_factory=dict)
    images: int = 0


def no_demands(_options: Any) -> Demands:
    """Demand nothing: most formats are made from what is there."""
    return Demands()


def nothing_missing() -> Mapping[str, str]:
    """Return nothing: what is installed writes every precision."""
    return {}


class ExporterSpec(Spec):
    """An export format.

    Attributes:
        suffix: What is added to the model's stem: ``".onnx"``, ``"_openvino_model"``.
        source: ``"model"``, or the name of the format it is made from; core finds the chain.
        precisions: The precisions it can write; the first is the default.
        options: The options it takes; see :class:`segx.options.verbs.ExportOptions`.
        tolerance: Tolerance for each precision.
        requires_for: What a precision needs beyond ``requires``: ``{"int8": ("nncf>=2.16",)}``.
        demands: Says of options what the export needs of what comes before it; loads nothing.
        axes: The axes it can leave open where ``dynamic`` is asked for.
        cuts: Forms that whoever makes another format of a finished file of this one can cut a decoded graph back to.
        metadata: Where :class:`~segx.artifact.ArtifactInfo` travels. ``"embedded"``: the exporter writes it into the
            file; ``"folder"``: core writes ``metadata.yaml`` inside; ``"beside"``: core writes ``<file>.segx.json``.
        fallback: Options that still make something where a tool is missing that the usual ones need, such as the file
            that a compiler takes: ``{"compile": False}``. ``segx benchmark`` measures that then, and says so.
        missing: Says which precisions are refused on this machine although what they require is installed, each with
            the reason, for ``segx formats``; imports nothing heavy.
    """

    word: ClassVar[str] = "format"
    load: Callable[[], Exporter]
    suffix: str
    options: type[ExportOptions]
    source: str = "model"
    precisions: tuple[str, ...] = ("fp32",)
    tolerance: Mapping[str, Tolerance] = field(default_factory=lambda: {"fp32": Tolerance()})
    requires_for: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    demands: Callable[[Any], Demands] = no_demands
    axes: frozenset[Axis] = AXES
    cuts: tuple[Form, ...] = ()
    metadata: Literal["embedded", "folder", "beside"] = "beside"
    fallback: Mapping[str, Any] = field(default_factory=dict)
    missing: Callable[[], Mapping[str, str]] = nothing_missing


class BackendSpec(Spec):
    """A runtime that opens models.

    Attributes:
        formats: Format name to the suffixes its files have: ``{"onnx": (".onnx",)}``.
        devices: Kinds of device it can run on: ``"cpu"``, ``"cuda"``, ``"mps"``.
        priority: Of several usable backends for a format the highest is taken.
        concurrent: Its sessions may be run from several threads at once. On a CPU that is how folders and videos go
            through the network: a few images side by side, each on its share of the cores.
        queue: Runs beyond those that should wait within the runtime for their turn on a CPU: the next begins there the
            moment one ends, and not when a thread has got Python's lock. Of fast networks that is a twentieth.
        apart: It does not share a process with other libraries: they bring each other down, or it prints and starts
            what it likes. Core opens its models in a process of its own and hands over images and outputs in shared
            memory; the plugin writes nothing for it. ``load`` is then a :class:`lazy`, and what it loads reads a
            file's info without the runtime.
        caution: What whoever opens a stranger's file of these formats should know, a clause after its name: said by
            ``segx info`` and when the first one is opened.
    """

    word: ClassVar[str] = "backend"
    load: Callable[[], Backend]
    formats: Mapping[str, tuple[str, ...]]
    devices: tuple[str, ...] = ("cpu",)
    priority: int = 0
    concurrent: bool = False
    queue: int = 0
    apart: bool = False
    caution: str = ""


class DatasetFormatSpec(Spec):
    """A way of writing ground truth down.

    Attributes:
        detects: Says quickly whether a split's folder, list or file is of this format; must not raise.
        write: Imports what writes the format and returns it, beside ``load`` which reads; None: it is only read.
        priority: Of several formats that recognise a path the one with the highest reads it: above 0 is one that looks
            into files and not only at their names.
    """

    word: ClassVar[str] = "dataset format"
    load: Callable[[], DatasetReader]
    detects: Callable[[Path], bool]
    write: Callable[[], DatasetWriter] | None = None
    priority: int = 0


class CommandSpec(Spec):
    """A sub-command of ``segx``; ``load`` returns a ``typer.Typer`` or a function Typer can take.

    One whose name begins with ``data-`` is listed and called as ``segx data NAME``, with ``name=value`` options.
    """

    word: ClassVar[str] = "command"
