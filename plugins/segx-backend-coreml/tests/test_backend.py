"""What is special to Core ML: other tools' packages, weights in fewer bits, half precision, damage, devices."""

from __future__ import annotations

import random
import shutil
import struct
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from segx.artifact import Artifact
from segx.errors import ModelError, UsageError
from segx.options.verbs import SessionOptions
from segx.plugin.registry import get_registry
from segx.testing.models import run_module, tiny_info, tiny_module
from segx.testing.parity import assert_same_outputs
from segx.testing.scenes import noise_images
from segx_backend_coreml import session as sessions
from segx_backend_coreml.backend import CoreMLBackend, ReferenceBackend
from segx_backend_coreml.package import read_package
from segx_backend_coreml.program import HALF, read_program

if TYPE_CHECKING:
    from segx.plugin.base import FormatBackend

CPU = SessionOptions(device="cpu")
SHAPE = (1, 3, 64, 96)
MODEL = "Data/com.apple.CoreML/model.mlmodel"
WEIGHTS = "Data/com.apple.CoreML/weights/weight.bin"


def open_(path: Path, backend: FormatBackend | None = None, options: SessionOptions = CPU) -> Any:
    return (backend or ReferenceBackend()).open(Artifact(path=path, format="coreml"), options)


def read(path: Path) -> Any:
    return ReferenceBackend().read_info(Artifact(path=path, format="coreml"))


@pytest.fixture
def copy(exported: Artifact, tmp_path: Path) -> Path:
    """A package to damage, without the file that lists what belongs to it: so that reading itself has to notice."""
    path = tmp_path / "m.mlpackage"
    shutil.copytree(exported.path, path)
    (path / "metadata.yaml").unlink()
    return path


def test_gives_what_torch_gives(exported: Artifact) -> None:
    images = noise_images(SHAPE)
    session = open_(exported.path)
    wanted = run_module(tiny_module(tiny_info()), images)
    assert_same_outputs(session.run(images), wanted, names=session.info.outputs)


def test_what_is_embedded_is_read_where_the_rest_is_lost(exported: Artifact, copy: Path) -> None:
    whole, left = read(exported.path), read(copy)
    assert whole.files
    assert left == whole.replace(files={}, versions=left.versions)
    assert_same_outputs(
        open_(copy).run(noise_images(SHAPE)), open_(exported.path).run(noise_images(SHAPE)), names=left.outputs
    )


@pytest.mark.parametrize("name", ["table", "affine", "table18", "block18"])
def test_weights_of_fewer_bits_are_what_coremltools_makes_of_them(foreign: Path, name: str) -> None:
    images = noise_images(SHAPE)
    small, unpacked, plain = (
        open_(foreign / f"{n}.mlpackage").run(images) for n in (name, f"{name}-unpacked", "plain")
    )
    for got, wanted, other in zip(small, unpacked, plain, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
        assert np.abs(got - other).max() > 1e-3, "they are not those of the plain model"


@pytest.mark.parametrize("name", ["rgb", "bgr"])
def test_images_of_bytes(foreign: Path, name: str) -> None:
    """Packages that take images are fed 0..255 in their own order of colours."""
    images = np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.float32) / np.float32(255)
    session = open_(foreign / f"{name}.mlpackage")
    assert session.info.names == {0: "a", 1: "b", 2: "c"}
    assert (session.info.imgsz, session.info.outputs) == ((64, 96), ("found", "protos"))
    plain = open_(foreign / "plain.mlpackage")
    wanted = plain.run(images if name == "rgb" else np.ascontiguousarray(images[:, ::-1]))
    assert_same_outputs(session.run(images), wanted, names=session.info.outputs)
    assert np.abs(session.run(images)[1] - plain.run(images[:, ::-1] if name == "rgb" else images)[1]).max() > 0.01


