"""``segx val``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from segx.errors import DataError
from segx.options.verbs import ValOptions
from segx_cli.verbs import MODEL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from segx.options.schema import OptionInfo
    from segx_cli.output import Output
    from segx_cli.verbs import Call

ARGUMENTS = (MODEL,)
DEFAULTS: Mapping[str, Any] = {}
EXAMPLE = "segx val model=yolov8n-seg.pt data=coco8-seg.yaml"


def known_options() -> tuple[OptionInfo, ...]:
    """Return all options of val."""
    return ValOptions.describe()


def options_type(arguments: Mapping[str, Any]) -> type[ValOptions]:  # noqa: ARG001 - the same for all
    """Return the options of val."""
    return ValOptions


def run(call: Call, output: Output) -> int:
    """Validate, print the table, and say where the rest is."""
    from segx import YOLO

    model = YOLO(str(call.arguments["model"]), task=call.task)
    options = cast("ValOptions", call.options)
    metrics = model.val(show=False, options=options)
    output.result(metrics.to_table(verbose=options.verbose), metrics.to_dict())
    return DataError.exit_code if metrics.problems else 0
