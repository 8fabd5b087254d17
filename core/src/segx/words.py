"""Numbers in messages, with their nouns."""

from __future__ import annotations


def plural(noun: str) -> str:
    """Return an English noun in the plural: bus, buses; epoch, epochs; the irregular ones become regular."""
    hissing = noun.endswith(("s", "x", "z", "ch", "sh")) and not noun.endswith(("poch", "mach"))
    return f"{noun}es" if hissing else f"{noun}s"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 picture, 2 pictures."""
    return f"{number:,} {noun if number == 1 else plural(noun)}"
