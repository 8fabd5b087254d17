"""Starting: what ``segx --help`` imports and what it costs, in fresh interpreters."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

HEAVY = {"torch", "numpy", "cv2", "onnx", "onnxruntime", "PIL", "tqdm", "pydantic", "rich", "yaml"}


def modules_after(*arguments: str) -> tuple[set[str], str]:
    """Run ``segx`` in a fresh interpreter; return what is imported at its end, and what it printed."""
    code = (
        "import sys, segx_cli.main as m\n"
        f"code = m.main({list(arguments)!r})\n"
        "print('\\n' + ' '.join({name.partition('.')[0] for name in sys.modules}))\n"
        "sys.exit(code)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    printed, _, modules = ended.stdout.rstrip().rpartition("\n")
    return set(modules.split()), printed + ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        [],
        ["help"],
        ["--version"],
        ["predict", "--help"],
        ["export", "--help"],
        ["predict"],
        ["predict", "modl=x"],
        ["predict", "model=x", "source=y", "conf=2"],
        ["export", "model=x", "format=tflit"],
    ],
    ids=" ".join,
)
def test_help_and_mistakes_import_nothing_heavy(arguments: list[str]) -> None:
    modules, _ = modules_after(*arguments)
    assert not modules & (HEAVY | {"typer"})
    assert "segx_cli" in modules


@pytest.mark.parametrize("arguments", [["formats"], ["plugins"], ["cache"]], ids=" ".join)
def test_listing_loads_no_runtime(arguments: list[str]) -> None:
    modules, printed = modules_after(*arguments)
    assert not modules & (HEAVY - {"pydantic"}), printed


ONLY_FOR_OTHERS = {
    "argparse", "configparser", "csv", "difflib", "email", "http", "importlib.metadata", "multiprocessing",
    "packaging", "segx.io.download", "segx.io.network", "segx_task_segment.charts", "segx_task_segment.metrics",
    "segx_task_segment.parity", "segx_task_segment.training", "segx_task_segment.validation", "shutil", "socket",
    "ssl", "subprocess", "tempfile", "torch", "typer", "urllib.request", "yaml",
}  # fmt: skip
"""What takes time to import and one image does without."""


def test_predicting_an_image_imports_only_what_it_needs(tiny_onnx: Path, photos: Path) -> None:
    """Time depends on the machine; what is imported, compiled and started does not.

    435 modules were imported before this was looked at, 97 dataclasses compiled (a tenth of the time), and two threads
    started for each plugin.
    """
    code = (
        "import dataclasses, sys, threading\n"
        "compiled, started, process, start = [], [], dataclasses._process_class, threading.Thread.start\n"
        "def made(cls, init, repr, eq, *more, **named):\n"
        "    if init or repr or eq: compiled.append(cls.__qualname__)\n"
        "    return process(cls, init, repr, eq, *more, **named)\n"
        "def begun(self): started.append(self.name); start(self)\n"
        "dataclasses._process_class, threading.Thread.start = made, begun\n"
        "import segx_cli.main as m\n"
        f"code = m.main(['predict', 'model={tiny_onnx}', 'source={photos / '0.png'}', 'imgsz=64'])\n"
        "print('\\n' + ' '.join(sys.modules), ' '.join(compiled), ' '.join(started), sep='\\n')\n"
        "sys.exit(code)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
    modules, compiled, started = (line.split() for line in ended.stdout.split("\n")[-4:-1])
    assert not ONLY_FOR_OTHERS & set(modules)
    declared = re.compile(r"segx_\w+(\.plugin|\.options)?")  # of any distribution
    assert len([name for name in modules if not declared.fullmatch(name)]) <= 366
    assert len(compiled) <= 6, compiled  # what changes, and results; all else is a segx.records.Record
    assert started.count("segx-plugin") <= 2  # one in which all of them declare, one in which they hear of runs


def test_the_command_is_installed() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "segx_cli", "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "segx [TASK] VERB name=value" in ended.stdout
    assert ended.stderr == ""


def test_a_closed_pipe_is_quiet() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "segx_cli", "formats", "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == b""
    process.stderr.close()
