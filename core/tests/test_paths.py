"""The folders segx writes to, where a machine has none of the usual ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from segx.errors import UsageError
from segx.io.paths import CACHE_VARIABLE, cache_folder, expanded


def test_without_a_home_folder_another_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it does where there is no home
    for name in (CACHE_VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UsageError, match="no home folder") as reported:
        cache_folder()
    assert CACHE_VARIABLE in reported.value.hint
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    assert cache_folder() == tmp_path


def test_a_tilde_means_what_it_means_to_shells(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/a.pt") == tmp_path / "a.pt"
    assert expanded("~nobody-of-that-name/a.pt") == Path("~nobody-of-that-name/a.pt")
    monkeypatch.setenv(CACHE_VARIABLE, "~nobody-of-that-name/cache")
    assert cache_folder() == Path("~nobody-of-that-name/cache")
