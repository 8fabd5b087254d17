"""``segx export``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, cast

from segx.options.verbs import ExportOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from segx.options.schema import OptionInfo
    from segx_cli.commands import Call
    from segx_cli.output import Output


class EveryFormat:
    """The options of all formats together."""

    @staticmethod
    def describe() -> tuple[OptionInfo, ...]:
        """Return what every format takes, then what only some take, under a heading that says which."""
        from segx.plugin.registry import get_registry

        shared = ExportOptions.describe()
        own: dict[str, tuple[OptionInfo, list[str]]] = {}
        for spec in get_registry().exporters.values():
            for info in own_options(spec.options):
                own.setdefault(info.name, (info, []))[1].append(spec.name)
        return (
            *(dataclasses.replace(info, group="any format") for info in shared),
            *(dataclasses.replace(info, group=f"only format {' or '.join(formats)}") for info, formats in own.values()),
        )


def own_options(options: type[ExportOptions]) -> tuple[OptionInfo, ...]:
    """Return the options a format has besides those every format has."""
    shared = ExportOptions.names()
    return tuple(info for info in options.describe() if info.name not in shared)


def options_of(arguments: Mapping[str, Any]) -> type[ExportOptions]:
    """Return the options of the format and of those on the way to it."""
    from segx.plugin.registry import get_registry

    return get_registry().export_options(str(arguments["format"]))


def run(call: Call, output: Output) -> int:
    """Export, and say where the result is and how close it came to its source."""
    from segx import YOLO

    given, kind = str(call.arguments["model"]), str(call.arguments["format"])
    made = YOLO(given, task=call.task).export(kind, options=cast("ExportOptions", call.options))
    parity = None if made.parity is None else dataclasses.asdict(made.parity)
    document = {"model": given, "format": kind, "file": made.path, "bytes": made.size, "parity": parity}
    output.result(str(made), document)
    return 0
