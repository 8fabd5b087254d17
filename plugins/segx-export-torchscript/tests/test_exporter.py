"""What is special to TorchScript: the archive, its extra file, freezing, and what is refused."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from segx.artifact import Artifact, ArtifactInfo
from segx.errors import ExportError, ModelError, UsageError
from segx.plugin import tracing
from segx.testing.models import export_with, real_module, tiny_info
from segx_export_torchscript.archive import rewrite
from segx_export_torchscript.exporter import TorchScriptExporter
from segx_export_torchscript.options import TorchScriptOptions

if TYPE_CHECKING:
    from segx.plugin.jobs import ExportModule

pytest.importorskip("segx_model_yolov8")

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")

EXPORTER = TorchScriptExporter()


@pytest.fixture(scope="module")
def module() -> ExportModule:
    return real_module(tiny_info())


@pytest.fixture(scope="module")
def plain(module: ExportModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "m.torchscript"
    EXPORTER.write_info(path, export_with(EXPORTER, module, module.info, TorchScriptOptions(), path))
    return path


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def load(path: Path) -> torch.jit.ScriptModule:
    with path.open("rb") as file:
        return torch.jit.load(file).eval()


def test_nothing_of_this_machine_is_in_the_file(plain):
    repository = str(Path(__file__).parents[3]).encode()
    for name, content in members(plain).items():
        assert not name.endswith(".debug_pkl")
        assert repository not in content, name
        assert b"site-packages" not in content, name


def test_tensors_can_be_mapped(plain):
    """Members are stored as they are, and begin at multiples of 64 bytes."""
    content = plain.read_bytes()
    with zipfile.ZipFile(plain) as archive:
        for item in archive.infolist():
            name, extra = struct.unpack_from("<HH", content, item.header_offset + 26)
            assert (item.header_offset + 30 + name + extra) % 64 == 0, item.filename
            assert item.compress_type == zipfile.ZIP_STORED


def test_extra_file_is_what_other_tools_read(plain):
    extra = {"config.txt": ""}
    with plain.open("rb") as file:
        torch.jit.load(file, _extra_files=extra)
    config = json.loads(extra["config.txt"])
    assert config["task"] == "segment"
    assert ArtifactInfo.from_metadata(config).names == {0: "red", 1: "green", 2: "blue"}


def test_the_info_is_appended_and_nothing_else_moves(module, tmp_path):
    path = tmp_path / "m.torchscript"
    done = export_with(EXPORTER, module, module.info, TorchScriptOptions(), path)
    with zipfile.ZipFile(path) as archive:
        before = {item.filename: item.header_offset for item in archive.infolist()}
        end = archive.start_dir
    bare = path.read_bytes()[:end]
    EXPORTER.write_info(path, done)
    with zipfile.ZipFile(path) as archive:
        after = {item.filename: item.header_offset for item in archive.infolist()}
    assert path.read_bytes()[:end] == bare
    assert {name.partition("/")[2] for name in after.keys() - before.keys()} == {"extra/config.txt"}
    assert before.items() <= after.items()


def test_new_info_leaves_the_model_as_it_is(plain, tmp_path):
    path = tmp_path / "m.torchscript"
    path.write_bytes(plain.read_bytes())
    EXPORTER.write_info(path, tiny_info(batch=7))
    before, after = members(plain), members(path)
    changed = [name for name in before if before[name] != after[name]]
    assert list(before) == list(after)
    assert [name.partition("/")[2] for name in changed] == ["extra/config.txt"]
    assert [item.name for item in tmp_path.iterdir()] == ["m.torchscript"]


def test_same_model_gives_the_same_archive(module, plain, tmp_path):
    export_with(EXPORTER, module, module.info, TorchScriptOptions(), tmp_path / "again.torchscript")
    again = members(tmp_path / "again.torchscript")
    weights = [name for name in again if "/data/" in name or "/constants/" in name]
    assert weights
    assert all(again[name] == members(plain).get(name) for name in weights)


def test_optimised_model_is_frozen_and_says_the_same(module, plain, tmp_path):
    path = tmp_path / "frozen.torchscript"
    export_with(EXPORTER, module, module.info, TorchScriptOptions(optimize=True), path)
    frozen = load(path)
    assert not list(frozen.parameters())
    images = torch.rand(1, 3, 64, 96)
    for ours, theirs in zip(frozen(images), load(plain)(images), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_half_needs_a_gpu():
    with pytest.raises(UsageError, match="half=True is for GPUs") as caught:
        EXPORTER.check(tiny_info(), TorchScriptOptions(half=True))
    assert "device=cuda" in caught.value.hint
    EXPORTER.check(tiny_info(), TorchScriptOptions(half=True, device="cuda:0"))


def test_half_holds_16_bit_weights_and_leaves_the_source_alone(module, tmp_path):
    """The weights are halved on any device; only running them needs a GPU."""
    path = tmp_path / "half.torchscript"
    export_with(
        EXPORTER, module, module.info.replace(precision="fp16"), TorchScriptOptions(half=True, device="0"), path
    )
    kinds = {tensor.dtype for tensor in load(path).parameters()}
    assert kinds == {torch.float16}
    assert {tensor.dtype for tensor in module.module.parameters()} == {torch.float32}


def test_source_has_to_be_a_model(module, tmp_path):
    with pytest.raises(ExportError, match="made from a model"):
        export_with(EXPORTER, Artifact(path=tmp_path, format="pb"), module.info, TorchScriptOptions(), tmp_path / "m")


def test_model_that_cannot_be_traced(module, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("Tracer cannot\nmany more lines")

    monkeypatch.setattr(torch.jit, "trace", fail)
    with pytest.raises(ExportError, match="cannot trace this model") as caught:
        export_with(EXPORTER, module, module.info, TorchScriptOptions(), tmp_path / "m.torchscript")
    assert "\n" not in caught.value.message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"PK nothing", b"\x00" * 100])
def test_damage_is_reported(tmp_path, content):
    path = tmp_path / "m.torchscript"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="no TorchScript model"):
        EXPORTER.write_info(path, tiny_info())
    assert path.read_bytes() == content


def test_checkpoint_is_no_torchscript(tmp_path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "m.pt")
    with pytest.raises(ModelError, match="no TorchScript model"):
        rewrite(tmp_path / "m.pt", tmp_path / "out", config=b"{}")


def test_the_process_does_not_grow_by_each_export(module, tmp_path, monkeypatch):
    """torch keeps every traced type: some 10 MB of a model, whatever becomes of it."""
    monkeypatch.setattr(tracing, "here", 1)
    traced, trace = [], torch.jit.trace
    monkeypatch.setattr(torch.jit, "trace", lambda *given, **named: traced.append(1) or trace(*given, **named))
    made = []
    for number in range(3):
        path = tmp_path / f"{number}.torchscript"
        export_with(EXPORTER, module, module.info, TorchScriptOptions(optimize=number == 2), path)
        made.append({kept for name in members(path) if not (kept := name.partition("/")[2]).startswith("code/")})
    assert len(traced) == 1
    assert made[0] == made[1]
    wanted = module.module(torch.from_numpy(module.example))
    for number in range(3):
        outputs = load(tmp_path / f"{number}.torchscript")(torch.from_numpy(module.example))
        for output, expected in zip(outputs, wanted, strict=True):
            torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)


def test_a_module_that_cannot_be_sent_to_a_process_is_traced_in_this_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tracing, "here", 0)

    class Local(torch.nn.Module):
        def forward(self, x):
            return x * 2

    example = torch.ones(1, 2)
    tracing.trace(Local(), example, tmp_path / "traced")
    assert load(tmp_path / "traced")(example).tolist() == [[2.0, 2.0]]
