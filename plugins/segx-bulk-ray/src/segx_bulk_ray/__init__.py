"""Bulk prediction on Ray Data.

:func:`predict` returns a ``ray.data.Dataset`` of one row for each image, :func:`write` runs it into a folder or an
object store and can be resumed, :func:`read` gives what was written back as ``Results``.
"""

from __future__ import annotations

from segx_bulk_ray.bulk import Report, predict, write
from segx_bulk_ray.output import read, read_unreadable

__all__ = ["Report", "predict", "read", "read_unreadable", "write"]
