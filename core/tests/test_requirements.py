"""Whether a requirement is met is read from what is installed; nothing is imported."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from segx.plugin.requirements import modules, unmet

if TYPE_CHECKING:
    from pathlib import Path

METADATA = "Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{more}"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts the metadata of a distribution on the path, without any code."""
    monkeypatch.syspath_prepend(tmp_path)

    def put(name: str, version: str, more: str = "") -> None:
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(METADATA.format(name=name, version=version, more=more), encoding="utf-8")

    return put


def reasons(*requirements: str) -> list[str]:
    return [problem.reason for problem in unmet(requirements)]


def test_versions(install) -> None:
    install("fancy-runtime", "9.1")
    assert reasons("fancy-runtime", "fancy-runtime>=9", "Fancy_Runtime<10,>=9.1") == []
    assert reasons("fancy-runtime>=10") == ["fancy-runtime>=10, found 9.1"]
    assert reasons("absent-runtime>=10") == ["absent-runtime>=10, found none"]
    assert reasons("absent-runtime", "fancy-runtime~=8.0") == [
        "absent-runtime, found none",
        "fancy-runtime~=8.0, found 9.1",
    ]


def test_a_build_before_its_release_counts(install) -> None:
    install("fancy-runtime", "10.0rc1+cu130")
    assert reasons("fancy-runtime>=9") == []
    assert reasons("fancy-runtime>=10") == ["fancy-runtime>=10, found 10.0rc1+cu130"]


def test_a_marker_that_does_not_hold_here_asks_for_nothing() -> None:
    assert reasons(f"absent-runtime>=1; sys_platform != '{sys.platform}'") == []
    assert reasons(f"absent-runtime>=1; sys_platform == '{sys.platform}'") == ["absent-runtime>=1, found none"]


def test_extras_are_looked_into(install) -> None:
    install("fancy-runtime", "1.0", "Provides-Extra: gpu\nRequires-Dist: absent-part>=3; extra == 'gpu'\n")
    assert reasons("fancy-runtime>=1") == []
    assert reasons("fancy-runtime[gpu]>=1") == ["absent-part>=3, found none"]
    install("absent-part", "3.1")
    assert reasons("fancy-runtime[gpu]>=1") == []


def test_extras_that_ask_for_each_other_end(install) -> None:
    install("one", "1.0", "Provides-Extra: all\nRequires-Dist: one[all]; extra == 'all'\n")
    assert reasons("one[all]") == []


def test_one_of_several_alternatives_is_enough(install) -> None:
    either = "fancy-runtime>=2 | fancy-runtime-gpu>=2"
    assert reasons(either) == ["fancy-runtime>=2, found none"]
    install("fancy-runtime-gpu", "1.0")
    assert reasons(either) == ["fancy-runtime-gpu>=2, found 1.0"], "what is there says more than what is not"
    install("fancy-runtime", "2.5")
    assert reasons(either) == []


def test_what_is_no_requirement_is_reported() -> None:
    assert len(reasons("what is this")) == 1
    assert "'what is this', which is no requirement" in reasons("what is this")[0]


def test_an_address_asks_for_the_name(install) -> None:
    install("fancy-runtime", "1.0")
    assert reasons("fancy-runtime @ https://example.org/fancy.whl") == []
    assert reasons("other @ https://example.org/o.whl") == ["other @ https://example.org/o.whl, found none"]


def test_nothing_is_imported(install, tmp_path: Path) -> None:
    install("explosive", "1.0")
    (tmp_path / "explosive.py").write_text("raise SystemExit('imported')", encoding="utf-8")
    assert reasons("explosive>=1") == []


@pytest.mark.parametrize(
    ("requirement", "wanted"),
    [
        ("numpy>=1.26", ["numpy"]),
        ("absent-thing>=1 | opencv-python>=4.10 | opencv-python-headless>=4.10", ["cv2"]),
        ("PyYAML>=6", ["yaml"]),
        ("numpy>=1.26; sys_platform == 'plan9'", []),
    ],
)
def test_modules_of_a_requirement(requirement: str, wanted: list[str]) -> None:
    assert modules(requirement) == wanted


def test_metadata_that_cannot_be_read_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "odd_thing-1.dist-info").mkdir()
    (tmp_path / "odd_thing-1.dist-info" / "METADATA").write_bytes(b"Name: odd-thing\nVersion: 1\nAuthor: caf\xe9\n")
    (problem,) = unmet(["odd-thing>=1"])
    assert problem.reason == "odd-thing>=1, found one whose metadata cannot be read (UnicodeDecodeError)"
