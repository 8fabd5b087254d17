"""Windows on the screen: whether there can be any is asked before, for OpenCV ends the whole process where not."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from typing import TYPE_CHECKING

from segx.errors import UsageError

if TYPE_CHECKING:
    from segx.structures.types import Image

_VARIABLES = ("DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "QT_QPA_PLATFORM", "QT_PLUGIN_PATH")
_TRIAL = "import cv2; cv2.namedWindow('segx', 0); cv2.destroyAllWindows()"
_TIMEOUT = 20.0
"""Seconds to wait for a display that does not answer."""


def require_display(what: str) -> None:
    """Refuse to show anything where no window can be opened.

    Args:
        what: What asks for one, as it begins the message: ``"show=true"``.

    Raises:
        UsageError: There is no display, it does not answer, or OpenCV was installed without windows.
    """
    if sys.platform != "linux":
        return
    if not any(os.environ.get(name) for name in _VARIABLES[:2]):
        raise UsageError(f"{what} needs a display, and there is none here", hint="use save instead")
    if not _can_open_windows(tuple(os.environ.get(name) for name in _VARIABLES)):
        name = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        raise UsageError(
            f"{what} needs a window, and this OpenCV cannot open one on display {name}", hint="use save instead"
        )


@lru_cache(maxsize=8)
def _can_open_windows(_environment: tuple[str | None, ...]) -> bool:
    """Try it in a process of its own, once for each display: nothing else tells of every way in which it can fail."""
    if not sys.executable or getattr(sys, "frozen", False):
        return True
    import subprocess

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        trial = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-c", _TRIAL], env=environment, capture_output=True, timeout=_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return trial.returncode == 0


def show_image(image: Image, title: str, *, milliseconds: int) -> int:
    """Show an image in the window of a title, and return the key that was pressed, -1 for none.

    Args:
        image: uint8 (H, W, 3), BGR.
        title: Of the window, any text.
        milliseconds: How long to wait for a key; 0: for ever.

    Raises:
        UsageError: OpenCV cannot open windows.
    """
    import cv2

    try:
        cv2.imshow(window_name(title), image)
        return cv2.waitKey(milliseconds)
    except cv2.error as error:
        raise UsageError("there is no display to show an image on", hint="use save instead") from error


def close_window(title: str) -> None:
    """Close the window of a title, if it is there."""
    import cv2

    try:
        cv2.destroyWindow(window_name(title))
    except cv2.error:  # whoever looked has closed it
        return


def window_name(title: str) -> str:
    """Return a title as OpenCV takes it: UTF-8, or the process ends."""
    return title.encode("utf-8", "replace").decode("utf-8")
