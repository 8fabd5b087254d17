"""A small model, images, and runs of the command in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytest.importorskip("ray")

POISON = b"poison"
"""What an image begins with that kills the process which decodes it; see ``hurting``."""
HURTING = f"""
import os, signal, sys
def hurt():
    from segx.io import images
    whole = images.decode_image
    def decode(data):
        if data.startswith({POISON!r}):
            os.kill(os.getpid(), signal.SIGSEGV)
        return whole(data)
    images.decode_image = decode
if any("segx_bulk_ray.decoder" in word for word in sys.orig_argv):
    hurt()
"""


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file for images of 64 x 64, with random weights."""
    pytest.importorskip("torch")
    pytest.importorskip("onnxruntime")
    from segx import YOLO
    from segx.testing.models import TINY_YOLOV8

    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny-seg.yaml").write_text(TINY_YOLOV8)
    saved = YOLO(folder / "tiny-seg.yaml").save(folder / "tiny-seg.pt")
    return YOLO(saved).export("onnx", imgsz=64, verify=False).path


def draw(folder: Path, count: int) -> Path:
    import cv2
    import numpy as np

    folder.mkdir()
    for number in range(count):
        random = np.random.default_rng(number)
        image = random.integers(0, 90, (70 + number % 3, 100, 3), np.uint8)
        cv2.circle(image, (30 + number % 40, 35), 20, (20, 90, 230), -1)
        cv2.imwrite(str(folder / f"{number:04}.{'png' if number % 2 else 'jpg'}"), image)
    return folder


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images, one that is none, and one that kills who decodes it."""
    folder = draw(tmp_path_factory.mktemp("few") / "images", 12)
    (folder / "0005-broken.png").write_text("no image")
    (folder / "0006-poison.png").write_bytes(POISON)
    return folder


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """So many that a run can be disturbed."""
    return draw(tmp_path_factory.mktemp("many") / "images", 400)


@pytest.fixture
def room(tmp_path: Path) -> dict[str, str]:
    """The environment of a run: an empty home, temporary files in a short folder of its own."""
    (tmp_path / "home").mkdir()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(HURTING)
    short = Path(f"/tmp/sxt{os.getpid()}-{time.monotonic_ns() % 10**6}")  # sockets have short names
    short.mkdir()
    kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONDONTWRITEBYTECODE", "RAY_ADDRESS"}}
    return {
        **kept,
        "HOME": str(tmp_path / "home"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "TMPDIR": str(short),
        "PYTHONPATH": str(tmp_path / "site"),
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
def begin(room: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Begins ``segx bulk predict`` of some words; what is left at the end is ended, and its pipes are closed."""
    begun = []

    def run(*words: object, **how: Any) -> subprocess.Popen[str]:
        switches = how.pop("switches", ["--json"])
        line = [sys.executable, "-m", "segx_cli", *switches, "bulk", "predict", *map(str, words)]
        given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": room, "cwd": tmp_path} | how
        process = subprocess.Popen(line, start_new_session=True, **given)
        begun.append(process)
        return process

    yield run
    for process in begun:
        if process.poll() is None:  # the test failed
            process.terminate()
            try:
                process.communicate(timeout=30)  # read, for a full pipe would keep it
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        with process:  # else the test that runs when they are collected is said to have left them open
            pass
    shutil.rmtree(room["TMPDIR"], ignore_errors=True)


@pytest.fixture
def finish(begin: Callable[..., subprocess.Popen[str]]) -> Callable[..., dict[str, Any]]:
    """Runs it to its end, and returns its JSON."""

    def run(*words: object) -> dict[str, Any]:
        process = begin(*words)
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        return json.loads(out)

    return run


@pytest.fixture
def wait_for_parts() -> Callable[..., None]:
    """Waits until some shards are written."""

    def wait(output: Path, count: int, process: subprocess.Popen[str]) -> None:
        end = time.monotonic() + 200
        while len(list((output / "images").glob("part-*.parquet"))) < count:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end, "no shard in time"
            time.sleep(0.02)

    return wait


@pytest.fixture
def running(room: dict[str, str]) -> Callable[[], dict[int, str]]:
    """Tells the processes that belong to the run, by number, with the line they go by."""

    def look() -> dict[int, str]:
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if f"TMPDIR={room['TMPDIR']}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    found[int(entry.name)] = line
            except OSError:
                continue
        return {number: line for number, line in found.items() if line}  # one without a line has ended

    return look
