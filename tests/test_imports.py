"""Each module can be imported alone, without a warning; the light ones stay light; the layers cover every package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from segx.testing.interpreter import run_fresh

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


@pytest.fixture(scope="module")
def failures() -> dict[str, str]:
    """Module to what went wrong when it was imported alone."""
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    command = [sys.executable, "-W", "ignore", "-c", _ALONE, json.dumps([_OTHERS, MODULES])]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("module", MODULES)
def test_each_module_can_be_imported_alone(module: str, failures: dict[str, str]) -> None:
    assert module not in failures, failures[module]


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


@pytest.mark.parametrize("contract", [1, 2])
def test_layers_cover_every_package(contract: int) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    packages = {child.name for source in SOURCES for child in source.iterdir() if (child / "__init__.py").exists()}
    assert set(settings["root_packages"]) == packages
    named = settings["contracts"][contract].get("modules") or settings["contracts"][contract]["forbidden_modules"]
    assert set(named) - {"segx_cli"} == packages - {"segx", "segx_cli"}


def test_the_layers_hold() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
