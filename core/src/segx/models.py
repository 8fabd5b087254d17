"""Where programs written for other tools look for models: has ``YOLO``, and says what there is for the others."""

from __future__ import annotations

from segx.elsewhere import MODULES, NAMES, asked_by_python, refused
from segx.model import YOLO

__all__ = ["YOLO"]
__path__: list[str] = []  # for ``import segx.models.yolo`` to be refused with what there is instead


def __getattr__(name: str) -> object:
    """Refuse whatever else is asked for."""
    raise (
        asked_by_python(__name__, name)
        or refused(name, NAMES)
        or refused(f"models.{name}", MODULES)
        or ImportError(name)
    )
