"""Runs of the command: their results are those of ``segx predict``, whatever was lost meanwhile."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from segx import YOLO
from segx_bulk_ray import read, read_unreadable

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")]

SMALL = ("conf=0.0001", "max_det=20", "workers=2")


def assert_each_once(output: Path, folder: Path) -> None:
    """Each image of the folder is in the output once, and in the order of the source."""
    assert [results.path for results in read(str(output))] == sorted(map(str, folder.iterdir()))


def test_rows_are_those_of_local_prediction(
    running: Callable[[], dict[int, str]],
    model: Path,
    few: Path,
    tmp_path: Path,
    room: dict[str, str],
    begin: Callable[..., subprocess.Popen[str]],
) -> None:
    ours, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    shown: list[bytes] = []
    process = begin(
        f"model={model}", f"source={few}", "output=out", "shard=4", "format=coco", *SMALL, stderr=terminal, switches=[]
    )
    os.close(terminal)

    def watch() -> None:
        while True:
            try:
                data = os.read(ours, 4096)
            except OSError:
                return
            shown.append(data)

    watcher = threading.Thread(target=watch)
    watcher.start()
    told = process.communicate(timeout=240)[0]
    watcher.join(10)
    assert process.returncode == 0
    assert "predicting" in b"".join(shown).decode(errors="replace")  # a bar, on a terminal

    local = YOLO(model)
    paths = sorted(str(path) for path in few.iterdir() if path.stem.isdecimal())
    expected = local.predict(paths, conf=0.0001, max_det=20, verbose=False)
    found = list(read(str(tmp_path / "out")))
    assert [results.path for results in found] == paths
    assert sum(map(len, expected)) > 12
    for one, other in zip(found, expected, strict=True):
        assert type(one) is type(other)
        assert np.array_equal(one.boxes.data, other.boxes.data)
        assert one.masks.rle == other.masks.rle
        assert np.array_equal(one.areas, other.areas)
        assert (one.orig_shape, one.names) == (other.orig_shape, other.names)

    failed = dict(read_unreadable(str(tmp_path / "out")))
    assert sorted(path.rpartition("/")[2] for path in failed) == ["0005-broken.png", "0006-poison.png"]
    assert "kills the process that decodes it (SIGSEGV)" in failed[str(few / "0006-poison.png")]
    objects = sum(map(len, expected))
    assert told.splitlines()[1] == f"12 images, {objects} objects, 2 unreadable"

    about = json.loads(pq.read_schema(next((tmp_path / "out" / "images").iterdir())).metadata[b"segx"])
    assert about["settings"]["conf"] == 0.0001
    assert about["model"] == model.name
    document = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(document["annotations"]) == objects
    assert len(document["images"]) == 12

    assert list((tmp_path / "home").rglob("*")) == []
    assert list(Path(room["TMPDIR"]).iterdir()) == []
    assert running() == {}


def test_a_killed_worker_loses_and_doubles_nothing(
    running: Callable[[], dict[int, str]],
    wait_for_parts: Callable[..., None],
    model: Path,
    many: Path,
    tmp_path: Path,
    room: dict[str, str],
    begin: Callable[..., subprocess.Popen[str]],
) -> None:
    process = begin(f"model={model}", f"source={many}", "output=out", "shard=4", *SMALL)
    wait_for_parts(tmp_path / "out", 3, process)
    while not (workers := [number for number, line in running().items() if "do_shard" in line]):
        assert process.poll() is None  # between two shards a worker goes by another name
    assert len(workers) <= 2  # though Ray is given twice as many shards, so that the next wait where they will run
    assert b"MALLOC_ARENA_MAX=2" in Path(f"/proc/{workers[0]}/environ").read_bytes().split(b"\0")  # memory stays flat
    loaded = Path(f"/proc/{workers[0]}/maps").read_text()
    assert "onnxruntime" in loaded
    assert "libtorch" not in loaded  # which this model does without
    os.kill(workers[0], signal.SIGKILL)
    assert len(list((tmp_path / "out" / "images").iterdir())) < 100
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert json.loads(out)["images"] == 400
    assert_each_once(tmp_path / "out", many)


def test_a_killed_driver_is_resumed(
    wait_for_parts: Callable[..., None],
    model: Path,
    many: Path,
    tmp_path: Path,
    begin: Callable[..., subprocess.Popen[str]],
    finish: Callable[..., dict[str, Any]],
) -> None:
    line = [f"model={model}", f"source={many}", "output=out", "shard=4", *SMALL]
    process = begin(*line)
    wait_for_parts(tmp_path / "out", 3, process)
    process.kill()
    process.communicate()
    told = finish(*line, "resume=true")
    assert told["skipped"] >= 3
    assert told["skipped"] + told["shards"] == 100
    assert told["shards"] > 0
    assert_each_once(tmp_path / "out", many)


def test_ctrl_c_leaves_whole_files_and_no_process(
    running: Callable[[], dict[int, str]],
    wait_for_parts: Callable[..., None],
    model: Path,
    many: Path,
    tmp_path: Path,
    room: dict[str, str],
    begin: Callable[..., subprocess.Popen[str]],
) -> None:
    process = begin(f"model={model}", f"source={many}", "output=out", "shard=4", *SMALL)
    wait_for_parts(tmp_path / "out", 3, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-2:] == ["what is done is kept: the same with resume=true goes on", "segx: stopped"]
    counted = Counter(results.path for results in read(str(tmp_path / "out")))
    assert 12 <= len(counted) < 400
    assert set(counted.values()) == {1}
    assert running() == {}
    assert list(Path(room["TMPDIR"]).iterdir()) == []


def test_ctrl_c_while_ray_starts_leaves_nothing(
    running: Callable[[], dict[int, str]],
    model: Path,
    many: Path,
    tmp_path: Path,
    room: dict[str, str],
    begin: Callable[..., subprocess.Popen[str]],
) -> None:
    process = begin(f"model={model}", f"source={many}", "output=out", *SMALL)
    while not any("raylet_socket" in line for line in running().values()):
        assert process.poll() is None, process.communicate()[1]
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert not (tmp_path / "out").exists()
    assert running() == {}
    assert list(Path(room["TMPDIR"]).iterdir()) == []


CLUSTER = """
import sys, threading, time
from pathlib import Path
from segx_bulk_ray import cluster, write
cluster.load()
from ray.cluster_utils import Cluster
model, source, output = sys.argv[1:]
if __name__ == "__main__":
    room = {"object_store_memory": 80 << 20, "include_dashboard": False}
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **room})
    first, second = (nodes.add_node(num_cpus=1, object_store_memory=80 << 20) for _ in range(2))
    nodes.wait_for_nodes()
    def remove():
        while len(list(Path(output, "images").glob("part-*.parquet"))) < 3:
            time.sleep(0.02)
        print("removed at", len(list(Path(output, "images").glob("part-*.parquet"))), flush=True)
        nodes.remove_node(second, allow_graceful=False)  # may take longer than the rest of the run
        print("removed", flush=True)
    remover = threading.Thread(target=remove, daemon=True)
    remover.start()
    done = write(model, source, output, address=nodes.address, shard=4, conf=0.0001, max_det=20)
    print("done", done.images, flush=True)
    remover.join(60)
    nodes.shutdown()
