"""Fixtures shared by the tests of every distribution."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real photographs, annotations and weights; skips where it is absent."""
    for candidate in (os.environ.get("SEGX_TEST_DATA"), ROOT.parent / "shared" / "data"):
        if candidate and (Path(candidate) / "weights").is_dir():
            return Path(candidate)
    pytest.skip("real material is absent: set SEGX_TEST_DATA to its folder")
