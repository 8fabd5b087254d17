"""A plugin fresh from the template is installed elsewhere, found through its entry point, and keeps its contract."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from segx.plugin import scaffold

_DISCOVERED = """
import json
from segx.plugin.registry import get_registry
registry = get_registry()
ours = {plugin.distribution: plugin.module for plugin in registry.plugins if plugin.distribution.endswith("-foo")}
broken = [item.reason for item in registry.broken]
print(json.dumps([ours, broken, sorted(registry.exporters), sorted(registry.backends)]))
"""

_RULES = "E,F,W,I,UP,B,SIM,RET,PTH,C4,PERF,ANN001,ANN201,RUF009,RUF012"


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A new plugin of each kind."""
    folder = tmp_path_factory.mktemp("plugins")
    return {kind: scaffold.create(f"{kind}-foo", folder) for kind in scaffold.TEMPLATES}


@pytest.fixture(scope="module")
def scratch(plugins: dict[str, Path], repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment: the workspace's packages by reference, the new plugins installed for real."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    uv = repository / ".uv" / "bin" / "uv"
    if uv.exists():
        _call(str(uv), "venv", "--quiet", "--python", sys.executable, str(folder))
        install = [str(uv), "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), "--no-deps"]
    else:
        _call(sys.executable, "-m", "venv", str(folder))
        install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps"]
    python = folder / "bin" / "python"
    theirs = _call(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    workspace = f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n"
    (Path(theirs) / "workspace.pth").write_text(workspace, encoding="utf-8")
    _call(*install, *map(str, plugins.values()))
    return python


def test_they_are_found_through_their_entry_points(scratch: Path, plugins: dict[str, Path]) -> None:
    found, broken, exporters, backends = json.loads(_call(str(scratch), "-W", "error", "-c", _DISCOVERED))
    assert found == {f"segx-{kind}-foo": f"segx_{kind}_foo.plugin" for kind in plugins}
    assert not broken
    assert {"foo", "onnx"} <= set(exporters), "the others are still there"
    assert {"foo@segx-backend-foo", "foo@segx-export-foo", "onnxruntime"} <= set(backends)


def test_they_keep_their_contract(scratch: Path, plugins: dict[str, Path]) -> None:
    """In one process, which loads torch once."""
    where = next(iter(plugins.values())).parent
    folders = [folder.name for folder in plugins.values()]
    said = _call(
        *(
            str(scratch),
            "-m",
            "pytest",
            "-v",
            "-p",
            "no:cacheprovider",
            "--import-mode=importlib",
            "--rootdir=.",
            *folders,
        ),
        cwd=where,
    )
    for name in folders:
        assert re.search(rf"^{name}/tests/\S+ PASSED", said, re.MULTILINE), name


def test_they_are_well_written(plugins: dict[str, Path]) -> None:
    for folder in plugins.values():
        _call(sys.executable, "-m", "ruff", "check", "--no-cache", "--extend-select", _RULES, ".", cwd=folder)
        _call(sys.executable, "-m", "ruff", "format", "--no-cache", "--check", ".", cwd=folder)


def _call(*command: str, cwd: Path | None = None) -> str:
    """Run a command and return what it prints; fail with all of it."""
    own = ("PYTHON", "SEGX_", "PYTEST_", "VIRTUAL_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    done = subprocess.run(
        command, cwd=cwd, env={**clean, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    return done.stdout
