"""Numbers with their nouns."""

from __future__ import annotations

import subprocess
import sys

import pytest

from segx.words import counted


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


SPEAKING = """
import logging, sys
from segx.console import each_spoken, spoken
told = logging.getLogger("segx_elsewhere")
def verb():
    told.info("one")
    yield 1
    told.info("two")
    yield 2
list(each_spoken(verb(), True))
for item in each_spoken(verb(), True):
    told.info("between")
    assert not logging.getLogger().handlers
    break
with spoken(False):
    told.info("unwanted")
with spoken(True):
    logging.getLogger("other").info("not ours")
    told.warning("careful")
own = logging.StreamHandler(sys.stdout)
logging.getLogger().addHandler(own)
with spoken(True):
    told.info("the program has a logging of its own")
print(logging.getLogger().level == logging.WARNING and logging.getLogger().handlers == [own])
"""


def test_segx_speaks_in_programs_that_log_nothing_themselves() -> None:
    ended = subprocess.run([sys.executable, "-c", SPEAKING], capture_output=True, text=True, check=True)
    assert ended.stdout == "True\n"
    assert ended.stderr == "one\ntwo\none\nsegx: warning: careful\n"
