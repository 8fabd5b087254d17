"""Starting: what ``segx --help`` imports and what it costs, in fresh interpreters."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
