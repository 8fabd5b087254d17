"""What is special to Paddle: folders of other tools, what the program says, damage, sizes, devices, streams."""

from __future__ import annotations

import functools
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
import yaml

from segx.artifact import Artifact
from segx.errors import ModelError, UsageError
from segx.options.verbs import SessionOptions
from segx.plugin.registry import get_registry
from segx.testing.interpreter import run_fresh
from segx_backend_paddle.backend import PaddleBackend, find_program

if TYPE_CHECKING:
    from pathlib import Path

BACKEND = PaddleBackend()
FOREIGN = {
    "description": "Some YOLOv8n-seg model",
    "author": "Somebody",
    "version": "8.9.9",
    "stride": 32,
    "task": "segment",
    "batch": 1,
    "imgsz": [64, 96],
    "names": {0: "person", 1: "it's a bicycle"},
    "args": {"batch": 1},
}

_WRITE = """
import os, sys
os.environ["FLAGS_enable_pir_api"] = sys.argv[2]
import paddle

class Layer(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        two = paddle.nn.initializer.Constant(2.0)
        self.two = self.create_parameter([1], dtype=sys.argv[4], default_initializer=two)

    def forward(self, images):
        doubled = images * self.two
        if sys.argv[5:]:
            doubled = paddle.nn.functional.interpolate(doubled[..., ::2, ::2], scale_factor=2, mode="nearest")
        return doubled, images.mean(1, keepdim=True)

shape = [int(n) for n in sys.argv[3].split(",")]
spec = paddle.static.InputSpec(shape, sys.argv[4], "x0")
paddle.jit.save(Layer(), sys.argv[1], input_spec=[spec])
"""


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """A folder as other tools write it: doubled images, and their mean; a program of Paddle 3 or of before."""

    @functools.cache
    def write(shape="1,3,64,96", *, pir=True, kind="float32", below="", enlarging=False) -> Artifact:
        folder = tmp_path_factory.mktemp("made") / "m_paddle_model"
        (folder / below).mkdir(parents=True)
        script = folder.with_name("write.py")  # a file, since Paddle reads the source of what it records
        script.write_text(_WRITE)
        code = "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='written'); print(0)"
        words = (str(folder / below / "inference"), str(int(pir)), shape, kind, *["enlarging"] * enlarging)
        run_fresh(code, str(script), *words, warnings="default")
        (folder / "metadata.yaml").write_text(yaml.safe_dump(FOREIGN))
        return Artifact(path=folder, format="paddle")

    return write


@pytest.fixture(scope="module")
def made(make) -> Artifact:
    return make()


