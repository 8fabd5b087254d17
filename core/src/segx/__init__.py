"""Instance segmentation as plugins: one call on every format."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segx.model import YOLO
    from segx.plugin.hookspecs import hookimpl

__version__ = "0.1.0"
__all__ = ["YOLO", "__version__", "hookimpl"]

_ELSEWHERE = {
    **dict.fromkeys(("SAM", "FastSAM", "RTDETR", "NAS", "YOLOWorld"), "other families of models are not there"),
    "settings": "nothing is kept outside of the run and cache folders; project= says where runs are written",
    "checks": "segx doctor looks at the installation",
    "download": "models and data sets of known names are downloaded when they are first used",
    "ASSETS": "it ships no images; segx.testing.scenes draws some",
}
"""What programs import from the tool they were written for, and what there is instead."""


def __getattr__(name: str) -> object:
    """Import what is asked for when it is first asked for, so that ``import segx`` costs next to nothing."""
    if name == "YOLO":
        from segx.model import YOLO

        return YOLO
    if name == "hookimpl":
        from segx.plugin.hookspecs import hookimpl

        return hookimpl
    if name == "utils":  # libraries reach segx.utils.ops in this way
        import segx.utils

        return segx.utils
    if name in _ELSEWHERE:  # no AttributeError: ``from segx import SAM`` would not show what it says
        msg = f"segx has no {name}: {_ELSEWHERE[name]}"
        raise ImportError(msg)
    msg = f"module 'segx' has no attribute {name!r}"
    raise AttributeError(msg)
