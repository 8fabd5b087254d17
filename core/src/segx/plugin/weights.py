"""Weights by name: which are published or come with a plugin, and the file of one."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Protocol

from segx.errors import ModelError, version_or_typo
from segx.io.download import fetch
from segx.io.paths import MIRROR_VARIABLE, weights_address, weights_folder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from segx.artifact import WeightsFile
    from segx.io.download import RetryPolicy
    from segx.plugin.specs import ArchitectureSpec


class Catalogue(Protocol):
    """Who knows what is published: :class:`segx.plugin.registry.Registry`."""

    @property
    def architectures(self) -> Mapping[str, ArchitectureSpec]:
        """Name to architecture."""
        ...


def resolve_weights(name: str, registry: Catalogue, *, retry: RetryPolicy | None = None) -> Path:
    """Return the file of a known name, ``"yolov8n-seg.pt"``, downloaded into the cache on first use.

    Raises:
        ModelError: The name is not published, or the file cannot be had; the error says where to get it and where to
            put it.
    """
    known = published_weights(registry)
    if name not in known:
        msg = f"model {name!r} is not a file here, nor a known name{version_or_typo(name, known)}"
        raise ModelError(msg, hint=f"known names: {', '.join(sorted(known)) or 'none (no architecture is installed)'}")
    shipped = known[name].path
    if shipped is not None:
        return shipped
    advice = f"set {MIRROR_VARIABLE} to a mirror"
    return fetch(known[name], weights_folder() / name, retry=retry, advice=advice)


def published_weights(registry: Catalogue) -> dict[str, WeightsFile]:
    """Return every name that can be downloaded and where from, mirrors applied."""
    found: dict[str, WeightsFile] = {}
    for spec in registry.architectures.values():
        for name, file in spec.weights.items():
            address = weights_address(name, file.url) if file.path is None else ""
            found.setdefault(name, dataclasses.replace(file, url=address))
    return found
