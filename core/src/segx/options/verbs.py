"""The options of the verbs.

Nothing here imports NumPy or torch, so that a wrong option is reported in a fraction of a second.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from segx.errors import WrongValueError
from segx.options.neutral import ANY, BESIDE_DEFAULT, NEUTRAL, UNSET, Neutral
from segx.options.schema import (
    MAX_IMAGES,
    MAX_PIXELS,
    MAX_WORKERS,
    ImageSize,
    Options,
    option,
    parse_literal,
    plain,
    shown,
)

Crowds = Literal["ignore", "objects"]
_CROWDS = "what iscrowd: 1 makes of an annotation: a crowd, neither learned nor measured, or an object like others"


class VerbOptions(Options):
    """Options of a verb: those of other programs are taken too, at values that change nothing."""

    @classmethod
    def unknown(cls, values: Mapping[str, Any]) -> list[str]:
        """Return which names are known nowhere.

        Raises:
            WrongValueError: One is known elsewhere, and would change something.
        """
        return not_neutral(values, cls.names())


class DecodeOptions(Options):
    """What a task needs to know to turn raw outputs into results."""

    conf: float = option(0.25, "smallest score that counts as found", ge=0, le=1)
    iou: float = option(0.7, "boxes overlapping more than this are one object (NMS)", ge=0, le=1)
    max_det: int = option(300, "most objects per image", ge=1, le=100_000)
    classes: tuple[int, ...] | None = option(None, "keep only these class numbers")
    agnostic_nms: bool = option(False, "suppress overlapping boxes across classes")
    multi_label: bool = option(False, "one row for each class above conf, as validation does, not only the best")
    retina_masks: bool = option(True, "masks at the resolution of the original image; False: of the network input")
    masks: bool = option(True, "form masks; False: boxes only")


class RunFolderOptions(Options):
    """Where a verb writes."""

    project: Path | None = option(None, "folder that holds run folders; default: runs/<task>")
    name: str | None = option(None, "name of the run folder; default: the verb")
    exist_ok: bool = option(False, "write into an existing run folder instead of a new numbered one")


class RuntimeOptions(Options):
    """Where and how a model runs."""

    device: str | None = option(None, "where to run: cpu, cuda, 0, mps; default: the best there is")
    half: bool = option(False, "run in half precision, where the device can")
    threads: int | None = option(None, "threads of a CPU runtime; default: all cores", ge=1, le=MAX_WORKERS)


class SessionOptions(RuntimeOptions):
    """How a backend opens a model: what users choose, and what whoever runs it knows."""

    streams: int = option(
        1, "how many threads will call run at once; threads is the share of each", ge=1, le=MAX_WORKERS
    )


class InferenceOptions(VerbOptions, RuntimeOptions, RunFolderOptions):
    """What the verbs that run a model on images share."""

    imgsz: ImageSize | None = option(
        None, "input size: one side, or height,width; default: what the model was made for", ge=32, le=MAX_PIXELS
    )
    conf: float = option(0.25, "smallest score that counts as found", ge=0, le=1)
    iou: float = option(0.7, "boxes overlapping more than this are one object (NMS)", ge=0, le=1)
    agnostic_nms: bool = option(False, "suppress overlapping boxes across classes")
    backend: str | None = option(
        None,
        "runtime to use, by name; default: the fastest that segx benchmark proved for the file, else the usual one",
    )
    save_txt: bool = option(False, "write one text file of polygons per image")
    save_conf: bool = option(False, "add scores to the text files")

    def session(self) -> SessionOptions:
        """Return the part a backend needs."""
        return SessionOptions(device=self.device, half=self.half, threads=self.threads)


class PredictOptions(InferenceOptions):
    """Options of predict."""

    groups: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "what is found": ("conf", "iou", "max_det", "classes", "agnostic_nms", "retina_masks"),
        "what goes in": ("imgsz", "rect", "batch", "vid_stride", "stream_buffer", "stream"),
        "where it runs": ("device", "half", "backend", "threads"),
        "what is written": (
            *("save", "save_txt", "save_conf", "save_crop", "save_json", "save_csv"),
            *("project", "name", "exist_ok"),
        ),
        "how it looks": ("show", "line_width", "font", "show_labels", "show_conf", "show_boxes", "verbose"),
    }

    max_det: int = option(300, "most objects per image", ge=1, le=100_000)
    classes: tuple[int | str, ...] | None = option(None, "keep only these classes, by number or name")
    retina_masks: bool = option(True, "masks at the resolution of the original image; False: of the network input")
    rect: bool | None = option(
        None,
        "pad only to the stride where the model takes any size; False: always square; default: True on a CPU and for "
        "cameras; a GPU takes longer for each new shape than for all the padding",
    )
    batch: int | None = option(
        None,
        "most images per run of the network; a CPU takes fewer when they are large; default: the batch that an "
        "exported file was made for, else 1",
        ge=1,
        le=MAX_IMAGES,
    )
    stream: bool = option(False, "return results one by one instead of a list (Python)")
    vid_stride: int = option(1, "take every n-th frame of a video", ge=1, le=1_000_000)
    stream_buffer: bool = option(False, "keep every frame of a live stream; False: only the newest")
    save: bool = option(False, "write images and videos with the results drawn in")
    save_crop: Literal["mask", "box"] | bool = option(
        False, "write one image per object: mask (cut out, transparent) or box"
    )
    save_json: Literal["results", "dataset"] | bool = option(
        False, "write predictions.json with COCO masks (RLE): results, or a whole COCO data set, to be corrected"
    )
    save_csv: bool = option(False, "write predictions.csv, a row for each object")
    show: bool = option(False, "show results in a window")
    line_width: int | None = option(None, "width of outlines in pixels; default: from the image size", ge=1, le=1000)
    font: Path | None = option(None, "TrueType or OpenType file for labels; default: one that has the letters")
    show_labels: bool = option(True, "draw class names")
    show_conf: bool = option(True, "draw scores")
    show_boxes: bool = option(True, "draw boxes")
    verbose: bool = option(True, "a line for each image")

    def decode(self) -> DecodeOptions:
        """Return the part the task needs."""
        shared = DecodeOptions.names()
        return DecodeOptions.parse({k: v for k, v in self.as_dict().items() if k in shared})


class ValOptions(InferenceOptions):
    """Options of val."""

    groups: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "data": ("data", "split", "images", "imgsz", "rect", "batch", "workers"),
        "what counts": (
            "conf",
            "iou",
            "max_det",
            "classes",
            "agnostic_nms",
            "single_cls",
            "crowds",
            "fitness",
        ),
        "where it runs": ("device", "half", "backend", "threads"),
        "what is written": ("plots", "save_json", "save_txt", "save_conf", "project", "name", "exist_ok", "verbose"),
    }

    data: str | None = option(None, "data set: a YAML, a COCO JSON, or a known name; default: what the model remembers")
    split: str = option("val", "which part of the data set: train, val or test")
    rect: bool = option(True, "pad only to the stride where the model takes any size; False: always square")
    images: Path | None = option(None, "folder of the images, when a COCO JSON's are not found beside it")
    batch: int | None = option(
        None,
        "most images per run of the network; a CPU takes fewer when they are large; default: 16",
        ge=1,
        le=MAX_IMAGES,
    )
    conf: float = option(0.001, "smallest score that counts as found", ge=0, le=1)
    max_det: int = option(300, "most objects per image; COCO judges 100 per class of these", ge=1, le=100_000)
    classes: tuple[int | str, ...] | None = option(None, "measure only these classes, by number or name")
    single_cls: bool = option(False, "treat all classes as one")
    crowds: Crowds = option("ignore", _CROWDS)
    workers: int | None = option(
        None, "threads that read images and decode; default, and for 0: half of the cores", ge=0, le=MAX_WORKERS
    )
    fitness: Literal["mask", "box", "both"] = option("mask", "which mAP50-95 models are ranked by; both: the sum")
    plots: bool = option(True, "draw curves, confusion matrices and images, and write the HTML report")
    save_json: bool = option(False, "write predictions.json in COCO's format, masks as RLE")
    verbose: bool = option(True, "a row for each class")

    def decode(self) -> DecodeOptions:
        """Return the part the task needs: every class of a box above conf counts, masks at full resolution."""
        return DecodeOptions(
            conf=self.conf,
            iou=self.iou,
            max_det=self.max_det,
            agnostic_nms=self.agnostic_nms or self.single_cls,
            multi_label=not self.single_cls,
        )


class TrainOptions(VerbOptions, RunFolderOptions):
    """Options of train."""

    groups: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "data": ("data", "imgsz", "batch", "fraction", "classes", "single_cls", "crowds", "rect", "cache", "workers"),
        "how long": ("epochs", "time", "patience", "resume", "pretrained", "freeze", "seed", "deterministic"),
        "where it runs": ("device", "devices", "accelerator", "num_nodes", "amp"),
        "what is written": ("save", "save_period", "project", "name", "exist_ok", "val", "plots", "export", "verbose"),
        "learning": (
            *("optimizer", "lr0", "lrf", "cos_lr", "momentum", "weight_decay", "nbs"),
            *("warmup_epochs", "warmup_momentum", "warmup_bias_lr"),
            *("box", "cls", "dfl", "overlap_mask", "mask_ratio"),
        ),
        "augmentation": (
            *("mosaic", "close_mosaic", "mixup", "copy_paste", "multi_scale", "hsv_h", "hsv_s", "hsv_v"),
            *("degrees", "translate", "scale", "shear", "perspective", "flipud", "fliplr"),
        ),
    }

    data: str | None = option(None, "data set: a YAML, a COCO JSON, or a known name; default: what the model remembers")
    epochs: int = option(100, "passes over the training images", ge=1, le=1_000_000)
    time: float | None = option(
        None, "train for this many hours instead of epochs; the schedule is fitted to them", gt=0, le=100_000
    )
    patience: int = option(
        100, "stop when the fitness has not risen for this many epochs; 0: never", ge=0, le=1_000_000
    )
    batch: int = option(16, "images per step on all devices together; -1: as many as fit", ge=-1, le=MAX_IMAGES)
    imgsz: int = option(640, "side of the training images", ge=32, le=8192, square=True)
    save: bool = option(True, "write last.pt and best.pt")
    save_period: int = option(-1, "also keep the checkpoint of every n-th epoch; -1: none", ge=-1, le=1_000_000)
    cache: Literal["ram", "disk"] | bool = option(
        False, "keep all read images at training size: ram (or true), or disk, in the cache folder"
    )
    device: str | None = option(None, "where to train: cpu, 0, 0,1, mps; default: the best there is")
    devices: int | None = option(None, "number of processes for accelerator=cpu, or of GPUs", ge=1, le=MAX_WORKERS)
    accelerator: str | None = option(None, "cpu, cuda, mps; default: from device")
    num_nodes: int = option(1, "machines, under torchrun", ge=1, le=MAX_WORKERS)
    workers: int = option(8, "threads that prepare images, on a GPU processes; per device", ge=0, le=MAX_WORKERS)
    pretrained: str | bool = option(True, "weights to start a YAML model from: a file or a known name")
    optimizer: Literal["auto", "SGD", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adamax"] = option(
        "auto", "optimiser; auto: AdamW for short runs, SGD for long ones"
    )
    seed: int = option(0, "governs every random choice", ge=0, le=2_000_000_000)
    deterministic: bool = option(True, "the same seed gives the same weights on the same machine")
    single_cls: bool = option(False, "treat all classes as one")
    crowds: Crowds = option("ignore", _CROWDS)
    classes: tuple[int | str, ...] | None = option(None, "train on these classes only, by number or name")
    rect: bool = option(False, "batches of like-shaped images, padded as little as possible, without mosaic")
    cos_lr: bool = option(False, "lower the learning rate along a cosine instead of a line")
    close_mosaic: int = option(
        10, "no mosaic, mix-up or copy-paste in the last n epochs, at most half of them", ge=0, le=1_000_000
    )
    resume: Path | bool = option(False, "go on with a run: True, or its last.pt")
    amp: bool = option(True, "mixed precision, on GPUs")
    fraction: float = option(1.0, "part of the training images to use, spread over all", gt=0, le=1)
    freeze: int | tuple[int, ...] | None = option(
        None, "layers to leave as they are: their numbers, or how many", le=100_000
    )
    multi_scale: float = option(
        0.0, "each batch up to this fraction smaller or larger; true: by half", ge=0, le=0.9, true=0.5
    )
    overlap_mask: bool = option(
        True, "masks as one map per image, hidden parts missing; False: every object's full mask"
    )
    mask_ratio: int = option(4, "training masks are this much smaller than images: a divisor of 32", ge=1, le=32)
    val: bool = option(True, "validate after each epoch; False: only after the last")
    plots: bool = option(True, "draw curves, batches and label statistics")
    export: str | None = option(None, "format to export to at the end; checked before the first epoch")
    verbose: bool = option(True, "a line for each epoch")
    lr0: float = option(0.01, "learning rate at the start (auto chooses its own)", gt=0, le=1e12)
    lrf: float = option(0.01, "learning rate at the end, as a fraction of lr0", ge=0, le=1)
    momentum: float = option(0.937, "momentum, or beta1 of Adam", ge=0, le=1)
    weight_decay: float = option(0.0005, "weight decay at a batch of nbs", ge=0, le=1_000_000)
    warmup_epochs: float = option(3.0, "length of the warm-up", ge=0, le=1_000_000)
    warmup_momentum: float = option(0.8, "momentum at the start of the warm-up", ge=0, le=1)
    warmup_bias_lr: float = option(0.1, "learning rate of biases at the start of the warm-up", ge=0, le=1_000_000)
    box: float = option(7.5, "weight of the box and mask losses", ge=0, le=1_000_000)
    cls: float = option(0.5, "weight of the class loss", ge=0, le=1_000_000)
    dfl: float = option(1.5, "weight of the distribution focal loss", ge=0, le=1_000_000)
    nbs: int = option(64, "batch size that weight decay and accumulation are stated for", ge=1, le=MAX_IMAGES)
    hsv_h: float = option(0.015, "change of hue", ge=0, le=1)
    hsv_s: float = option(0.7, "change of saturation", ge=0, le=1)
    hsv_v: float = option(0.4, "change of value", ge=0, le=1)
    degrees: float = option(0.0, "rotation in degrees", ge=0, le=180)
    translate: float = option(0.1, "shift, as a fraction of the image", ge=0, le=1)
    scale: float = option(0.5, "change of size", ge=0, le=0.95)
    shear: float = option(0.0, "shear in degrees", ge=0, le=89)
    perspective: float = option(0.0, "perspective coefficient", ge=0, le=0.001)
    flipud: float = option(0.0, "probability of turning upside down", ge=0, le=1)
    fliplr: float = option(0.5, "probability of mirroring", ge=0, le=1)
    mosaic: float = option(1.0, "probability of four images in one", ge=0, le=1)
    mixup: float = option(0.0, "probability of blending two images", ge=0, le=1)
    copy_paste: float = option(0.0, "fraction of objects copied to their mirrored place", ge=0, le=1)


class DataOptions(Options):
    """Which data set is meant, and how it is taken."""

    data: str = option("", "data set: a YAML, a COCO JSON, a folder, or a known name")
    images: Path | None = option(None, "folder of the images, when a COCO JSON's are not found beside it")
    crowds: Crowds = option("ignore", _CROWDS)


class DataCheckOptions(DataOptions):
    """Options of data check."""

    strict: bool = option(False, "end with exit code 3 when anything is wrong")
    tiny: float = option(3.0, "objects with a side shorter than this many pixels are named", ge=0, le=1_000_000)
    decode: bool = option(True, "read every image whole; False: headers only")
    most: int = option(20, "lines shown of each kind of finding; --json shows all", ge=1, le=1_000_000)


class DataConvertOptions(DataOptions):
    """Options of data convert."""

    to: str | None = option(None, "format to write, by name; default: the one that the data are not of")
    output: Path = option(Path(), "folder to write; must not hold anything yet")
    image_files: Literal["link", "copy"] = option("link", "link to the images, or copy them")


class DataSplitOptions(DataOptions):
    """Options of data split."""

    split: str = option("train", "the split to divide")
    fractions: tuple[float, ...] = option((0.8, 0.2), "shares of train, val and, with a third, test", gt=0, le=1)
    output: Path = option(Path(), "folder to write lists and a YAML into; must not hold anything yet")
    seed: int = option(0, "another seed, another division", ge=0, le=2_000_000_000)


class DataShowOptions(DataOptions):
    """Options of data show."""

    split: str = option("train", "the split to draw")
    output: Path = option(Path("ground-truth.png"), "image to write")
    count: int = option(16, "images on the sheet", ge=1, le=1000)
    columns: int = option(4, "images in a row", ge=1, le=100)
    side: int = option(480, "width and height of an image on the sheet, in pixels", ge=32, le=4096)
    classes: tuple[int | str, ...] | None = option(None, "only images with objects of these classes, by number or name")
    seed: int = option(0, "another seed, other images", ge=0, le=2_000_000_000)


PRECISION_OPTIONS: Mapping[str, str] = {"half": "fp16", "int8": "int8"}
"""Option of an export to the precision it asks for, each lower than the one before."""


class ExportOptions(VerbOptions):
    """Options every export format has; a format adds its own by inheriting."""

    imgsz: ImageSize | None = option(
        None, "input size: one side, or height,width; default: the model's", ge=32, le=MAX_PIXELS
    )
    batch: int = option(1, "images per run of the network; a dynamic file takes any number", ge=1, le=MAX_IMAGES)
    device: str | None = option(None, "where the source model runs while exporting; default: cpu")
    output: Path | None = option(
        None, "file or folder to write; default: beside the model, with any precision but the usual in the name"
    )
    verify: bool = option(True, "open the result, compare it with its source, and fail when they differ")

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Return options from names and values; ``quantize=8`` is ``int8=true``, ``quantize=16`` is ``half=true``.

        Raises:
            UsageError: A name is unknown, or a value is of the wrong type or out of range.
        """
        return super().parse(_in_own_words(cls, values))

    @property
    def precision(self) -> str:
        """The precision asked for: the lowest precision option that is set, else fp32."""
        asked = [word for option, word in PRECISION_OPTIONS.items() if getattr(self, option, False)]
        return asked[-1] if asked else "fp32"


