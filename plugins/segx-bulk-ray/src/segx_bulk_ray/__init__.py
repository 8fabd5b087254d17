"""Bulk prediction on Ray.

:func:`predict` returns a ``ray.data.Dataset`` of one row for each image, :func:`write` runs it into a folder or an
object store and can be resumed, :func:`read` gives what was written back as ``Results``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segx_bulk_ray.bulk import Report, predict, write
    from segx_bulk_ray.output import read, read_unreadable

__all__ = ["Report", "predict", "read", "read_unreadable", "write"]

_HOMES = {"Report": "bulk", "predict": "bulk", "write": "bulk", "read": "output", "read_unreadable": "output"}


def __getattr__(name: str) -> Any:
    """Import what is asked for: who only lists the commands of ``segx`` needs none of it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
