"""The commands of ``segx``, one row each; nothing is imported before it is asked for."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from segx_cli.verbs import VerbModule


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command.

    Attributes:
        name: What is typed.
        summary: One line for ``segx --help``.
        verb: It takes a model and ``name=value`` options (:class:`segx_cli.verbs.VerbModule`); else it is a Typer app.
    """

    name: str
    summary: str
    verb: bool = False

    @property
    def module(self) -> str:
        """The module that does it."""
        return f"segx_cli.{self.name}"

    def load_verb(self) -> VerbModule:
        """Import and return the module of a verb."""
        return cast("VerbModule", importlib.import_module(self.module))


COMMANDS = {
    command.name: command
    for command in (
        Command(name="predict", summary="find objects in images, videos, streams", verb=True),
        Command(name="train", summary="teach a model your own classes", verb=True),
        Command(name="val", summary="measure a model on a data set", verb=True),
        Command(name="export", summary="write a model in another format, and prove it", verb=True),
        Command(name="info", summary="what is known of a model", verb=True),
        Command(name="formats", summary="the model formats, and what can make and run them here"),
        Command(name="plugins", summary="what is installed, what is broken; plugins new NAME writes one"),
        Command(name="data", summary="check, convert, split, show data sets"),
        Command(name="doctor", summary="check this installation"),
        Command(name="cache", summary="downloaded files: list, clear"),
    )
}
