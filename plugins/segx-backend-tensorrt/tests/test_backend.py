"""What is special to TensorRT, with stand-ins of its runtime and of CUDA's driver: there need be no GPU."""

from __future__ import annotations

import importlib
import json
import re
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from segx.artifact import Artifact
from segx.errors import MissingPluginError, ModelError, UsageError
from segx.io import sidecar
from segx.options.verbs import SessionOptions
from segx.plugin.registry import get_registry
from segx.runtime import nvidia
from segx.testing.models import tiny_info
from segx_backend_tensorrt.backend import TensorRtBackend

sys.path.insert(0, str(Path(__file__).parent))
try:
    from standin import Driver, engine_bytes, tensorrt
finally:
    sys.path.pop(0)

BACKEND = TensorRtBackend()
OPEN = {"least": (1, 3, 32, 32), "most": (8, 3, 128, 192)}
FOREIGN = {
    "description": "Some YOLOv8n-seg model",
    "author": "Somebody",
    "version": "8.9.9",
    "stride": 32,
    "task": "segment",
    "batch": 1,
    "imgsz": [64, 96],
    "names": {"0": "person", "1": "it's a bicycle"},
    "args": {"batch": 1, "half": True},
}


@pytest.fixture
def driver(monkeypatch):
    """A machine with one GPU on which the backend is installed; all that was taken of it must be given back."""
    found = Driver()
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt(found))
    monkeypatch.setattr("segx_backend_tensorrt.gpu.driver", found)
    monkeypatch.delitem(sys.modules, "segx_backend_tensorrt.session", raising=False)
    importlib.import_module("segx_backend_tensorrt.session")
    yield found
    sys.modules.pop("segx_backend_tensorrt.session", None)
    assert (found.memory, found.streams, found.retained) == ({}, {}, 0), "something was not given back"


def written(folder, *, dynamic=(), name="m.engine", settings=None, precision="fp32", **engine) -> Artifact:
    path = folder / name
    path.write_bytes(engine_bytes(**engine))
    info = tiny_info().replace(dynamic=frozenset(dynamic), settings=settings or {}, precision=precision, head="")
    sidecar.write(path, info.replace(outputs=("output0", "output1"), imgsz=(64, 96), batch=1))
    return Artifact(path=path, format="engine")


@pytest.fixture
def opened(driver):
    sessions = []

    def open_one(artifact, **options):
        sessions.append(BACKEND.open(artifact, SessionOptions(**options)))
        return sessions[-1]

    yield open_one
    for session in sessions:
        session.close()


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def check(session, fed: np.ndarray, **close) -> None:
    doubled, mean = session.run(fed)
    assert doubled.dtype == mean.dtype == np.float32
    np.testing.assert_allclose(doubled, fed * 2, **close)
    np.testing.assert_allclose(mean, fed.mean(1, keepdims=True), **(close or {"rtol": 1e-5}))


def test_an_engine_runs_and_later_runs_leave_its_outputs_alone(opened, tmp_path):
    artifact = written(tmp_path)
    session = opened(artifact)
    assert (session.device, session.info) == ("cuda:0", BACKEND.read_info(artifact))
    fed = images(1, 3, 64, 96)
    kept = session.run(fed)
    check(session, fed + 1)
    np.testing.assert_array_equal(kept[0], fed * 2)


