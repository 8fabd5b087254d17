"""``segx predict``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segx.options import PredictOptions
from segx_cli.verbs import MODEL, argument

if TYPE_CHECKING:
    from collections.abc import Mapping

    from segx.options import OptionInfo
    from segx_cli.output import Output
    from segx_cli.verbs import Call

ARGUMENTS = (
    MODEL,
    argument("source", "picture, folder, pattern, list file, video, camera number, or address", type_name="path"),
)
DEFAULTS: Mapping[str, Any] = {"save": True}
EXAMPLE = "segx predict model=yolov8n-seg.pt source=photo.jpg"


def known_options() -> tuple[OptionInfo, ...]:
    """Return all options but ``stream``, which only has a meaning in Python."""
    return tuple(info for info in PredictOptions.describe() if info.name != "stream")


def options_type(arguments: Mapping[str, Any]) -> type[PredictOptions]:  # noqa: ARG001 - the same for all
    """Return the options of predict."""
    return PredictOptions


def run(call: Call, output: Output) -> int:
    """Predict, and say where the results are."""
    raise NotImplementedError
