"""What a plugin sees of segx, and how segx finds plugins."""

from __future__ import annotations
