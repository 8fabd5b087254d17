"""Where programs written for other tools look for models: has ``YOLO``, and says what there is for the others."""

from __future__ import annotations

from segx.elsewhere import MODULES, NAMES, refused
from segx.model import YOLO

__all__ = ["YOLO"]
__path__: list[str] = []  # for ``import segx.models.yolo`` to be refused with what there is instead


def __getattr__(name: str) -> object:
    """Refuse whatever else is asked for."""
    if name.startswith("__"):
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    raise refused(name, NAMES) or refused(f"models.{name}", MODULES) or ImportError(name)
