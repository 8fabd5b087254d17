"""Send the library's log to standard error."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from segx.console import log_handler

if TYPE_CHECKING:
    from segx_cli.output import Output

_NAME = "segx-cli"


def listen(output: Output) -> None:
    """Send what segx and its plugins log to standard error, as much of it as is wanted, and warnings of all others."""
    handler = log_handler()
    handler.set_name(_NAME)
    root = logging.getLogger()
    for old in [item for item in root.handlers if item.get_name() == _NAME]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.DEBUG if output.debug else logging.WARNING if output.quiet else logging.INFO)
