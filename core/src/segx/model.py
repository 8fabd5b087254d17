"""``YOLO``: one object with four verbs."""

from __future__ import annotations


class YOLO:
    """A model and what can be done with it."""
