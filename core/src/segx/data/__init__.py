"""Data sets: what a definition names, all splits opened together; check, convert, split and show."""

from __future__ import annotations

from segx.data.splits import open_dataset, open_splits

__all__ = ["open_dataset", "open_splits"]
