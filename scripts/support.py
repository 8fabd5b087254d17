"""Measures what each format does, and writes it down for the documentation: docs/reference/support.json and pictures.

    .venv/bin/python scripts/support.py yolov8n-seg.pt [yolov8x-seg.pt ...] data=DATA.yaml [formats=onnx,openvino]

Each model goes through ``segx benchmark`` in every precision; with ``formats=`` only these rows are measured anew, the
others stay as they were. ``make docs`` then makes docs/reference/formats.md of it. A row that could not be run stays,
with the reason.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segx import YOLO
from segx.io.files import write_text
from segx.runtime import take_process

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs" / "reference"
FIGURES = REFERENCE / "support.json"
_KEPT = (
    *("format", "precision", "state", "reason", "backend", "bytes", "export_seconds"),
    *("latency", "network", "throughput", "cold"),
)


def condensed(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return of a row what the documentation shows."""
    figures = {name.removeprefix("metrics/"): value for name, value in row["metrics"].items() if "mAP50-95" in name}
    parity = row["parity"] and {key: value for key, value in row["parity"].items() if key not in {"raw", "images"}}
    return {**{name: row[name] for name in _KEPT}, "ap": figures, "parity": parity}


def merged(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of both, those of now before those of before, in the order that they have in the longer list."""
    rows = {(row["format"], row["precision"]): dict(row) for row in before}
    for format_ in {row["format"] for row in now}:  # all precisions of a format are measured together
        rows = {key: row for key, row in rows.items() if key[0] != format_}
    rows |= {(row["format"], row["precision"]): dict(row) for row in now}
    order = [row["format"] for row in max((before, now), key=len)]
    return sorted(rows.values(), key=lambda row: order.index(row["format"]) if row["format"] in order else len(order))


def main(arguments: Sequence[str]) -> None:
    """Measure."""
    take_process()
    options = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    figures = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    for model in (argument for argument in arguments if "=" not in argument):
        name = Path(model).stem
        with tempfile.TemporaryDirectory(dir=Path(model).absolute().parent) as scratch:
            result = YOLO(model).benchmark(half=True, int8=True, project=scratch, **options)
            picture = result.folder / "benchmark.png"
            if "formats" not in options:
                shutil.copyfile(picture, REFERENCE / f"benchmark-{name}.png")
        found = result.to_dict()
        settings = {**found["settings"], "model": name, "data": Path(str(found["settings"]["data"])).name}
        before = figures.get(name, {"rows": []})["rows"]
        figures[name] = {"settings": settings, "rows": merged(before, [condensed(row) for row in found["rows"]])}
        write_text(FIGURES, json.dumps(figures, indent=1) + "\n")
        print(result.to_table())


if __name__ == "__main__":
    main(sys.argv[1:])
