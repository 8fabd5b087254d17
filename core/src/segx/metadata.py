"""Values out of what a model says of itself, each checked once: type, range, length, depth.

Metadata come from strangers. Whatever is wrong with a value is reported as a ``ValueError`` of one short line; nothing
is built, and nothing is shown, that is larger than metadata can need to be.
"""

from __future__ import annotations

import ast
import json
import math
import reprlib
from collections.abc import Mapping
from typing import Any

MAX_TEXT = 1 << 20
"""Characters of a document: names and settings of a model with many thousand classes."""
MAX_WORDS = 4096
"""Characters of a single text."""
MAX_SIDE = 1 << 16
"""Pixels of an input's side, images of a batch, pixels of a stride."""
MAX_CLASSES = 100_000
MAX_OUTPUTS = 64
MAX_DEPTH = 32
MAX_VALUES = 500_000
"""Values in a document, each counted as often as it is reached: YAML can name one many times."""

_TRUE, _FALSE = frozenset({"true", "yes", "1"}), frozenset({"false", "no", "0", "none", ""})


def shown(value: Any) -> str:
    """Return a value for a message, cut to a few words."""
    try:
        return reprlib.repr(value)[:80]
    except (ValueError, RecursionError):  # a number of more digits than Python prints
        return f"a {type(value).__name__} that is too long to show"


def integer(value: Any, what: str, *, least: int = 1, most: int = MAX_SIDE) -> int:
    """Return a whole number in a range; ``"32"`` and ``32.0`` are one."""
    number = value
    if isinstance(number, str) and len(number) < 40:
        try:
            number = float(number)
        except ValueError:
            number = value
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int) or not least <= number <= most:
        raise ValueError(f"{what} is {shown(value)}, not a whole number from {least} to {most}")
    return number


def real(value: Any, what: str) -> float:
    """Return a number that is one; infinite is allowed, for differences that have no bound."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or (isinstance(value, int) and abs(value) > 1 << 62) or math.isnan(value):
        raise ValueError(f"{what} is {shown(value)}, not a number")
    return float(value)


def text(value: Any, what: str) -> str:
    """Return a text of one value: what YAML took for a number, a date or a ground truth is text again."""
    if value is None or isinstance(value, Mapping | list | tuple | set | bytes):
        raise ValueError(f"{what} is {shown(value)}, not a text")
    if isinstance(value, int) and abs(value) > 1 << 62:
        raise ValueError(f"{what} is a number that is too long")
    found = str(value)
    if len(found) > MAX_WORDS:
        raise ValueError(f"{what} has {len(found)} characters, more than {MAX_WORDS}")
    if any("\ud800" <= letter <= "\udfff" for letter in found):
        raise ValueError(f"{what} is {shown(found)}, which is no text")  # half a character, that no file can hold
    return found


def flag(value: Any, what: str) -> bool:
    """Return yes or no, as tools write it."""
    word = str(value).strip().lower() if isinstance(value, str | bool | int | None) else ""
    if word in _TRUE:
        return True
    if word in _FALSE and not isinstance(value, Mapping | list | tuple | float):
        return False
    raise ValueError(f"{what} is {shown(value)}, neither true nor false")


def table(value: Any, what: str) -> dict[str, Any]:
    """Return keys and values, bounded in depth and number, with keys that are text, those further in too."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{what} is {shown(value)}, not a table of names and values")  # noqa: TRY004 - damage
    bounded(value, what)
    return {text(key, f"a name in {what}"): _named(item, what) for key, item in value.items()}


def _named(value: Any, what: str) -> Any:
    if isinstance(value, Mapping):
        return {text(key, f"a name in {what}"): _named(item, what) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_named(item, what) for item in value]
    found = text(value, what) if value is not None else ""
    return value if isinstance(value, int | float | None) else found


def texts(value: Any, what: str, *, most: int) -> tuple[str, ...]:
    """Return a list of texts, no two the same."""
    if not isinstance(value, list | tuple) or len(value) > most:
        raise ValueError(f"{what} is {shown(value)}, not a list of at most {most} names")
    found = tuple(text(item, what) for item in value)
    if len(set(found)) < len(found):
        raise ValueError(f"{what} names one thing twice")
    return found


def classes(value: Any) -> dict[int, str]:
    """Return class number to class name: a list of names, or a table whose numbers are 0, 1, 2 and so on."""
    if not isinstance(value, Mapping | list | tuple):
        raise ValueError(f"names is {shown(value)}, neither a list nor a table")  # noqa: TRY004 - damage
    if len(value) > MAX_CLASSES:
        raise ValueError(f"names has {len(value)} classes, more than {MAX_CLASSES}")
    pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
    found = {integer(k, "a class number", least=0, most=MAX_CLASSES): text(v, "a class name") for k, v in pairs}
    if sorted(found) != list(range(len(value))):
        raise ValueError(f"names numbers its {len(value)} classes {shown(sorted(found))}, not from 0 on")
    return found


def size(value: Any) -> tuple[int, int]:
    """Return (height, width) of one side or two."""
    sides = (value, value) if isinstance(value, int | float) else value
    if not isinstance(sides, list | tuple) or len(sides) != 2:
        raise ValueError(f"imgsz is {shown(value)}, neither a side nor height and width")
    height, width = (integer(side, "imgsz") for side in sides)
    return height, width


def literal(value: Any, what: str) -> Any:
    """Return what a text stands for that Python would write so; anything but a text as it is."""
    return _read(value, what, ast.literal_eval)


def document(value: Any, what: str) -> Any:
    """Return what a text of JSON stands for; anything but a text as it is."""
    return _read(value, what, json.loads)


def _read(value: Any, what: str, parse: Any) -> Any:
    if not isinstance(value, str):
        return value
    if len(value) > MAX_TEXT:
        raise ValueError(f"{what} has {len(value)} characters, more than {MAX_TEXT}")
    try:
        return parse(value)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"{what} cannot be read: {shown(value)}") from error


def bounded(value: Any, what: str) -> None:
    """Refuse what is nested too deep or holds too much."""
    level, depth, count = [value], 0, 0
    while level:
        depth, count = depth + 1, count + len(level)
        if depth > MAX_DEPTH or count > MAX_VALUES:
            raise ValueError(f"{what} is nested deeper than {MAX_DEPTH} or holds more than {MAX_VALUES} values")
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, Mapping):
                deeper.extend(item.values())
            elif isinstance(item, list | tuple | set):
                deeper.extend(item)
            if len(deeper) > MAX_VALUES:
                break
        level = deeper
