"""Declares Core ML as a format that models are exported to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx import hookimpl
from segx.plugin.specs import ExporterSpec, default_tolerances, lazy

if TYPE_CHECKING:
    from collections.abc import Iterable

SEGX_API = (1, 0)


@hookimpl
def segx_exporters() -> Iterable[ExporterSpec]:
    """Declare the format."""
    return []