"""


def test_a_lost_node_of_a_cluster_loses_nothing(model: Path, many: Path, tmp_path: Path, room: dict[str, str]) -> None:
    script = tmp_path / "cluster.py"
    script.write_text(CLUSTER)
    line = [sys.executable, str(script), str(model), str(many), str(tmp_path / "out")]
    done = subprocess.run(line, capture_output=True, text=True, env=room, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = done.stdout.splitlines()
    (removed,) = [line for line in told if line.startswith("removed at ")]
    assert int(removed.removeprefix("removed at ")) < 50
    assert "removed" in told
    assert "done 400" in told
    assert_each_once(tmp_path / "out", many)


TWO_MACHINES = """
import os, sys
from ray.cluster_utils import Cluster
nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
for _ in range(2):
    nodes.add_node(num_cpus=1, object_store_memory=80 << 20)
nodes.wait_for_nodes()
os.environ["RAY_ADDRESS"] = nodes.address
exec(compile(open(sys.argv.pop(1)).read(), "machines.py", "exec"), {"__name__": "__main__"})
"""


def test_the_script_that_trains_on_a_cluster(tmp_path: Path, room: dict[str, str]) -> None:
    """What the page on training says for Ray, on two nodes."""
    from segx.testing.models import TINY_YOLOV8
    from segx_data_synth.dataset import write_dataset

    page = Path(__file__).parents[3] / "docs" / "how-to" / "distributed.md"
    (code,) = re.findall(r"^```python\n(import subprocess\n.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "machines.py").write_text(code)
    (tmp_path / "two.py").write_text(TWO_MACHINES)
    (tmp_path / "tiny-seg.yaml").write_text(TINY_YOLOV8)
    data = write_dataset(tmp_path / "shapes", images=8, val_images=2, imgsz=64)
    words = [f"data={data}", f"model={tmp_path / 'tiny-seg.yaml'}", f"project={tmp_path / 'runs'}"]
    words += ["epochs=1", "imgsz=64", "batch=4", "workers=1", "plots=false", "accelerator=cpu"]
    line = [sys.executable, "two.py", "machines.py", "2", "1", *words]
    environment = {**room, "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(line, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "runs" / "train" / "weights" / "last.pt").is_file()
    assert "2 processes, cpu" in done.stdout + done.stderr


COMPOSED = """
import sys
from segx_bulk_ray import predict
if __name__ == "__main__":
    rows = predict(sys.argv[1], sys.argv[2], workers=1, shard=8, conf=0.0001, max_det=20)
    kept = rows.filter(lambda row: row["unreadable"] is None).map(lambda row: {"found": len(row["objects"])})
    print(rows.count(), kept.count(), kept.sum("found"))