_BITS: Mapping[int, str] = {8: "int8", 16: "half"}


def _in_own_words(kind: type[ExportOptions], values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return names and values in which bits, which another program asks for, are the option that is meant here.

    Raises:
        WrongValueError: There is no such option, or another one says otherwise.
    """
    if "quantize" not in values:
        return values
    given = plain(values["quantize"])
    bits = parse_literal(given) if isinstance(given, str) else given
    option = None if isinstance(bits, bool) or not isinstance(bits, int) else _BITS.get(bits)
    if option is None:
        return values  # what changes nothing is taken, anything else refused
    rest = {name: value for name, value in values.items() if name != "quantize"}
    if option not in kind.names():
        raise WrongValueError(f"quantize={bits} is {option}=True here, which this format does not have")
    beside = plain(rest.pop(option, None))
    beside = parse_literal(beside) if isinstance(beside, str) else beside
    others = [name for name in PRECISION_OPTIONS if name != option and parse_literal(str(rest.get(name))) is True]
    if beside is False or others:
        other = f"{others[0]}=True" if others else f"{option}=False"
        raise WrongValueError(f"quantize={bits} is {option}=True here, and {other} says otherwise")
    return {**rest, option: True}


class CalibrationOptions(ExportOptions):
    """Options that a format with 8-bit numbers inherits, so that they are the same words for every format."""

    int8: bool = option(False, "8-bit weights and arithmetic, with ranges taken from images")
    data: str | None = option(
        None, "data set to calibrate on: a YAML, a COCO JSON, or a known name; default: what the model remembers"
    )
    split: str = option("train", "which part of the data set")
    images: Path | None = option(None, "folder of the images, when a COCO JSON's are not found beside it")
    fraction: float = option(1.0, "share of the images to choose from", gt=0, le=1)
    most: int = option(300, "most images to calibrate on", ge=1, le=100_000)


class VerifyOptions(VerbOptions):
    """Options of verify."""

    data: str | None = option(
        None, "data set whose images are compared too: a YAML, a COCO JSON, or a known name; default: drawn ones only"
    )
    split: str = option("val", "which part of the data set: train, val or test")
    images: Path | None = option(None, "folder of the images, when a COCO JSON's are not found beside it")
    most: int = option(32, "most images of the data set", ge=1, le=100_000)
    device: str | None = option(None, "where both run; default: cpu, where the runtime has one")
    backend: str | None = option(None, "runtime of the model, by name; default: the best installed for the format")


class BenchmarkOptions(VerbOptions, RunFolderOptions):
    """Options of benchmark."""

    groups: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "what is measured": ("formats", "half", "int8", "val", "cold"),
        "data": ("data", "split", "images", "imgsz", "most"),
        "where it runs": ("device",),
        "what is written": ("project", "name", "exist_ok", "verbose"),
    }

    data: str | None = option(None, "data set: a YAML, a COCO JSON, or a known name; default: what the model remembers")
    split: str = option("val", "which part of the data set: train, val or test")
    images: Path | None = option(None, "folder of the images, when a COCO JSON's are not found beside it")
    imgsz: ImageSize | None = option(
        None, "input size: one side, or height,width; default: the model's", ge=32, le=MAX_PIXELS
    )
    formats: tuple[str, ...] | None = option(None, "only these formats; default: every known one")
    half: bool = option(False, "also in half precision, where a format has it")
    int8: bool = option(False, "also with 8-bit numbers, where a format has them")
    most: int = option(50, "most images that speed is measured on", ge=1, le=100_000)
    val: bool = option(True, "also validate each on the data set; without it there is no AP")
    cold: bool = option(True, "also time a first prediction in a new process")
    device: str | None = option(None, "where to run: cpu, cuda, 0, mps; default: the best there is")
    verbose: bool = option(True, "a line for each format")

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Return options from names and values; ``format="onnx"`` is ``formats="onnx"``.

        Raises:
            UsageError: A name is unknown, or a value is of the wrong type or out of range.
        """
        if values.get("format") and "formats" not in values:
            values = {"formats" if name == "format" else name: value for name, value in values.items()}
        return super().parse(values)


class SuppressionOptions(ExportOptions):
    """Options that a format inherits whose graph can suppress overlapping boxes by itself."""

    nms: bool = option(False, "suppress overlapping boxes in the graph: its rows are objects, the best first")
    conf: float = option(0.25, "with nms: smallest score that is kept", ge=0, le=1)
    iou: float = option(0.7, "with nms: boxes of a class overlapping more than this are one object", ge=0, le=1)
    max_det: int = option(300, "with nms: rows per image; those that are not needed are zero", ge=1, le=100_000)


ON_DEMAND: frozenset[str] = frozenset(
    {*CalibrationOptions.names(), *SuppressionOptions.names(), *PRECISION_OPTIONS} - ExportOptions.names()
)
"""Options that a format on the way to another one takes only where that other one has them too, or demands them."""


def known_elsewhere() -> dict[str, Neutral]:
    """Return what is known of every option that a verb may not have."""
    of_verbs: dict[str, Neutral] = {}
    for kind in (PredictOptions, ValOptions, TrainOptions, ExportOptions):
        for item in dataclasses.fields(kind):
            beside = BESIDE_DEFAULT.get(item.name, UNSET)
            values = (*beside, item.default) if beside else ANY
            verb = kind.__name__.removesuffix("Options").lower()
            of_verbs.setdefault(item.name, Neutral(values, f"an option of {verb}"))
    return of_verbs | NEUTRAL


def not_neutral(values: Mapping[str, Any], own: Iterable[str]) -> list[str]:
    """Return which names, of those that a verb does not have, are known nowhere.

    Args:
        values: Names and values, as they were given.
        own: What the verb does have.

    Raises:
        UsageError: One is known, and would change something.
    """
    known = known_elsewhere()
    for name, value in values.items():
        if name in known and not changes_nothing(known[name], value):
            msg = f"{name}={shown(value)} cannot be: {known[name].reason}"
            raise WrongValueError(msg, hint=f"options: {', '.join(sorted(own))}")
    return [name for name in values if name not in known]


def changes_nothing(known: Neutral, value: Any) -> bool:
    """Return True if an option that a verb does not have may be given to it with this value."""
    value = plain(value)
    value = parse_literal(value) if isinstance(value, str) else value
    return not known.values or value is None or value == "" or value in known.values
