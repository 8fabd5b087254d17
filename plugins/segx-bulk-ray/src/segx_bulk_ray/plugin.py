"""Declares ``segx bulk``; imports nothing heavy."""

from __future__ import annotations

from segx import hookimpl
from segx.plugin.specs import CommandSpec, lazy

SEGX_API = (1, 0)


@hookimpl
def segx_commands() -> list[CommandSpec]:
    """Declare the command; ``predict`` is what it can do."""
    return [
        CommandSpec(
            name="bulk",
            summary="predict any number of images on one or many machines, with Ray",
            load=lazy("segx_bulk_ray.command:app"),
            requires=("numpy>=1.26", "pyarrow>=17", "ray>=2.40", "typer>=0.12"),
        )
    ]
