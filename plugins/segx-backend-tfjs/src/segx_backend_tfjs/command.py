"""``segx tfjs``: installs what runs web models, because somebody asks for it."""

from __future__ import annotations

import typer  # noqa: TID253 - this module is imported only to run the command

from segx_tfjs.runtime import modules, problem, setup

app = typer.Typer(no_args_is_help=True, help="Install TensorFlow.js, which runs web models and their page.")


@app.command("setup")
def install(ctx: typer.Context) -> None:
    """Install TensorFlow.js with npm into segx's cache folder; this asks npm's registry for about 100 MB."""
    folder = setup()
    ctx.obj.result(str(folder), {"folder": folder})


@app.command("status")
def status(ctx: typer.Context) -> None:
    """Say where TensorFlow.js is, or what is missing."""
    missing = problem()
    ctx.obj.result(missing or str(modules()), {"folder": modules(), "problem": missing})
