"""The table of ``tests/README.md`` names a test for each kind of fault, and every test it names exists."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def test_every_kind_has_a_test_that_exists(repository: Path) -> None:
    rows = re.findall(r"^\| ([\d, ]+) [^|]*\| ([^|]+) \|$", (repository / "tests/README.md").read_text(), re.MULTILINE)
    kinds = [int(number) for numbers, _ in rows for number in numbers.split(",")]
    assert kinds == list(range(1, 43))
    named = [place for _, places in rows for place in re.findall(r"`([^`]+)`", places)]
    assert len(named) >= len(rows)
    for place in named:
        file, _, name = place.partition("::")
        assert re.search(rf"def {name}\(" if name else "def test_", (repository / file).read_text()), place
