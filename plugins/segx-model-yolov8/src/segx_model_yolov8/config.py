"""Model YAML, read and checked row by row before any tensor is made."""

from __future__ import annotations

import logging
import math
import re
import reprlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import yaml

from segx.errors import ModelError, did_you_mean
from segx.interfaces import ModelConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

logger = logging.getLogger(__name__)

ARCHITECTURE = "yolov8-seg"
SCALES = "nsmlx"
IMAGE_CHANNELS = 3
DRY_RUN = 256
"""Side in pixels of the square image whose way through the rows gives the strides."""

SCHEMA = "[from, repeats, block, args]"
LARGEST_FILE = 1 << 20

_SCALED_NAME = re.compile(r"(?P<family>yolo[a-z]*\d+)(?P<scale>[a-z])(?![a-z])", re.IGNORECASE)

Kind = tuple["Callable[[Any], bool]", str]


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


COUNT: Final[Kind] = (lambda v: _whole(v, 1), "a whole number from 1 up")
CHANNELS: Final[Kind] = (lambda v: _whole(v, 1), "a number of channels")
SCALED: Final[Kind] = (lambda v: _whole(v, 1), "a number of channels")  # multiplied by the width of the scale
CLASSES: Final[Kind] = (lambda v: _whole(v, 1), "'nc' or a number of classes")
FLAG: Final[Kind] = (lambda v: isinstance(v, bool), "true or false")
FRACTION: Final[Kind] = (lambda v: isinstance(v, int | float) and 0 < v <= 1, "a number above 0, up to 1")
PADDING: Final[Kind] = (
    lambda v: v is None or _whole(v, 0),
    "a whole number, or null for the padding that keeps the size",
)
NOTHING: Final[Kind] = (lambda v: v is None, "null")
MODE: Final[Kind] = (lambda v: v in {"nearest", "bilinear"}, "nearest or bilinear")
MAP_AXIS: Final[Kind] = (lambda v: v == 1, "1, the channels")

REQUIRED: Final = object()


@dataclass(frozen=True)
class Argument:
    """One argument of a block: its name, what it must be, and its value when it is left out."""

    name: str
    kind: Kind
    default: Any = REQUIRED


@dataclass(frozen=True)
class Block:
    """What a row may say of a block.

    Attributes:
        arguments: In the order in which they are written.
        joins: Whether it takes several rows.
        repeats: Whether it repeats within itself; others are stacked.
    """

    arguments: tuple[Argument, ...]
    joins: bool = False
    repeats: bool = False


BLOCKS: Final[Mapping[str, Block]] = {
    "Conv": Block(
        (
            Argument("channels", SCALED),
            Argument("kernel", COUNT, 1),
            Argument("stride", COUNT, 1),
            Argument("padding", PADDING, None),
            Argument("groups", COUNT, 1),
            Argument("dilation", COUNT, 1),
        )
    ),
    "Bottleneck": Block(
        (
            Argument("channels", SCALED),
            Argument("shortcut", FLAG, default=True),
            Argument("groups", COUNT, 1),
            Argument("expansion", FRACTION, 0.5),
        )
    ),
    "C2f": Block(
        (
            Argument("channels", SCALED),
            Argument("shortcut", FLAG, default=False),
            Argument("groups", COUNT, 1),
            Argument("expansion", FRACTION, 0.5),
        ),
        repeats=True,
    ),
    "SPPF": Block((Argument("channels", SCALED), Argument("kernel", COUNT, 5))),
    "Upsample": Block((Argument("size", NOTHING), Argument("factor", COUNT), Argument("mode", MODE, "nearest"))),
    "Concat": Block((Argument("dim", MAP_AXIS, 1),), joins=True),
    "Segment": Block(
        (
            Argument("classes", CLASSES),
            Argument("masks", CHANNELS, 32),
            Argument("prototype_channels", SCALED, 256),
        ),
        joins=True,
    ),
}

ALIASES: Final[Mapping[str, str]] = {"nn.Upsample": "Upsample", "torch.nn.modules.upsampling.Upsample": "Upsample"}

HEAD = "Segment"


