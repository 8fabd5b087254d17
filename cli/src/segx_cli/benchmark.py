"""``segx benchmark``."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from segx.options.verbs import BenchmarkOptions
    from segx_cli.commands import Call
    from segx_cli.output import Output


def run(call: Call, output: Output) -> int:
    """Measure every format, print the table, and say where the chart, the CSV and the models are."""
    from segx import YOLO

    model = YOLO(str(call.arguments["model"]), task=call.task)
    result = model.benchmark(options=cast("BenchmarkOptions", call.options))
    output.result(f"{result.to_table()}\n{result.folder}", {"folder": result.folder, **result.to_dict()})
    return 0
