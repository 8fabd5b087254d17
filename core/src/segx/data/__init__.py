"""A data set as its definition names it: opened, checked, converted, split, shown."""

from __future__ import annotations
