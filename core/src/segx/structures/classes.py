"""Classes by name: which ones a user means, and which of two models or data sets are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def numbers_of(
    classes: Sequence[int | str] | None, names: Mapping[int, str], *, of: str, hint: str = ""
) -> tuple[int, ...] | None:
    """Return the numbers of the classes that a user named, by number or by name; None for all.

    Args:
        classes: What the user gave. A name that several classes have means all of them.
        names: Class number to class name; empty: nothing is known of them.
        of: Whose classes they are, for messages.
        hint: What to do about one that is not there.

    Raises:
        UsageError: One is not there.
    """
    if classes is None:
        return None
    by_name: dict[str, list[int]] = {}
    for number, name in names.items():
        for spelt in dict.fromkeys((name, plain_name(name))):
            by_name.setdefault(spelt, []).append(number)
    found: list[int] = []
    unknown: list[int | str] = []
    for item in classes:
        if isinstance(item, int):
            numbers = [item] if item in names or not names else []
        else:
            numbers = by_name.get(item) or by_name.get(plain_name(item), [])
        found += numbers
        unknown += [] if numbers else [item]
    if unknown:
        there = f"{min(names)}..{max(names)}" if names else "no names"
        close = did_you_mean(unknown[0], names.values()) if isinstance(unknown[0], str) else ""
        raise UsageError(f"classes={unknown}: {of} has {there}{close}", hint=hint)
    return tuple(sorted(set(found)))


def paired_by_name(theirs: Mapping[int, str], ours: Mapping[int, str]) -> dict[int, int]:
    """Return the number of each of our classes to the number of theirs that has its name, where one has."""
    numbers = {plain_name(name): number for number, name in sorted(theirs.items(), reverse=True)}
    return {number: numbers[plain_name(name)] for number, name in ours.items() if plain_name(name) in numbers}


def plain_name(name: str) -> str:
    """Return a name as it is compared: tools differ in case, and in spaces and underscores."""
    return " ".join(name.lower().replace("_", " ").split())
