"""What is special to ONNX Runtime: headers without a session, other tools' files, devices, shapes, damage."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from segx.artifact import Artifact, ArtifactInfo
from segx.errors import ModelError, UsageError
from segx.io import sidecar
from segx.options.verbs import SessionOptions
from segx_backend_onnxruntime import session as session_module
from segx_backend_onnxruntime.backend import OnnxRuntimeBackend
from segx_backend_onnxruntime.session import choose_device

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BACKEND = OnnxRuntimeBackend()
CPU = SessionOptions(device="cpu")

FOREIGN = {
    "description": "Some YOLOv8n-seg model",
    "author": "Somebody",
    "date": "2026-01-02T03:04:05",
    "version": "8.9.9",
    "license": "https://example.org/license",
    "docs": "https://example.org",
    "stride": "32",
    "task": "segment",
    "batch": "1",
    "imgsz": "[640, 640]",
    "names": "{0: 'person', 1: \"it's a bicycle\"}",
    "args": "{'batch': 1, 'half': False, 'dynamic': True, 'simplify': True, 'opset': 17}",
    "channels": "3",
}


def random_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def test_outputs_are_the_models(make_model: Callable[..., Artifact]) -> None:
    session = BACKEND.open(make_model(), CPU)
    images = random_images(1, 3, 64, 96)
    doubled, mean = session.run(images)
    np.testing.assert_array_equal(doubled, images * 2)
    np.testing.assert_allclose(mean, images.mean(1, keepdims=True), rtol=1e-6)
    assert session.device == "cpu"
    session.close()
    with pytest.raises(ModelError, match="closed"):
        session.run(images)


def test_info_is_what_the_exporter_wrote(make_model: Callable[..., Artifact]) -> None:
    info = BACKEND.read_info(make_model())
    assert info == ArtifactInfo(names={0: "disc", 1: "it's a bar"}, imgsz=(64, 96), date="2026-11-23")


@pytest.mark.parametrize(
    ("shape", "dynamic", "imgsz", "batch"),
    [
        ((1, 3, 640, 640), set(), (640, 640), 1),
        ((4, 3, 320, 416), set(), (320, 416), 4),
        (("batch", 3, 640, 640), {"batch"}, (640, 640), 1),
        (("batch", 3, "height", "width"), {"batch", "height", "width"}, (640, 640), 1),
        ((1, 3, None, None), {"height", "width"}, (640, 640), 1),
    ],
)
def test_foreign_file_is_described_by_its_graph(
    make_model: Callable[..., Artifact],
    shape: tuple[int | str | None, ...],
    dynamic: set[str],
    imgsz: tuple[int, int],
    batch: int,
) -> None:
    info = BACKEND.read_info(make_model(shape, metadata=FOREIGN))
    assert (info.dynamic, info.imgsz, info.batch) == (dynamic, imgsz, batch)
    assert info.names == {0: "person", 1: "it's a bicycle"}
    assert (info.task, info.stride, info.outputs, info.precision) == ("segment", 32, ("output0", "output1"), "fp32")
    assert info.extra["author"] == "Somebody"


def test_half_precision_file_of_another_tool_is_fed_halves(make_model: Callable[..., Artifact]) -> None:
    artifact = make_model(metadata=FOREIGN, element=TensorProto.FLOAT16)
    session = BACKEND.open(artifact, SessionOptions(device="cpu", half=True))
    assert session.info.precision == "fp16"
    images = random_images(1, 3, 64, 96)
    doubled, _ = session.run(images)
    assert doubled.dtype == np.float32
    np.testing.assert_allclose(doubled, images * 2, atol=2e-3)


def test_half_written_with_float_inputs_is_known_from_args(make_model: Callable[..., Artifact]) -> None:
    info = BACKEND.read_info(make_model(metadata={**FOREIGN, "args": "{'half': True}"}))
    assert info.precision == "fp16"


def test_half_of_a_full_precision_file_is_refused(make_model: Callable[..., Artifact]) -> None:
    with pytest.raises(UsageError, match="half=True") as caught:
        BACKEND.open(make_model(), SessionOptions(half=True))
    assert "segx export" in caught.value.hint


def test_wrong_size_names_both(make_model: Callable[..., Artifact]) -> None:
    session = BACKEND.open(make_model(), CPU)
    with pytest.raises(ModelError, match="takes images 1x3x64x96, got 1x3x64x64") as caught:
        session.run(random_images(1, 3, 64, 64))
    assert "imgsz=64,96" in caught.value.hint
    with pytest.raises(ModelError, match="got 2x3x64x96"):
        session.run(random_images(2, 3, 64, 96))


def test_sides_of_an_open_file_are_multiples_of_the_stride(make_model: Callable[..., Artifact]) -> None:
    session = BACKEND.open(make_model(("batch", 3, "height", "width")), CPU)
    assert session.run(random_images(3, 3, 32, 64))[0].shape == (3, 3, 32, 64)
    with pytest.raises(ModelError, match="multiples of 32, got 33x64"):
        session.run(random_images(1, 3, 33, 64))


def test_reading_a_header_imports_no_runtime(make_model: Callable[..., Artifact]) -> None:
    path = make_model().path
    code = (
        "import sys; from pathlib import Path; from segx.artifact import Artifact\n"
        "from segx_backend_onnxruntime.plugin import segx_backends\n"
        f"info = segx_backends()[0].load().read_info(Artifact(path=Path({str(path)!r}), format='onnx'))\n"
        "assert info.names[0] == 'disc', info\n"
        "heavy = {'onnxruntime', 'onnx', 'torch', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_every_cut_of_a_file_is_reported_as_damage(make_model: Callable[..., Artifact], tmp_path: Path) -> None:
    whole = make_model().path.read_bytes()
    cut = tmp_path / "cut.onnx"
    for length in [0, *range(1, len(whole), 37)]:
        cut.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"cut\.onnx"):
            BACKEND.open(Artifact(path=cut, format="onnx"), CPU)


@pytest.mark.parametrize(
    "content", [b"\xff\xd8\xff\xe0 a JPEG", b"PK\x03\x04 a zip", b"\x00" * 64, b"\xff" * 64, b"{}", bytes(range(256))]
)
def test_other_files_are_no_models(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="damaged or no ONNX model"):
        BACKEND.read_info(Artifact(path=path, format="onnx"))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(ModelError, match="cannot be read"):
            BACKEND.read_info(Artifact(path=path, format="onnx"))


def test_damage_inside_the_graph_is_reported_at_opening(make_model: Callable[..., Artifact]) -> None:
    artifact = make_model()
    artifact.path.write_bytes(artifact.path.read_bytes().replace(b"ReduceMean", b"ReduceMxxx"))
    with pytest.raises(ModelError, match="cannot open it") as caught:
        BACKEND.open(artifact, CPU)
    assert "\n" not in caught.value.message


def test_newer_opset_is_reported(make_model: Callable[..., Artifact]) -> None:
    with pytest.raises(ModelError, match="cannot open it"):
        BACKEND.open(make_model(opset=99), CPU)


@pytest.mark.parametrize("shape", [(1, 64, 96, 3), (1, 3, 64), ()])
def test_other_inputs_are_refused(make_model: Callable[..., Artifact], shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="does not take float images"):
        BACKEND.read_info(make_model(shape))


def test_file_without_metadata_is_described_by_what_lies_beside(make_model: Callable[..., Artifact]) -> None:
    artifact = make_model(metadata={"author": "nobody"})
    with pytest.raises(ModelError, match="no metadata") as caught:
        BACKEND.read_info(artifact)
    assert "m.onnx.segx.json" in caught.value.hint
    sidecar.sidecar_path(artifact.path).write_text(json.dumps({"task": "segment", "names": {"0": "cat"}}))
    assert BACKEND.read_info(artifact).names == {0: "cat"}


def test_whatever_bytes_are_changed_it_is_read_or_refused_in_one_line(make_model: Callable[..., Artifact]) -> None:
    artifact = make_model()
    whole, chance = artifact.path.read_bytes(), random.Random(5)
    begins = whole.index(b"description")
    refused = 0
    for number in range(600):
        changed = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(begins - 20, len(whole)) if number % 2 else chance.randrange(len(whole))
            changed[place] = chance.randrange(256)
        artifact.path.write_bytes(changed[: chance.randrange(len(whole))] if number % 10 == 0 else changed)
        try:
            BACKEND.read_info(artifact)
        except ModelError as error:
            refused += "\n" not in error.message
    assert refused > 100


@pytest.mark.parametrize("shape", [(0, 3, 64, 96), (1, 3, 0, 96), (1, 3, 64, 1 << 40)])
def test_lengths_that_no_image_has_are_refused(make_model: Callable[..., Artifact], shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="its graph cannot be used"):
        BACKEND.read_info(make_model(shape))


@pytest.mark.parametrize(
    ("said", "precision", "head"),
    [
        ({"args": "{'half': True}"}, "fp16", "yolov8-seg/1"),
        ({"args": "{'quantize': 16}"}, "fp16", "yolov8-seg/1"),
        ({"args": "{'nms': True}"}, "fp32", "yolov8-seg-final/1"),
        ({"end2end": "True"}, "fp32", "yolov8-seg-end2end/1"),
    ],
)
def test_what_other_tools_say_is_read(
    make_model: Callable[..., Artifact], said: dict[str, str], precision: str, head: str
) -> None:
    info = BACKEND.read_info(make_model(metadata={**FOREIGN, "args": "{}", **said}))
    assert (info.precision, info.head) == (precision, head)


def test_weights_among_the_inputs_are_none(make_model: Callable[..., Artifact]) -> None:
    """Files of old exporters list them there."""
    path = make_model().path
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("ballast", TensorProto.FLOAT, [1000]))
    onnx.save(model, path)
    _, graph = BACKEND._read(path)
    assert list(graph.input) == [1, 3, 64, 96]


def test_an_empty_file_is_called_empty(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").touch()
    with pytest.raises(ModelError, match=r"m.onnx: the file is empty"):
        BACKEND.read_info(Artifact(path=tmp_path / "m.onnx", format="onnx"))


def test_devices_are_named_as_they_are_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cpu" in BACKEND.devices()
    there = ["CUDAExecutionProvider", "AzureExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: there)
    assert BACKEND.devices() == ["cpu", "cuda"]


def test_threads_reach_the_runtime_and_do_not_spin() -> None:
    settings = session_module._settings(SessionOptions(threads=3))
    assert settings.intra_op_num_threads == 3
    assert settings.get_session_config_entry("session.intra_op.allow_spinning") == "0"


CPU_PROVIDER, CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.mark.parametrize(
    ("wanted", "available", "name"),
    [
        (None, ["cpu"], "cpu"),
        (None, ["cpu", "cuda"], "cuda:0"),
        ("cpu", ["cpu", "cuda"], "cpu"),
        ("0", ["cpu", "cuda"], "cuda:0"),
        ("cuda", ["cpu", "cuda"], "cuda:0"),
        ("CUDA:1", ["cpu", "cuda"], "cuda:1"),
        ("mps", ["cpu", "mps"], "mps"),
    ],
)
def test_device_chooses_the_provider(wanted: str | None, available: list[str], name: str) -> None:
    device, providers = choose_device(wanted, available)
    assert device == name
    assert providers[-1][0] == CPU_PROVIDER
    assert len(providers) == (1 if name == "cpu" else 2)
    if name.startswith("cuda"):
        assert providers[0][0] == CUDA_PROVIDER
        assert providers[0][1]["device_id"] == int(name[-1])


@pytest.mark.parametrize("wanted", ["cuda", "0", "cuda:3", "mps", "dml"])
def test_absent_device_says_what_is_there(wanted: str) -> None:
    with pytest.raises(UsageError, match="only: cpu") as caught:
        choose_device(wanted, ["cpu"])
    assert caught.value.hint


@pytest.mark.parametrize("wanted", ["cudda", "gpu", "cuda:x", "cpu:1", "0,1", ""])
def test_device_that_means_nothing(wanted: str) -> None:
    with pytest.raises(UsageError, match="device="):
        choose_device(wanted, ["cpu", "cuda"])


def test_installed_provider_that_does_not_start(
    make_model: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A GPU build whose CUDA libraries are missing runs on the CPU by itself: told when asked for, logged when not."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA_PROVIDER, CPU_PROVIDER])
    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda path, sess_options, providers: real(path, providers=[CPU_PROVIDER])
    )
    session = BACKEND.open(make_model(), SessionOptions())
    assert session.device == "cpu"
    assert "did not start" in caplog.text
    with pytest.raises(UsageError, match="did not start"):
        BACKEND.open(make_model(), SessionOptions(device="cuda"))
