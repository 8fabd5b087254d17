"""Nothing but segx's own files is left behind, nobody is called, and importing changes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from segx.testing.interpreter import run_fresh
from segx.testing.privacy import assert_keeps_to_itself

if TYPE_CHECKING:
    from pathlib import Path

VALIDATES_AND_TRAINS = """
    from pathlib import Path
    from segx import YOLO
    from segx_data_synth.dataset import write_dataset
    data = Path(sys.argv[1]) / "data"
    write_dataset(data, images=4, val_images=2, imgsz=64)
    data = next(data.glob("*.yaml"))
    model = YOLO("shapes-seg.pt")
    model.val(data=data, imgsz=64, plots=True, project=sys.argv[1], verbose=False)
    YOLO("shapes-seg.pt").train(data=data, imgsz=64, epochs=1, batch=2, workers=1, plots=True, project=sys.argv[1])
"""
PROBES = """
    from segx.plugin.registry import get_registry
    from segx.runtime import take_process
    from segx_cli.doctor import _load
    take_process()
    for name in ("onnxruntime", "tensorflow"):
        check = _load("backend", get_registry().backends[name])
        assert check.state == "ok", check
"""
CONNECTS_ELSEWHERE = """
    import subprocess
    code = "import socket; socket.create_connection(('127.0.0.1', 9))"
    subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
"""
IMPORTS_ALL = """
    import importlib, json, os, pkgutil, sys
    import cv2  # changes LD_LIBRARY_PATH
    before = dict(os.environ)
    for name in sys.argv[1:]:
        package = importlib.import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}."):
            if module.name == "segx.models":
                continue  # it only says what there is in its place
            if not module.name.startswith("segx.testing") and not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    changed = {name for name in {*before, *os.environ} if before.get(name) != os.environ.get(name)}
    print(json.dumps(sorted(changed)))
"""


@pytest.mark.slow
def test_a_validation_and_a_training_with_charts_leave_nothing_outside(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    assert_keeps_to_itself(VALIDATES_AND_TRAINS, str(tmp_path / "given"), folder=tmp_path / "alone")
    assert list((tmp_path / "given").rglob("confusion_matrix.png"))


def test_what_doctor_runs_leaves_nothing(tmp_path: Path) -> None:
    assert_keeps_to_itself(PROBES, folder=tmp_path / "alone")


def test_a_connection_and_a_file_are_seen(tmp_path: Path) -> None:
    connects = "import socket\ntry: socket.create_connection(('127.0.0.1', 9))\nexcept OSError: pass"
    with pytest.raises(AssertionError, match="asked for a connection"):
        assert_keeps_to_itself(connects, folder=tmp_path / "a")
    looks_up = "import socket\ntry: socket.getaddrinfo('segx.invalid', 80)\nexcept OSError: pass"
    with pytest.raises(AssertionError, match="asked for a connection"):
        assert_keeps_to_itself(looks_up, folder=tmp_path / "b")
    with pytest.raises(AssertionError, match="asked for a connection"):
        assert_keeps_to_itself(CONNECTS_ELSEWHERE, folder=tmp_path / "d")
    with pytest.raises(AssertionError, match="left files behind"):
        assert_keeps_to_itself("from pathlib import Path\n(Path.home() / 'id').touch()", folder=tmp_path / "c")


def test_importing_changes_no_variable() -> None:
    packages = ["segx", "segx_task_segment", "segx_data_yolo", "segx_data_coco", "segx_backend_onnxruntime"]
    assert run_fresh(IMPORTS_ALL, *packages, warnings="default") == []


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("model", ["the parent's", "the child's own"])
def test_a_model_used_before_a_fork_works_in_the_child(model: str, threads: int) -> None:
    code = f"""
import multiprocessing, os
from segx import YOLO
from segx_data_synth.dataset import image
image = image(0, "val", 0, 160).image
known = YOLO("shapes-seg.pt")
wanted = known(image, verbose=False)[0].boxes.data
def work(queue):
    model = known if {model == "the parent's"} else YOLO("shapes-seg.pt")
    queue.put((model(image, verbose=False, threads=2)[0].boxes.data, model(image, verbose=False)[0].boxes.data))
context = multiprocessing.get_context("fork")
queue = context.Queue()
child = context.Process(target=work, args=(queue,), daemon=True)
child.start()
for found in queue.get(timeout=60):
    assert abs(found - wanted).max() < 1e-3
os._exit(0)
"""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment, timeout=100, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
