"""Declares nothing yet."""

from __future__ import annotations

SEGX_API = (1, 0)
