"""What is special to ncnn: two files without metadata of their own, damage it does not notice, devices, no batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ncnn
import numpy as np
import pytest
import yaml

from segx.artifact import Artifact, ArtifactInfo, crc_of
from segx.errors import ModelError, UsageError
from segx.io import sidecar
from segx.options.verbs import SessionOptions
from segx.testing.interpreter import run_fresh
from segx_backend_ncnn import layers
from segx_backend_ncnn import session as session_module
from segx_backend_ncnn.backend import NcnnBackend

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    MakeModel = Callable[..., Artifact]

BACKEND = NcnnBackend()
CPU = SessionOptions(device="cpu")
OURS = ArtifactInfo(names={0: "disc", 1: "bar"}, imgsz=(64, 96), date="2026-11-23")

# Twice the images, and the mean of each 2x2 pixels through a convolution that is one, so that there are weights.
TEXT = """\
7767517
5 6
Input       in0      0 1 in0
Split       two      1 2 in0 a b
BinaryOp    double   1 1 a out0 0=2 1=1 2=2.0
Convolution same     1 1 b c 0=3 1=1 5=1 6=9
Pooling     mean     1 1 c out1 0=1 1=2 2=2
"""
WEIGHTS = bytes(4) + np.eye(3, dtype="<f4").tobytes() + np.zeros(3, "<f4").tobytes()

FOREIGN = {
    "description": "Some YOLOv8n-seg model",
    "author": "Somebody",
    "stride": 32,
    "task": "segment",
    "batch": 1,
    "imgsz": [64, 96],
    "names": {0: "person", 1: "bicycle"},
    "args": {"batch": 1, "half": False},
}


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    """A model of two outputs, as a folder; its info is ours, or what another tool writes."""

    def make(
        *,
        info: ArtifactInfo | dict[str, object] | None = OURS,
        text: str = TEXT,
        weights: bytes = WEIGHTS,
        name: str = "m_ncnn_model",
    ) -> Artifact:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.ncnn.param").write_text(text)
        (folder / "model.ncnn.bin").write_bytes(weights)
        if isinstance(info, ArtifactInfo):
            files = {file.name: (file.stat().st_size, crc_of(file)) for file in folder.iterdir()}
            sidecar.write(folder, info.replace(files=files))
        elif info is not None:
            (folder / "metadata.yaml").write_text(yaml.safe_dump(info))
        return Artifact(path=folder, format="ncnn")

    return make


def random_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def pooled(images: np.ndarray) -> np.ndarray:
    count, channels, height, width = images.shape
    return images.reshape(count, channels, height // 2, 2, width // 2, 2).mean(axis=(3, 5))


def test_outputs_are_the_models(make_model: MakeModel) -> None:
    session = BACKEND.open(make_model(), CPU)
    images = random_images(1, 3, 64, 96)
    doubled, mean = session.run(images)
    np.testing.assert_array_equal(doubled, images * 2)
    np.testing.assert_allclose(mean, pooled(images), rtol=1e-5)
    session.close()
    with pytest.raises(ModelError, match="closed"):
        session.run(images)


def test_a_batch_goes_through_one_by_one(make_model: MakeModel) -> None:
    session = BACKEND.open(make_model(info=OURS.replace(batch=3)), CPU)
    images = random_images(3, 3, 64, 96)
    doubled, mean = session.run(images)
    np.testing.assert_array_equal(doubled, images * 2)
    np.testing.assert_allclose(mean, pooled(images), rtol=1e-5)


def test_a_size_it_was_not_made_for_is_refused(make_model: MakeModel) -> None:
    """ncnn itself returns numbers that mean nothing, or these, without a word."""
    session = BACKEND.open(make_model(), CPU)
    with pytest.raises(ModelError, match="takes images 1x3x64x96, got 1x3x96x64") as caught:
        session.run(random_images(1, 3, 96, 64))
    assert "imgsz=64,96" in caught.value.hint


def test_open_sizes_are_multiples_of_the_stride(make_model: MakeModel) -> None:
    session = BACKEND.open(make_model(info=OURS.replace(dynamic=frozenset({"height", "width"}))), CPU)
    assert session.run(random_images(1, 3, 32, 160))[1].shape == (1, 3, 16, 80)
    with pytest.raises(ModelError, match="multiples of 32, got 33x64"):
        session.run(random_images(1, 3, 33, 64))
    with pytest.raises(ModelError, match="got 2x3x32x64"):
        session.run(random_images(2, 3, 32, 64))


def test_a_first_layer_that_works_in_place_leaves_the_images_alone(make_model: MakeModel) -> None:
    """Given memory that is not its own, ncnn ends the process there; so it is tried in another one."""
    text = "7767517\n2 2\nInput in0 0 1 in0\nSigmoid s 1 1 in0 out0\n"
    artifact = make_model(text=text, weights=b"", info=OURS.replace(outputs=("output0",)))
    code = """
    import json, sys
    import numpy as np
    from pathlib import Path
    from segx.artifact import Artifact
    from segx.options.verbs import SessionOptions
    from segx_backend_ncnn.backend import NcnnBackend
    session = NcnnBackend().open(Artifact(path=Path(sys.argv[1]), format="ncnn"), SessionOptions(device="cpu"))
    images = np.full((1, 3, 64, 96), 2, np.float32)
    (output,) = session.run(images)
    print(json.dumps([float(output.max()), float(images.min())]))
    """
    sigmoid, untouched = run_fresh(code, str(artifact.path))
    assert sigmoid == pytest.approx(1 / (1 + np.exp(-2)))
    assert untouched == 2


# What it is


def test_info_is_what_the_exporter_wrote(make_model: MakeModel) -> None:
    info = BACKEND.read_info(make_model())
    assert info.replace(files={}) == OURS
    assert set(info.files) == {"model.ncnn.param", "model.ncnn.bin"}


@pytest.mark.parametrize(("args", "precision"), [({"half": False}, "fp32"), ({"half": True}, "fp16")])
def test_folder_of_another_tool_opens(make_model: MakeModel, args: dict[str, object], precision: str) -> None:
    artifact = make_model(info={**FOREIGN, "args": args})
    info = BACKEND.read_info(artifact)
    assert (info.imgsz, info.batch, info.dynamic, info.precision) == ((64, 96), 1, frozenset(), precision)
    assert info.names == {0: "person", 1: "bicycle"}
    assert info.extra["author"] == "Somebody"
    images = random_images(1, 3, 64, 96)
    np.testing.assert_allclose(BACKEND.open(artifact, CPU).run(images)[0], images * 2, rtol=2e-3)


def test_folder_without_metadata_says_where_to_write_them(make_model: MakeModel) -> None:
    with pytest.raises(ModelError, match="no metadata") as caught:
        BACKEND.read_info(make_model(info=None))
    assert "metadata.yaml" in caught.value.hint


def test_reading_what_it_is_imports_no_runtime(make_model: MakeModel) -> None:
    code = """
    import json, sys
    from pathlib import Path
    from segx.artifact import Artifact
    from segx_backend_ncnn.plugin import segx_backends
    info = segx_backends()[0].load().read_info(Artifact(path=Path(sys.argv[1]), format="ncnn"))
    print(json.dumps(sorted({"ncnn", "numpy", "torch"} & set(sys.modules)) + [info.names[0]]))
    """
    assert run_fresh(code, str(make_model().path)) == ["disc"]


def test_outputs_are_counted_not_spelled(tmp_path: Path) -> None:
    names = [f"out{number}" for number in (10, 2, 0, 1)]
    text = f"7767517\n2 5\nInput in0 0 1 in0\nSplit s 1 4 in0 {' '.join(names)}\n"
    (tmp_path / "m.param").write_text(text)
    assert layers.read(tmp_path / "m.param").outputs == ("out0", "out1", "out2", "out10")


def test_half_of_a_full_precision_folder_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(UsageError, match="half=True") as caught:
        BACKEND.open(make_model(), SessionOptions(half=True))
    assert "format=ncnn half=True" in caught.value.hint


# Damage


def test_ncnn_itself_runs_weights_that_are_zeros(make_model: MakeModel) -> None:
    """Why a checksum is looked at before each opening."""
    artifact = make_model(info=FOREIGN, weights=bytes(len(WEIGHTS)))
    assert BACKEND.open(artifact, CPU).run(random_images(1, 3, 64, 96))[1].max() == 0


@pytest.mark.parametrize("name", ["model.ncnn.bin", "model.ncnn.param"])
@pytest.mark.parametrize("damage", [lambda b: bytes(len(b)), lambda b: b[: len(b) // 2], lambda b: b[:-1] + b"\x01"])
def test_whatever_is_changed_in_our_folder_is_found(
    make_model: MakeModel, name: str, damage: Callable[[bytes], bytes]
) -> None:
    artifact = make_model()
    file = artifact.path / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ModelError, match="m_ncnn_model") as caught:
        BACKEND.open(artifact, CPU)
    assert "copy or export it again" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "weights", "said"),
    [
        (TEXT[: len(TEXT) // 2], WEIGHTS, "layers, not 5"),
        (TEXT.replace("5 6", "5 7"), WEIGHTS, "has 6 blobs, not 7"),
        (TEXT.replace("a out0 0=2 1=1 2=2.0", "a"), WEIGHTS, "of type BinaryOp is cut short"),
        ("", WEIGHTS, "does not begin with 7767517"),
        ("\xff\x00 a JPEG", WEIGHTS, "does not begin with 7767517"),
        ("7767517\nfive six\n", WEIGHTS, "damaged or no ncnn model"),
        (TEXT.replace("Pooling ", "Poohing "), WEIGHTS, r"uses what ncnn .* has not \(model.ncnn.param\)"),
        (TEXT, WEIGHTS[:20], r"is damaged, or .*\(model.ncnn.bin\)"),
        (TEXT.replace("Input ", "Noop "), WEIGHTS, r"has 0 inputs \(none\)"),
        (TEXT.replace("c out1", "c out0"), WEIGHTS, "has 5 blobs, not 6"),
    ],
    ids=lambda value: value if isinstance(value, str) and "\n" not in value else "",
)
def test_damage_in_another_tools_folder_is_found(make_model: MakeModel, text: str, weights: bytes, said: str) -> None:
    with pytest.raises(ModelError, match=said) as caught:
        BACKEND.open(make_model(info=FOREIGN, text=text, weights=weights), CPU)
    assert "m_ncnn_model" in caught.value.message
    assert "\n" not in caught.value.message


def test_files_that_are_missing_or_too_many(make_model: MakeModel, tmp_path: Path) -> None:
    artifact = make_model(info=FOREIGN)
    (artifact.path / "other.param").write_text(TEXT)
    with pytest.raises(ModelError, match=r"model\.ncnn\.param, other\.param"):
        BACKEND.read_info(artifact)
    (artifact.path / "other.param").unlink()
    (artifact.path / "model.ncnn.bin").unlink()
    with pytest.raises(ModelError, match=r"model\.ncnn\.bin is missing"):
        BACKEND.read_info(artifact)
    with pytest.raises(ModelError, match="cannot be read"):
        BACKEND.read_info(Artifact(path=tmp_path / "none_ncnn_model", format="ncnn"))


def test_other_outputs_than_its_metadata_name_are_refused(make_model: MakeModel) -> None:
    names = ("boxes", "scores", "coefficients", "prototypes")
    with pytest.raises(ModelError, match="has the outputs out0, out1; its metadata name boxes, scores"):
        BACKEND.open(make_model(info=OURS.replace(outputs=names)), CPU)


# Where and how it runs


def test_only_a_16_bit_file_is_computed_in_16_bits(make_model: MakeModel) -> None:
    folder = make_model().path
    files = {"text": folder / "model.ncnn.param", "weights": folder / "model.ncnn.bin"}
    for precision, half in (("fp32", False), ("fp16", True), ("int8", False)):
        net = session_module.load(**files, device="cpu", precision=precision, threads=3)
        assert {net.opt.use_fp16_packed, net.opt.use_fp16_storage, net.opt.use_fp16_arithmetic} == {half}
        assert not net.opt.use_bf16_storage
        assert not net.opt.use_vulkan_compute
        assert net.opt.num_threads == 3


def test_the_processor_is_meant_where_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ncnn, "get_gpu_count", lambda: pytest.fail("a driver was loaded"))
    assert session_module.choose_device(None) == "cpu"
    assert session_module.choose_device("CPU") == "cpu"


def test_vulkan_without_a_driver_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ncnn, "get_gpu_count", lambda: 0)
    with pytest.raises(UsageError, match="device=vulkan is not there: ncnn finds no Vulkan driver") as caught:
        session_module.choose_device("vulkan")
    assert "devices here: cpu" in caught.value.hint


def test_gpus_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ncnn, "get_gpu_count", lambda: 2)
    assert BACKEND.devices() == ["cpu", "vulkan:0", "vulkan:1"]
    assert session_module.choose_device("vulkan") == "vulkan:0"
    assert session_module.choose_device("vulkan:1") == "vulkan:1"
    with pytest.raises(UsageError, match="vulkan:2 is not there") as caught:
        session_module.choose_device("vulkan:2")
    assert "vulkan:1" in caught.value.hint


@pytest.mark.parametrize("device", ["cuda", "0", "mps", "cpu:1", "warp"])
def test_other_devices_are_refused(device: str) -> None:
    with pytest.raises(UsageError, match=f"device={device}"):
        session_module.choose_device(device)
