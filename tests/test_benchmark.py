"""``segx benchmark`` and ``segx verify``: every format in one table, measured alike, none left out."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from segx import YOLO
from segx.errors import UsageError
from segx.flows.benchmark_rows import Benchmark, BenchmarkRow
from segx.options.verbs import PredictOptions
from segx.plugin import fastest
from segx.plugin.fastest import Timing
from segx.plugin.known import FORMATS
from segx.plugin.registry import get_registry
from segx.testing.models import TINY_YOLOV8
from segx_cli.main import main

if TYPE_CHECKING:
    from segx.artifact import Artifact

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, a data set drawn for it, and the model as ONNX."""
    from segx_data_synth.dataset import write_dataset

    folder = tmp_path_factory.mktemp("benchmark")
    (folder / "tinyn-seg.yaml").write_text(TINY_YOLOV8.replace("nc: 3", "nc: 6"))
    YOLO(folder / "tinyn-seg.yaml").save(folder / "tiny.pt")
    YOLO(folder / "tiny.pt").export("onnx", imgsz=64)
    write_dataset(folder / "shapes", images=2, val_images=4, imgsz=64)
    return folder


@pytest.fixture(scope="module")
def measured(folder: Path) -> Benchmark:
    data = next((folder / "shapes").glob("*.yaml"))
    return YOLO(folder / "tiny.pt").benchmark(
        data=data, formats=("onnx", "torchscript"), half=True, imgsz=64, most=3, cold=False, project=folder / "runs"
    )


def test_the_model_comes_first_and_every_format_has_its_row(measured: Benchmark) -> None:
    assert [row.name for row in measured.rows] == [
        *("pt fp32", "onnx fp32", "onnx fp16", "torchscript fp32", "torchscript fp16")
    ]
    states = {row.name: row.state for row in measured.rows}
    assert states.pop("torchscript fp16") == "blocked"  # for GPUs only
    assert set(states.values()) == {"ok"}


def test_rows_hold_what_was_measured(measured: Benchmark, folder: Path) -> None:
    for row in measured.measured:
        assert row.bytes == row.path.stat().st_size > 1000
        assert 0 < row.network < row.latency
        assert row.throughput > 0
        assert row.cold is None
        assert "fitness" in row.metrics
    assert measured.rows[0].path == folder / "tiny.pt"
    assert measured.rows[0].parity is None
    assert measured.rows[1].parity.box < 0.01
    assert [row.backend for row in measured.measured[:2]] == ["torch", "onnxruntime"]
    data, backend = next((folder / "shapes").glob("*.yaml")), measured.rows[1].backend
    same = YOLO(measured.rows[1].path).val(data=data, backend=backend, imgsz=64, rect=False, plots=False, show=False)
    assert measured.rows[1].metrics["fitness"] == pytest.approx(same.fitness, abs=1e-12)


def test_table_csv_and_picture_are_written(measured: Benchmark) -> None:
    rows = list(csv.DictReader((measured.folder / "benchmark.csv").read_text().splitlines()))
    assert [row["format"] for row in rows] == [row.format for row in measured.rows]
    assert float(rows[1]["latency"]) == measured.rows[1].latency
    assert float(rows[1]["parity_matched"]) == measured.rows[1].parity.matched
    document = json.loads((measured.folder / "benchmark.json").read_text())
    assert document["settings"]["images"] == 4
    assert document["rows"][2]["precision"] == "fp16"
    picture = cv2.imread(str(measured.folder / "benchmark.png"))
    assert picture is not None
    assert picture.std() > 10
    table = measured.to_table().splitlines()
    assert table[0].split()[:3] == ["format", "MB", "mAP50-95(B)"]
    assert any(line.startswith("torchscript fp16: blocked: half=True is for GPUs") for line in table)


