"""Does the whole round of TensorRT engines on a machine that has a GPU, and prints a table of it.

    .venv/bin/python scripts/check_gpu.py yolov8n-seg.pt [data=DATA.yaml] [source=photo.jpg] [rows=fp32,half]

Each row is exported, proven, opened, run on an image, on several at once where the engine takes them, measured on the
data set where there is one (one square size, so that rows compare), compared with the model by ``verify``, and timed:
milliseconds of one run of the network, images already in memory, the median of many. A row that fails stays, with the
reason, and the exit code is 1 then. ``format=onnx`` does the same on a machine without a GPU.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segx import YOLO
from segx.artifact import Artifact
from segx.errors import SegxError
from segx.options.verbs import SessionOptions
from segx.plugin.registry import get_registry
from segx.runtime import take_process

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROWS: Mapping[str, Mapping[str, Any]] = {
    "fp32": {},
    "half": {"half": True},
    "int8": {"int8": True},
    "dynamic": {"dynamic": True},
    "dynamic half": {"dynamic": True, "half": True},
    "nms": {"nms": True},
    "nms half": {"nms": True, "half": True},
}
_RUNS, _WARM = 200, 20
_COLUMNS = ("seconds", "MB", "objects", "ms", "ms x4", "box AP", "mask AP", "box px", "mask IoU", "verified")


@dataclass(kw_only=True)
class Row:
    """What was seen of one export.

    Attributes:
        name: What was asked for.
        cells: Column to what stands there.
        problems: What went wrong; empty: nothing.
    """

    name: str
    cells: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def check(model: Path, name: str, folder: Path, *, kind: str, data: str | None, source: str | None) -> Row:
    """Return what was seen of one row; what fails is noted and ends it.

    Args:
        model: The ``.pt``.
        name: The row, of :data:`ROWS`.
        folder: Where to write.
        kind: The format.
        data: A data set to measure on, and to calibrate on.
        source: An image; None: noise, in which nothing is found.
    """
    row = Row(name=name)
    options = dict(ROWS[name])
    if data and options.get("int8"):
        options["data"] = data
    try:
        started = time.perf_counter()
        made = YOLO(model).export(kind, output=folder / f"{name.replace(' ', '-')}.{kind}", **options)
        row.cells |= {"seconds": f"{time.perf_counter() - started:.0f}", "MB": f"{made.size / 1e6:.1f}"}
        if made.parity is None:
            row.problems.append(f"not verified: {made.reason}")
        else:
            row.cells |= {"box px": f"{made.parity.box:.3f}", "mask IoU": f"{made.parity.mask_iou:.3f}"}
        _use(row, model, made.path, data=data, source=source)
        _time(row, Artifact(path=made.path, format=kind))
    except SegxError as error:
        row.problems.append(str(error).splitlines()[0])
    return row


def _use(row: Row, model: Path, made: Path, *, data: str | None, source: str | None) -> None:
    found = YOLO(made)
    image: Any = source or np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    row.cells["objects"] = str(len(found.predict(image)[0]))
    proof = found.verify(model, **({"data": data} if data else {}))
    row.cells["verified"] = "yes" if proof.holds else "no"
    row.problems += proof.problems
    if data:
        metrics = found.val(data=data, rect=False, show=False)
        row.cells |= {"box AP": f"{metrics.box.map:.4f}", "mask AP": f"{metrics.seg.map:.4f}"}


def _time(row: Row, artifact: Artifact) -> None:
    """Note the median of a run of one image, and of four where the file takes them."""
    registry = get_registry()
    backend = registry.backends.load(registry.backend_for(artifact.format))
    session = backend.open(artifact, SessionOptions())
    try:
        info = session.info
        counts = (1, 4) if "batch" in info.dynamic else (info.batch,)
        for column, count in zip(("ms", "ms x4"), counts, strict=False):
            images = np.random.default_rng(0).random((count, 3, *info.imgsz), dtype=np.float32)
            spent = []
            for _ in range(_WARM + _RUNS):
                began = time.perf_counter()
                session.run(images)
                spent.append(time.perf_counter() - began)
            row.cells[column] = f"{statistics.median(spent[_WARM:]) * 1e3:.2f}"
    finally:
        session.close()


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table, and below it what went wrong."""
    lines = [["", *_COLUMNS], *([row.name, *(row.cells.get(column, "") for column in _COLUMNS)] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*text, "", *(f"{row.name}: {problem}" for row in rows for problem in row.problems)])


def main(words: Sequence[str]) -> int:
    """Check a model; return the exit code."""
    take_process()
    given = dict(word.split("=", 1) for word in words if "=" in word)
    models = [Path(word) for word in words if "=" not in word]
    chosen = given.pop("rows", ",".join(ROWS)).split(",")
    kind, data, source = given.pop("format", "engine"), given.pop("data", None), given.pop("source", None)
    if given or not models or not ROWS.keys() >= set(chosen):
        print(__doc__)
        return 2
    failed = False
    for model in models:
        with tempfile.TemporaryDirectory() as folder:
            rows = [check(model, name, Path(folder), kind=kind, data=data, source=source) for name in chosen]
        print(f"{model.name}, {kind}\n{table(rows)}")
        failed |= any(row.problems for row in rows)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
