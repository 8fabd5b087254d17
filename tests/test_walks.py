"""The three walks of the architecture page: the files it names are there, are counted rightly, and stay few."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
PARTS = PAGE.partition("\n## Three walks")[2].partition("\n## ")[0].split("\n### ")[1:]
SOURCES = [ROOT / "core" / "src", ROOT / "cli" / "src", *(ROOT / "plugins").glob("*/src")]
WALKS = {"predict": 25, "val": 21, "export": 22}
"""Verb to the most files that whoever follows one call may have to read; before, they were 47, 41 and 46."""


def walk(verb: str) -> tuple[set[str], int]:
    """Return the files that a walk's table names, and how many the page says they are."""
    part = next(part for part in PARTS if f".{verb}(" in part[:60] or f" {verb} " in part[:60])
    found: set[str] = set()
    for row in re.findall(r"^\|.*\| (.*) \|$", part, re.MULTILINE):
        place = ""
        for name in re.findall(
            r"`([\w/]+\.py)`", re.sub(r"\(.*?\)", "", row)
        ):  # in brackets: what stands there instead
            place = name.rpartition("/")[0] if "/" in name else place
            found.add(name if "/" in name else f"{place}/{name}")
    stated = re.search(r"^\*\*(\d+) files\*\*", part, re.MULTILINE)
    assert stated is not None, f"{verb}: no number of files"
    return found, int(stated[1])


@pytest.mark.parametrize("verb", WALKS)
def test_a_walk_is_short_and_counted_as_it_is(verb: str) -> None:
    files, stated = walk(verb)
    absent = [name for name in files if not any((source / name).is_file() for source in SOURCES)]
    assert not absent
    assert len(files) == stated <= WALKS[verb], sorted(files)
