"""``segx predict``."""

from __future__ import annotations

import gc
import glob
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from segx.errors import DataError
from segx.words import visible

if TYPE_CHECKING:
    from segx.options.verbs import PredictOptions
    from segx.structures.results import Results
    from segx_cli.commands import Call
    from segx_cli.output import Output


_ITEM = re.compile(r"""\s*(?:'([^']*)'|"([^"]*)"|([^,]+))\s*(?:,|$)""")
"""Of a list, with quotation marks where a name holds a comma."""


def run(call: Call, output: Output) -> int:
    """Predict, and say where the results are; without a folder, what was found in each image."""
    from segx import YOLO

    model = YOLO(str(call.arguments["model"]), task=call.task)
    options = cast("PredictOptions", call.options)
    if output.quiet or not options.save:
        options = options.replace(verbose=False)
    images: list[dict[str, Any]] = []
    folder: Path | None = None
    for result in model.predict(_source(call.arguments["source"]), stream=True, options=options):
        gc.enable()
        folder = result.save_dir
        if output.json:
            images.append(_describe(result))
        elif folder is None:
            output.result(visible(f"{_place(result)}: {result.verbose().rstrip(', ')}", lines=False), None)
    failed = [{"path": item.path, "reason": item.reason} for item in model.failures]
    document = {"model": str(call.arguments["model"]), "folder": folder, "images": images, "failed": failed}
    if output.json or folder is not None:
        output.result(str(folder), document)
    return DataError.exit_code if failed else 0


def _source(typed: Any) -> Any:
    """Return what was typed, a list written with brackets as a list."""
    if isinstance(typed, str) and typed.startswith("[") and typed.endswith("]") and not Path(typed).exists():
        items = [next(filter(None, parts), "").strip() for parts in _ITEM.findall(typed[1:-1])]
        return items if not glob.glob(typed) else typed  # noqa: PTH207 - a pattern is no path
    return typed


def _place(result: Results) -> str:
    return result.path if result.frame is None else f"{result.path} frame {result.frame}"


def _describe(result: Results) -> dict[str, Any]:
    return {
        "path": result.path,
        "frame": result.frame,
        "shape": list(result.orig_shape),
        "speed": dict(result.speed),
        "objects": result.summary(),
    }
