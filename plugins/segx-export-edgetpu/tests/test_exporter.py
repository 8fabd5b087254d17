"""What is special to the Edge TPU: a compiler that is not there, fails or works, and what the accelerator takes."""

from __future__ import annotations

import json
import logging
import re
import shutil
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ai_edge_litert import interpreter

from segx.artifact import Artifact, ArtifactInfo
from segx.errors import ExportError, UsageError
from segx.flows.export import export
from segx.plugin.registry import get_registry
from segx.testing.models import RAW_OUTPUTS, export_file, export_with, real_module, tiny_info, wanted_info
from segx_export_edgetpu import operators
from segx_export_edgetpu.exporter import EdgeTpuExporter
from segx_export_edgetpu.operators import look
from segx_export_edgetpu.options import EdgeTpuOptions

if TYPE_CHECKING:
    from pathlib import Path

EXPORTER = EdgeTpuExporter()
UNCOMPILED = EdgeTpuOptions(compile=False)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A tiny YOLOv8-seg as an 8-bit file that takes bytes."""
    module = real_module(wanted_info(get_registry().exporters.get("edgetpu"), tiny_info()))
    artifact, _ = export_file("tflite", tmp_path_factory.mktemp("source"), module, int8=True, values="uint8")
    return artifact


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    artifact, _ = export_file("tflite", tmp_path_factory.mktemp("floats"), real_module(tiny_info()))
    return artifact


def test_all_operators_of_the_raw_head_are_known(source: Artifact) -> None:
    report = look(source.path)
    assert report.inputs == ("UINT8",)
    assert (report.too_new, report.on_host, report.open_sizes) == ((), (), ())
    versions = dict(report.operators)
    assert {name for name, _ in versions} == {
        *("ADD", "CONCATENATION", "CONV_2D", "LOGISTIC", "MAX_POOL_2D", "MUL", "PAD", "QUANTIZE", "RESHAPE"),
        *("RESIZE_NEAREST_NEIGHBOR", "SLICE", "TRANSPOSE_CONV"),
    }


def test_without_the_compiler_it_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match="edgetpu_compiler is not on PATH") as refusal:
        EXPORTER.check(tiny_info(), EdgeTpuOptions())
    assert "compile=False" in refusal.value.hint
    assert "edgetpu_compiler -s" in refusal.value.hint
    EXPORTER.check(tiny_info(), UNCOMPILED)
    assert get_registry().exporters.get("edgetpu").fallback == {"compile": False}  # which a benchmark measures then


def test_what_the_compiler_takes_is_written_and_proven_on_a_cpu(
    source: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    info = tiny_info().replace(settings={"a": 1})
    done = export_with(EXPORTER, source, info, UNCOMPILED, tmp_path / "m_edgetpu.tflite")
    assert "edgetpu_compiler -s m_edgetpu.tflite" in caplog.text
    assert "the Edge TPU has all" in caplog.text
    assert done.settings["a"] == 1
    assert done.settings["edgetpu"]["compiled"] is False
    EXPORTER.write_info(tmp_path / "m_edgetpu.tflite", done)
    with zipfile.ZipFile(tmp_path / "m_edgetpu.tflite") as archive:
        assert ArtifactInfo.from_metadata(json.loads(archive.read("metadata.json"))) == done


@pytest.mark.usefixtures("with_compiler")
def test_from_an_8_bit_file(source: Artifact) -> None:
    made = export(source, "edgetpu")
    assert made.path.name == "tiny_edgetpu.tflite"
    assert made.info.settings["edgetpu"]["compiled"] is True


def test_compiler_that_fails_is_quoted(source: Artifact, tmp_path: Path, with_compiler: Path) -> None:
    with_compiler.write_text("#!/bin/sh\necho 'ERROR: op builtin_code out of range'\nexit 1\n")
    with pytest.raises(ExportError, match=r"edgetpu_compiler failed \(exit code 1\)") as failure:
        export_with(EXPORTER, source, tiny_info(), EdgeTpuOptions(), tmp_path / "m_edgetpu.tflite")
    assert "out of range" in failure.value.hint
    assert not list(tmp_path.iterdir())


def test_floats_are_refused(floats: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="takes FLOAT32; an Edge TPU is fed 8-bit numbers") as refusal:
        export_with(EXPORTER, floats, tiny_info(), UNCOMPILED, tmp_path / "m_edgetpu.tflite")
    assert "values=uint8" in refusal.value.hint


def test_version_that_the_compiler_refuses_is_named(
    source: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operators, "KNOWN", {**operators.KNOWN, "CONV_2D": 2})
    with pytest.raises(ExportError, match="does not take these operators with their versions: CONV_2D 3"):
        export_with(EXPORTER, source, tiny_info(), UNCOMPILED, tmp_path / "m_edgetpu.tflite")


def test_what_the_accelerator_has_not_is_named(
    source: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known = {name: version for name, version in operators.KNOWN.items() if name != "RESIZE_NEAREST_NEIGHBOR"}
    monkeypatch.setattr(operators, "KNOWN", known)
    done = export_with(EXPORTER, source, tiny_info(), UNCOMPILED, tmp_path / "m_edgetpu.tflite")
    assert done.settings["edgetpu"]["on_host"] == ["RESIZE_NEAREST_NEIGHBOR"]
    assert "RESIZE_NEAREST_NEIGHBOR; they and what follows run on the host" in caplog.text


def test_damage_is_reported(tmp_path: Path) -> None:
    (tmp_path / "m.tflite").write_bytes(b"\x1c\0\0\0TFL3")
    broken = Artifact(path=tmp_path / "m.tflite", format="tflite")
    with pytest.raises(ExportError, match="damaged or no TFLite model"):
        export_with(EXPORTER, broken, tiny_info(), UNCOMPILED, tmp_path / "m_edgetpu.tflite")


def test_program_on_the_page(
    source: Artifact, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU: with no accelerator to hand it to, the graph stays where it is."""
    page = (repository / "docs" / "reference" / "formats" / "edgetpu.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    shutil.copy(source.path, tmp_path / "yolov8n-seg_edgetpu.tflite")

    class OnCpu(interpreter.Interpreter):  # type: ignore[misc]  # LiteRT has no types
        def __init__(self, *, experimental_delegates: list[str], **options: Any) -> None:
            assert experimental_delegates == ["libedgetpu.so.1"]
            super().__init__(**options)

    monkeypatch.setattr(interpreter, "load_delegate", str)
    monkeypatch.setattr(interpreter, "Interpreter", OnCpu)
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    exec(compile(code, "edgetpu.md", "exec"), space)
    outputs = space["run"](images=np.zeros((1, 64, 96, 3), np.uint8))
    assert {name: len(output) for name, output in outputs.items()} == dict.fromkeys(RAW_OUTPUTS, 1)
