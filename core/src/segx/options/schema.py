"""What an option is: typed, range-checked, one source for Python, command line and documentation.

Nothing here imports NumPy or torch, so that a wrong option is reported in a fraction of a second.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import math
import os
import re
import reprlib
import types
import typing
from collections.abc import Iterable, Mapping  # noqa: TC003 - hints are read
from dataclasses import field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar, Union

from segx.errors import UsageError, WrongTypeError, WrongValueError, did_you_mean, not_known
from segx.records import Record

ImageSize = int | tuple[int, int]
"""A side, or (height, width), in pixels."""


MAX_PIXELS = 65_536
"""Longest side of a network input; what of it fits into memory is looked at when it is known."""
MAX_IMAGES = 65_536
"""Most images per run of a network."""
MAX_WORKERS = 1024
"""Most threads or processes."""
_MAX_ITEMS = 100_000
"""Most values of one option."""
_SHOWN = 100
"""Letters of a wrong value that are shown."""


Merged = TypeVar("Merged", bound="Options")


def option(
    default: Any,
    help: str,  # noqa: A002 - the name typer, click and argparse use
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    true: float | None = None,
    square: bool = False,
) -> Any:
    """Declare one option: its default, one line of help, its range, and the number ``True`` stands for, if any.

    ``square`` takes height and width for one side, where they are equal.
    """
    return field(default=default, metadata={"help": help, "ge": ge, "gt": gt, "le": le, "true": true, "square": square})


class OptionInfo(Record, kw_only=False):
    """One option as the command line and the documentation show it.

    Attributes:
        name: What is typed before ``=``.
        type_name: Its type in words.
        default: What is used when it is not given.
        help: One line.
        range: The range in words, or an empty string.
        group: The heading it is listed under, or an empty string.
        switch: True and False are among its values, so that its name alone means True.
        choices: The words it takes, when it takes only certain ones.
    """

    name: str
    type_name: str
    default: Any
    help: str
    range: str
    group: str = ""
    switch: bool = False
    choices: tuple[str, ...] = ()


class Options(Record):
    """Base of all options; made from any mapping of names to values or strings with :meth:`parse`."""

    groups: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Heading to the names listed under it, for help and documentation; what is in no group is listed first."""

    def __post_init__(self) -> None:
        hints = _hints(type(self))  # type: ignore[arg-type]  # a class can be hashed
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            try:
                value = plain(value)
                if value is None and type(None) not in _alternatives(hints[item.name]):
                    value = item.default
                if item.metadata.get("square"):
                    value = _one_side(value)
                if (true := item.metadata.get("true")) is not None:
                    value = _number_for(value, true)
                value = _coerce(item.name, value, hints[item.name])
                _check_range(item.name, value, item.metadata)
            except UsageError:
                raise
            except (TypeError, ValueError, OverflowError, RecursionError) as error:  # numbers of 10,000 digits and such
                wanted = _article(_type_name(hints[item.name]))
                raise WrongValueError(f"{item.name}={shown(value)} is not {wanted}") from error
            object.__setattr__(self, item.name, value)

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Return options from names and values; strings are read as the option's type, None as the default.

        Raises:
            UsageError: A name is unknown, or a value is of the wrong type or out of range.
        """
        known = cls.names()
        unknown = [name for name in values if name not in known]
        if unknown := cls.unknown({name: values[name] for name in unknown}):
            listed = f"options: {', '.join(sorted(known))}" if known else "it takes no options"
            raise WrongTypeError(not_known(unknown, known), hint=listed)
        return cls(**{name: value for name, value in values.items() if name in known})

    @classmethod
    def unknown(cls, values: Mapping[str, Any]) -> list[str]:
        """Return which names, of those that are no options here, are to be refused: all of them."""
        return list(values)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some options changed, checked like the original; itself where nothing changes."""
        own = self.as_dict()
        if all(name in own and type(own[name]) is type(new) and own[name] == new for name, new in changes.items()):
            return self
        return type(self).parse({**self.as_dict(), **changes})

    def as_dict(self) -> dict[str, Any]:
        """Return names and values, in the order they are declared."""
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}

    @classmethod
    def names(cls) -> set[str]:
        """Return the names of all options."""
        return {item.name for item in dataclasses.fields(cls)}

    @classmethod
    def describe(cls) -> tuple[OptionInfo, ...]:
        """Return what there is to say of each option."""
        hints = _hints(cls)  # type: ignore[arg-type]  # as above
        headings = {name: heading for heading, names in cls.groups.items() for name in names}
        return tuple(
            OptionInfo(
                name=item.name,
                type_name=_type_name(hints[item.name]),
                default=item.default,
                help=item.metadata.get("help", ""),
                range=_range_name(item.metadata),
                group=headings.get(item.name, ""),
                switch=bool in _alternatives(hints[item.name]),
                choices=_choices(hints[item.name]),
            )
            for item in dataclasses.fields(cls)
        )


