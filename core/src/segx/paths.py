"""The folders segx may write to besides a run's own, and the switches of the environment that govern downloads."""

from __future__ import annotations

import os
from pathlib import Path

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
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("segx", appauthor=False)


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
