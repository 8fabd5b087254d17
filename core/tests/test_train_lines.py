"""Words for people where standard error is a terminal, closed, or not there."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path

import pytest

from segx.console import progress, watched
from segx.errors import DataError
from segx.flows import train_lines
from segx.flows.train_lines import EpochLines, say
from segx.io.download import _Download
from segx.runs import Step
from segx.words import visible


class Terminal(io.StringIO):
    """Says it is one."""

    def isatty(self) -> bool:
        return True


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


def test_a_terminal_is_watched_and_a_file_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert watched()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not watched()


@pytest.mark.parametrize("stream", [None, closed()], ids=["none", "closed"])
def test_nothing_is_shown_where_nobody_can_watch(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None) -> None:
    monkeypatch.setattr(train_lines, "_unheard", lambda: True)
    monkeypatch.setattr(sys, "stderr", stream)  # None: the program was started with it closed
    assert not watched()
    with progress(3, "counting") as advance:
        advance(1)
    batch = Step(kind="batch", index=0, total=2, name="64x64", metrics={"instances": 7.0})
    lines = EpochLines(epochs=5)
    lines.on_step(batch, epoch=0)
    lines.close()
    download = object.__new__(_Download)
    download.progress, download.destination = None, Path("model.pt")
    with download._bar(10, 0) as advance:
        advance(1)


def test_words_without_a_standard_error_go_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_lines, "_unheard", lambda: True)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", None)
        say("unheard")
        download = object.__new__(_Download)
        download.progress, download.destination = True, Path("model.pt")
        with download._bar(10, 0) as advance:
            advance(1)


def batch(index: int) -> Step:
    return Step(kind="batch", index=index, total=3, name="64x96", metrics={"instances": 7.0})


def epoch(number: int) -> Step:
    metrics = {"epoch": float(number), "time": 60.0 * number, "train/box_loss": 1.25}
    return Step(kind="epoch", index=number - 1, total=50, metrics=metrics)


@pytest.mark.parametrize(("received", "reported"), [((), "- -"), ((2,), "- 64x96"), ((0, 1, 2), "21 64x96")])
def test_objects_of_an_epoch_are_reported_only_where_all_were_counted(
    caplog: pytest.LogCaptureFixture, received: tuple[int, ...], reported: str
) -> None:
    caplog.set_level(logging.INFO, "segx")
    lines = EpochLines(epochs=50)
    for index in received:  # a run that goes on hears only of what is left of its epoch
        lines.on_step(batch(index), epoch=0)
    lines.on_step(epoch(1), epoch=0)
    for index in range(3):
        lines.on_step(batch(index), epoch=1)
    lines.on_step(epoch(2), epoch=1)
    _, first, second = (" ".join(record.message.split()) for record in caplog.records)
    assert first == f"1/50 1.25 {reported} - - 0:01:00 0:49:00"
    assert second == "2/50 1.25 21 64x96 - - 0:01:00 0:48:00"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("coin \u00e9 \u4e2d \u05e9", "coin \u00e9 \u4e2d \u05e9"),
        ("\x1b[2J\x07\r\x00\x7f\x9b1m", r"\x1b[2J\x07\x0d\x00\x7f\x9b1m"),
        ("a\u202egpj.exe\u2066", r"a\u202egpj.exe\u2066"),
        ("caf\udce9", r"caf\xe9"),
        ("\ud800", r"\ud800"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
    ],
)
def test_nothing_in_a_text_steers_a_terminal(text: str, wanted: str) -> None:
    assert visible(text) == wanted
    assert visible(wanted) == wanted
    assert str(DataError(text, hint=text)) == f"{wanted}\n  {wanted}"


def test_a_text_of_one_line_stays_one() -> None:
    assert visible("a\nb\tc", lines=False) == r"a\nb\tc"
