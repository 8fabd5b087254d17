"""A line of ``name=value`` becomes a checked call of a command."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segx.errors import UsageError, did_you_mean, not_known
from segx.options.neutral import NEUTRAL
from segx.options.schema import OptionInfo
from segx_cli.commands import COMMANDS, DEFAULT_MODEL, TASKS_ELSEWHERE
from segx_cli.line import Call, UnknownOptionError, join, read

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from segx.options.schema import Options
    from segx_cli.commands import Command

logger = logging.getLogger(__name__)


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
            raise UsageError(f"option {info.name!r} does not go with {_words(arguments)}: {info.group}")
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
