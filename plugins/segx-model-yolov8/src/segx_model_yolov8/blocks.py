"""The rows of a model YAML: the known blocks, their arguments, and parsing at a scale."""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeGuard

from segx.errors import ModelError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SCHEMA: Final = "[from, repeats, block, args]"
HEAD: Final = "Segment"

IMAGE_CHANNELS: Final = 3
DRY_RUN: Final = 256
"""Side in pixels of the square image whose way through the rows gives the strides."""

MAX_REPEATS: Final = 1024
MAX_CHANNELS: Final = 1 << 16
REQUIRED: Final = object()


class ArgumentType(NamedTuple):
    """What an argument may be, and how that is said."""

    fits: Callable[[Any], bool]
    words: str


def is_whole(value: Any, least: int = 1) -> TypeGuard[int]:
    """Return True if a value is a whole number, and not below ``least``."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def is_positive(value: Any) -> bool:
    """Return True if a value is a finite number above 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


COUNT: Final = ArgumentType(is_whole, "a whole number from 1 up")
CHANNELS: Final = ArgumentType(is_whole, "a number of channels")
SCALED: Final = ArgumentType(is_whole, "a number of channels")  # multiplied by the width of the scale
CLASSES: Final = ArgumentType(is_whole, "nc or a number of classes")
FLAG: Final = ArgumentType(lambda v: isinstance(v, bool), "true or false")
FRACTION: Final = ArgumentType(lambda v: is_positive(v) and v <= 1, "a number above 0, up to 1")
PADDING: Final = ArgumentType(lambda v: v is None or is_whole(v, 0), "a whole number, or null for what keeps the size")
NOTHING: Final = ArgumentType(lambda v: v is None, "null")
MODE: Final = ArgumentType(lambda v: v in ("nearest", "bilinear"), "nearest or bilinear")
MAP_AXIS: Final = ArgumentType(lambda v: is_whole(v) and v == 1, "1, the channels")
ODD: Final = ArgumentType(lambda v: is_whole(v) and v % 2 == 1, "an odd number")


class Argument(NamedTuple):
    """One argument of a block: its name, what it may be, and its value when it is left out."""

    name: str
    kind: ArgumentType
    default: Any = REQUIRED


class Block(NamedTuple):
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
    "SPPF": Block((Argument("channels", SCALED), Argument("kernel", ODD, 5))),
    "Upsample": Block((Argument("size", NOTHING), Argument("factor", COUNT), Argument("mode", MODE, "nearest"))),
    "Concat": Block((Argument("dim", MAP_AXIS, 1),), joins=True),
    "Segment": Block(
        (Argument("classes", CLASSES), Argument("masks", CHANNELS, 32), Argument("prototype_channels", SCALED, 256)),
        joins=True,
    ),
}
"""The blocks a row may name; :data:`segx_model_yolov8.network.BUILDERS` makes them."""

