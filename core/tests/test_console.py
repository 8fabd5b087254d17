"""Numbers with their nouns."""

from __future__ import annotations

import pytest

from segx.console import counted


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (1, "class", "1 class"),
        (2, "class", "2 classes"),
        (0, "image", "0 images"),
        (1200, "box", "1,200 boxes"),
        (3, "epoch", "3 epochs"),
        (2, "torch", "2 torches"),
    ],
)
def test_a_number_has_its_noun(number: int, noun: str, text: str) -> None:
    assert counted(number, noun) == text
