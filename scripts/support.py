"""Measures what each format does, and writes it down for the documentation: docs/reference/support.json and pictures.

    .venv/bin/python scripts/support.py yolov8n-seg.pt [yolov8x-seg.yaml ...] data=DATA.yaml [formats=onnx,openvino]
    .venv/bin/python scripts/support.py yolov8n-seg.pt [yolov8x-seg.pt ...] data=DATA.yaml speed=FOLDER

Each model goes through ``segx benchmark`` in every precision; with ``formats=`` only these rows are measured anew, the
others stay as they were. What is made is left in the folder that ``keep=`` names; ``speed=`` measures of the rows whose
files are in a folder how quick they are, and nothing else: on a machine that does nothing else. Other options are those
of ``segx benchmark``. ``make docs`` then makes docs/reference/formats.md of it. A row that could not be run stays, with
the reason.

A size whose weights are not to be had is given as its configuration, ``yolov8x-seg.yaml``, with ``keep=``: its weights
are drawn with a seed. Such a model finds nothing, so that raw outputs are what is compared, and there is no AP: name a
small data set.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segx import YOLO
from segx.flows.export import default_destination
from segx.io.files import write_text
from segx.plugin.calibration import Calibration
from segx.plugin.registry import get_registry
from segx.runtime import take_process

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
FIGURES = REFERENCE / "support.json"
RANDOM = "random"
SPEEDS = ("latency", "network", "throughput", "cold")
_KEPT = ("format", "precision", "state", "reason", "backend", "bytes", "export_seconds", *SPEEDS)

_SILENT = 12.0
"""Taken off what is the sigmoid's input: the highest of random weights was seen at 5."""


def condensed(row: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return of a row what the documentation shows; where on this machine the model lies is none of it."""
    figures = {name.removeprefix("metrics/"): value for name, value in row["metrics"].items() if "mAP50-95" in name}
    parity = row["parity"] and {key: value for key, value in row["parity"].items() if key != "images"}
    kept = {name: row[name] for name in _KEPT} | {"reason": row["reason"].replace(f"{folder.absolute()}/", "")}
    return {**kept, "ap": figures, "parity": parity}


def merged(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of both, those of now before those of before, in the order that they have in the longer list."""
    again = {row["format"] for row in now}  # all precisions of a format are measured together
    rows = [*(row for row in before if row["format"] not in again), *now]
    order = [row["format"] for row in max((before, now), key=len)]
    return sorted(map(dict, rows), key=lambda row: order.index(row["format"]) if row["format"] in order else len(order))


def _keep_size(layer: Any, given: tuple[Any, ...]) -> None:
    layer.running_var.fill_(given[0].square().mean())


def drawn_model(configuration: Path, folder: Path) -> Path:
    """Write a checkpoint of random weights, the same each time, through which an image reaches the outputs.

    As training begins, each layer would hand on half of what it gets, and nothing would be left to compare.
    Normalised channel by channel, rounding would grow with each layer. So each layer keeps the size of the whole.
    No class scores enough to be an object: 8 bits find others than floats do, of what nothing was trained to be found.
    """
    import torch

    torch.manual_seed(0)
    model = YOLO(configuration)
    module = model.model
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.register_forward_pre_hook(_keep_size)
    (images,) = Calibration([], count=1, task=model.task, shape=model.metadata.imgsz, batch=1)
    with torch.no_grad():
        module(torch.from_numpy(images))
        for branch in module.model[-1].cv3:
            branch[-1].bias -= _SILENT
    weights = folder / "weights.pt"
    torch.save(module.state_dict(), weights)
    path = model.load(weights).save(folder / f"{configuration.stem}.pt")
    weights.unlink()
    return path


def measure(model: Path, options: Mapping[str, str], keep: Path | None) -> dict[str, Any]:
    """Return settings and rows of a model in every format that is asked for; what is made is kept in a folder."""
    with tempfile.TemporaryDirectory(dir=keep or model.absolute().parent) as scratch:
        result = YOLO(model).benchmark(half=True, int8=True, project=scratch, **options)
        picture = result.folder / "benchmark.png"
        if "formats" not in options:
            shutil.copyfile(picture, REFERENCE / f"benchmark-{model.stem}.png")
        for made in (result.folder / "models").glob("*") if keep else ():  # none where all was blocked
            there = keep / made.name
            shutil.rmtree(there) if there.is_dir() else there.unlink(missing_ok=True)
            shutil.move(made, there)
    print(result.to_table(), flush=True)
    found = result.to_dict()
    settings = {**found["settings"], "model": model.stem, "data": Path(str(found["settings"]["data"])).name}
    asked = options["formats"].split(",") if "formats" in options else ()
    return {
        "settings": settings,
        "rows": [condensed(row, model.parent) for row in found["rows"] if not asked or row["format"] in asked],
    }


def timed(model: Path, rows: Sequence[dict[str, Any]], options: Mapping[str, str], folder: Path) -> Iterator[str]:
    """Measure again how quick what is in a folder is, write it into the rows, and yield which it was."""
    registry = get_registry()
    for row in (row for row in rows if row["state"] == "ok"):
        spec = registry.exporters.find(row["format"])
        if spec is None and row["format"] != model.suffix.removeprefix("."):
            continue  # of another environment
        path = (
            model
            if spec is None
            else folder / default_destination(Path(model.name), spec, precision=row["precision"]).name
        )
        if not path.exists():
            continue
        with tempfile.TemporaryDirectory() as scratch:
            (found,) = YOLO(path).benchmark(formats=(), val=False, project=scratch, verbose=False, **options).rows
        row |= {name: getattr(found, name) for name in SPEEDS}
        yield f"{row['format']} {row['precision']}: {found.latency:.0f} ms, {found.throughput:.1f} images/s"


def written() -> dict[str, Any]:
    """Return what has been measured so far."""
    return dict(json.loads(FIGURES.read_text(encoding="utf-8"))) if FIGURES.exists() else {}


def main(arguments: Sequence[str]) -> None:
    """Measure."""
    take_process()
    options = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    keep, speed = (Path(options.pop(name)) if name in options else None for name in ("keep", "speed"))
    for model in (Path(argument) for argument in arguments if "=" not in argument):
        if speed is not None:
            figures = written()
            for line in timed(model, figures[model.stem]["rows"], options, speed):
                print(line, flush=True)
                write_text(FIGURES, json.dumps(figures, indent=1) + "\n")
            continue
        weights = {}
        path = model
        if model.suffix == ".yaml":
            if keep is None:
                sys.exit(f"{model}: weights are drawn, and left in a folder: keep=FOLDER")
            weights = {"weights": RANDOM}
            path = keep / f"{model.stem}.pt"
            path = path if path.exists() else drawn_model(model, keep)
        found = measure(path, options, keep)
        figures = written()  # now, for another environment may have added its own meanwhile
        before = figures.get(model.stem, {"rows": []})
        settings = before["settings"] if before["rows"] and "formats" in options else {**found["settings"], **weights}
        figures[model.stem] = {"settings": settings, "rows": merged(before["rows"], found["rows"])}
        write_text(FIGURES, json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