def test_16_bits_are_rounded_after_each_operation(foreign: Path) -> None:
    path = foreign / "half.mlpackage"
    program = read_program(read_package(path))
    assert {o.type for op in program.operations if op.kind == "conv" for o in op.outputs} == {HALF}
    images = noise_images(SHAPE)
    got, wanted = open_(path).run(images), open_(foreign / "plain.mlpackage").run(images)
    for half, full in zip(got, wanted, strict=True):
        assert half.dtype == np.float32
        np.testing.assert_array_equal(half, half.astype(np.float16))
        assert 0 < np.abs(half - full).max() < 0.02


def test_what_is_not_known_is_named_before_any_work(foreign: Path) -> None:
    with pytest.raises(ModelError, match=r"operations that are not run here: erf \(1x\)") as refusal:
        open_(foreign / "unknown.mlpackage")
    assert "unknown.mlpackage" in refusal.value.message
    assert read(foreign / "unknown.mlpackage").outputs == ("found", "protos"), "what it is can be told all the same"


def test_argument_that_is_not_known_is_named(copy: Path) -> None:
    model = copy / MODEL
    model.write_bytes(model.read_bytes().replace(b"dilations", b"dilatixns"))
    with pytest.raises(ModelError, match=r"arguments that are not known here: conv\(dilatixns=\)"):
        open_(copy)


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        ("", "Expecting value"),
        ("[]", "names no model"),
        ("{}", "names no model"),
        ('{"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": "../../m.mlmodel"}}}', "leads out"),
        ('{"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": "/etc/passwd"}}}', "leads out"),
        ('{"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": "none"}}}', "cannot be read"),
    ],
)
def test_manifest_that_leads_nowhere(copy: Path, manifest: str, reason: str) -> None:
    (copy / "Manifest.json").write_text(manifest)
    with pytest.raises(ModelError, match=reason) as refusal:
        read(copy)
    assert str(copy) in refusal.value.message


@pytest.mark.parametrize("left", [0, 10, 200, 0.5, 0.99])
def test_weights_that_are_cut_short(copy: Path, left: float) -> None:
    content = (copy / WEIGHTS).read_bytes()
    (copy / WEIGHTS).write_bytes(content[: int(left if left > 1 else len(content) * left)])
    with pytest.raises(ModelError, match="cannot open it"):
        open_(copy)


def test_weights_of_another_model(copy: Path) -> None:
    content = bytearray((copy / WEIGHTS).read_bytes())
    place = content.index(struct.pack("<I", 0xDEADBEEF))
    content[place] ^= 0xFF
    (copy / WEIGHTS).write_bytes(content)
    with pytest.raises(ModelError, match="not those of its program"):
        open_(copy)


def test_weights_outside_of_the_package(copy: Path) -> None:
    model = copy / MODEL
    model.write_bytes(model.read_bytes().replace(b"@model_path/weights/weight.bin", b"@model_path/../../weights.bin."))
    with pytest.raises(ModelError, match="lie outside of it"):
        open_(copy)


def test_no_package(tmp_path: Path) -> None:
    for path in (tmp_path / "none.mlpackage", tmp_path):
        with pytest.raises(ModelError, match="cannot be read"):
            read(path)
    file = tmp_path / "file.mlpackage"
    file.write_bytes(b"x")
    with pytest.raises(ModelError, match="cannot be read"):
        read(file)


def test_whatever_bytes_are_changed_it_is_read_or_refused_in_one_line(copy: Path) -> None:
    model = copy / MODEL
    whole, chance = model.read_bytes(), random.Random(5)
    told = []
    for number in range(150):
        changed = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            changed[chance.randrange(len(whole))] = chance.randrange(256)
        model.write_bytes(changed[: chance.randrange(len(whole))] if number % 10 == 0 else changed)
        try:
            open_(copy).run(noise_images(SHAPE))
        except ModelError as error:
            told.append(error.message)
    assert len(told) > 50
    assert not any("\n" in message for message in told)


