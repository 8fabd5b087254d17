"""Declares ``segx bulk``; imports nothing heavy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx import hookimpl
from segx.plugin.specs import CommandSpec, lazy

if TYPE_CHECKING:
    from collections.abc import Iterable

SEGX_API = (1, 0)


@hookimpl
def segx_commands() -> Iterable[CommandSpec]:
    """Declare the command; ``predict`` is what it can do."""
    return [
        CommandSpec(
            name="bulk",
            summary="predict any number of images on one or many machines, with Ray Data",
            load=lazy("segx_bulk_ray.command:app"),
            requires=("numpy>=1.26", "pyarrow>=17", "ray>=2.40", "typer>=0.12"),
        )
    ]
