"""Labels in any script: drawn with a font that has the letters, or as a number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from segx.errors import UsageError
from segx.structures.boxes import Boxes
from segx_task_segment import fonts
from segx_task_segment.results import SegmentResults

if TYPE_CHECKING:
    from pathlib import Path

GREEK, NOWHERE = "\u03b4\u03ad\u03bd\u03c4\u03c1\u03bf", "\U0010fff0\U0010fff1"


@pytest.fixture(autouse=True)
def forgotten() -> None:
    for function in (fonts.fitting_font, fonts.has_letters, fonts._warn_once):
        function.cache_clear()


def results(name: str) -> SegmentResults:
    boxes = Boxes(np.array([[20, 40, 90, 90, 0.9, 3]], np.float32), (120, 160))
    return SegmentResults(orig_img=np.zeros((120, 160, 3), np.uint8), path="a.png", names={3: name}, boxes=boxes)


def test_letters_that_the_built_in_font_lacks_are_found_in_another() -> None:
    pytest.importorskip("matplotlib")  # brings a font with Greek letters
    assert not fonts.has_letters(GREEK, None)
    other = fonts.fitting_font(GREEK, None)
    assert other is not None
    assert fonts.has_letters(GREEK, other)
    assert fonts.legible(GREEK, 3, None) == GREEK
    assert fonts.fitting_font("cat", None) is None, "what it has, the built-in font draws"


def test_a_name_that_no_font_has_is_drawn_as_its_number_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    number = results("3").plot()
    for _ in range(2):
        assert (results(NOWHERE).plot() == number).all()
    assert len([record for record in caplog.records if "its number, 3, is drawn" in record.getMessage()]) == 1


def test_a_font_that_draws_a_frame_for_every_letter_does_not_count() -> None:
    assert not any("lastresort" in file.lower() for file in fonts._installed())


def test_a_font_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.ttf").write_text("no font")
    for name in ("a.ttf", "missing.ttf"):
        with pytest.raises(UsageError, match=rf"{name}: cannot be read as a font"):
            results("cat").plot(font=tmp_path / name)
