"""What a task finds in an image."""

from __future__ import annotations


class Results:
    """What was found in one picture."""
