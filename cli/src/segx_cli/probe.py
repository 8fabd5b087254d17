"""Loads one plugin's work and says what devices it sees; run by ``segx doctor`` in a process that may crash."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def main() -> None:
    """Load what the arguments name (kind, name, distribution) and print one line of JSON."""
    kind, name, provider = sys.argv[1:]
    from segx.registry import get_registry

    spec = next(s for s in getattr(get_registry(), kind).values() if (s.name, s.provider) == (name, provider))
    said, sys.stdout = sys.stdout, open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - for this process's life
    started = time.perf_counter()
    loaded = spec.load()
    import_requirements(spec.requires)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "devices": devices(loaded)}), file=said)


def import_requirements(requires: Sequence[str]) -> None:
    """Import what a declaration requires, since loading it may leave that for later."""
    from packaging.requirements import Requirement

    from segx.requirements import ALTERNATIVE, unmet

    modules = importlib.metadata.packages_distributions()
    for entry in requires:
        text = next(text.strip() for text in entry.split(ALTERNATIVE) if not unmet([text.strip()]))
        distribution = canonical(Requirement(text).name)
        provided = [name for name, owners in modules.items() if distribution in map(canonical, owners)]
        wanted = [name for name in provided if canonical(name) == distribution] or provided[:1]
        for name in wanted:
            importlib.import_module(name)


def canonical(name: str) -> str:
    """Return a name as package indexes compare it."""
    return name.lower().replace("_", "-")


def devices(loaded: Any) -> list[str]:
    """Return the devices of what is loaded now: a backend that can tell is asked, torch is asked if it is imported."""
    if callable(tell := getattr(loaded, "devices", None)):
        return list(tell())
    torch = sys.modules.get("torch")
    if torch is None:
        return []
    count = torch.cuda.device_count()
    names = [f"cuda:{index} ({torch.cuda.get_device_name(index)})" for index in range(count)]
    return ["cpu", *names, *(["mps"] if torch.backends.mps.is_available() else [])]


if __name__ == "__main__":
    main()
