"""Where programs written for other tools look for their helpers: has ``ops``, and says what there is for the others."""

from __future__ import annotations

import sys

from segx.elsewhere import MODULES, asked_by_python, refused
from segx.engine import ops

__all__ = ["ops"]
__path__: list[str] = []  # for ``import segx.utils.plotting`` to be refused with what there is instead
sys.modules[f"{__name__}.ops"] = ops  # for ``from segx.utils.ops import scale_masks``


def __getattr__(name: str) -> object:
    """Refuse whatever else is asked for."""
    raise asked_by_python(__name__, name) or refused(f"utils.{name}", MODULES) or ImportError(name)