def test_advice_names_the_best_of_those_that_keep_the_accuracy() -> None:
    def row(name: str, fitness: float, **figures: float) -> BenchmarkRow:
        return BenchmarkRow(format=name, metrics={"fitness": fitness}, **figures)

    rows = (
        row("source", 0.5, latency=9.0, throughput=10.0, bytes=9_000_000, cold=3.0),
        row("exact", 0.495, latency=5.0, throughput=30.0, bytes=8_000_000, cold=2.0),
        row("small", 0.491, latency=7.0, throughput=20.0, bytes=2_000_000, cold=0.5),
        row("broken", 0.1, latency=1.0, throughput=99.0, bytes=1_000_000, cold=0.1),
        BenchmarkRow(format="absent", state="blocked", reason="not here"),
    )
    assert Benchmark(rows=rows, settings={}, folder=Path()).advice() == [
        "shortest wait for one image: exact fp32 (5 ms)",
        "most images a second: exact fp32 (30.0)",
        "smallest: small fp32 (2.0 MB)",
        "first result soonest: small fp32 (0.5 s)",
        "lose more than 0.01 of the fitness: broken fp32",
    ]


def test_formats_that_are_not_here_keep_their_row(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(get_registry().exporters, "find", lambda name: None)
    data = next((folder / "shapes").glob("*.yaml"))
    result = YOLO(folder / "tiny.onnx").benchmark(data=data, most=1, cold=False, project=folder / "none")
    assert result.rows[0].format == "onnx"
    assert {row.format for row in result.rows[1:]} == set(FORMATS) - {"pt", "onnx"}
    assert {row.state for row in result.rows[1:]} == {"blocked"}
    absent = {row.format: row for row in result.rows}["engine"]
    assert (absent.state, absent.reason) == ("blocked", f"pip install {FORMATS['engine'].exporter}")


def test_a_format_that_cannot_be_made_fails_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from segx.errors import ExportError

    exporter = get_registry().exporters.load("onnx")
    monkeypatch.setattr(type(exporter), "_export", lambda *_: (_ for _ in ()).throw(ExportError("no luck", hint="try")))
    data = next((folder / "shapes").glob("*.yaml"))
    result = YOLO(folder / "tiny.pt").benchmark(
        data=data, formats="onnx", imgsz=64, most=1, cold=False, project=folder / "fail"
    )
    assert [row.state for row in result.rows] == ["ok", "failed"]
    assert result.rows[1].reason == "no luck; try"


def test_a_first_prediction_is_timed_in_a_new_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two = fastest.backends_on_cpu("onnx", get_registry())[:2]  # a third takes as long again
    monkeypatch.setattr("segx.flows.benchmark.backends_on_cpu", lambda *_: two)
    data = next((folder / "shapes").glob("*.yaml"))
    result = YOLO(folder / "tiny.onnx").benchmark(data=data, formats=(), most=1, project=folder / "cold", verbose=False)
    assert 0.1 < result.rows[0].cold < 60
    if result.rows[0].choice is not None:
        assert all(0.1 < timing.cold < 60 for timing in result.rows[0].choice.timings)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"formats": ("onxx",)}, "did you mean 'onnx'"),
        ({"data": None}, "no data set is named, and the model remembers none"),
        ({"most": 0}, "most=0"),
    ],
)
def test_wrong_questions_are_refused_before_any_folder_is_made(folder: Path, given: dict, words: str) -> None:
    data = next((folder / "shapes").glob("*.yaml"))
    with pytest.raises(UsageError, match=words):
        YOLO(folder / "tiny.pt").benchmark(**{"data": data, "project": folder / "refused", **given})
    assert not (folder / "refused").exists()


def test_new_weights_have_to_be_written_first(folder: Path) -> None:
    with pytest.raises(UsageError, match="in memory only"):
        YOLO(folder / "tinyn-seg.yaml").verify(folder / "tiny.pt")


