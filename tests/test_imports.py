"""Each module can be imported alone, without a warning; the light ones stay light; the layers cover every package."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from segx.testing.interpreter import run_fresh

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [ROOT / "core" / "src", ROOT / "cli" / "src", *sorted((ROOT / "plugins").glob("*/src"))]
MODULES = sorted(
    ".".join(file.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
    for source in SOURCES
    for file in source.rglob("*.py")
    if file.name != "__main__.py"
)

# What others wrote is imported once; each of our modules then begins in a copy of that process in which nothing of
# ours was imported before, which is as good as an interpreter of its own and a hundred times cheaper.
_ALONE = """
import importlib, json, os, sys, traceback, warnings
others, modules = json.loads(sys.argv[1])
for name in others:
    try:
        importlib.import_module(name)
    except ImportError:
        pass
assert not [name for name in sys.modules if name.partition("_")[0].partition(".")[0] == "segx"]
failures = {}
for module in modules:
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        warnings.resetwarnings()
        warnings.simplefilter("error")
        try:
            importlib.import_module(module)
        except BaseException:
            os.write(write, traceback.format_exc()[-1500:].encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        reported = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    if reported or status:
        failures[module] = reported or f"the process ended with status {status}"
print(json.dumps(failures))
"""
_OTHERS = [
    "numpy",
    "cv2",
    "torch",
    "onnx",
    "onnx.reference",
    "paddle",
    "onnxruntime",
    "onnxscript",
    "onnxslim",
    "PIL.Image",
    "yaml",
    "tqdm",
    "typer",
    "pytest",
    "pluggy",
    "packaging",
    "lightning.fabric",
    "lightning_fabric",
    "matplotlib.figure",
    "safetensors",
]

LIGHT = [
    "segx",
    "segx.artifact",
    "segx.errors",
    "segx.plugin.hookspecs",
    "segx.plugin.known",
    "segx.options.verbs",
    "segx.io.paths",
    "segx.plugin.discovery",
    "segx.plugin.registry",
    "segx.plugin.requirements",
    "segx.runs",
    "segx.plugin.scaffold",
    "segx.plugin.specs",
    "segx_cli",
]
HEAVY = {"numpy", "cv2", "torch", "onnx", "onnxruntime", "PIL", "tqdm", "typer", "rich", "pandas", "lightning", "scipy"}


ELSEWHERE = ("executorch", "tensorrt")
"""Not in the environment of the tests: an antlr4 older than that of others; a library that the machine chooses."""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_each_module_can_be_imported_alone() -> None:
    """One test for all: a fixture of a module is made anew by each process that runs one of its tests."""
    command = [sys.executable, "-W", "ignore", "-c", _ALONE, json.dumps([_OTHERS, MODULES])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    failures: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    absent = tuple(f"No module named '{name}'" for name in ELSEWHERE)
    failures = {name: words for name, words in failures.items() if not any(told in words for told in absent)}
    assert not failures, "\n".join(f"{name}: {words}" for name, words in failures.items())


def test_light_modules_import_nothing_heavy() -> None:
    code = """
    import importlib, json, sys
    heavy = {}
    for module in json.loads(sys.argv[1]):
        before = set(sys.modules)
        importlib.import_module(module)
        heavy[module] = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
    print(json.dumps(heavy))
    """
    imported = run_fresh(code, json.dumps(LIGHT))
    assert {module: sorted(HEAVY & set(names)) for module, names in imported.items()} == {
        module: [] for module in LIGHT
    }


def imports(file: Path) -> set[str]:
    """Everything that a module imports, wherever in it and for whatever, type hints included."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


PLUGINS = {
    package.name: package
    for source in (ROOT / "plugins").glob("*/src")
    for package in source.iterdir()
    if (package / "__init__.py").exists()
}
LIBRARIES = {name for name, package in PLUGINS.items() if not (package / "plugin.py").exists()}
"""What several plugins share and none declares: these may be imported by plugins, and import none themselves."""
CLOSED = ("segx.console", "segx.data", "segx.flows", "segx.model")
"""Rooms of core that plugins do not enter."""
TO_GO = {
    ("segx_bulk_ray.bulk", "segx.console"),
    ("segx_data_synth.command", "segx.console"),
}


def within(name: str, rooms: Iterable[str]) -> bool:
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


def test_core_and_plugins_stand_apart_from_each_other() -> None:
    for package in ((ROOT / "core" / "src" / "segx"), *PLUGINS.values()):
        others = {*PLUGINS, "segx_cli"} - {package.name}
        if package.name in PLUGINS:
            others -= LIBRARIES
        for file in package.rglob("*.py"):
            assert not [name for name in imports(file) if within(name, others)], file


def test_plugins_enter_open_rooms_only() -> None:
    entered = {
        (".".join(file.relative_to(package.parent).with_suffix("").parts), room)
        for package in PLUGINS.values()
        for file in package.rglob("*.py")
        for room in CLOSED
        if any(within(name, [room]) for name in imports(file))
    }
    assert entered <= TO_GO


@pytest.mark.parametrize("name", ["plugin.py", "options.py"])
def test_what_is_imported_at_every_start_imports_nothing_heavy(name: str) -> None:
    for package in PLUGINS.values():
        for file in package.rglob(name):
            assert not {one.partition(".")[0] for one in imports(file)} & HEAVY, file


def test_a_format_pair_is_small() -> None:
    """What is not a format's own work stands once, in segx.plugin.base; above 300 lines the README says why.

    ONNX Runtime's is a header that is read without the runtime, and five kinds of devices that come and go with builds.
    """
    pairs = {("onnx", "onnxruntime"): 400, ("torchscript", "torchscript"): 300}
    common = ("plugin.py", "options.py", "exporter.py", "backend.py", "session.py")
    for (exporter, backend), most in pairs.items():
        packages = (PLUGINS[f"segx_export_{exporter}"], PLUGINS[f"segx_backend_{backend}"])
        files = [package / name for package in packages for name in common if (package / name).exists()]
        lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
        assert lines <= most, f"{exporter}: {lines} lines in {', '.join(file.name for file in files)}"


def test_a_new_distribution_is_named_in_the_workspace_by_its_extra_alone() -> None:
    """Settings of ruff, mypy and import-linter go by file names and globs."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    tools = text[text.index("[tool.ruff]") :]
    for name in PLUGINS:
        if name not in {"segx_torch", "segx_model_yolov8"}:
            assert name not in tools, name
            assert name.replace("_", "-") not in tools, name


def test_the_layers_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
