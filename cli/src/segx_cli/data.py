"""``segx data``: check, convert, split, show, and what plugins add."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segx.errors import DataError, UsageError, did_you_mean
from segx.options.verbs import DataCheckOptions, DataConvertOptions, DataShowOptions, DataSplitOptions
from segx_cli.help import default_text
from segx_cli.line import join, read
from segx_cli.output import table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from segx.options.schema import Options
    from segx_cli.output import Output


@dataclass(frozen=True, kw_only=True)
class Action:
    """One thing to do with a data set.

    Attributes:
        name: What is typed after ``segx data``.
        summary: One line.
        options: What it takes.
        run: Does it and returns the exit code.
    """

    name: str
    summary: str
    options: type[Options]
    run: Callable[[Any, Output], int]


def APP(  # noqa: N802 - the name segx_cli.tools looks for
    arguments: Sequence[str], *, prog_name: str, standalone_mode: bool, obj: Output
) -> int:
    """Run one action.

    Raises:
        UsageError: It is not known, or what it was given is wrong.
    """
    del standalone_mode
    words = [word for word in arguments if word not in {"--help", "help"}]
    helps = len(words) < len(arguments)
    if not words:
        obj.result(overview(prog_name), {action.name: action.summary for action in ACTIONS.values()})
        return 0
    name, *rest = words
    if name not in ACTIONS:
        return _run_plugins_action(name, [*rest, *(["--help"] if helps else [])], prog_name, obj)
    action = ACTIONS[name]
    if helps:
        obj.result(page(action, prog_name), [info.name for info in action.options.describe()])
        return 0
    return action.run(_read(action, rest, prog_name), obj)


def overview(program: str) -> str:
    """Return the help of the command."""
    lines = [f"{program} ACTION data=... name=value ...", ""]
    rows = [(action.name, action.summary) for action in ACTIONS.values()]
    return "\n".join([*lines, table(("action", "does"), [*rows, *_plugins_actions()])])


def page(action: Action, program: str) -> str:
    """Return the help of an action."""
    rows = [(info.name, default_text(info, {}), info.help) for info in action.options.describe()]
    return f"{program} {action.name} data=... name=value ...\n  {action.summary}\n\n" + table(
        ("option", "default", "what"), rows
    )


def _read(action: Action, tokens: Sequence[str], program: str) -> Any:
    """Return the options that were typed; a bare word is the data set."""
    known = {info.name: info for info in action.options.describe()}
    values, words = read(join(tokens), known, command=f"{program} {action.name}")
    if len(words) > 1 or (words and "data" in values):
        raise UsageError(f"{words[-1]!r} is no option of {action.name}", hint=f"{program} {action.name} --help")
    return action.options.parse({**({"data": words[0]} if words else {}), **values})


def _run_plugins_action(name: str, arguments: Sequence[str], program: str, output: Output) -> int:
    """Run an action that a plugin declares as the command ``data-<name>``; it gets its arguments as options."""
    from segx.plugin.registry import get_registry
    from segx_cli import tools

    known = [action for action, _ in _plugins_actions()]
    if name not in known:
        every = [*ACTIONS, *known]
        raise UsageError(f"{name!r} is nothing to do with data{did_you_mean(name, every)}", hint=f"{program} --help")
    return tools.run_plugin(
        get_registry().commands.get(f"data-{name}").name, [_dashed(word) for word in arguments], output
    )


def _dashed(word: str) -> str:
    """Return ``name=value`` as ``--name=value``, which Typer reads."""
    name, equals, value = word.partition("=")
    return f"--{name.removeprefix('--').replace('_', '-')}={value}" if equals and name.isidentifier() else word


def _plugins_actions() -> list[tuple[str, str]]:
    from segx.plugin.registry import get_registry

    commands = get_registry().commands
    return [(name.removeprefix("data-"), spec.summary) for name, spec in commands.items() if name.startswith("data-")]


def _check(options: DataCheckOptions, output: Output) -> int:
    from segx.data.check import check
    from segx.plugin.registry import get_registry

    report = check(options, get_registry())
    output.result(report.to_table(most=options.most), report.to_dict())
    return DataError.exit_code if options.strict and report.findings else 0


def _convert(options: DataConvertOptions, output: Output) -> int:
    from segx.data.convert import convert
    from segx.plugin.registry import get_registry

    done = convert(options, get_registry())
    output.result(done.to_table(), done.to_dict())
    return 0


def _split(options: DataSplitOptions, output: Output) -> int:
    from segx.data.split import split
    from segx.plugin.registry import get_registry

    done = split(options, get_registry())
    output.result(done.to_table(), done.to_dict())
    return 0


def _show(options: DataShowOptions, output: Output) -> int:
    from segx.data.show import show
    from segx.plugin.registry import get_registry

    path = show(options, get_registry())
    output.result(str(path), {"image": path})
    return 0


ACTIONS = {
    action.name: action
    for action in (
        Action(name="check", summary="say what is wrong with a data set", options=DataCheckOptions, run=_check),
        Action(name="convert", summary="write it in another format", options=DataConvertOptions, run=_convert),
        Action(name="split", summary="divide one split into train, val and test", options=DataSplitOptions, run=_split),
        Action(name="show", summary="draw ground truth on one sheet", options=DataShowOptions, run=_show),
    )
}
