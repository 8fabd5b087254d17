"""The wheels alone, without a checkout around, do the main job, and carry what an index shows."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType


@pytest.fixture(scope="module")
def release(script: Callable[[str], Any]) -> Any:
    """The script that releases are made with."""
    return script("release")


@pytest.fixture(scope="module")
def wheels(release: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    if not release.UV.exists():
        pytest.skip("uv is absent: make setup brings it")
    return release.build(tmp_path_factory.mktemp("dist"), sdist=False)


def test_every_wheel_is_complete(release: ModuleType, wheels: list[Path], repository: Path) -> None:
    assert len(wheels) == 3 + len(list((repository / "plugins").glob("*/pyproject.toml")))
    assert {wheel.name: release.lacks(wheel) for wheel in wheels} == {wheel.name: [] for wheel in wheels}
    release.check(wheels[0].parent)


def test_every_licence_is_the_same(repository: Path) -> None:
    text = (repository / "LICENSE").read_text()
    copies = [
        folder / "LICENSE" for folder in [repository / "core", repository / "cli", *(repository / "plugins").iterdir()]
    ]
    assert [str(path) for path in copies if path.read_text() != text] == []


def test_the_wheels_alone_predict_and_export(release: ModuleType, wheels: list[Path], tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([str(release.UV), "venv", "--quiet", "--python", sys.executable, str(venv)], check=True)
    python = str(venv / "bin" / "python")
    install = [str(release.UV), "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python]
    subprocess.run([*install, *map(str, wheels)], check=True)
    theirs = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    # What they ask for comes from here, but none of the editable packages: a .pth file in a .pth folder is not read.
    (Path(theirs) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    code = f"import segx, segx_cli; assert segx.__file__.startswith({theirs!r}), segx.__file__\n{release.SMOKE}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SEGX"))}
    environment |= {"HOME": str(tmp_path), "SEGX_CACHE": str(tmp_path / "cache"), "SEGX_OFFLINE": "1"}
    ended = subprocess.run(
        [python, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    first, second = ended.stdout.splitlines()[-2:]
    assert first.rpartition(" ")[2] == second.rpartition(" ")[2], ended.stdout


def test_nobody_asks_for_one_of_several_builds(repository: Path) -> None:
    """So that ``pip check`` holds with another build: builds of OpenCV, and of ONNX Runtime, exclude each other."""
    folders = [repository / "core", repository / "cli", *(repository / "plugins").iterdir()]
    asked = {
        folder.name: [
            name
            for name in tomllib.loads((folder / "pyproject.toml").read_text())["project"]["dependencies"]
            if name.startswith(("opencv", "onnxruntime"))
        ]
        for folder in folders
        if (folder / "pyproject.toml").is_file()
    }
    assert len(asked) > 10
    assert not any(asked.values()), asked


def test_every_dependency_has_a_lower_bound(repository: Path) -> None:
    """So that ``--resolution lowest-direct`` means something."""
    places = [repository / "core", repository / "cli", *(repository / "plugins").iterdir()]
    files = [place / "pyproject.toml" for place in places if (place / "pyproject.toml").is_file()]
    projects = [tomllib.loads(file.read_text())["project"] for file in files]
    asked = {
        (project["name"], line)
        for project in projects
        for lines in (project.get("dependencies", []), *project.get("optional-dependencies", {}).values())
        for line in lines
    }
    assert len(projects) > 40
    bare = [one for one in asked if not (">=" in one[1] or "==" in one[1] or one[1].startswith("segx"))]
    assert sorted(bare) == []
