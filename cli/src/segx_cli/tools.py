"""Runs the commands of plugins, which are Typer apps or functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer  # noqa: TID253 - this module is imported only to run a Typer app

from segx.errors import SegxError
from segx_cli.line import SWITCHES, dashed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from segx_cli.output import Output

_STOPPED = 130
"""Exit code of what was stopped with Ctrl-C."""


def run_plugin(name: str, arguments: Sequence[str], output: Output) -> int:
    """Run a command that a plugin declares; ``name=value`` reaches it as ``--name=value``.

    Raises:
        SegxError: It ends with words of its own.
    """
    from segx.plugin.registry import get_registry

    registry = get_registry()
    app = _as_app(registry.commands.load(name))
    if not arguments and hasattr(typer.main.get_command(app), "commands"):
        arguments = ["--help"]  # of a command that has commands
    with output.given_back():
        try:
            code = app(
                dashed(_without_switches(arguments, app)),
                prog_name=f"segx {name.replace('data-', 'data ', 1)}",
                standalone_mode=False,
                obj=output,
            )
        except typer.Exit as ended:
            return _interrupted(ended.exit_code)
        except SystemExit as ended:
            # Click ends the process itself when the reader is gone; main has its own way of ending then.
            if isinstance(ended.__context__, BrokenPipeError):
                raise ended.__context__ from None
            if isinstance(ended.code, str):  # what sys.exit("words") means
                raise SegxError(ended.code) from ended
            return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return _interrupted(code) if isinstance(code, int) else 0


def _without_switches(arguments: Sequence[str], app: typer.Typer) -> list[str]:
    """Return what was typed without the switches of segx, which it has taken already, but for those of the command."""
    known = {"-h", "--help"}
    commands = [typer.main.get_command(app)]
    for command in commands:
        known.update(name for parameter in command.params for name in parameter.opts)
        commands.extend(getattr(command, "commands", {}).values())
    until = arguments.index("--") if "--" in arguments else len(arguments)
    return [word for place, word in enumerate(arguments) if place > until or word not in SWITCHES or word in known]


def _interrupted(code: int) -> int:
    """Return the exit code of a command that has come to its end.

    Raises:
        KeyboardInterrupt: It was stopped with Ctrl-C, which Typer turns into a code.
    """
    if code == _STOPPED:
        raise KeyboardInterrupt
    return code


def _as_app(declared: typer.Typer | Callable[..., Any]) -> typer.Typer:
    """Return what was declared as a Typer app, a function in one without what makes starting slow."""
    if isinstance(declared, typer.Typer):
        return declared
    app = typer.Typer(
        help=declared.__doc__ or "",
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.command()(declared)
    return app
