"""A plugin that prints, exits, hangs or steers the terminal takes nothing else down."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from segx.artifact import Artifact
from segx.plugin.registry import get_registry
from segx.testing.interpreter import environment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HEAD = """
import os, subprocess, sys
from segx import hookimpl
from segx.options.verbs import ExportOptions
from segx.plugin.specs import *
from segx.artifact import WeightsFile
SEGX_API = (1, 0)
"""
PRINTS = """
def shout():
    print("printed")
    os.write(1, b"written\\n")
    subprocess.run(["echo", "from a program"])
shout()
def load():
    shout()
    return lambda: print("its own output")
@hookimpl
def segx_run_started(run):
    shout()
    raise KeyboardInterrupt
@hookimpl
def segx_run_ended(run, metrics):
    shout()
    raise SystemExit(0)
@hookimpl
def segx_commands():
    shout()
    return [CommandSpec(name="mine", summary="a \\x1b[31mtest", load=load)]
"""


@pytest.fixture
def segx_with(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs ``segx`` in a process of its own, beside a plugin of the given code."""

    def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        package, info = tmp_path / "acme_bad", tmp_path / "acme_bad-1.dist-info"
        for folder in (package, info):
            folder.mkdir(exist_ok=True)
        (package / "__init__.py").touch()
        (package / "plugin.py").write_text(HEAD + textwrap.dedent(code))
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-bad\nVersion: 1\n")
        (info / "entry_points.txt").write_text("[segx]\nbad = acme_bad.plugin\n")
        given = environment()
        return subprocess.run(
            [sys.executable, "-m", "segx_cli", *map(str, arguments)],
            capture_output=True,
            check=False,
            encoding="utf-8",
            env={**given, "PYTHONPATH": os.pathsep.join([str(tmp_path), given["PYTHONPATH"]])},
            timeout=100,
        )

    return run


def test_json_stays_json_whatever_a_plugin_prints(
    segx_with: Callable[..., subprocess.CompletedProcess[str]], tiny_model: Path, photos: Path
) -> None:
    for line in (["plugins"], ["formats"], ["predict", f"model={tiny_model}", f"source={photos}", "save=false"]):
        ended = segx_with(PRINTS, *line, "--json")
        assert ended.returncode == 0, ended.stderr
        json.loads(ended.stdout)
        for words in ("printed", "written", "from a program"):
            assert words in ended.stderr
    assert "plugin bad@acme-bad failed in segx_run_started: KeyboardInterrupt" in ended.stderr
    assert "plugin bad@acme-bad failed in segx_run_ended: SystemExit: 0" in ended.stderr


def test_a_plugins_command_has_standard_output_to_itself(
    segx_with: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    ended = segx_with(PRINTS, "mine")
    assert (ended.returncode, ended.stdout) == (0, "its own output\n")
    assert "a \\x1b[31mtest" in segx_with(PRINTS, "plugins").stdout


@pytest.mark.parametrize("error", ["SystemExit(0)", "KeyboardInterrupt", "GeneratorExit", "ValueError('\\x1b[2J')"])
def test_a_plugin_that_ends_the_program_on_import_is_listed(
    segx_with: Callable[..., subprocess.CompletedProcess[str]], error: str
) -> None:
    ended = segx_with(f"raise {error}", "plugins", "--json")
    assert ended.returncode == 0, ended.stderr
    (broken,) = json.loads(ended.stdout)["broken"]
    assert broken["reason"].startswith(error.partition("(")[0])
    assert "\x1b" not in broken["reason"]


def test_a_plugin_that_hangs_costs_seconds(segx_with: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    ended = segx_with("import time; time.sleep(1000)", "formats", "--json")
    assert ended.returncode == 0, ended.stderr
    assert {record["format"] for record in json.loads(ended.stdout)} >= {"onnx"}


HANGS = """
import signal, threading, time
from segx.plugin import guard
guard.PATIENCE = 0.2
guard.HEARING_PATIENCE = {patience}
@hookimpl
def segx_run_started(run):
    if {stopped}:
        threading.Timer(1, os.kill, (os.getpid(), {stopped})).start()
@hookimpl
def segx_step_ended(run, step):
    {how}
@hookimpl
def segx_run_ended(run, metrics):
    print("it is told of the end")
"""


@pytest.mark.parametrize("how", ["time.sleep(1000)", "while True: time.sleep(0)"])
def test_a_hook_that_hangs_is_named_and_left_out(
    segx_with: Callable[..., subprocess.CompletedProcess[str]], tiny_model: Path, photos: Path, how: str
) -> None:
    code = HANGS.format(patience=0.5, stopped=False, how=how)
    ended = segx_with(code, "predict", f"model={tiny_model}", f"source={photos}", "save=false", "--json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["images"]
    assert "plugin bad@acme-bad is at work in segx_step_ended, for more than 0.2 s" in ended.stderr
    line = "plugin bad@acme-bad was not done in 0.5 s in segx_step_ended, and is left out from now on"
    assert ended.stderr.count(line) == 1
    assert "it is told of the end" not in ended.stderr


@pytest.mark.skipif(os.name == "nt", reason="signals are of other systems")
@pytest.mark.parametrize(
    ("signal", "code", "said"), [("SIGINT", 130, "stopped"), ("SIGTERM", 143, "stopped by SIGTERM")]
)
def test_a_signal_ends_the_wait_for_a_hook(
    segx_with: Callable[..., subprocess.CompletedProcess[str]],
    tiny_model: Path,
    photos: Path,
    signal: str,
    code: int,
    said: str,
) -> None:
    hangs = HANGS.format(patience=1000, stopped=f"signal.{signal}", how="time.sleep(1000)")
    ended = segx_with(hangs, "predict", f"model={tiny_model}", f"source={photos}", "save=false")
    assert ended.returncode == code, ended.stderr
    assert ended.stderr.rstrip().endswith(f"segx: {said}")


def test_nothing_of_a_file_reaches_the_terminal_raw(segx: Callable[..., Any], tiny_model: Path, photos: Path) -> None:
    from segx import YOLO

    evil = "ball\x1b[2J\x9b\nsegx: all is well\u202e"
    path = tiny_model.parent / "evil.onnx"
    exporter, backend = get_registry().exporters.get("onnx"), get_registry().backends.get("onnxruntime")
    YOLO(tiny_model).export("onnx", imgsz=64, verify=False, output=path)
    info = get_registry().backends.load(backend).read_info(Artifact(path=path, format="onnx"))
    renamed = info.replace(names=dict.fromkeys(info.names, evil), extra={"author": evil})
    get_registry().exporters.load(exporter).write_info(path, renamed)
    (photos / f"{evil.replace('/', '')}.png").write_bytes(b"no image")
    for line in (
        ["predict", f"model={path}", f"source={photos}", "save=false", "conf=0"],
        ["predict", f"model={path}", f"source={photos}", "conf=0", "--debug"],
        ["info", f"model={path}"],
        ["predict", f"model={path}", "source=absent\x1b[2J\n.png"],
        ["predict", f"model={path}", "source=absent\x1b[2J\n.png", "--debug"],
    ):
        for more in ((), ("--json",)):
            ended = segx(*line, *more)
            for text in (ended.out, ended.err):
                assert not {"\x1b", "\x9b", "\u202e"} & {*text}
                assert "\nsegx: all is well" not in text
