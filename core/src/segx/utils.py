"""Where programs written for other tools look for their helpers: has ``ops``, and says what there is for the others."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, NoReturn

from segx.engine import ops

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ops"]


def _refuse() -> NoReturn:
    msg = (
        "segx has no utils but ops, for the others are private elsewhere too: result.plot() draws, segx.ops computes "
        "on boxes and polygons (iou, nms, letterbox), supervision has annotators and trackers; see "
        "docs/how-to/come-from-ultralytics.md"
    )
    raise ImportError(msg)


class _Nowhere(list[str]):
    """The folders of the modules below this one: Python goes through them for ``segx.utils.plotting``."""

    def __iter__(self) -> Iterator[str]:
        _refuse()


__path__ = _Nowhere()
sys.modules[f"{__name__}.ops"] = ops  # for ``from segx.utils.ops import scale_masks``


def __getattr__(name: str) -> Any:
    """Refuse whatever else is asked for."""
    if name.startswith("__"):
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    _refuse()
