"""Instance segmentation as plugins: one call on every format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx import elsewhere

if TYPE_CHECKING:
    from segx.model import YOLO
    from segx.plugin.hookspecs import hookimpl

__version__ = "0.1.0"
__all__ = ["YOLO", "__version__", "hookimpl"]

elsewhere.listen()


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
    if error := elsewhere.refused(name, elsewhere.NAMES):
        raise error  # no AttributeError: ``from segx import SAM`` would not show what it says
    raise AttributeError(f"module 'segx' has no attribute {name!r}")
