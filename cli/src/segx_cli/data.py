"""``segx data``: check, convert, split, show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx.errors import DataError
from segx.plugin.registry import get_registry

if TYPE_CHECKING:
    from segx_cli.commands import Call
    from segx_cli.output import Output


def check(call: Call, output: Output) -> int:
    """Say what is wrong with a data set."""
    from segx.data.check import check as look

    options = call.options
    report = look(options, get_registry())
    output.result(report.to_table(most=options.most), report.to_dict())
    return DataError.exit_code if options.strict and report.findings else 0


def convert(call: Call, output: Output) -> int:
    """Write it in another format."""
    from segx.data.convert import convert as write

    done = write(call.options, get_registry())
    output.result(done.to_table(), done.to_dict())
    return 0


def split(call: Call, output: Output) -> int:
    """Divide one split into train, val and test."""
    from segx.data.split import split as divide

    done = divide(call.options, get_registry())
    output.result(done.to_table(), done.to_dict())
    return 0


def show(call: Call, output: Output) -> int:
    """Draw annotations on one sheet."""
    from segx.data.show import show as draw

    path = draw(call.options, get_registry())
    output.result(str(path), {"image": path})
    return 0
