"""The types of results in one place: ``from segx.engine.results import Results, Boxes, Masks``.

``Results`` is the type that the installed task returns, to be built, compared with and annotated by.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segx.structures.arrays import ResultArray
from segx.structures.boxes import Boxes
from segx.structures.masks import Masks

if TYPE_CHECKING:
    from segx.structures.results import Results

__all__ = ["Boxes", "Masks", "ResultArray", "Results"]


def __getattr__(name: str) -> Any:
    """Return ``Results``, of the one task that is installed; of none or several the type they have in common."""
    if name == "Results":
        from segx.plugin.registry import get_registry
        from segx.structures.results import Results

        tasks = get_registry().tasks
        return getattr(tasks.load(next(iter(tasks))), "results", Results) if len(tasks) == 1 else Results
    if name in {"Probs", "Keypoints", "OBB"}:
        raise ImportError(f"{name} is of another task: results here have boxes and masks")
    if name == "BaseTensor":
        raise ImportError("BaseTensor is not there: arrays of results are of one type, ResultArray")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
