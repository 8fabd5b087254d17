"""Loads one plugin's work and says what devices it sees; run by ``segx doctor`` in a process that may crash."""

from __future__ import annotations

import importlib
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def load(kind: str, name: str, provider: str) -> dict[str, Any]:
    """Load what a distribution declares of a kind and name, and return how long that took and the devices it lists."""
    from segx.plugin.registry import get_registry

    registry = get_registry()
    spec = next(s for s in registry.declared[kind] if (s.name, s.provider) == (name, provider))
    started = time.perf_counter()
    loaded = registry.load(spec)
    import_requirements(spec.requires)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "devices": devices(loaded)}


def import_requirements(requires: Sequence[str]) -> None:
    """Import what a declaration requires, since loading it may leave that for later."""
    from segx.plugin.requirements import modules

    for name in (name for entry in requires for name in modules(entry)):
        importlib.import_module(name)


def devices(loaded: Any) -> list[str]:
    """Return the devices of what is loaded now: a backend that can tell is asked, torch is asked if it is imported."""
    if callable(listed := getattr(loaded, "devices", None)):
        return list(listed())
    torch = sys.modules.get("torch")
    if torch is None:
        return []
    count = torch.cuda.device_count()
    names = [f"cuda:{index} ({torch.cuda.get_device_name(index)})" for index in range(count)]
    return ["cpu", *names, *(["mps"] if torch.backends.mps.is_available() else [])]
