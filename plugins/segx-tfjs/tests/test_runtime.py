"""What is said of TensorFlow.js that is missing, and how npm is asked for it."""

from __future__ import annotations

import json
import stat
import sys
from typing import TYPE_CHECKING

import pytest

from segx.errors import SegxError
from segx_tfjs import runtime

if TYPE_CHECKING:
    from pathlib import Path

NPM = """#!{python}
import json, os, sys
from pathlib import Path
place = Path.cwd()
(place / "asked.json").write_text(json.dumps(sys.argv[1:]))
if {fails}:
    print("npm error network request failed", file=sys.stderr)
    raise SystemExit(1)
for name in {names}:
    file = place / "node_modules" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("//")
"""

FILES = [*runtime.FOR_A_PAGE, *runtime._FOR_NODE]


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing in it, and a cache folder."""
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("SEGX_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(runtime.VARIABLE, raising=False)
    return folder


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


needs_scripts = pytest.mark.skipif(sys.platform == "win32", reason="the npm of this test is a script with a first line")


@needs_scripts
def test_what_is_missing_is_said_in_turn(tools: Path, tmp_path: Path) -> None:
    assert "no node in PATH" in runtime.problem()
    program(tools, "node", "#!/bin/sh\n")
    assert runtime.SETUP in runtime.problem()
    assert runtime.for_a_page() is None
    with pytest.raises(SegxError, match="no npm"):
        runtime.setup()
    program(tools, "npm", NPM.format(python=sys.executable, fails=False, names=FILES))
    assert runtime.setup() == tmp_path / "cache" / "tfjs"
    assert runtime.problem() == ""
    page = runtime.for_a_page()
    assert page is not None
    assert "tf.min.js" in page
    asked = json.loads((tmp_path / "cache" / "tfjs" / "asked.json").read_text())
    assert {f"{name}@{version}" for name, version in runtime.PACKAGES.items()} <= set(asked)
    assert "--ignore-scripts" in asked
    assert [item.name for item in (tmp_path / "cache").iterdir()] == ["tfjs"], "nothing is left beside it"


@needs_scripts
def test_failure_of_npm_leaves_what_was_there(tools: Path, tmp_path: Path) -> None:
    kept = tmp_path / "cache" / "tfjs" / "kept"
    kept.parent.mkdir(parents=True)
    kept.write_text("as before")
    program(tools, "npm", NPM.format(python=sys.executable, fails=True, names=[]))
    with pytest.raises(SegxError, match="exit code 1") as refusal:
        runtime.setup()
    assert "network request failed" in refusal.value.hint
    assert kept.read_text() == "as before"
    assert [item.name for item in (tmp_path / "cache").iterdir()] == ["tfjs"]


def test_a_folder_of_ones_own_is_taken(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(runtime.VARIABLE, str(tmp_path / "mine"))
    assert runtime.modules() == tmp_path / "mine" / "node_modules"
    for name in FILES:
        file = runtime.modules() / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("//")
    assert runtime.for_a_page() is not None