class Shape(NamedTuple):
    """A feature map: its channels, and its side in cells where the image has :data:`DRY_RUN` pixels."""

    channels: int
    side: int

    def __str__(self) -> str:
        return f"{self.channels} channels {self.side}x{self.side}"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a model, with the numbers its scale gives it.

    Attributes:
        where: The file, the section and the row, for errors.
        block: A name of :data:`BLOCKS`.
        sources: Rows it takes its input from; -1 is the image.
        repeats: How often the block repeats.
        inputs: What each source gives.
        output: What comes out; for the head, what goes in first.
        arguments: Name to value.
    """

    where: str
    block: str
    sources: tuple[int, ...]
    repeats: int
    inputs: tuple[Shape, ...]
    output: Shape
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Scale:
    """Compound scaling: one row of the YAML's ``scales``.

    Attributes:
        depth: Factor for repeats.
        width: Factor for channels.
        most_channels: Channels are capped to this before they are widened.
    """

    depth: float
    width: float
    most_channels: float

    def repeats(self, base: int) -> int:
        """Return how often a block repeats at this scale."""
        return max(round(base * self.depth), 1) if base > 1 else base

    def channels(self, base: int) -> int:
        """Return the channels of a block at this scale, a multiple of 8."""
        return math.ceil(min(base, self.most_channels) * self.width / 8) * 8


def read_config(source: str | Path, *, nc: int | None = None) -> ModelConfig:
    """Return the configuration of a shipped variant or of a YAML file; a file wins over a shipped name.

    Raises:
        ModelError: There is no such file or variant, or a row of it is wrong.
    """
    path = _find(Path(source))
    if path is None:
        variant = Path(source).name.removesuffix(".yaml").removesuffix(".yml")
        text, where = (files(__package__) / "models" / "yolov8-seg.yaml").read_text("utf-8"), f"{variant}.yaml"
    else:
        variant, where = Path(source).stem, str(path)
        text = _read_text(path)
    return make_config(_parse(text, where), variant=variant, nc=nc, where=where)


def make_config(definition: Mapping[str, Any], *, variant: str, nc: int | None = None, where: str = "") -> ModelConfig:
    """Return the configuration that a YAML's content describes, checked.

    Args:
        definition: ``nc``, ``scales`` (or the older ``depth_multiple`` and ``width_multiple``), ``backbone``,
            ``head``, and optionally ``scale``; other keys are not looked at.
        variant: A name; the scale is the letter after the family's number: ``yolov8m-seg``.
        nc: Number of classes; wins over the definition's.
        where: The file, for errors; default: the variant.

    Raises:
        ModelError: Something is missing or wrong; the error names the file and the row.
    """
    where = where or variant
    own_nc = definition.get("nc")
    classes: Any = own_nc if nc is None else nc
    if not _whole(classes, 1):
        raise ModelError(f"{where}: nc is {_show(classes)}, not a number of classes", hint="write: nc: 80")
    if definition.get("ch", IMAGE_CHANNELS) != IMAGE_CHANNELS:
        raise ModelError(f"{where}: ch={_show(definition['ch'])}, but images have {IMAGE_CHANNELS} channels")
    scales = _read_scales(definition, where)
    scale = _choose_scale(scales, definition.get("scale"), variant, where)
    config = ModelConfig(
        architecture=ARCHITECTURE,
        variant=_SCALED_NAME.sub(rf"\g<family>{scale}", variant) if _SCALED_NAME.search(variant) else variant,
        scale=scale,
        nc=classes,
        definition={
            "nc": classes if own_nc is None else own_nc,
            "scales": {name: list(values) for name, values in scales.items()},
            "backbone": definition.get("backbone"),
            "head": definition.get("head"),
        },
    )
    read_rows(config, where=where)
    return config


def read_rows(config: ModelConfig, *, where: str = "") -> tuple[Row, ...]:
    """Return the rows of a model with the numbers its scale gives them.

    Raises:
        ModelError: A row is wrong; the error names the file and the row.
    """
    where = where or config.variant
    scale = Scale(*config.definition["scales"][config.scale])
    rows: list[Row] = []
    for section in ("backbone", "head"):
        content = config.definition.get(section)
        if not isinstance(content, list) or not content:
            raise ModelError(f"{where}: {section!r} is missing or is not a list of rows {SCHEMA}")
        for number, row in enumerate(content, 1):
            place = f"{where}: {section} row {number} (layer {len(rows)})"
            rows.append(_read_row(row, rows, scale, config.nc, place))
    heads = [row for row in rows if row.block == HEAD]
    if heads != rows[-1:]:
        raise ModelError(f"{where}: the last row, and only the last, has to be {HEAD}; it is {rows[-1].block}")
    return tuple(rows)


def strides(rows: Sequence[Row]) -> tuple[int, ...]:
    """Return the pixels in a cell of each level of the head, in the head's order."""
    return tuple(DRY_RUN // shape.side for shape in rows[-1].inputs)


def is_segmentation_definition(definition: Mapping[str, Any]) -> bool:
    """Say whether a YAML's content has this family's shape: backbone, head, and a Segment row at the end."""
    try:
        return isinstance(definition["backbone"], list) and definition["head"][-1][2] == HEAD
    except (KeyError, IndexError, TypeError):
        return False


def scale_in_name(name: str) -> str:
    """Return the scale letter in a file's or variant's name, or an empty string."""
    match = _SCALED_NAME.search(name)
    return match["scale"].lower() if match else ""


def _find(source: Path) -> Path | None:
    """Return the file meant, or None for a shipped variant."""
    plain = source.with_name(_SCALED_NAME.sub(r"\g<family>", source.name))
    for candidate in (source, plain):  # as with the shipped file, one file may hold all scales
        if candidate.suffix in {".yaml", ".yml"} and candidate.is_file():
            return candidate
    name = source.name.removesuffix(".yaml").removesuffix(".yml")
    shipped = [f"yolov8{scale}-seg" for scale in ("", *SCALES)]
    if source.name == str(source) and name in shipped:
        return None
    raise ModelError(
        f"{source}: no such file{did_you_mean(name, shipped[1:])}",
        hint=f"shipped configurations: {', '.join(f'{variant}.yaml' for variant in shipped[1:])}",
    )


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ModelError(f"{path}: {path.stat().st_size} bytes is too large for a model YAML")
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: cannot be read as text ({error})") from error


def _parse(text: str, where: str) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f" in line {mark.line + 1}"
        raise ModelError(f"{where}: not valid YAML{line} ({getattr(error, 'problem', error)})") from error
    if not isinstance(content, dict):
        raise ModelError(f"{where}: a model YAML has the keys nc, scales, backbone, head; this is {_show(content)}")
    return content


def _read_scales(definition: Mapping[str, Any], where: str) -> dict[str, tuple[float, float, float]]:
    scales = definition.get("scales")
    if scales is None and {"depth_multiple", "width_multiple"} <= definition.keys():
        scales = {"n": [definition["depth_multiple"], definition["width_multiple"], 1 << 20]}
    hint = "write: scales: {n: [0.33, 0.25, 1024]}  (depth, width, most channels)"
    if not isinstance(scales, dict) or not scales:
        raise ModelError(f"{where}: 'scales' is missing or empty", hint=hint)
    for name, values in scales.items():
        numbers = isinstance(values, list | tuple) and all(
            isinstance(v, int | float) and not isinstance(v, bool) and v > 0 and math.isfinite(v) for v in values
        )
        if not isinstance(name, str) or not numbers or len(values) != 3:
            raise ModelError(f"{where}: scale {_show(name)} is {_show(values)}, not three positive numbers", hint=hint)
    return {name: (float(depth), float(width), float(most)) for name, (depth, width, most) in scales.items()}


def _choose_scale(scales: Mapping[str, Any], wanted: Any, variant: str, where: str) -> str:
    letter = wanted or scale_in_name(variant)
    if letter in scales:
        return str(letter)
    if letter:
        raise ModelError(f"{where}: scale {_show(letter)} is not one of its scales: {', '.join(scales)}")
    fallback = "n" if "n" in scales else next(iter(scales))
    if len(scales) > 1:
        logger.warning(
            "%s: the name has no scale letter, taking %r of %s (yolov8%s-... or 'scale: %s' says it)",
            where, fallback, ", ".join(scales), fallback, fallback,
        )  # fmt: skip
    return fallback


def _read_row(row: Any, before: Sequence[Row], scale: Scale, nc: int, where: str) -> Row:
    if not isinstance(row, list | tuple) or len(row) != 4:
        raise ModelError(f"{where}: {_show(row)} is not {SCHEMA}")
    origin, repeats, name, values = row
    name = ALIASES.get(name, name) if isinstance(name, str) else name
    if name not in BLOCKS:
        raise ModelError(
            f"{where}: block {_show(name)} is not known{did_you_mean(str(name), BLOCKS)}",
            hint=f"known blocks: {', '.join(BLOCKS)}",
        )
    block, where = BLOCKS[name], f"{where[:-1]}, {name})"
    if not _whole(repeats, 1):
        raise ModelError(f"{where}: repeats is {_show(repeats)}, not a whole number from 1 up")
    if repeats != 1 and block.joins:
        raise ModelError(f"{where}: repeats is {repeats}, but a block that joins rows cannot repeat")
    sources = _read_sources(origin, len(before), block, where)
    arguments = _read_arguments(values, block, scale, nc, where)
    inputs = tuple(before[source].output if source >= 0 else Shape(IMAGE_CHANNELS, DRY_RUN) for source in sources)
    _check_groups(inputs, arguments, where)
    return Row(
        where=where,
        block=name,
        sources=sources,
        repeats=scale.repeats(repeats),
        inputs=inputs,
        output=_output(name, inputs, arguments, where),
        arguments=arguments,
    )


def _check_groups(inputs: tuple[Shape, ...], arguments: Mapping[str, Any], where: str) -> None:
    groups = arguments.get("groups", 1)
    for channels in (inputs[0].channels, arguments.get("channels", 0)):
        if channels % groups:
            raise ModelError(f"{where}: {groups} groups do not divide {channels} channels")


def _output(name: str, inputs: tuple[Shape, ...], arguments: Mapping[str, Any], where: str) -> Shape:
    """Return the shape that comes out of a block, by the arithmetic of convolutions."""
    channels, side = inputs[0].channels, inputs[0].side
    match name:
        case "Conv":
            kernel, dilation, padding = arguments["kernel"], arguments["dilation"], arguments["padding"]
            padding = dilation * (kernel - 1) // 2 if padding is None else padding
            side = (side + 2 * padding - dilation * (kernel - 1) - 1) // arguments["stride"] + 1
        case "Upsample":
            side *= arguments["factor"]
        case "SPPF" if arguments["kernel"] % 2 == 0:
            raise ModelError(f"{where}: kernel is {arguments['kernel']}, but only an odd one keeps the size")
        case "Concat":
            channels = sum(shape.channels for shape in inputs)
            if len({shape.side for shape in inputs}) > 1:
                raise ModelError(f"{where}: joins maps of different sizes: {'; '.join(map(str, inputs))}")
        case "Segment":
            for shape in inputs:
                if shape.side < 1 or DRY_RUN % shape.side:
                    raise ModelError(f"{where}: a {DRY_RUN} px image becomes {shape}, which is no whole stride")
    if side < 1:
        raise ModelError(f"{where}: nothing is left of its input ({inputs[0]})")
    return Shape(arguments.get("channels", channels), side)


def _read_sources(origin: Any, index: int, block: Block, where: str) -> tuple[int, ...]:
    """Return the rows meant, counted from the first; -1 is the image."""
    several = origin if isinstance(origin, list | tuple) else (origin,)
    if not several or not all(isinstance(source, int) and not isinstance(source, bool) for source in several):
        raise ModelError(f"{where}: 'from' is {_show(origin)}, not a row number or a list of them")
    if len(several) > 1 and not block.joins:
        raise ModelError(f"{where}: takes one row, 'from' names {len(several)}: {_show(origin)}")
    sources = tuple(index + source if source < 0 else source for source in several)
    for source, given in zip(sources, several, strict=True):
        image = index == 0 and source == -1 and not block.joins
        if not (image or 0 <= source < index):
            before = f"rows before it are 0..{index - 1}" if index else "there is no row before it"
            raise ModelError(f"{where}: 'from' is {given}, but {before}")
    return sources


def _read_arguments(values: Any, block: Block, scale: Scale, nc: int, where: str) -> dict[str, Any]:
    takes = ", ".join(a.name if a.default is REQUIRED else f"{a.name}={a.default}" for a in block.arguments)
    if not isinstance(values, list | tuple):
        raise ModelError(f"{where}: args is {_show(values)}, not a list; the block takes [{takes}]")
    least = sum(argument.default is REQUIRED for argument in block.arguments)
    if not least <= len(values) <= len(block.arguments):
        counts = str(least) if least == len(block.arguments) else f"{least} to {len(block.arguments)}"
        raise ModelError(f"{where}: {len(values)} args {_show(values)}, but it takes {counts}: [{takes}]")
    arguments: dict[str, Any] = {}
    for position, argument in enumerate(block.arguments):
        value: Any = values[position] if position < len(values) else argument.default
        value = (
            {"None": None, "nc": nc if argument.kind is CLASSES else value}.get(value, value)
            if isinstance(value, str)
            else value
        )
        fits, expected = argument.kind
        if not fits(value):
            raise ModelError(f"{where}: {argument.name} is {_show(value)}, not {expected}; the block takes [{takes}]")
        if argument.kind is CLASSES and value != nc:
            raise ModelError(
                f"{where}: {value} classes, but nc is {nc}", hint="write 'nc' in the row instead of a number"
            )
        arguments[argument.name] = scale.channels(int(value)) if argument.kind is SCALED else value
    return arguments


def _show(value: Any) -> str:
    return reprlib.repr(value)
