"""A new plugin is written whole or not at all, under a name that is free."""

from __future__ import annotations

import ast
import re
import tomllib
from typing import TYPE_CHECKING

import pytest

from segx.errors import DataError, UsageError
from segx.plugin import scaffold

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", scaffold.TEMPLATES)
def test_everything_is_filled_in(kind: str, tmp_path: Path) -> None:
    made = scaffold.create(f"{kind}-foo-bar", tmp_path)
    assert made == tmp_path / f"segx-{kind}-foo-bar"
    assert [item.name for item in tmp_path.iterdir()] == [made.name], "nothing is left beside it"
    package = f"segx_{kind}_foo_bar"
    files = {path.relative_to(made).as_posix(): path for path in made.rglob("*") if path.is_file()}
    expected = {"pyproject.toml", "README.md", "tests/test_contract.py"}
    expected |= {f"src/{package}/{name}" for name in ("__init__.py", "plugin.py", "py.typed")}
    assert expected <= files.keys()
    for name, path in files.items():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\$|PACKAGE|DASHED|\.tmpl", text + name), f"{name} holds a placeholder"
        if path.suffix == ".py":
            assert ast.get_docstring(ast.parse(text)), f"{name} does not say why it exists"
    project = tomllib.loads(files["pyproject.toml"].read_text(encoding="utf-8"))["project"]
    assert project["name"] == made.name
    assert project["entry-points"]["segx"] == {f"{kind}-foo-bar": f"{package}.plugin"}
    assert all(">=" in dependency for dependency in project["dependencies"])


def test_the_full_name_means_the_same(tmp_path: Path) -> None:
    assert scaffold.create("segx-export-foo", tmp_path) == tmp_path / "segx-export-foo"


NO_NAMES = "|export|export-|foo|Export-foo|export-Foo|export-1foo|export-a_b|export-../x|export-foo |-export-foo|a--b"


@pytest.mark.parametrize("name", NO_NAMES.split("|"))
def test_what_is_no_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a kind and a name"):
        scaffold.create(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="kind 'exporter' is not known; did you mean 'export'") as refusal:
        scaffold.create("exporter-foo", tmp_path)
    assert "export-foo, backend-foo" in refusal.value.hint


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="segx-export-onnx is an official plugin"):
        scaffold.create("export-onnx", tmp_path)


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "segx-export-foo").mkdir()
    (tmp_path / "segx-export-foo" / "precious.py").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        scaffold.create("export-foo", tmp_path)
    assert [item.name for item in (tmp_path / "segx-export-foo").iterdir()] == ["precious.py"]


def test_folders_above_are_made(tmp_path: Path) -> None:
    assert scaffold.create("logger-foo", tmp_path / "a" / "b").is_dir()


def test_a_folder_that_cannot_be_written_is_named_and_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scaffold, "_fill", full)
    with pytest.raises(DataError, match=f"{tmp_path}/segx-export-foo cannot be written: No space left") as refusal:
        scaffold.create("export-foo", tmp_path)
    assert ".part" not in str(refusal.value)
    assert not list(tmp_path.iterdir())
    (tmp_path / "a").touch()
    with pytest.raises(DataError, match=f"{tmp_path}/a/segx-export-foo cannot be written: Not a directory"):
        scaffold.create("export-foo", tmp_path / "a")
