"""Runs the commands that are Typer apps: ours, and those of plugins."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import typer  # noqa: TID253 - this module is imported only to run a Typer app

from segx.errors import SegxError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from segx_cli.commands import Command
    from segx_cli.output import Output


def app(help: str) -> typer.Typer:  # noqa: A002 - Typer's own word
    """Return an empty Typer app without what makes starting slow: rich, completion."""
    return typer.Typer(
        help=help,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )


def run(command: Command, arguments: Sequence[str], output: Output) -> int:
    """Run one of our own commands; its functions find the output in ``ctx.obj``."""
    return _call(importlib.import_module(command.module).APP, command.name, arguments, output)


def run_plugin(name: str, arguments: Sequence[str], output: Output) -> int:
    """Run a command that a plugin declares."""
    from segx.plugin.registry import get_registry

    registry = get_registry()
    loaded = _as_app(registry.commands.load(name))
    with output.given_back():
        return _call(loaded, name, arguments, output)


def _as_app(declared: typer.Typer | Callable[..., Any]) -> typer.Typer:
    if isinstance(declared, typer.Typer):
        return declared
    wrapped = app(help=declared.__doc__ or "")
    wrapped.command()(declared)
    return wrapped


def _call(which: typer.Typer, name: str, arguments: Sequence[str], output: Output) -> int:
    """Run an app and return its exit code."""
    try:
        code = which(list(arguments), prog_name=f"segx {name}", standalone_mode=False, obj=output)
    except typer.Exit as ended:
        return ended.exit_code
    except SystemExit as ended:
        # Click ends the process itself when the reader is gone; main has its own way of ending then.
        if isinstance(ended.__context__, BrokenPipeError):
            raise ended.__context__ from None
        if isinstance(ended.code, str):  # what sys.exit("words") means
            raise SegxError(ended.code) from ended
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return code if isinstance(code, int) else 0
