"""Declares TensorFlow.js as what opens web models, and the command that installs it."""

from __future__ import annotations

from segx import hookimpl
from segx.plugin.specs import BackendSpec, CommandSpec, lazy

SEGX_API = (1, 0)


def _problem() -> str:
    from segx_tfjs.runtime import problem

    return problem()


@hookimpl
def segx_backends() -> list[BackendSpec]:
    """Declare the runtime."""
    return [
        BackendSpec(
            name="tfjs",
            summary="TensorFlow.js models with Node.js and WebAssembly, without torch and TensorFlow",
            load=lazy("segx_backend_tfjs.backend:TfjsBackend"),
            formats={"tfjs": ("_web_model",)},
            requires=("segx-tfjs>=0.1.0", "numpy>=1.26"),
            problem=_problem,
            concurrent=True,
        )
    ]


@hookimpl
def segx_commands() -> list[CommandSpec]:
    """Declare the command."""
    return [
        CommandSpec(
            name="tfjs",
            summary="install TensorFlow.js, which runs web models and their page",
            load=lazy("segx_backend_tfjs.command:app"),
            requires=("segx-tfjs>=0.1.0", "typer>=0.12"),
        )
    ]