def test_views_and_arrays_that_may_not_be_written_to(opened, tmp_path):
    fed = np.ascontiguousarray(images(1, 3, 64, 96).transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    fed.flags.writeable = False
    check(opened(written(tmp_path)), fed)


def test_engines_of_16_bit_inputs_are_fed_such(opened, tmp_path):
    check(opened(written(tmp_path, kind="float16", precision="fp16")), images(1, 3, 64, 96), atol=2e-3)


def test_open_axes_take_what_the_engine_takes_and_memory_is_kept(opened, driver, tmp_path):
    session = opened(written(tmp_path, dynamic=("batch", "height", "width"), **OPEN))
    check(session, images(8, 3, 128, 192))
    taken = driver.allocations
    for shape in ((1, 3, 64, 96), (3, 3, 32, 32), (2, 3, 128, 64)):
        check(session, images(*shape))
    assert driver.allocations == taken, "smaller images find room"


@pytest.mark.parametrize("shape", [(9, 3, 64, 96), (1, 3, 160, 96), (1, 3, 64, 224)])
def test_beyond_its_bounds_it_says_what_they_are(opened, tmp_path, shape):
    session = opened(written(tmp_path, dynamic=("batch", "height", "width"), **OPEN))
    with pytest.raises(ModelError, match="from 1x3x32x32 to 8x3x128x192, got") as caught:
        session.run(images(*shape))
    assert "max_batch" in caught.value.hint


def test_another_size_is_refused(opened, tmp_path):
    with pytest.raises(ModelError, match="takes images 1x3x64x96, got 1x3x64x128"):
        opened(written(tmp_path)).run(images(1, 3, 64, 128))


def test_streams_have_memory_of_their_own(opened, driver, tmp_path):
    session = opened(written(tmp_path), streams=3)
    assert len(driver.streams) == 3
    batches = [images(1, 3, 64, 96) + number for number in range(24)]
    with ThreadPoolExecutor(5) as pool:  # more than were announced: they wait
        for fed, (doubled, _) in zip(batches, pool.map(session.run, batches), strict=True):
            np.testing.assert_array_equal(doubled, fed * 2)


def test_closed_twice_and_run_afterwards(opened, tmp_path):
    session = opened(written(tmp_path))
    engine = session._model
    session.close()
    session.close()
    with pytest.raises(ModelError, match="closed"):
        session.run(images(1, 3, 64, 96))
    for _ in range(2):  # a thread that was about to run when another one closed it
        with pytest.raises(ModelError, match="closed"):
            engine.run(images(1, 3, 64, 96))


@pytest.mark.parametrize("device", ["cuda", "0", "cuda:0", None])
def test_devices_that_are_there(opened, tmp_path, device):
    assert opened(written(tmp_path), device=device).device == "cuda:0"


@pytest.mark.parametrize("device", ["cpu", "1", "cuda:99", "mps", "warp9"])
def test_devices_that_are_not_there(driver, tmp_path, device):
    with pytest.raises(UsageError, match=f"device={device}"):
        BACKEND.open(written(tmp_path), SessionOptions(device=device))


def test_the_second_of_two_gpus(opened, driver, tmp_path):
    driver.gpus = ("First", "Second")
    assert opened(written(tmp_path), device="1").device == "cuda:1"
    assert BACKEND.devices() == ["cuda:0", "cuda:1"]


@pytest.mark.parametrize("device", [None, "0"])
def test_without_a_gpu_it_says_so(driver, tmp_path, device):
    driver.gpus = ()
    with pytest.raises(UsageError, match="needs a GPU of NVIDIA's"):
        BACKEND.open(written(tmp_path), SessionOptions(device=device))
    assert BACKEND.devices() == []


def test_an_engine_of_another_version_or_gpu_names_both(driver, tmp_path):
    built = {"engine": {"tensorrt": "10.3", "gpu": "Old 100"}}
    artifact = written(tmp_path, version="10.3", settings=built)
    with pytest.raises(ModelError, match=r"TensorRT 10\.3 on Old 100.*TensorRT 10\.9 on Stand-in 9000") as caught:
        BACKEND.open(artifact, SessionOptions())
    assert "\n" not in caught.value.message
    assert "format=engine" in caught.value.hint


@pytest.mark.parametrize("content", [b"this is no model\n" * 40, engine_bytes()[:40], b"ftrt" + bytes(400)])
def test_damage_is_told_in_one_line(driver, tmp_path, content):
    artifact = written(tmp_path)
    artifact.path.write_bytes(content)
    with pytest.raises(ModelError, match=r"m\.engine: .*damaged") as caught:
        BACKEND.open(artifact, SessionOptions())
    assert "\n" not in caught.value.message


def test_an_empty_file_and_none(driver, tmp_path):
    artifact = written(tmp_path)
    artifact.path.write_bytes(b"")
    with pytest.raises(ModelError, match="empty"):
        BACKEND.open(artifact, SessionOptions())
    with pytest.raises(ModelError, match="absent"):
        BACKEND.read_info(Artifact(path=tmp_path / "absent.engine", format="engine"))


@pytest.mark.parametrize(
    ("engine", "match"),
    [
        ({"least": (2, 3, 64, 96)}, "takes images from 2x3x64x96"),
        ({"outputs": ("output0", "other")}, "its metadata name output0, output1"),
        ({"inputs": ["images", "more"]}, "not one input"),
        ({"dynamic": ("batch",)}, "leave batch open, the engine does not"),
        ({"no_context": True}, "cannot prepare to run"),
    ],
)
def test_an_engine_that_is_not_what_its_metadata_say(driver, tmp_path, engine, match):
    with pytest.raises(ModelError, match=match):
        BACKEND.open(written(tmp_path, **engine), SessionOptions())


def test_failures_while_it_runs(opened, driver, tmp_path):
    fed = images(1, 3, 64, 96)
    with pytest.raises(ModelError, match="illegal memory access"):
        opened(written(tmp_path, fails=True)).run(fed)
    with pytest.raises(ModelError, match="depends on what is seen"):
        opened(written(tmp_path, unknown="output1")).run(fed)
    driver.most = fed.nbytes + 9
    with pytest.raises(ModelError, match="out of memory"):
        opened(written(tmp_path)).run(fed)


def foreign(folder, metadata=FOREIGN, **engine) -> Artifact:
    path = folder / "other.engine"
    text = json.dumps(metadata).encode()
    path.write_bytes(len(text).to_bytes(4, "little") + text + engine_bytes(**engine))
    return Artifact(path=path, format="engine")


def test_engines_of_other_tools_are_opened(opened, tmp_path):
    session = opened(foreign(tmp_path))
    info = session.info
    assert (info.names[1], info.imgsz, info.batch) == ("it's a bicycle", (64, 96), 1)
    assert (info.precision, info.extra["author"]) == ("fp16", "Somebody")
    check(session, images(1, 3, 64, 96))


def test_metadata_of_other_tools_that_are_cut_short(tmp_path):
    artifact = foreign(tmp_path)
    artifact.path.write_bytes(artifact.path.read_bytes()[:90])
    with pytest.raises(ModelError, match="ends within its metadata"):
        BACKEND.read_info(artifact)
    artifact.path.write_bytes((7).to_bytes(4, "little") + b"[1, 2] ftrt")
    with pytest.raises(ModelError, match="no JSON object"):
        BACKEND.read_info(artifact)


def test_a_plain_engine_without_metadata_says_what_is_missing(tmp_path):
    artifact = written(tmp_path)
    sidecar.sidecar_path(artifact.path).unlink()
    with pytest.raises(ModelError, match="carries no metadata"):
        BACKEND.read_info(artifact)


def test_half_of_an_engine_in_32_bits_is_refused(driver, tmp_path):
    with pytest.raises(UsageError, match="half=True"):
        BACKEND.open(written(tmp_path), SessionOptions(half=True))


def test_without_tensorrt_or_gpu_it_is_refused_before_any_work():
    registry = get_registry()
    spec = registry.backends.get("tensorrt")
    if "tensorrt" in sys.modules or not nvidia.problem():
        pytest.skip("they may be here")
    with pytest.raises(MissingPluginError) as caught:
        registry.require(spec)
    assert "tensorrt" in str(caught.value) or "GPU" in str(caught.value)


def test_what_a_machine_without_a_driver_is_told(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert "driver is not loaded" in nvidia.problem(devices=tmp_path)
    (tmp_path / "nvidiactl").touch()
    assert nvidia.problem(devices=tmp_path) == ""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert "hides every GPU" in nvidia.problem(devices=tmp_path)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert "macOS" in nvidia.problem(devices=tmp_path)


def test_program_on_the_page(repository, tmp_path, monkeypatch):
    """It gives back nothing itself: its memory goes with its process."""
    page = (repository / "docs" / "reference" / "formats" / "engine.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    found = Driver()
    played = types.ModuleType("cuda.bindings")
    played.driver = found
    for name, module in {
        "tensorrt": tensorrt(found),
        "cuda": types.ModuleType("cuda"),
        played.__name__: played,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.chdir(tmp_path)
    Path("yolov8n-seg.engine").write_bytes(engine_bytes(least=(1, 3, 640, 640)))
    space = {}
    exec(compile(code.replace("np.zeros", "np.ones"), "engine.md", "exec"), space)
    assert (space["arrays"]["output0"] == 2).all()
    assert (space["arrays"]["output1"] == 1).all()
