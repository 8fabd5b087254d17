"""``segx data synth``: draws a data set, as large as asked for, on all cores."""

from __future__ import annotations

import os
from pathlib import Path  # noqa: TC003 - Typer reads annotations at run time
from typing import Annotated

import typer  # noqa: TID253 - this module is imported only to run the command

from segx.console import progress
from segx_data_synth.dataset import write_dataset

_WORTH_A_PROCESS = 100
"""Images; a further process takes about a second to start."""


def synth(
    ctx: typer.Context,
    *,
    folder: Annotated[Path, typer.Option(help="where to write; must not exist yet, or be empty")],
    images: Annotated[int, typer.Option(min=1, help="images to train on")] = 200,
    val_images: Annotated[int, typer.Option(min=1, help="images to validate on")] = 40,
    imgsz: Annotated[int, typer.Option(min=32, max=8192, help="longer side of the images in pixels")] = 320,
    seed: Annotated[int, typer.Option(min=0, help="the same seed draws the same images")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="processes that draw; default: as is worth it")] = None,
) -> None:
    """Draw balls, boxes, stars, rings, gears and moons that hide one another, with exact masks, as COCO JSON."""
    total = images + val_images
    processes = workers or min(os.cpu_count() or 1, total // _WORTH_A_PROCESS + 1)
    with progress(total, "drawing", shown=not ctx.obj.quiet) as bar:
        data = write_dataset(
            folder,
            images=images,
            val_images=val_images,
            imgsz=imgsz,
            seed=seed,
            workers=processes,
            progress=lambda *_: bar(1),
        )
    ctx.obj.result(str(data), {"data": data, "images": images, "val_images": val_images, "imgsz": imgsz, "seed": seed})
