"""YOLO polygon text files as ground truth, checked row by row."""

from __future__ import annotations
