"""A line becomes a checked call of a command: switches, ``name=value`` pairs and bare words, read as its options."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segx.errors import UsageError, did_you_mean, not_known
from segx.options.neutral import NEUTRAL
from segx.options.schema import OptionInfo
from segx.records import Record
from segx_cli.commands import COMMANDS, DEFAULT_MODEL, TASKS_ELSEWHERE, Call

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from segx.options.schema import Options
    from segx_cli.commands import Command

logger = logging.getLogger(__name__)

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
        raise UsageError(f"{name}= has no value")
    return value


def _bare(name: str, known: Mapping[str, OptionInfo]) -> bool:
    if not known[name].switch:
        raise UsageError(f"option {name!r} needs a value: {name}=...")
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


def read_call(command: Command, tokens: Sequence[str], *, program: str = "") -> Call:
    """Return the call that was typed.

    Args:
        command: Its record.
        tokens: Everything that was typed but switches and the command itself.
        program: What is typed to run it; default: ``segx`` and its name.

    Raises:
        UsageError: Something is unknown, missing, or out of range.
    """
    program = program or f"segx {command.name}"
    own = command.known_names()
    known = _taken_in_silence(command) | own if command.verb else own
    values: dict[str, Any]
    try:
        values, words = read(join(tokens), known, command=program, tasks=TASKS_ELSEWHERE)
    except UnknownOptionError as error:
        raise _with_its_verb(error, command) from error
    if not command.verb:
        _take_word(command, words, values, known, program)
        return _check(command, None, values)
    for name in command.python_only:  # a command line works that way whatever is asked for
        values.pop(name, None)
    task = _take_task(words, command, known)
    if "cfg" in values:
        values = _from_file(str(values.pop("cfg")), own, command) | values
    named = values.pop("task", None)
    task = task or (None if named is None else str(named))
    if task is not None:
        _check_task(task, str(values["model"]) if "model" in values else None)
    return _check(command, task, values)


def _taken_in_silence(command: Command) -> dict[str, OptionInfo]:
    """Return what is an option elsewhere, which the options themselves take or refuse, and those for Python alone."""
    from segx.options.verbs import known_elsewhere

    elsewhere = {
        name: OptionInfo(name, "", None, reason, "", switch=any(isinstance(value, bool) for value in values))
        for name, (values, reason) in known_elsewhere().items()
    }
    return elsewhere | {name: OptionInfo(name, "", None, "", "", switch=True) for name in command.python_only}


def _take_word(
    command: Command, words: list[str], values: dict[str, Any], known: Mapping[str, OptionInfo], program: str
) -> None:
    """Let a bare word be the value of what it stands for."""
    if words and command.word and command.word not in values:
        values[command.word] = words.pop(0)
    if words:
        raise UsageError(
            f"{words[0]!r} is no option of {program.removeprefix('segx ')}{did_you_mean(words[0], known)}",
            hint=f"{program} --help lists the options",
        )


def _check(command: Command, task: str | None, values: dict[str, Any]) -> Call:
    missing = [info.name for info in command.arguments if info.default is ... and info.name not in values]
    if missing:
        needs = " and ".join(f"{name}=..." for name in missing)
        raise UsageError(f"{command.name} needs {needs}", hint=command.example)
    if command.verb and "model" not in values and any(info.default == DEFAULT_MODEL for info in command.arguments):
        logger.info("model=%s, for no other was named", DEFAULT_MODEL)
    arguments = {
        info.name: values.pop(info.name, None if info.default is ... else info.default) for info in command.arguments
    }
    chosen = {**command.defaults, **values}
    options = _options(command, arguments, chosen)
    given = {name: value for name, value in options.as_dict().items() if name in chosen}
    return Call(task=task, arguments=arguments, options=options, given=given)


def _options(command: Command, arguments: Mapping[str, Any], values: Mapping[str, Any]) -> Options:
    """Return the checked options; one that goes only with other arguments is told so."""
    from segx.options.verbs import changes_nothing

    kind = command.options_type(arguments)
    taken = kind.names()
    for info in command.known_options():
        if info.name in values and info.name not in taken:
            if info.name in NEUTRAL and changes_nothing(NEUTRAL[info.name], values[info.name]):
                continue
            msg = f"option {info.name!r} does not go with {_words(arguments)}: {info.group}"
            raise UsageError(msg, hint=f"options: {', '.join(sorted(taken))}")
    return kind.parse(values)


def _words(arguments: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in arguments.items() if value is not None)


def _take_task(words: Sequence[str], command: Command, known: Mapping[str, OptionInfo]) -> str | None:
    """Return the word that names a task; any other word is an error."""
    if not words:
        return None
    from segx.plugin.registry import get_registry

    registry = get_registry()
    strays = [word for word in words if word not in {*registry.tasks, *TASKS_ELSEWHERE}]
    if not strays and len(words) == 1:
        return words[0]
    word = strays[0] if strays else words[1]
    hint = f"installed tasks: {', '.join(registry.tasks) or 'none'}; segx {command.name} --help lists the options"
    if "." in word or "/" in word or word.isdecimal():
        name = "source" if "source" in known and registry.format_of(word) is None else "model"
        hint = f"meant as {name}={word} ?"
    raise UsageError(f"{word!r} is no option and no task{did_you_mean(word, {*known, *registry.tasks})}", hint=hint)


def _check_task(task: str, model: str | None) -> None:
    """Refuse a task that is not installed; where the model is there, say what it is for.

    Raises:
        UsageError: The task is not installed, or not the model's.
    """
    from segx.plugin.registry import get_registry

    tasks = get_registry().tasks
    if task in TASKS_ELSEWHERE and task not in tasks:
        if model is not None and Path(model).exists():
            from segx import YOLO

            YOLO(model, task=task)
        hint = f"installed tasks: {', '.join(tasks) or 'none'}; left out, it is the model's"
        raise UsageError(f"task {task!r} is not installed", hint=hint)
    get_registry().tasks.get(task)


def _from_file(path: str, known: Mapping[str, OptionInfo], command: Command) -> dict[str, Any]:
    """Return the options of a YAML file; those of other verbs are left aside, so that one file can serve several."""
    from segx.io.files import read_options

    values = read_options(path)
    strange = {name: value for name, value in values.items() if name not in known and name != "mode"}
    elsewhere = _verbs_by_option() if strange else {}
    passed = {name: value for name, value in strange.items() if name in NEUTRAL and name not in elsewhere}
    strange = {name: value for name, value in strange.items() if name not in passed}
    if unknown := [name for name in strange if name not in elsewhere]:
        raise UsageError(f"{path}: {not_known(unknown, known)}", hint=f"segx {command.name} --help lists the options")
    if strange:
        logger.info("%s: not options of %s, left aside: %s", path, command.name, ", ".join(sorted(strange)))
    return passed | {name: value for name, value in values.items() if name in known and value is not None}


def _verbs_by_option() -> dict[str, list[str]]:
    """Return each option's name with the verbs that take it."""
    verbs: dict[str, list[str]] = {}
    for command in COMMANDS.values():
        if command.verb:
            for name in command.known_names():
                verbs.setdefault(name, []).append(command.name)
    return verbs


def _with_its_verb(error: UnknownOptionError, command: Command) -> UsageError:
    """Return the error, telling which verb has the option if another one does."""
    verbs = _verbs_by_option().get(error.name)
    if not verbs:
        return error
    return UsageError(f"option {error.name!r} is of {' and '.join(verbs)}, not of {command.name}", hint=error.hint)
