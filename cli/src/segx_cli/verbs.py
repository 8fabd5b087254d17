"""What all verbs share: a line of ``name=value`` becomes a checked call."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from segx.errors import UsageError, did_you_mean, not_known
from segx.options.neutral import NEUTRAL
from segx.options.schema import OptionInfo
from segx_cli.commands import COMMANDS
from segx_cli.line import UnknownOptionError, join, read

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from segx.options.schema import Options
    from segx_cli.commands import Command
    from segx_cli.output import Output

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Call:
    """A checked call of a verb.

    Attributes:
        task: The task that was named, if one was.
        arguments: What the verb works on: ``model``, ``source``, ``format``.
        options: How.
        given: Those of the options that were typed or are the command line's own default.
    """

    task: str | None
    arguments: Mapping[str, Any]
    options: Options
    given: Mapping[str, Any]


class VerbModule(Protocol):
    """What the module of a verb holds."""

    ARGUMENTS: tuple[OptionInfo, ...]
    """What the verb works on; those without a default must be given."""

    DEFAULTS: Mapping[str, Any]
    """Options whose default on the command line is not Python's."""

    EXAMPLE: str

    def known_options(self) -> tuple[OptionInfo, ...]:
        """Return all options the verb may take, whatever its arguments."""
        ...

    def options_type(self, arguments: Mapping[str, Any]) -> type[Options]:
        """Return the options the verb takes for these arguments."""
        ...

    def run(self, call: Call, output: Output) -> int:
        """Do it and return the exit code."""
        ...


def argument(name: str, help: str, *, type_name: str = "text", default: Any = ...) -> OptionInfo:  # noqa: A002
    """Declare an argument of a verb; one without a default must be given."""
    return OptionInfo(name=name, type_name=type_name, default=default, help=help, range="")


MODEL = argument("model", "model file or folder, or a known name such as yolov8n-seg.pt", type_name="path")
COMMON = (
    argument("task", "the task the model must have, as the first word or here", default=None),
    argument("cfg", "YAML file of options; what is typed goes before it", type_name="path", default=None),
)


def read_call(command: Command, verb: VerbModule, tokens: Sequence[str]) -> Call:
    """Return the call that was typed.

    Args:
        command: The verb's row.
        verb: The verb's module.
        tokens: Everything that was typed but switches and the verb itself.

    Raises:
        UsageError: Something is unknown, missing, or out of range.
    """
    known = _taken_in_silence() | known_names(verb)
    values: dict[str, Any]
    try:
        values, words = read(join(tokens), known, command=f"segx {command.name}")
    except UnknownOptionError as error:
        raise _with_its_verb(error, command) from error
    task = _take_task(words, command, known)
    if "cfg" in values:
        values = _from_file(str(values.pop("cfg")), known_names(verb), command) | values
    named = values.pop("task", None)
    task = task or (None if named is None else str(named))
    if task is not None:
        _check_task(task)
    return _check(verb, command, task, values)


def _taken_in_silence() -> dict[str, OptionInfo]:
    """Return the options of other programs, which the options themselves take or refuse."""
    return {
        name: OptionInfo(name, "", None, reason, "", switch=any(isinstance(value, bool) for value in values))
        for name, (values, reason) in NEUTRAL.items()
    }


def known_names(verb: VerbModule) -> dict[str, OptionInfo]:
    """Return everything that may stand before ``=``."""
    return {info.name: info for info in (*verb.ARGUMENTS, *COMMON, *verb.known_options())}


def _check(verb: VerbModule, command: Command, task: str | None, values: dict[str, Any]) -> Call:
    missing = [info.name for info in verb.ARGUMENTS if info.default is ... and info.name not in values]
    if missing:
        needs = " and ".join(f"{name}=..." for name in missing)
        raise UsageError(f"{command.name} needs {needs}", hint=verb.EXAMPLE)
    arguments = {
        info.name: values.pop(info.name, None if info.default is ... else info.default) for info in verb.ARGUMENTS
    }
    chosen = {**verb.DEFAULTS, **values}
    options = _options(verb, arguments, chosen)
    given = {name: value for name, value in options.as_dict().items() if name in chosen}
    return Call(task=task, arguments=arguments, options=options, given=given)


def _options(verb: VerbModule, arguments: Mapping[str, Any], values: Mapping[str, Any]) -> Options:
    """Return the checked options; one that goes only with other arguments is told so."""
    kind = verb.options_type(arguments)
    taken = {info.name for info in kind.describe()}
    for info in verb.known_options():
        if info.name in values and info.name not in taken:
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
    strays = [word for word in words if word not in registry.tasks]
    if not strays and len(words) == 1:
        return words[0]
    word = strays[0] if strays else words[1]
    hint = f"installed tasks: {', '.join(registry.tasks) or 'none'}; segx {command.name} --help lists the options"
    if "." in word or "/" in word or word.isdecimal():
        name = "source" if "source" in known and registry.format_of(word) is None else "model"
        hint = f"meant as {name}={word} ?"
    raise UsageError(f"{word!r} is no option and no task{did_you_mean(word, {*known, *registry.tasks})}", hint=hint)


def _check_task(task: str) -> None:
    from segx.plugin.registry import get_registry

    get_registry().task(task)


def _from_file(path: str, known: Mapping[str, OptionInfo], command: Command) -> dict[str, Any]:
    """Return the options of a YAML file; those of other verbs are left aside, so that one file can serve several."""
    values = _read_yaml(path)
    strange = {name: value for name, value in values.items() if name not in known and name != "mode"}
    elsewhere = _verbs_by_option() if strange else {}
    passed = {name: value for name, value in strange.items() if name in NEUTRAL and name not in elsewhere}
    strange = {name: value for name, value in strange.items() if name not in passed}
    if unknown := [name for name in strange if name not in elsewhere]:
        raise UsageError(f"{path}: {not_known(unknown, known)}", hint=f"segx {command.name} --help lists the options")
    if strange:
        logger.info("%s: not options of %s, left aside: %s", path, command.name, ", ".join(sorted(strange)))
    return passed | {name: value for name, value in values.items() if name in known and value is not None}


def _read_yaml(path: str) -> dict[str, Any]:
    from segx.io.files import read_mapping

    hint = "write one option per line: conf: 0.4"
    try:
        content = read_mapping(Path(path), error=UsageError, what="names and values", hint=hint)
    except UsageError as error:
        raise UsageError(f"cfg={error.message}", hint=error.hint) from error
    return {name.replace("-", "_"): value for name, value in content.items()}


def _verbs_by_option() -> dict[str, list[str]]:
    """Return each option's name with the verbs that take it."""
    verbs: dict[str, list[str]] = {}
    for command in COMMANDS.values():
        if command.verb:
            for name in known_names(command.load_verb()):
                verbs.setdefault(name, []).append(command.name)
    return verbs


def _with_its_verb(error: UnknownOptionError, command: Command) -> UsageError:
    """Return the error, telling which verb has the option if another one does."""
    verbs = _verbs_by_option().get(error.name)
    if not verbs:
        return error
    return UsageError(f"option {error.name!r} is of {' and '.join(verbs)}, not of {command.name}", hint=error.hint)
