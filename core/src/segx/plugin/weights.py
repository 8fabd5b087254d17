"""Weights by name: which are published or come with a plugin, and the file of one."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING

from segx.artifact import WeightsFile
from segx.errors import MissingModelError, version_or_typo
from segx.io.download import fetch
from segx.io.paths import MIRROR_VARIABLE, weights_address, weights_folder

if TYPE_CHECKING:
    from pathlib import Path

    from segx.io.download import RetryPolicy
    from segx.plugin.registry import Registry


def resolve_weights(name: str, registry: Registry, *, retry: RetryPolicy | None = None) -> Path:
    """Return the file of a known name, ``"yolov8n-seg.pt"``, downloaded into the cache on first use.

    Raises:
        ModelError: The name is not published, or the file cannot be had; the error says where to get it and where to
            put it.
        PluginError: Several architectures claim the name.
    """
    file = registry.weights_file(name)
    if file is None:
        known = {known for spec in registry.architectures.values() for known in spec.weights}
        msg = f"model {name!r} is not a file here, nor a known name{version_or_typo(name, known)}"
        raise MissingModelError(
            msg, hint=f"known names: {', '.join(sorted(known)) or 'none (no architecture is installed)'}"
        )
    if file.path is not None:
        return file.path
    file = dataclasses.replace(file, url=weights_address(name, file.url))
    return fetch(file, weights_folder() / name, retry=retry, advice=f"set {MIRROR_VARIABLE} to a mirror")


def download_weights(address: str, name: str, *, retry: RetryPolicy | None = None) -> Path:
    """Return the checkpoint at an address, downloaded into the cache on first use.

    Each address has a folder of its own there: a published name says nothing of what lies at another place.

    Args:
        address: ``"https://.../mine.pt"``.
        name: What the file is to be called.
        retry: Timeouts, retries and pauses of the download.

    Raises:
        ModelError: The file cannot be had.
    """
    folder = hashlib.sha256(address.encode()).hexdigest()[:16]
    return fetch(WeightsFile(url=address), weights_folder() / folder / name, retry=retry)
