"""Which distribution provides what, for the hint in errors; written by scripts/generate_known_plugins.py."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class KnownFormat:
    """A model format of the official distributions.

    Attributes:
        suffixes: How its files or folders are named, the one that export writes first.
        exporter: The distribution that writes it, or an empty string.
        backends: The distributions that run it.
    """

    suffixes: tuple[str, ...]
    exporter: str
    backends: tuple[str, ...]


PROVIDERS: dict[tuple[str, str], str] = {}
FORMATS: dict[str, KnownFormat] = {}
PLANNED: frozenset[str] = frozenset()