"""


def test_rows_are_a_data_set_of_ray(model: Path, few: Path, tmp_path: Path, room: dict[str, str]) -> None:
    script = tmp_path / "composed.py"
    script.write_text(COMPOSED)
    line = [sys.executable, str(script), str(model), str(few)]
    done = subprocess.run(line, capture_output=True, text=True, env=room, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    paths = sorted(str(path) for path in few.iterdir() if path.stem.isdecimal())
    found = sum(map(len, YOLO(model).predict(paths, conf=0.0001, max_det=20, verbose=False)))
    assert done.stdout.split() == ["14", "12", str(found)]


def test_from_and_to_an_object_store(
    model: Path,
    few: Path,
    tmp_path: Path,
    room: dict[str, str],
    finish: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        names = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        room.update(names)
        for name, value in names.items():
            monkeypatch.setenv(name, value)
        from pyarrow import fs

        store = fs.S3FileSystem(
            allow_bucket_creation=True, endpoint_override=f"{host}:{port}", scheme="http", region="us-east-1"
        )
        store.create_dir("photos")
        store.create_dir("found")
        for path in few.iterdir():
            with store.open_output_stream(f"photos/day/{path.name}") as file:
                file.write(path.read_bytes())
        told = finish(f"model={model}", "source=s3://photos/day", "output=s3://found/run", "shard=5", *SMALL)
        assert (told["images"], told["unreadable"]) == (12, 2)
        found = list(read("s3://found/run"))
        names_found = [results.path for results in found]
        assert names_found == [
            f"s3://photos/day/{path.name}" for path in sorted(few.iterdir()) if path.stem.isdecimal()
        ]
        expected = YOLO(model).predict(str(few / "0000.jpg"), conf=0.0001, max_det=20, verbose=False)[0]
        assert np.array_equal(found[0].boxes.data, expected.boxes.data)
    finally:
        server.stop()