def opened(artifact: Artifact, **options):
    registry = get_registry()
    return registry.backends.load(registry.backend_for("paddle")).open(artifact, SessionOptions(**options))


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def check(session, fed: np.ndarray) -> None:
    doubled, mean = session.run(fed)
    np.testing.assert_array_equal(doubled, fed * 2)
    np.testing.assert_allclose(mean, fed.mean(1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize(("pir", "below"), [(True, ""), (True, "inference_model"), (False, ""), (False, "inner")])
def test_folders_of_other_tools_are_opened(make, pir, below):
    artifact = make(pir=pir, below=below)
    program = find_program(artifact.path)
    assert program == artifact.path / below / f"inference{'.json' if pir else '.pdmodel'}"
    info = BACKEND.read_info(artifact)
    assert (info.names[1], info.imgsz, info.batch, info.dynamic) == ("it's a bicycle", (64, 96), 1, frozenset())
    assert info.extra["author"] == "Somebody"
    session = opened(artifact, device="cpu")
    assert session.device == "cpu"
    check(session, images(1, 3, 64, 96))
    session.close()


@pytest.mark.parametrize(
    ("shape", "dynamic", "imgsz", "batch"),
    [
        ("4,3,320,416", set(), (320, 416), 4),
        ("-1,3,64,96", {"batch"}, (64, 96), 1),
        ("-1,3,-1,-1", {"batch", "height", "width"}, (64, 96), 1),
    ],
)
def test_the_program_goes_before_what_is_claimed(make, shape, dynamic, imgsz, batch):
    info = BACKEND.read_info(make(shape))
    assert (info.dynamic, info.imgsz, info.batch) == (dynamic, imgsz, batch)


def test_a_program_that_enlarges_by_factors_runs(make):
    """As converters of other tools write it; oneDNN takes none."""
    session = opened(make(enlarging=True), device="cpu")
    check(session, images(1, 3, 32, 48).repeat(2, axis=2).repeat(2, axis=3))
    session.close()


def test_open_axes_take_any_size_and_keep_no_memory_of_it(make):
    session = opened(make("-1,3,-1,-1"), device="cpu")
    for shape in ((1, 3, 64, 96), (3, 3, 32, 32), (2, 3, 128, 64), (1, 3, 64, 96)):
        check(session, images(*shape))
    session.close()


def test_another_size_is_refused(made):
    session = opened(made, device="cpu")
    with pytest.raises(ModelError, match="takes images 1x3x64x96, got 1x3x64x128"):
        session.run(images(1, 3, 64, 128))
    session.close()


def test_streams_give_each_thread_its_own(made):
    session = opened(made, device="cpu", streams=3, threads=1)
    batches = [images(1, 3, 64, 96) + number for number in range(24)]
    with ThreadPoolExecutor(3) as pool:
        for fed, (doubled, _) in zip(batches, pool.map(session.run, batches), strict=True):
            np.testing.assert_array_equal(doubled, fed * 2)
    session.close()


@pytest.mark.parametrize("device", ["cuda", "0", "mps", "gpu", "cpu:1"])
def test_devices_that_are_not_there(made, device):
    with pytest.raises(UsageError, match="device=") as caught:
        BACKEND.open(made, SessionOptions(device=device))
    assert "cpu" in caught.value.hint


def test_half_is_refused(made):
    with pytest.raises(UsageError, match="half=True"):
        BACKEND.open(made, SessionOptions(half=True))


def test_inputs_that_are_no_images_are_refused(make):
    with pytest.raises(ModelError, match="takes 1x5x64x96 of kind f32, not images"):
        BACKEND.read_info(make("1,5,64,96"))
    with pytest.raises(ModelError, match="of kind f64"):
        BACKEND.read_info(make("1,3,64,96", kind="float64"))


def copied(made: Artifact, folder: Path) -> Artifact:
    shutil.copytree(made.path, folder / "c_paddle_model")
    return Artifact(path=folder / "c_paddle_model", format="paddle")


@pytest.mark.parametrize("suffix", [".json", ".pdiparams"])
def test_a_folder_that_lacks_a_file_is_refused(made, tmp_path, suffix):
    artifact = copied(made, tmp_path)
    (artifact.path / f"inference{suffix}").unlink()
    with pytest.raises(ModelError, match=r"c_paddle_model.*holds no program with weights"):
        BACKEND.read_info(artifact)


def test_two_models_in_a_folder_are_refused(made, tmp_path):
    artifact = copied(made, tmp_path)
    for suffix in (".json", ".pdiparams"):
        shutil.copy(artifact.path / f"inference{suffix}", artifact.path / f"other{suffix}")
    with pytest.raises(ModelError, match="holds 2 programs with weights"):
        BACKEND.read_info(artifact)


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "other"])
def test_a_damaged_program_is_refused_in_one_line(made, tmp_path, damage):
    artifact = copied(made, tmp_path)
    program = artifact.path / "inference.json"
    whole = program.read_text()
    program.write_text(
        {"cut": whole[: len(whole) // 2], "text": "no model", "empty": "", "other": json.dumps({"a": 1})}[damage]
    )
    with pytest.raises(ModelError, match="c_paddle_model") as caught:
        BACKEND.read_info(artifact)
    assert "\n" not in caught.value.message


def test_damaged_weights_of_other_tools_are_refused_when_opened(make, tmp_path):
    artifact = copied(make(pir=False), tmp_path)
    (artifact.path / "inference.pdmodel").write_bytes(b"no program" * 9)
    with pytest.raises(ModelError, match="c_paddle_model"):
        opened(artifact, device="cpu")


def test_a_folder_without_metadata_says_what_is_missing(made, tmp_path):
    artifact = copied(made, tmp_path)
    (artifact.path / "metadata.yaml").unlink()
    with pytest.raises(ModelError, match="carries no metadata"):
        BACKEND.read_info(artifact)
