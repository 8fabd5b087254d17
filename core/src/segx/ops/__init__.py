"""What is computed on arrays, each thing in one place; knows NumPy and OpenCV only."""

from __future__ import annotations
