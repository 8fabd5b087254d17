"""Fixtures shared by the tests of every distribution."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import segx.plugin.tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parent
BUDGET = 30  # seconds that the tests of one file may take together

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch read it: tiny models gain nothing by threads
# Tests start an interpreter a thousand times; each would compile all of segx anew, which takes 0.1 s.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
segx.plugin.tracing.here = 10_000  # tiny models: each in a process of its own would take torch's import again
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a script runs the tests in the background


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests out of the user's cache folder, and what the user's environment asks for out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGX_CACHE", str(tmp_path_factory.mktemp("cache")))
        for name in ("SEGX_OFFLINE", "SEGX_WEIGHTS_URL", "SEGX_DISABLE_PLUGINS"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def script() -> Callable[[str], Any]:
    """Return one of the repository's scripts as a module, by its name."""

    def load(name: str) -> Any:
        spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
        if spec is None or spec.loader is None:
            pytest.fail(f"there is no script {name}")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real photographs, annotations and weights; skips where it is absent."""
    for candidate in (os.environ.get("SEGX_TEST_DATA"), ROOT.parent / "shared" / "data"):
        if candidate and (Path(candidate) / "weights").is_dir():
            return Path(candidate)
    pytest.skip("real material is absent: set SEGX_TEST_DATA to its folder")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the files whose tests take longer than they should."""
    seconds: dict[str, float] = defaultdict(float)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                seconds[report.nodeid.partition("::")[0]] += report.duration
    slow = sorted((time, name) for name, time in seconds.items() if time > BUDGET)
    if slow:
        terminalreporter.section(f"files over their {BUDGET} s", yellow=True)
        for time, name in reversed(slow):
            terminalreporter.line(f"{time:7.1f} s  {name}", yellow=True)