def test_the_command_line_measures_too(folder: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(folder)
    data = next((folder / "shapes").glob("*.yaml"))
    assert main(["benchmark", "model=tiny.onnx", f"data={data}", "formats=[]", "cold=False", "most=1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["format"] for row in document["rows"]] == ["onnx"]
    assert Path(document["folder"]) == Path("runs/segment/benchmark")


# verify


def test_an_export_is_verified_on_images_of_a_data_set(folder: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    data = next((folder / "shapes").glob("*.yaml"))
    assert main(["verify", "model=tiny.onnx", "reference=tiny.pt", f"data={data}", "most=3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["same"]
    assert found["parity"]["images"] == 4 + 3


def test_another_model_is_seen_from_the_same_one(folder: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    import torch

    other = YOLO("tiny.pt")
    with torch.no_grad():
        for parameter in other._sessions.model("save").module.parameters():
            parameter.add_(0.05 * torch.sin(torch.arange(parameter.numel())).reshape(parameter.shape))
    other.save("other.pt")
    assert main(["verify", "model=tiny.onnx", "reference=other.pt"]) == 5
    assert "tiny.onnx differs from other.pt: output0" in capsys.readouterr().out
    assert YOLO("tiny.onnx").verify("tiny.pt").holds


def test_what_finds_nothing_is_unproven_and_no_other_model(folder: Path, capsys, monkeypatch) -> None:
    """A graph that suppresses gives nothing of what an untrained model is unsure of, and no raw outputs."""
    monkeypatch.chdir(folder)
    YOLO("tiny.pt").export("onnx", nms=True, output="final.onnx", verify=False)
    capsys.readouterr()
    assert main(["verify", "model=final.onnx", "reference=tiny.pt", "--json"]) == 5
    found = json.loads(capsys.readouterr().out)
    assert (found["same"], found["problems"]) == (None, [])
    assert main(["verify", "model=final.onnx", "reference=tiny.pt"]) == 5
    said = capsys.readouterr().out
    assert "unproven: whether final.onnx finds what tiny.pt finds cannot be said: nothing could be compared" in said
    assert "; data=coco8-seg.yaml compares photographs too" in said


# Which runtime of several is taken

Timings = tuple[Timing, ...]
USUAL = Timing(backend="onnxruntime", latency=10.0, throughput=10.0)
QUICK = Timing(backend="openvino", latency=5.0, throughput=20.0, said="the same")


@pytest.fixture
def onnx(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    """The tiny ``.onnx``, which two runtimes run, and a cache of its own."""
    pytest.importorskip("openvino")
    monkeypatch.setenv("SEGX_CACHE", str(tmp_path / "cache"))
    return get_registry().artifact(folder / "tiny.onnx")


def taken(artifact: Artifact, **how: object) -> str:
    """Return the runtime that a new model of a file runs by."""
    session = YOLO(artifact.path)._sessions.get(PredictOptions.parse(how).session())
    return type(session).__module__.partition(".")[0].removeprefix("segx_backend_")


def note(artifact: Artifact, *timings: Timing, device: str | None = None) -> Path | None:
    return fastest.keep(artifact, fastest.choice_of(timings, device, get_registry()))


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other program is at work."""
    monkeypatch.setattr("segx.flows.benchmark.Others.cores", lambda _: 0.0)


def test_beside_other_programs_no_runtime_is_chosen_for_good(
    folder: Path, onnx: Artifact, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("segx.flows.benchmark.Others.cores", lambda _: 1.5)
    result = YOLO(onnx.path).benchmark(formats=(), val=False, most=1, cold=False, project=folder / "busy")
    assert result.rows[0].choice is not None
    assert "which runtime is fastest is not kept: other programs took 1.5 of" in caplog.text
    assert fastest.measured(onnx, get_registry()) is None


@pytest.mark.usefixtures("alone")
def test_speed_alone_takes_no_data_set(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "segx")
    result = YOLO(folder / "tiny.pt").benchmark(
        formats="onnx", imgsz=64, val=False, most=2, cold=False, project=tmp_path
    )
    assert [(row.state, row.metrics, row.throughput > 0) for row in result.rows] == [("ok", {}, True)] * 2
    assert sorted(path.name for path in (result.folder / "images").iterdir()) == ["drawn0.png", "drawn1.png"]
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("segx")]
    assert lines[0].startswith("speed is measured on drawn images")
    said = [re.sub(r"\d+:\d\d so far", "TIME", line) for line in lines[1:]]
    assert "1 of 2: pt fp32: timing torch (TIME)" in said
    assert "2 of 2: onnx fp32: exporting, and comparing with its source (TIME)" in said
    assert all(line.startswith(("1 of 2: pt fp32: ", "2 of 2: onnx fp32: ")) for line in said), said


@pytest.mark.usefixtures("alone")
def test_every_runtime_of_a_file_is_proven_and_measured(onnx: Artifact, folder: Path) -> None:
    data = next((folder / "shapes").glob("*.yaml"))
    result = YOLO(onnx.path).benchmark(data=data, formats=(), most=2, cold=False, project=folder / "each")
    choice = result.rows[0].choice
    names = [timing.backend for timing in choice.timings]
    assert names[0] == result.rows[0].backend == "onnxruntime"
    assert set(names) == {spec.name for spec in get_registry().backends_for("onnx").usable}
    for timing in choice.timings[1:]:
        assert (timing.problem, timing.throughput > 0, timing.latency > 0) == ("", True, True)
        assert "raw outputs within" in timing.said
    assert f"onnx fp32: {choice.describe()}" in result.to_table()
    kept = fastest.measured(onnx, get_registry())
    assert (kept.timings, kept.versions) == (choice.timings, choice.versions)
    assert taken(onnx) == choice.fastest.backend
    document = json.loads((result.folder / "benchmark.json").read_text())
    assert document["rows"][0]["choice"]["timings"][1]["backend"] == names[1]


def test_the_fastest_is_taken_and_told(
    onnx: Artifact, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert taken(onnx) == "onnxruntime"
    note(onnx, USUAL, QUICK)
    caplog.set_level("INFO", "segx")
    assert taken(onnx) == "openvino"
    assert "backend openvino, as segx benchmark measured (20.0 images/s, onnxruntime 10.0)" in caplog.text
    assert "backend=onnxruntime is the usual one" in caplog.text
    assert main(["info", f"model={onnx.path}"]) == 0
    assert "backend openvino (20.0 images/s" in capsys.readouterr().out
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    found, named = (
        YOLO(onnx.path).predict(image, conf=0.0, verbose=False, **how)[0] for how in ({}, {"backend": "openvino"})
    )
    np.testing.assert_array_equal(found.boxes.data, named.boxes.data)
    model = YOLO(onnx.path)
    model.predict(image, backend="onnxruntime", verbose=False)
    (session,) = model._sessions._open.values()
    assert type(session).__module__.startswith("segx_backend_onnxruntime")


@pytest.mark.parametrize(
    ("timings", "device"),
    [
        ((USUAL, replace(QUICK, problem="boxes differ")), None),
        ((USUAL, replace(QUICK, throughput=10.4)), None),
        ((USUAL, replace(QUICK, latency=10.5)), None),
        ((USUAL, QUICK), "cpu"),
        ((QUICK, USUAL), None),
    ],
    ids=["not proven", "hardly faster", "slower for one image", "measured for a named device", "another was usual"],
)
def test_another_runtime_is_not_taken(
    onnx: Artifact, timings: Timings, device: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segx.plugin.fastest.nvidia.problem", str)
    note(onnx, *timings, device=device)
    assert taken(onnx) == "onnxruntime"
    if device is not None:
        assert taken(onnx, device=device) == "openvino"


def test_what_was_measured_on_the_only_device_there_is_holds_wherever_none_is_named(
    onnx: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segx.plugin.fastest.nvidia.problem", lambda: "no GPU")
    note(onnx, USUAL, QUICK, device="cpu")
    assert taken(onnx) == "openvino"


def test_half_precision_is_not_what_was_proven(onnx: Artifact) -> None:
    note(onnx, USUAL, QUICK)
    assert YOLO(onnx.path)._sessions.choice(PredictOptions(half=True).session()) is None
    assert YOLO(onnx.path)._sessions.choice(PredictOptions().session()).fastest.backend == "openvino"


@pytest.mark.parametrize("change", ["_versions", "_machine"])
def test_what_was_measured_elsewhere_is_not_used(onnx: Artifact, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    note(onnx, USUAL, QUICK)
    monkeypatch.setattr(fastest, change, lambda *_: "another")
    assert taken(onnx) == "onnxruntime"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"layout": 1}', '{"layout": 9}', "[" * 9000])
def test_a_damaged_record_is_none(onnx: Artifact, content: str) -> None:
    note(onnx, USUAL, QUICK).write_text(content)
    assert taken(onnx) == "onnxruntime"


def test_a_model_is_read_for_its_hash_only_where_one_of_its_size_was_measured(
    onnx: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note(onnx, USUAL, QUICK)
    changed = tmp_path / "changed.onnx"
    data = bytearray(onnx.path.read_bytes())
    at = data.index(b"yolov8")
    data[at : at + 6] = b"YOLOV8"
    changed.write_bytes(data)
    assert taken(get_registry().artifact(changed)) == "onnxruntime"  # the same size, another content
    monkeypatch.setattr(fastest, "_digest", lambda artifact: pytest.fail(f"{artifact.path} is read"))
    longer = tmp_path / "longer.onnx"
    longer.write_bytes(onnx.path.read_bytes() + b"\x72\x00")
    assert fastest.measured(get_registry().artifact(longer), get_registry()) is None


def test_a_cache_that_cannot_be_written_is_told(
    onnx: Artifact, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEGX_CACHE", str(tmp_path / "file"))
    assert note(onnx, USUAL, QUICK) is None
    assert "which runtime is fastest cannot be kept" in caplog.text
    assert taken(onnx) == "onnxruntime"


def test_what_a_tool_is_missing_for_is_measured_as_far_as_it_can_be_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = get_registry()
    spec = registry.exporters.get("onnx")

    def check(_exporter, _info, options) -> None:
        if options.simplify:
            raise UsageError("simplify=True: there is no tool")

    monkeypatch.setattr(type(registry.exporters.load(spec)), "_check", check)
    how = {"formats": "onnx", "imgsz": 64, "most": 1, "val": False, "cold": False}
    data = next((folder / "shapes").glob("*.yaml"))
    monkeypatch.setitem(spec.fallback, "simplify", False)
    blocked = YOLO(folder / "tiny.pt").benchmark(data=data, project=folder / "blocked", **how).rows[1]
    assert (blocked.state, blocked.reason) == ("blocked", "simplify=True: there is no tool")
    monkeypatch.setitem(vars(spec), "missing", lambda: {"fp32": "there is no tool"})
    result = YOLO(folder / "tiny.pt").benchmark(data=data, project=folder / "fallback", **how)
    row = result.rows[1]
    assert (row.state, row.reason) == ("ok", "made with simplify=False (there is no tool)")
    assert row.latency > 0
    assert f"\nonnx fp32: ok: {row.reason}\n" in result.to_table()
    assert not any("onnx" in line for line in result.advice()[:3])  # it stands in for a format


def test_without_validation_there_are_speeds_alone(folder: Path) -> None:
    data = next((folder / "shapes").glob("*.yaml"))
    result = YOLO(folder / "tiny.onnx").benchmark(
        data=data, formats=(), most=1, val=False, cold=False, project=folder / "speeds"
    )
    (row,) = result.rows
    assert (dict(row.metrics), row.latency > 0, row.throughput > 0) == ({}, True, True)
    assert result.to_table().splitlines()[0].split()[:3] == ["format", "MB", "box"]
    assert result.advice()[0].startswith("shortest wait for one image: onnx fp32")
    assert (result.folder / "benchmark.png").stat().st_size > 1000
