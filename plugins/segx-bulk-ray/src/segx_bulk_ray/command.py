"""``segx bulk predict``: what is typed, and what is told at the end."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated, Any

import typer  # noqa: TID253 - this module is imported only to run the command

from segx.errors import UsageError
from segx.options.schema import parse_literal

app = typer.Typer(
    help="Predict any number of images on one or many machines, with Ray.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _is_true(name: str, text: str) -> bool:
    """Return what ``name=true`` says; Typer's own switches take no value.

    Raises:
        UsageError: It is neither true nor false.
    """
    value = parse_literal(text)
    if not isinstance(value, bool):
        raise UsageError(f"{name}={text} is neither true nor false")
    return value


@app.callback()
def bulk() -> None:
    """Predict any number of images on one or many machines, with Ray."""


@app.command()
def predict(
    ctx: typer.Context,
    *,
    model: Annotated[str, typer.Option(help="model file or folder of any installed format")],
    source: Annotated[str, typer.Option(help="folder, glob, .txt list, .parquet, .tar, or s3://...")],
    output: Annotated[str, typer.Option(help="folder or s3://... to write; must not hold anything, but for resume")],
    address: Annotated[str | None, typer.Option(help="of a Ray cluster; default: this machine alone")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="at once; default: cores, or what a cluster has")] = None,
    shard: Annotated[int, typer.Option(min=1, max=100_000, help="images for each task and file")] = 256,
    resume: Annotated[str, typer.Option(help="go on with a run that was ended")] = "false",
    format: Annotated[str, typer.Option(help="parquet; or coco: a predictions.json too")] = "parquet",  # noqa: A002
    batch: Annotated[
        int | None, typer.Option(min=1, help="per run; default: what the file was made for, else 1")
    ] = None,
    conf: Annotated[float | None, typer.Option(help="smallest score that counts; default: 0.25")] = None,
    iou: Annotated[float | None, typer.Option(help="of boxes that are one object; default: 0.7")] = None,
    max_det: Annotated[int | None, typer.Option(help="most objects per image; default: 300")] = None,
    classes: Annotated[str | None, typer.Option(help="keep only these classes, by number or name")] = None,
    agnostic_nms: Annotated[str, typer.Option(help="suppress boxes across classes")] = "false",
    imgsz: Annotated[str | None, typer.Option(help="input size; default: what the model was made for")] = None,
    rect: Annotated[
        str | None, typer.Option(help="pad only to the stride where the model can; default: true, but false on a GPU")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, or cuda: a GPU for each worker")] = None,
    half: Annotated[str, typer.Option(help="half precision, where the device can")] = "false",
    backend: Annotated[str | None, typer.Option(help="runtime to use, by name")] = None,
    threads: Annotated[int, typer.Option(min=1, help="of each worker's network")] = 1,
) -> None:
    """Predict images into Parquet files, a row an image; killed workers and lost machines cost time only."""
    from segx_bulk_ray.bulk import write  # noqa: PLC0415 - Ray; the help needs none of it

    settings: dict[str, Any] = {
        "batch": batch,
        "conf": conf,
        "iou": iou,
        "max_det": max_det,
        "classes": None if classes is None else parse_literal(classes),
        "agnostic_nms": parse_literal(agnostic_nms),
        "imgsz": None if imgsz is None else parse_literal(imgsz),
        "rect": None if rect is None else parse_literal(rect),
        "device": device,
        "half": parse_literal(half),
        "backend": backend,
        "threads": threads,
    }
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where Ray tells of lost workers; results stand alone
            done = write(
                model,
                source,
                output,
                workers=workers,
                address=address,
                shard=shard,
                resume=_is_true("resume", resume),
                format=format,
                quiet=ctx.obj.quiet,
                **settings,
            )
    except KeyboardInterrupt as error:
        typer.echo("what is done is kept: the same with resume=true goes on", err=True)
        if type(error) is KeyboardInterrupt:
            raise
        typer.echo("segx: stopped by SIGTERM", err=True)  # which Typer takes for Ctrl-C
        raise typer.Exit(143) from None
    words = f"{done.output}\n{done.images} images, {done.objects} objects, {done.unreadable} unreadable"
    if done.skipped:
        words += f"; {done.skipped} shards were there already"
    ctx.obj.result(words, vars(done))
    if done.unreadable and not done.images and not done.skipped:
        raise typer.Exit(3)  # as segx predict ends where nothing could be read
