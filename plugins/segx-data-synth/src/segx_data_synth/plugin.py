"""Declares ``segx data synth``; imports nothing heavy."""

from __future__ import annotations

from segx import hookimpl
from segx.plugin.specs import CommandSpec, lazy

SEGX_API = (1, 0)


@hookimpl
def segx_commands() -> list[CommandSpec]:
    """Declare the command; ``data-synth`` is what ``segx data`` calls ``synth``."""
    return [
        CommandSpec(
            name="data-synth",
            summary="draw a data set of shaded, overlapping objects with exact masks",
            load=lazy("segx_data_synth.command:synth"),
            requires=("numpy>=1.26", "opencv-python>=4.10 | opencv-python-headless>=4.10", "typer>=0.12"),
        )
    ]