def merged(first: type[Merged], *others: type[Options], without: Iterable[str] = ()) -> type[Merged]:
    """Return options of the first type that take those of the others too; of one name, the first type decides.

    Args:
        first: The options that are asked for.
        others: Whose options may be given besides.
        without: Names that are not taken over.
    """
    made: type[Merged] = _merged((first, *others), frozenset(without))
    return made


@functools.cache
def _merged(kinds: Any, without: frozenset[str]) -> Any:
    """Make the type once: instances are compared by it."""
    first = kinds[0]
    known = first.names() | without
    hints: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    for kind in kinds[1:]:
        for item in dataclasses.fields(kind):
            if item.name not in {*known, *fields}:
                hints[item.name] = _hints(kind)[item.name]
                fields[item.name] = field(default=item.default, metadata=item.metadata)
    if not fields:
        return first
    about = {"__module__": first.__module__, "__doc__": first.__doc__, "__annotations__": hints}
    return type(first.__name__, (first,), about | fields)


def image_size(value: ImageSize, stride: int = 32) -> tuple[int, int]:
    """Return (height, width), each rounded up to a multiple of the stride."""
    height, width = (value, value) if isinstance(value, int) else value
    return -(-height // stride) * stride, -(-width // stride) * stride


def parse_literal(text: str) -> Any:
    """Read a word from the command line: true, none, a number, a list, or else the text itself."""
    match text.strip().lower():
        case "true" | "yes" | "on":
            return True
        case "false" | "no" | "off":
            return False
        case "none" | "null":
            return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def plain(value: Any, *, depth: int = 2) -> Any:
    """Return a value in Python's own types: what NumPy and torch give, ranges and sets become numbers, lists, texts.

    Neither library is imported for that. No option is a list of more than lists: what is nested deeper than ``depth``
    stays as it is, for a short text can stand for 2 ** 60 items.

    Raises:
        ValueError: It has more items than any option.
    """
    if isinstance(value, range | list | tuple | set | frozenset):
        if len(value) > _MAX_ITEMS:
            raise ValueError(f"{len(value)} items")
        if depth == 0:
            return value
        items = [plain(item, depth=depth - 1) for item in value]
        return sorted(items, key=lambda item: (str(type(item)), item)) if isinstance(value, set | frozenset) else items
    if isinstance(value, str | bytes | int | float | os.PathLike):
        return value.item() if hasattr(value, "item") else value  # numpy.str_ and numpy.float64 are of these types too
    if callable(getattr(value, "tolist", None)):
        return value.tolist()
    if type(value).__module__.partition(".")[0] == "torch":  # torch.device, torch.dtype
        return str(value)
    return value


@functools.cache  # options are made for every call of a verb
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _number_for(value: Any, true: float) -> Any:
    """Return the number that stands for True or False; anything else as it is."""
    literal = parse_literal(value) if isinstance(value, str) else value
    return true * literal if isinstance(literal, bool) else value


def _one_side(value: Any) -> Any:
    """Return the side that a height and a width have in common; anything else as it is."""
    sides = parse_literal(value) if isinstance(value, str) else value
    return sides[0] if isinstance(sides, list | tuple) and len(sides) == 2 and sides[0] == sides[1] else value


def _coerce(name: str, value: Any, kind: Any) -> Any:
    """Return the value as the option's type, or tell what was expected."""
    candidate = value
    if "\0" in (value if isinstance(value, str) else os.fspath(value) if isinstance(value, Path) else ""):
        raise WrongValueError(f"{name}={shown(value)} holds a NUL character, which no name can")
    if isinstance(value, str):
        literal = parse_literal(value)
        if _lists_texts(kind):
            candidate = _words(value, literal)
        elif not _takes_text(kind) or (isinstance(literal, bool) and bool in _alternatives(kind)):
            candidate = literal
    accepted, converted = _fit(candidate, kind)
    if not accepted:
        words = (*_choices(kind), *(("true", "false") if bool in _alternatives(kind) else ()))
        if _choices(kind):
            raise WrongValueError(
                f"{name}={shown(value)} is not one of {', '.join(words)}{did_you_mean(shown(value), words)}"
            )
        raise WrongValueError(f"{name}={shown(value)} is not {_article(_type_name(kind))}")
    return converted


def _lists_texts(kind: Any) -> bool:
    return any(
        typing.get_origin(part) is tuple and str in _alternatives(typing.get_args(part)[0])
        for part in _alternatives(kind)
    )


def _words(text: str, literal: Any) -> Any:
    """Return a list of numbers and texts as it is typed: names like yes or 1.5 are texts there."""
    if isinstance(literal, list | tuple) or literal is None:
        return literal
    words = (word.strip() for word in text.strip().removeprefix("[").removesuffix("]").split(","))
    return [int(word) if re.fullmatch(r"-?(0|[1-9]\d{0,17})", word) else word for word in words if word]


def _is_no_list(kind: Any) -> bool:
    return typing.get_origin(kind) is not tuple


def _takes_text(kind: Any) -> bool:
    return any(part in {str, Path} for part in _alternatives(kind))


def _alternatives(kind: Any) -> tuple[Any, ...]:
    if typing.get_origin(kind) in {Union, types.UnionType}:
        return tuple(inner for part in typing.get_args(kind) for inner in _alternatives(part))
    return (kind,)


def _fit(value: Any, kind: Any) -> tuple[bool, Any]:  # noqa: C901, PLR0911, PLR0912 - one line for each kind of type
    """Return whether the value is of a kind, and the value in that kind's own form."""
    parts = _alternatives(kind)
    if len(parts) > 1:
        if isinstance(value, str) and value.lower() in {"none", ""} and type(None) in parts:
            return True, None
        if isinstance(value, bool) and bool in parts:
            return True, value
        if isinstance(value, list):  # where one of a list is not the same as one alone: freeze=[3]
            parts = tuple(sorted(parts, key=_is_no_list))
        return next(((True, out) for ok, out in (_fit(value, part) for part in parts) if ok), (False, value))
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is type(None):
        return value is None, None
    if isinstance(value, list) and len(value) == 1 and origin is not tuple and not isinstance(value[0], list | tuple):
        return _fit(value[0], kind)
    if kind is bool:
        return (True, bool(value)) if value in (0, 1) else (False, value)
    if kind is int:
        whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return (True, int(value)) if whole and not isinstance(value, bool) else (False, value)
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        return (True, float(value)) if number else (False, value)
    if kind is str:
        return _fit_text(value)
    if kind is Path:
        return (True, Path(value)) if isinstance(value, str | os.PathLike) else (False, value)
    if origin is Literal:
        same = [word for word in arguments if isinstance(value, str) and word.casefold() == value.casefold()]
        return value in arguments or len(same) == 1, same[0] if len(same) == 1 else value
    if origin is tuple:
        return _fit_tuple(value, arguments)
    return isinstance(value, kind), value


def _fit_text(value: Any) -> tuple[bool, Any]:
    if isinstance(value, list) and value and all(type(item) is int for item in value):
        return True, ",".join(map(str, value))  # device=[0, 1], as it is typed
    texts = isinstance(value, str | int | os.PathLike) and not isinstance(value, bool)
    return (True, str(value)) if texts else (False, value)


def _fit_tuple(value: Any, arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    repeated = len(arguments) == 2 and arguments[1] is Ellipsis
    items = [value] if repeated and not isinstance(value, list | tuple) else value
    if not isinstance(items, list | tuple) or (not repeated and len(items) != len(arguments)):
        return False, value
    if any(isinstance(item, list | tuple) for item in items):
        return False, value
    kinds = [arguments[0]] * len(items) if repeated else arguments
    fitted = [_fit(item, kind) for item, kind in zip(items, kinds, strict=True)]
    return all(ok for ok, _ in fitted), tuple(out for _, out in fitted)


def shown(value: Any) -> str:
    """Return a value as it was given, cut where it is long; shared parts of a list are not written out without end."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a number of {value.bit_length()} bits"
    text = reprlib.repr(value) if isinstance(value, list | tuple | dict | set | frozenset) else str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _check_range(name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    numbers = value if isinstance(value, tuple) else (value,)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        ge, gt, le = metadata.get("ge"), metadata.get("gt"), metadata.get("le")
        below = (ge is not None and number < ge) or (gt is not None and number <= gt)
        if below or (le is not None and number > le):
            number_text = f"{value:g}" if isinstance(value, float) else shown(value)
            place = f"not above {gt:g}" if gt is not None and le is None else f"outside {_range_name(metadata)}"
            raise WrongValueError(f"{name}={number_text} is {place}")


def _range_name(metadata: Mapping[str, Any]) -> str:
    ge, gt, le = metadata.get("ge"), metadata.get("gt"), metadata.get("le")
    if ge is not None and le is not None:
        return f"{ge:g}..{le:g}"
    if gt is not None:
        return f"above {gt:g}" + (f", up to {le:g}" if le is not None else "")
    return f"{ge:g} and up" if ge is not None else ("" if le is None else f"up to {le:g}")


def _choices(kind: Any) -> tuple[str, ...]:
    literals = (part for part in _alternatives(kind) if typing.get_origin(part) is Literal)
    return tuple(str(argument) for part in literals for argument in typing.get_args(part))


def _type_name(kind: Any) -> str:
    words: list[str] = []
    for part in _alternatives(kind):
        origin, arguments = typing.get_origin(part), typing.get_args(part)
        if part is type(None):
            continue
        if origin is Literal:
            words.extend(repr(argument) for argument in arguments)
        elif origin is tuple and arguments[-1] is Ellipsis:
            words.append(f"list of {_type_name(arguments[0])}")
        elif origin is tuple:
            words.append(",".join(argument.__name__ for argument in arguments))
        else:
            words.append({"str": "text", "Path": "path"}.get(part.__name__, part.__name__))
    return " or ".join(words)


def _article(words: str) -> str:
    return f"{'an' if words[:1] in 'aeiou' else 'a'} {words}"
