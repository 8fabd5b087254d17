"""Every hook, and everything a spec holds, has a line in the reference; the page is what the code says."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from segx import artifact, runs
from segx.plugin import hookspecs, specs

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parent.parent
HOOKS = [name for name in vars(hookspecs) if name.startswith("segx_")]
RECORDS = [
    *specs.Spec.__subclasses__(),
    *(specs.Tolerance, artifact.WeightsFile, runs.Run, runs.Step),
]


@pytest.fixture(scope="module")
def generator(script: Callable[[str], Any]) -> Any:
    """The script that writes the page, as a module."""
    return script("generate_hooks_reference")


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "reference" / "hooks.md").read_text(encoding="utf-8")


def test_there_are_ten_hooks() -> None:
    assert len(HOOKS) == 10


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_a_line(hook: str, page: str) -> None:
    lines = [line for line in page.splitlines() if line.startswith(f"| `{hook}(")]
    assert len(lines) == 1
    assert len(lines[0].split("|")[2].split()) > 2, "and it says something"


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.__name__)
def test_every_field_has_a_line(record: type[Any], page: str) -> None:
    assert f"### {record.__name__}\n" in page
    for field in dataclasses.fields(record):
        assert f"| `{field.name}` |" in page


def test_the_page_is_fresh(generator: Any, page: str) -> None:
    assert page == generator.render(), "run: .venv/bin/python scripts/generate_hooks_reference.py"
