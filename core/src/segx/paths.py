"""The folders segx may write to besides a run's own, and the switches of the environment that govern downloads."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from segx.errors import UsageError

CACHE_VARIABLE = "SEGX_CACHE"
OFFLINE_VARIABLE = "SEGX_OFFLINE"
MIRROR_VARIABLE = "SEGX_WEIGHTS_URL"

CACHE_PARTS = ("datasets", "downloads", "indexes", "pictures", "proofs", "weights")
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
    if sys.platform == "darwin":
        return _home() / "Library" / "Caches" / "segx"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or _home() / "AppData" / "Local") / "segx" / "Cache"
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else _home() / ".cache") / "segx"  # noqa: PTH117 - XDG: ignore relative


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:
        hint = f"set {CACHE_VARIABLE} to a folder that can be written"
        raise UsageError("this user has no home folder to keep downloads and indexes in", hint=hint) from error


def expanded(path: str | os.PathLike[str]) -> Path:
    """Return a path with ``~`` and ``~user`` replaced; of a user nobody knows, as it is, which is what shells do."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib raises for a file that is called "~a.png"


def weights_folder() -> Path:
    """Return the folder inside the cache that holds downloaded weights."""
    return cache_folder() / "weights"


def offline() -> bool:
    """Say whether ``SEGX_OFFLINE`` forbids the network."""
    return os.environ.get(OFFLINE_VARIABLE, "").strip().lower() in _YES


def weights_address(name: str, published: str) -> str:
    """Return where to get a file of weights: its release address, or the same name below ``SEGX_WEIGHTS_URL``."""
    mirror = os.environ.get(MIRROR_VARIABLE, "").strip()
    return f"{mirror.rstrip('/')}/{name}" if mirror else published