def test_threads_are_held_while_it_runs(exported: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    real = sessions.Executor.__call__

    def watched(self: Any, images: Any) -> Any:
        seen.append([pool["num_threads"] for pool in sessions.ThreadpoolController().info()])
        return real(self, images)

    monkeypatch.setattr(sessions.Executor, "__call__", watched)
    before = [pool["num_threads"] for pool in sessions.ThreadpoolController().select(user_api="blas").info()]
    open_(exported.path, options=SessionOptions(device="cpu", threads=1)).run(noise_images(SHAPE))
    assert seen[0]
    assert set(seen[0]) == {1}
    after = [pool["num_threads"] for pool in sessions.ThreadpoolController().select(user_api="blas").info()]
    assert after == before


def test_each_is_for_its_systems() -> None:
    backends = get_registry().backends
    own, reference = backends.get("coreml@segx-backend-coreml"), backends.get("coreml-reference@segx-backend-coreml")
    assert own.platforms == ("darwin",)
    assert own.apart
    assert own.priority > 0 > reference.priority
    assert not any("torch" in text or "coremltools" in text for text in reference.requires)


# Core ML itself is on Macs only: here its Python interface is played by the executor.


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module in the place of coremltools, whose models run in NumPy and note how they were opened."""
    played: Any = types.ModuleType("coremltools")
    played.ComputeUnit = types.SimpleNamespace(
        ALL="all", CPU_ONLY="cpu only", CPU_AND_GPU="cpu and gpu", CPU_AND_NE="cpu and ne"
    )
    played.opened = []

    class MLModel:
        def __init__(self, path: str, compute_units: str) -> None:
            played.opened.append(compute_units)
            self.package = read_package(Path(path))
            self.run = sessions.Executor(read_program(self.package))

        def predict(self, given: dict[str, Any]) -> dict[str, Any]:
            (feature,) = self.package.inputs
            value = given[feature.name]
            if feature.is_image:
                assert value.mode == "RGB"
                value = np.asarray(value).transpose(2, 0, 1)[None].astype(np.float32)
                value = value[:, ::-1] if feature.kind == "BGR" else value
            return {name: output.astype(np.float32) for name, output in self.run(np.ascontiguousarray(value)).items()}

    played.models = types.SimpleNamespace(MLModel=MLModel)
    monkeypatch.setitem(sys.modules, "coremltools", played)
    return played


@pytest.mark.parametrize(
    ("device", "units", "name"),
    [
        (None, "all", "auto"),
        ("cpu", "cpu only", "cpu"),
        ("gpu", "cpu and gpu", "gpu"),
        ("mps", "cpu and gpu", "mps"),
        ("npu", "cpu and ne", "npu"),
    ],
)
def test_devices_of_core_ml(exported: Artifact, tools: Any, device: str | None, units: str, name: str) -> None:
    session = open_(exported.path, CoreMLBackend(), SessionOptions(device=device))
    assert (tools.opened, session.device) == ([units], name)
    images = noise_images(SHAPE)
    assert_same_outputs(session.run(images), open_(exported.path).run(images), names=session.info.outputs)
    assert sys.modules.get("tensorflow") is not None or "tensorflow" not in sys.modules


def test_devices_that_core_ml_has_not(exported: Artifact, tools: Any) -> None:
    with pytest.raises(UsageError, match="device=cuda is not there") as refusal:
        open_(exported.path, CoreMLBackend(), SessionOptions(device="cuda"))
    assert "npu, gpu, mps, cpu" in refusal.value.hint
    assert not tools.opened


@pytest.mark.parametrize("name", ["rgb", "bgr"])
def test_images_are_handed_to_core_ml_as_images(foreign: Path, tools: Any, name: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.float32) / np.float32(255)
    path = foreign / f"{name}.mlpackage"
    session = open_(path, CoreMLBackend())
    assert_same_outputs(session.run(images), open_(path).run(images), names=session.info.outputs)


def test_failures_of_core_ml_are_told_in_one_line(
    exported: Artifact, tools: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("Error compiling model\nand a second line")

    monkeypatch.setattr(tools.models, "MLModel", fail)
    with pytest.raises(ModelError, match="Core ML cannot open it") as refusal:
        open_(exported.path, CoreMLBackend())
    assert "\n" not in refusal.value.message
