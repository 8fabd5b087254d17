"""The folders segx may write to besides a run's own, and the switches of the environment."""

from __future__ import annotations

import os
from pathlib import Path

from segx.errors import UsageError

CACHE_VARIABLE = "SEGX_CACHE"
OFFLINE_VARIABLE = "SEGX_OFFLINE"
MIRROR_VARIABLE = "SEGX_WEIGHTS_URL"
PIXELS_VARIABLE = "SEGX_MAX_PIXELS"
_MAX_PIXELS = 400_000_000

CACHE_PARTS = ("backends", "datasets", "downloads", "indexes", "images", "runtimes", "weights")
"""The folders inside the cache; ``segx cache clear`` touches nothing else."""

_YES = {"1", "true", "yes", "on"}


def cache_folder() -> Path:
    r"""Return the folder of downloads and indexes, which may not exist yet.

    ``SEGX_CACHE`` if set, else the platform's cache folder: ``$XDG_CACHE_HOME/segx`` or ``~/.cache/segx`` on Linux,
    ``~/Library/Caches/segx`` on macOS, ``%LOCALAPPDATA%\segx\Cache`` on Windows.

    Raises:
        UsageError: This user has no home folder, as in some containers, and neither variable names another.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return expanded(chosen)
    from platformdirs import user_cache_path

    try:
        folder = user_cache_path("segx", appauthor=False)
        if folder.is_absolute():  # older versions of platformdirs leave "~" where nobody knows a home for it
            return folder
    except RuntimeError:
        pass
    hint = f"set {CACHE_VARIABLE} to a folder that can be written"
    raise UsageError("this user has no home folder to keep downloads and indexes in", hint=hint)


def matplotlib_folder() -> Path:
    """Return where matplotlib keeps what it writes when segx imports it, a list of fonts: the user's choice first."""
    return Path(os.environ.get("MPLCONFIGDIR") or cache_folder() / "matplotlib")


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with ``~`` and ``~user`` replaced; of a user nobody knows, as it is, which is what shells do."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib raises for a file that is called "~a.png"


def weights_folder() -> Path:
    """Return the folder inside the cache that holds downloaded weights."""
    return cache_folder() / "weights"


def offline() -> bool:
    """Return True if ``SEGX_OFFLINE`` forbids the network."""
    return os.environ.get(OFFLINE_VARIABLE, "").strip().lower() in _YES


def most_pixels() -> int:
    """Return how many pixels an image may have: ``SEGX_MAX_PIXELS``, by default those of 20,000 x 20,000.

    Raises:
        UsageError: The variable is no whole number above 0.
    """
    text = os.environ.get(PIXELS_VARIABLE, "").strip()
    if not text:
        return _MAX_PIXELS
    if not (text.isascii() and text.isdecimal() and 0 < len(text) < 19 and int(text)):
        raise UsageError(
            f"{PIXELS_VARIABLE}={text[:40]} is no whole number of pixels", hint="leave it out, or 400000000"
        )
    return int(text)


def weights_address(name: str, published: str) -> str:
    """Return where to get a file of weights: its release address, or the same name below ``SEGX_WEIGHTS_URL``."""
    mirror = os.environ.get(MIRROR_VARIABLE, "").strip()
    return f"{mirror.rstrip('/')}/{name}" if mirror else published
