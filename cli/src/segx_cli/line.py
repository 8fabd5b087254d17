"""Tokenises the command line: switches, ``name=value`` pairs and bare words."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from segx.errors import UsageError, did_you_mean
from segx.records import Record

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from segx.options.schema import OptionInfo

Value = str | bool | list[str]
"""A value as it was typed; :meth:`segx.options.schema.Options.parse` reads it as the option's type."""


class UnknownOptionError(UsageError):
    """A name that is no option of the command.

    Attributes:
        name: The name, with underscores.
    """

    def __init__(self, name: str, message: str, *, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.name = name


class Call(Record):
    """A checked call of a command.

    Attributes:
        task: The task that was named, if one was.
        arguments: What the command works on: ``model``, ``source``, ``format``.
        options: How.
        given: Those of the options that were typed or are the command line's own default.
    """

    task: str | None
    arguments: Mapping[str, Any]
    options: Any  # of the command's own class
    given: Mapping[str, Any]


_NAME = re.compile(r"(?:--)?[A-Za-z][\w-]*")
_PAIR = re.compile(r"(?:--)?([A-Za-z][\w-]*)=(.*)", re.DOTALL)
_NUMBER = re.compile(r"-[\d.]")
_NAMES = {"text", "path"}
"""Types of options whose values may hold any letters."""
_BOOLEAN = {"true", "false", "yes", "no", "on", "off"}
SWITCHES = {
    "--json": "json",
    "--quiet": "quiet",
    "-q": "quiet",
    "--debug": "debug",
    "--help": "help",
    "-h": "help",
    "--version": "version",
}


class Switches(Record):
    """What may stand anywhere on the line, whatever the command.

    Attributes:
        json: Print one JSON document on standard output.
        quiet: Say nothing to people but warnings and errors.
        debug: Say more, and show tracebacks.
        help: Explain instead of doing.
        version: Print the version.
    """

    json: bool = False
    quiet: bool = False
    debug: bool = False
    help: bool = False
    version: bool = False


def take_switches(tokens: Sequence[str]) -> tuple[Switches, list[str]]:
    """Return the switches and what is left."""
    found = {SWITCHES[token]: True for token in tokens if token in SWITCHES}
    return Switches(**found), [word for word in tokens if word not in SWITCHES and word != "--"]


def join(tokens: Sequence[str]) -> list[str]:
    """Join tokens that the shell has split: ``conf = 0.5``, ``conf= 0.5`` and ``classes=[0, 2]``.

    A bracket that nothing closes is part of a name.
    """
    joined: list[str] = []
    rest = list(tokens)
    while rest:
        token = rest.pop(0)
        last = joined[-1] if joined else ""
        is_value = _expects_value(last) and not (_PAIR.fullmatch(token) or token.startswith("--"))
        if is_value or (token.startswith("=") and _NAME.fullmatch(last)):
            joined[-1] += token
        else:
            joined.append(token)
        if _is_open(joined[-1]):
            whole, taken = _closed(joined[-1], rest)
            joined[-1] = whole
            del rest[:taken]
    return joined


def _closed(token: str, rest: Sequence[str]) -> tuple[str, int]:
    """Return a list with the tokens that close it and their number; as it is where none does, for names may be so."""
    whole = token
    for taken, following in enumerate(rest, start=1):
        if _PAIR.fullmatch(following):
            break
        whole = f"{whole} {following}"
        if not _is_open(whole):
            return whole, taken
    return token, 0


def read(
    tokens: Sequence[str], known: Mapping[str, OptionInfo], *, command: str, tasks: Collection[str] = ()
) -> tuple[dict[str, Value], list[str]]:
    """Return names with values, and the bare words between them.

    Args:
        tokens: What :func:`join` returned.
        known: Name of each option to what is known of it.
        command: What is typed to get the list of options, for errors.
        tasks: Words that name a task, even where an option has that name too.

    Raises:
        UsageError: A name is unknown, has no value or two.
    """
    values: dict[str, Value] = {}
    words: list[str] = []
    rest = list(tokens)

    def take(name: str, value: Value) -> None:
        if values.setdefault(name, value) != value:
            raise UsageError(f"{name} is given twice: {_quoted(values[name])}, then {_quoted(value)}")

    while rest:
        token = rest.pop(0)
        if pair := _PAIR.fullmatch(token):
            name = _known(pair[1], known, command)
            if _is_open(token) and known[name].type_name not in _NAMES:
                raise UsageError(f"the bracket in {token!r} is not closed")
            take(name, _text(name, pair[2], known))
        elif token.startswith("--"):
            take(*_dashed(token, rest, known, command))
        elif token.startswith("-") and len(token) > 1 and not _NUMBER.match(token):
            there = (*SWITCHES, *(f"--{name}" for name in known))
            msg = f"switch {token!r} is not known{did_you_mean('-' + token, there)}"
            raise UsageError(msg, hint=f"{command} --help lists the options")
        elif token.replace("-", "_") in known and token not in tasks:
            name = token.replace("-", "_")
            take(name, _bare(name, known))
        else:
            words.append(token)
    return values, words


def dashed(tokens: Sequence[str]) -> list[str]:
    """Return a line in which every ``name=value`` is written ``--name=value``, which Typer reads."""
    pairs = ((token, _PAIR.fullmatch(token)) for token in join(tokens))
    return [f"--{pair[1].replace('_', '-')}={_text(pair[1], pair[2])}" if pair else token for token, pair in pairs]


def _quoted(value: Value) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


def is_pair(token: str) -> bool:
    """Return True if a joined token is ``name=value``."""
    return _PAIR.fullmatch(token) is not None


def _expects_value(token: str) -> bool:
    return token.endswith("=") and _NAME.fullmatch(token[:-1]) is not None


def _is_open(token: str) -> bool:
    pair = _PAIR.fullmatch(token)
    value = pair[2] if pair else token
    return value.startswith(("[", "(")) and sum(map(value.count, "[(")) > sum(map(value.count, "])"))


def _known(typed: str, known: Mapping[str, OptionInfo], command: str) -> str:
    name = typed.replace("-", "_")
    if name not in known:
        msg = f"option {typed!r} is not known{did_you_mean(name, known)}"
        raise UnknownOptionError(name, msg, hint=f"{command} --help lists the options")
    return name


def _text(name: str, typed: str, known: Mapping[str, OptionInfo] | None = None) -> str:
    """Return the value without the comma that separates it from the next, as one types in Python.

    ``device=""`` is as if it were not typed, where there is nothing by default.
    """
    value = typed.removesuffix(",").strip()
    if not value and (typed or known is None or known[name].default is not None):
        msg = f"{name}= has no value"
        raise UsageError(msg)
    return value


def _bare(name: str, known: Mapping[str, OptionInfo]) -> bool:
    if not known[name].switch:
        msg = f"option {name!r} needs a value: {name}=..."
        raise UsageError(msg)
    return True


def _dashed(token: str, rest: list[str], known: Mapping[str, OptionInfo], command: str) -> tuple[str, Value]:
    """Read ``--name value``, ``--switch`` or ``--no-switch``, taking the value from the rest."""
    name = token[2:].replace("-", "_")
    positive = known.get(name.removeprefix("no_"))
    if name not in known and positive is not None and positive.switch:
        return positive.name, False
    name = _known(token[2:], known, command)
    following = rest[0] if rest else "--"
    if known[name].switch:
        takes = following.lower() in _BOOLEAN or following in known[name].choices
        return name, (_text(name, rest.pop(0)) if takes else True)
    if following.startswith("--"):
        return name, _bare(name, known)
    value = _text(name, rest.pop(0))
    more = _existing_files(rest, known) if name == "source" else []
    del rest[: len(more)]
    return name, [value, *more] if more else value


def _existing_files(rest: Sequence[str], known: Mapping[str, OptionInfo]) -> list[str]:
    """Return the files that follow ``--source``: what the shell made of ``--source photos/*.jpg``."""
    files: list[str] = []
    for token in rest:
        if token in known or not os.path.exists(token):  # noqa: PTH110 - no need for pathlib here
            break
        files.append(token)
    return files
