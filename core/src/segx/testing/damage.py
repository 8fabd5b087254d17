"""Damages files and documents at random places, the same for the same seed: whoever reads them says so in one line.

``SEGX_FUZZ=2000`` tries that many of each, not the few of every day.
"""

from __future__ import annotations

import copy
import os
import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_BYTES = (b"\xff", b"\x00", b"-", b"e999", b"nan", b"\n", b" ", b"[", b"{", b"9" * 400, b"\xff\xff\xff\x7f", b"..")
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 80, 2**31, 2**63, 10**400, 0.5, -0.0, 1e308, float("inf"), float("nan")),
    *("", ".", "..", "/", "~", "../../x", "/dev/zero", "C:x", "a\\b", "\x00", "\x1b[2J", "nan", "1e999", "[", "yes"),
    *("9" * 5000, "x" * 5000, [], {}, [[]], {"": None}, {0: 0}, [0] * 50, [None, "a", 1.5], {"a": {"b": {"c": []}}}),
)


def tries(few: int) -> int:
    """Return how many are to be tried: ``few``, or what ``SEGX_FUZZ`` says."""
    return int(os.environ.get("SEGX_FUZZ", few))


def generator(seed: str) -> random.Random:
    """Return the random numbers of a test, which are those of its seed."""
    return random.Random(seed)  # noqa: S311 - no secret


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Return bytes with a few of them replaced, left out, repeated, or all after one cut off."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        # the beginning and the end say what a file is: half of the hits go there
        most = len(found) if rng.random() < 0.5 else min(len(found), 400)
        at = rng.randrange(most + 1)
        if rng.random() < 0.25:
            at = max(len(found) - at, 0)
        match rng.randrange(4):
            case 0:
                found[at : at + rng.randrange(4)] = rng.randbytes(rng.randrange(7))
            case 1:
                found[at : at + 1] = rng.choice(_BYTES)
            case 2:
                found[at:at] = found[at : at + rng.randint(1, 40)] * rng.randint(1, 3)
            case _ if rng.random() < 0.4:
                del found[at:]
            case _:
                found[at : at + 4] = rng.choice((b"\x00" * 4, b"\xff" * 4, b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80"))
    return bytes(found)


def changed(document: Any, rng: random.Random) -> Any:
    """Return a document with one to three of its values replaced, taken away, doubled, or given another name."""
    document = copy.deepcopy(document)
    for _ in range(rng.randint(1, 3)):
        way = rng.choice(list(_places(document)))
        if not way:
            if rng.random() < 0.1:
                return rng.choice(_VALUES)
            continue
        inside = document
        for key in way[:-1]:
            inside = inside[key]
        match rng.randrange(5):
            case 0:
                del inside[way[-1]]
            case 1 if isinstance(inside, list):
                inside.append(copy.deepcopy(inside[way[-1]]))
            case 1:
                inside[str(rng.choice(_VALUES))[:50]] = inside.pop(way[-1])
            case _:
                inside[way[-1]] = copy.deepcopy(rng.choice(_VALUES))
    return document


def _places(document: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value within a document."""
    yield way
    inner = dict(enumerate(document)) if isinstance(document, list) else document
    for key, value in inner.items() if isinstance(inner, dict) else ():
        yield from _places(value, (*way, key))
