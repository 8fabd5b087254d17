"""Drawing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segx.interfaces import Image
    from segx.results import Results


def draw(results: Results, **style: Any) -> Image:
    """Draw."""
    raise NotImplementedError