ALIASES: Final[Mapping[str, str]] = {"nn.Upsample": "Upsample", "torch.nn.modules.upsampling.Upsample": "Upsample"}


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
        block: A name of :data:`BLOCKS`.
        sources: Rows it takes its input from; -1 is the image.
        repeats: How often the block repeats.
        inputs: What each source gives.
        output: What comes out; for the head, the finest map that goes in.
        arguments: Name to value.
    """

    block: str
    sources: tuple[int, ...]
    repeats: int
    inputs: tuple[Shape, ...]
    output: Shape
    arguments: Mapping[str, Any]


def read_rows(definition: Mapping[str, Any], *, scale: Scale, nc: int, where: str) -> tuple[Row, ...]:
    """Return the rows of ``backbone`` and ``head`` with the numbers a scale gives them.

    Raises:
        ModelError: A row is wrong; the error names ``where`` and the row.
    """
    rows: list[Row] = []
    for section in ("backbone", "head"):
        content = definition.get(section)
        if not isinstance(content, list | tuple) or not content:
            raise ModelError(f"{where}: {section!r} is missing, or is not a list of rows {SCHEMA}")
        for number, row in enumerate(content, 1):
            rows.append(_Reader(f"{where}: {section} row {number}", rows, scale, nc).read(row))
            if HEAD in [earlier.block for earlier in rows[:-1]]:
                raise ModelError(f"{where}: {section} row {number}: comes after {HEAD}, which has to be the last row")
    if rows[-1].block != HEAD:
        raise ModelError(f"{where}: the last row has to be {HEAD}; it is {rows[-1].block}")
    return tuple(rows)


def strides(rows: Sequence[Row]) -> tuple[int, ...]:
    """Return the pixels in a cell of each level of the head, in the head's order."""
    return tuple(DRY_RUN // shape.side for shape in rows[-1].inputs)


@dataclass(frozen=True)
class _Reader:
    """Reads one row, with what is known before it."""

    where: str
    before: Sequence[Row]
    scale: Scale
    nc: int

    def read(self, row: Any) -> Row:
        if not isinstance(row, list | tuple) or len(row) != 4:
            raise self.error(f"{show(row)} is not {SCHEMA}")
        origin, repeats, name, values = row
        name = ALIASES.get(name, name) if isinstance(name, str) else show(name)
        if name not in BLOCKS:
            known = f"known blocks: {', '.join(BLOCKS)}"
            raise self.error(f"block {name!r} is not known{did_you_mean(name, BLOCKS)}", hint=known)
        named = _Reader(f"{self.where} (layer {len(self.before)}, {name})", self.before, self.scale, self.nc)
        return named.read_block(name, origin, repeats, values)

    def read_block(self, name: str, origin: Any, repeats: Any, values: Any) -> Row:
        block = BLOCKS[name]
        sources = self.read_sources(origin, block)
        inputs = tuple(self.before[s].output if s >= 0 else Shape(IMAGE_CHANNELS, DRY_RUN) for s in sources)
        arguments = self.read_arguments(values, block)
        scaled = self.read_repeats(repeats, block)
        output = self.output(name, inputs, arguments)
        for _ in range(0 if block.repeats else scaled - 1):
            output = self.output(name, (output,), arguments)
        return Row(block=name, sources=sources, repeats=scaled, inputs=inputs, output=output, arguments=arguments)

    def read_repeats(self, repeats: Any, block: Block) -> int:
        if not is_whole(repeats):
            raise self.error(f"repeats is {show(repeats)}, not a whole number from 1 up")
        if repeats > 1 and block.joins:
            raise self.error(f"repeats is {repeats}, but a block that joins rows cannot repeat")
        scaled = self.scale.repeats(repeats)
        if scaled > MAX_REPEATS:
            raise self.error(f"{scaled} repeats are more than {MAX_REPEATS}")
        return scaled

    def read_sources(self, origin: Any, block: Block) -> tuple[int, ...]:
        """Return the rows meant, counted from the first; -1 is the image."""
        several, index = origin if isinstance(origin, list | tuple) else (origin,), len(self.before)
        if not several or not all(isinstance(source, int) and not isinstance(source, bool) for source in several):
            raise self.error(f"'from' is {show(origin)}, not a row number or a list of them")
        if len(several) > 1 and not block.joins:
            raise self.error(f"takes one row, 'from' names {len(several)}: {show(origin)}")
        sources = tuple(index + source if source < 0 else source for source in several)
        for source, given in zip(sources, several, strict=True):
            image = index == 0 and source == -1 and not block.joins
            if not (image or 0 <= source < index):
                before = f"the layers before it are 0..{index - 1}" if index else "the first row takes -1, the image"
                raise self.error(f"'from' is {given}, but {before}")
        return sources

    def read_arguments(self, values: Any, block: Block) -> dict[str, Any]:
        takes = ", ".join(a.name if a.default is REQUIRED else f"{a.name}={a.default}" for a in block.arguments)
        if not isinstance(values, list | tuple):
            raise self.error(f"args is {show(values)}, not a list; the block takes [{takes}]")
        least, most = sum(a.default is REQUIRED for a in block.arguments), len(block.arguments)
        if not least <= len(values) <= most:
            counts = f"{least}" if least == most else f"{least} to {most}"
            raise self.error(f"args {show(values)} are {len(values)}, but it takes {counts}: [{takes}]")
        arguments: dict[str, Any] = {}
        for position, argument in enumerate(block.arguments):
            value = self.plain(values[position] if position < len(values) else argument.default, argument.kind)
            if not argument.kind.fits(value):
                raise self.error(f"{argument.name} is {show(value)}, not {argument.kind.words}; it takes [{takes}]")
            arguments[argument.name] = self.scaled(value) if argument.kind is SCALED else value
        return arguments

    def plain(self, value: Any, kind: ArgumentType) -> Any:
        """Return a value with the words YAMLs of this schema use for numbers and for nothing replaced."""
        if kind is CLASSES:
            value = self.nc if value == "nc" else value
            if is_whole(value) and value != self.nc:
                raise self.error(f"{value} classes, but nc is {self.nc}", hint="write nc in the row, not a number")
        return None if isinstance(value, str) and value == "None" else value

    def scaled(self, channels: int) -> int:
        scaled = self.scale.channels(channels)
        if scaled > MAX_CHANNELS:
            raise self.error(f"{scaled} channels are more than {MAX_CHANNELS}")
        return scaled

    def output(self, name: str, inputs: tuple[Shape, ...], arguments: Mapping[str, Any]) -> Shape:
        """Return the shape that comes out of a block, by the arithmetic of convolutions."""
        channels, side = arguments.get("channels", inputs[0].channels), inputs[0].side
        match name:
            case "Conv":
                side = _convolved(side, **{key: arguments[key] for key in ("kernel", "stride", "padding", "dilation")})
                self.check_groups(arguments["groups"], inputs[0].channels, channels)
            case "Bottleneck":
                self.check_groups(arguments["groups"], int(channels * arguments["expansion"]), channels)
            case "C2f":
                self.check_groups(arguments["groups"], int(channels * arguments["expansion"]))
            case "Upsample":
                side *= arguments["factor"]
            case "Concat":
                channels = sum(shape.channels for shape in inputs)
                if len({shape.side for shape in inputs}) > 1:
                    raise self.error(f"joins maps of different sizes: {'; '.join(map(str, inputs))}")
            case "Segment":
                self.check_levels(inputs)
        if side < 1:
            raise self.error(f"a {DRY_RUN} px image is too small for it: {inputs[0]} come in, nothing comes out")
        return Shape(channels, side)

    def check_groups(self, groups: int, *channels: int) -> None:
        for count in channels:
            if count < 1 or count % groups:
                raise self.error(f"{count} channels cannot be split into groups={groups}")

    def check_levels(self, levels: tuple[Shape, ...]) -> None:
        sides = [level.side for level in levels]
        if any(DRY_RUN % side for side in sides):
            raise self.error(f"a {DRY_RUN} px image becomes {'; '.join(map(str, levels))}: no whole stride")
        if sorted(sides, reverse=True) != sides:
            raise self.error(f"levels have to come finest first, these have {sides} cells a side")

    def error(self, message: str, *, hint: str = "") -> ModelError:
        return ModelError(f"{self.where}: {message}", hint=hint)


def _convolved(side: int, *, kernel: int, stride: int, padding: int | None, dilation: int) -> int:
    reach = dilation * (kernel - 1)
    return (side + 2 * (reach // 2 if padding is None else padding) - reach - 1) // stride + 1


def show(value: Any) -> str:
    """Return a value as it looks in a message, cut short where it is long."""
    return reprlib.repr(value)
