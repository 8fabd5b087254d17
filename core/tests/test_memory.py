"""What cannot fit into memory is refused before it is tried, with the figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from segx import runtime
from segx.errors import ModelError, UsageError
from segx.runtime import available, check_fits

if TYPE_CHECKING:
    from pathlib import Path


def test_what_cannot_fit_is_reported_with_both_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "available", lambda: 8_000_000_000)
    check_fits(1280, 1280, 16)
    with pytest.raises(UsageError, match=r"imgsz=20000,20000 takes 51\.2 GB of memory at least, 8\.0 GB are there"):
        check_fits(20_000, 20_000, 1)
    with pytest.raises(UsageError, match="batch=4096"):
        check_fits(640, 640, 4096, device="cuda:0")
    with pytest.raises(ModelError):
        check_fits(100_000, 100_000, 1, asked=False)
    monkeypatch.setattr(runtime, "available", lambda: None)
    check_fits(100_000, 100_000, 1)


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_CGROUP", tmp_path)
    there = available()
    assert there is None or there > 1 << 20
    for name, text in (("max", "1000000\n"), ("current", "900000\n"), ("stat", "anon 5\ninactive_file 300000\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert available() == 400_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available() != 400_000
