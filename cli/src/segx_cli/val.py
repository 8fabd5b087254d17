"""``segx val``."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from segx.errors import DataError

if TYPE_CHECKING:
    from segx.options.verbs import ValOptions
    from segx_cli.commands import Call
    from segx_cli.output import Output


def run(call: Call, output: Output) -> int:
    """Validate, print the table, and say where the rest is."""
    from segx import YOLO

    model = YOLO(str(call.arguments["model"]), task=call.task)
    options = cast("ValOptions", call.options)
    metrics = model.val(show=False, options=options)
    output.result(metrics.to_table(verbose=options.verbose), metrics.to_dict())
    return DataError.exit_code if metrics.problems else 0
