"""The order of an export: refuse early, work aside, prove, name; with formats that are made of JSON."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import os
import signal
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pluggy
import pytest

from segx import hookimpl
from segx.artifact import AXES, Artifact, ArtifactInfo, WeightsFile
from segx.errors import DataError, ExportError, MissingPluginError, ModelError, UsageError
from segx.flows.calibration import open_calibration
from segx.flows.export import check, default_destination, export
from segx.flows.parity import verify
from segx.io import sidecar
from segx.io.paths import weights_folder
from segx.options.schema import option
from segx.options.verbs import CalibrationOptions, ExportOptions, SuppressionOptions
from segx.plugin import hookspecs
from segx.plugin.calibration import Calibration
from segx.plugin.discovery import Discovery
from segx.plugin.jobs import ExportModule
from segx.plugin.registry import Registry, get_registry
from segx.plugin.specs import ArchitectureSpec, BackendSpec, Demands, ExporterSpec, Tolerance
from segx.testing.scenes import NAMES, ColorSession

pytest.importorskip("segx_task_segment")

SOURCE = ArtifactInfo(
    names=NAMES,
    imgsz=(320, 320),
    variant="seeing",
    dynamic=frozenset({"batch", "height", "width"}),
    settings={"data": "/home/somebody/secret/data.yaml", "epochs": 3, "export": {"project": "C:\\Users\\me\\runs"}},
)


class ModelFake(ColorSession):
    """An open model that can be exported."""

    def load_weights(self, artifact): ...
    def save(self, path): ...
    def share_module(self): ...
    def heed(self): ...
    def beside(self, options): ...
    def describe(self): ...
    def for_classes(self, names, *, seed): ...

    def export_module(self, options, info):
        return ExportModule(module=None, example=None, info=info, output_axes=({}, {}))


class PtFake:
    opened = 0

    def read_info(self, artifact):
        return SOURCE

    def open(self, artifact, options):
        PtFake.opened += 1
        return ModelFake(SOURCE)


class ToyOptions(ExportOptions):
    """Options of the toy format."""

    half: bool = option(False, "smaller numbers")
    dynamic: bool = option(False, "open axes")
    error: float = option(0.0, "how wrong the result is")


class BoxOptions(ExportOptions):
    """Options of the format made from it."""

    error: float = option(0.0, "how wrong the result is")


class Toy:
    """Writes a JSON file that says how wrong it is."""

    fails: BaseException | None = None
    writes = True

    def check(self, info, options):
        if options.error < 0:
            raise UsageError("error=-1 cannot be")

    def export(self, source, job):
        assert isinstance(source, ExportModule)
        assert not getattr(job.options, "half", False) or job.info.precision == "fp16"
        job.destination.write_text("half")
        if Toy.fails is not None:
            raise Toy.fails
        if not Toy.writes:
            job.destination.unlink()
            return job.info
        job.destination.write_text(json.dumps({"error": job.options.error}))
        return job.info.replace(versions={**job.info.versions, "toy": "1"})

    def write_info(self, path, info):
        raise AssertionError("its info lies beside it")


class Box:
    """Puts a toy into a folder."""

    def check(self, info, options):
        return

    def export(self, source, job):
        assert source.format == "toy"
        job.destination.mkdir()
        (job.destination / "toy.json").write_bytes(source.path.read_bytes())
        return job.info

    def write_info(self, path, info):
        raise AssertionError("its info lies inside it")


class ToyBackend:
    devices: list[str] = []  # noqa: RUF012 - a record of the tests

    def read_info(self, artifact):
        info = sidecar.read(artifact.path)
        assert info is not None
        return info

    def open(self, artifact, options):
        ToyBackend.devices.append(options.device)
        info = self.read_info(artifact)
        if info.precision == "fp16" and options.device == "cpu":
            raise UsageError("half is not for the CPU")
        content = artifact.path / "toy.json" if artifact.path.is_dir() else artifact.path
        return Wrong(info, json.loads(content.read_text())["error"])


class Wrong(ColorSession):
    def __init__(self, info, error):
        super().__init__(info)
        self.error = error

    def run(self, images):
        rows, prototypes = super().run(images)
        rows[:, 0] += self.error
        return rows, prototypes


class Listener:
    def __init__(self):
        self.received = []

    @hookimpl
    def segx_run_started(self, run):
        self.received.append(("started", run.mode, run.model))

    @hookimpl
    def segx_step_ended(self, run, step):
        self.received.append(("step", step.name, step.index, step.total))

    @hookimpl
    def segx_run_ended(self, run, metrics):
        self.received.append(("ended", dict(metrics)))

    @hookimpl
    def segx_run_failed(self, run, error):
        self.received.append(("failed", type(error).__name__))


STRICT = {"fp32": Tolerance(box=0.5), "fp16": Tolerance(box=0.5)}
TOY = ExporterSpec(
    name="toy",
    summary="a toy",
    load=Toy,
    suffix=".toy",
    options=ToyOptions,
    precisions=("fp32", "fp16"),
    tolerance=STRICT,
    provider="acme-toy",
)
BOX = ExporterSpec(
    name="box", summary="a box", load=Box, suffix="_box", source="toy", options=BoxOptions, metadata="folder"
)
PT = BackendSpec(name="fake", summary="models", load=PtFake, formats={"pt": (".pt",)})
TOYS = BackendSpec(
    name="toys", summary="toys", load=ToyBackend, formats={"toy": (".toy",), "box": ("_box",)}, devices=("cpu", "cuda")
)


def make_registry(*, backends=(PT, TOYS), exporters=(TOY, BOX)):
    manager = pluggy.PluginManager("segx")
    manager.add_hookspecs(hookspecs)
    tasks = tuple(get_registry().tasks.values())
    declared = dict.fromkeys(("architecture", "dataset_format", "command"), ())
    declared |= {"task": tasks, "exporter": exporters, "backend": backends}
    return Registry(Discovery(manager=manager, plugins=(), broken=(), disabled=(), declared=declared))


@pytest.fixture(autouse=True)
def fresh(monkeypatch, tmp_path):
    monkeypatch.setenv("SEGX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(PtFake, "opened", 0)
    monkeypatch.setattr(ToyBackend, "devices", [])
    monkeypatch.setattr(Toy, "fails", None)
    monkeypatch.setattr(Toy, "writes", True)


@pytest.fixture
def registry():
    return make_registry()


@pytest.fixture
def model(tmp_path) -> Artifact:
    path = tmp_path / "models" / "seeing.pt"
    path.parent.mkdir()
    path.write_text("weights")
    return Artifact(path=path, format="pt")


def names(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


def test_result_is_proven_and_lies_beside_the_model(model, registry):
    result = export(model, "toy", registry=registry)
    assert result.path == model.path.with_suffix(".toy")
    assert names(model.path.parent) == ["seeing.pt", "seeing.toy", "seeing.toy.segx.json"]
    assert result.info.parity is not None
    assert result.info.parity.mask_iou == 1
    assert result.reason == ""
    assert sidecar.read(result.path) == result.info
    assert result.info.versions["toy"] == "1"
    assert result.info.dynamic == frozenset()


def test_hooks_are_notified_in_order(model, registry):
    listener = Listener()
    registry.manager.register(listener)
    export(model, "toy", registry=registry)
    assert listener.received[:3] == [
        ("started", "export", str(model.path)),
        ("step", "toy", 0, 2),
        ("step", "verify", 1, 2),
    ]
    kind, metrics = listener.received[3]
    assert kind == "ended"
    assert metrics["matched"] == 1
    assert metrics["raw/output0"] == 0


def test_what_differs_is_rejected_and_the_old_result_stays(model, registry):
    listener = Listener()
    registry.manager.register(listener)
    before = export(model, "toy", {"error": 0.1}, registry=registry).path.read_text()
    with pytest.raises(ExportError, match=r"toy differs from .*boxes differ by 2") as caught:
        export(model, "toy", {"error": 2.0}, registry=registry)
    assert "seeing.rejected.toy" in caught.value.hint
    assert model.path.with_suffix(".toy").read_text() == before
    assert names(model.path.parent) == [
        "seeing.pt",
        "seeing.rejected.toy",
        "seeing.rejected.toy.segx.json",
        "seeing.toy",
        "seeing.toy.segx.json",
    ]
    rejected = sidecar.read(model.path.with_name("seeing.rejected.toy"))
    assert rejected.parity.box == pytest.approx(2, abs=0.01)
    assert listener.received[-1] == ("failed", "ExportError")
    with pytest.raises(ExportError):  # a second time, over the first rejected one
        export(model, "toy", {"error": 3.0}, registry=registry)


def test_without_a_backend_it_says_how_to_get_one(model, caplog):
    result = export(model, "toy", registry=make_registry(backends=(PT,)))
    assert result.info.parity is None
    assert "no backend runs format 'toy'" in result.reason
    (said,) = [record.getMessage() for record in caplog.records if "is not verified" in record.getMessage()]
    assert "\n" not in said


def test_proof_can_be_left_out(model, registry):
    result = export(model, "toy", {"verify": False, "error": 9.0}, registry=registry)
    assert result.info.parity is None
    assert result.reason == "verify=False"
    assert ToyBackend.devices == []


def test_chain_leaves_only_its_last_link(model, registry):
    listener = Listener()
    registry.manager.register(listener)
    for error in (0.0, 0.2):  # the second takes the place of the first
        result = export(model, "box", {"error": error}, registry=registry)
    assert names(model.path.parent) == ["seeing.pt", "seeing_box"]
    assert names(result.path) == ["metadata.yaml", "toy.json"]
    assert json.loads((result.path / "toy.json").read_text()) == {"error": 0.2}
    assert [step[1] for step in listener.received if step[0] == "step"] == ["toy", "box", "verify"] * 2


def test_chain_begins_where_the_model_is(model, registry):
    middle = export(model, "toy", registry=registry).artifact
    opened = PtFake.opened
    result = export(middle, "box", registry=registry)
    assert result.info.parity is not None
    assert PtFake.opened == opened
    with pytest.raises(UsageError, match="toy is not made from box") as caught:
        export(result.artifact, "toy", registry=registry)
    assert "pt -> toy" in caught.value.hint


def test_an_open_model_is_exported_under_the_users_name(registry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session = ModelFake(SOURCE)
    assert export(session, "toy", registry=registry, name="mine-seg.yaml").path == Path("mine-seg.toy")
    assert export(session, "toy", registry=registry).path == Path("seeing.toy")


@pytest.mark.parametrize(
    ("options", "reported"),
    [
        ({"error": -1}, "error=-1 cannot be"),
        ({"eror": 1}, "did you mean 'error'"),
        ({"batch": 0}, "batch=0 is outside"),
        ({"output": "somewhere/x.onnx"}, "names of format 'toy' end in .toy"),
    ],
)
def test_what_can_be_refused_is_refused_before_the_model_is_opened(model, registry, options, reported):
    with pytest.raises(UsageError, match=reported):
        export(model, "toy", options, registry=registry)
    assert PtFake.opened == 0
    assert names(model.path.parent) == ["seeing.pt"]


def test_an_option_of_another_format_is_told_apart_from_a_mistyped_one(model, registry):
    with pytest.raises(ValueError, match=r"^half=True does not go with format box: only with toy\n  options: .*error"):
        export(model, "box", {"half": True}, registry=registry)
    with pytest.raises(UsageError, match="'haf' is not known"):
        export(model, "box", {"haf": True}, registry=registry)
    assert export(model, "box", {"half": False}, registry=registry).info.precision == "fp32"


def test_formats_made_by_way_of_one_that_has_an_option_have_it_too(model):
    plain = dataclasses.replace(TOY, name="plain", suffix=".plain", options=ExportOptions)
    lost = dataclasses.replace(BOX, name="lost", suffix="_lost", source="nowhere")
    registry = make_registry(exporters=(TOY, BOX, plain, lost))
    with pytest.raises(ValueError, match="dynamic=True does not go with format plain: only with box, toy\n"):
        export(model, "plain", {"dynamic": True}, registry=registry)
    with pytest.raises(ValueError, match="error=1 does not go with format plain: only with box, lost, toy\n"):
        export(model, "plain", {"error": 1}, registry=registry)


def test_precision_the_format_has_not(registry):
    from dataclasses import replace

    only = replace(TOY, precisions=("fp32",))
    manager = make_registry()
    manager.exporters.claims["toy"] = [only]
    with pytest.raises(UsageError, match="no precision fp16") as caught:
        check(SOURCE, "toy", {"half": True}, registry=manager)
    assert caught.value.hint == "it has: fp32"


def test_a_format_of_one_precision_needs_not_be_asked_for_it(model, cases):
    only = dataclasses.replace(CASE, precisions=("fp16",), tolerance={"fp16": Tolerance()})
    result = export(model, "case", {"verify": False}, registry=make_toys(Toy(), also=(only,)))
    assert result.info.precision == "fp16"
    assert [(info.precision, options.half) for info, options in Case.seen] == [("fp16", True)]
    assert result.path.name == "seeing.case"


def test_a_way_that_begins_at_a_file_needs_only_what_is_still_to_do(model, registry):
    middle = export(model, "toy", registry=registry).artifact
    without = make_toys(Toy(), also=(CASE,), requires=("no-such-distribution>=1",))
    assert export(middle, "case", registry=without).info.parity is not None


def test_links_on_the_way_stay_in_full_precision_and_share_the_rest(model, registry, monkeypatch):
    seen = []
    original = Toy.export
    monkeypatch.setattr(
        Toy, "export", lambda self, source, job: seen.append(job.options) or original(self, source, job)
    )
    export(model, "box", {"batch": 2, "imgsz": 64, "error": 0.125, "verify": False}, registry=registry)
    assert (seen[0].batch, seen[0].imgsz, seen[0].error, seen[0].half) == (2, 64, 0.125, False)


def test_check_alone_refuses_what_export_would(registry):
    check(SOURCE, "box", registry=registry)
    with pytest.raises(UsageError, match="error=-1"):
        check(SOURCE, "toy", {"error": -1}, registry=registry)
    with pytest.raises((UsageError, MissingPluginError)):
        check(SOURCE, "tooy", registry=registry)


def test_output_names_a_file_or_a_folder(model, registry, tmp_path):
    file = tmp_path / "new" / "other.toy"
    assert export(model, "toy", {"output": file}, registry=registry).path == file
    folder = tmp_path / "there"
    folder.mkdir()
    assert export(model, "toy", {"output": str(folder)}, registry=registry).path == folder / "seeing.toy"


def test_output_must_not_be_the_model(registry, model):
    toy = export(model, "toy", registry=registry).artifact
    with pytest.raises(UsageError, match="is the model itself"):
        export(Artifact(path=toy.path, format="pt"), "toy", {"output": toy.path}, registry=registry)


def test_size_is_rounded_up_and_reported(model, registry, caplog):
    info = export(model, "toy", {"imgsz": (100, 320)}, registry=registry).info
    assert info.imgsz == (128, 320)
    assert "rounded up to 128,320" in caplog.text
    caplog.clear()
    export(model, "toy", {"imgsz": 320}, registry=registry)
    assert "rounded up" not in caplog.text


def test_no_folder_of_this_machine_travels(model, registry):
    result = export(model, "toy", {"output": model.path.parent}, registry=registry)
    assert result.info.settings["data"] == "data.yaml"
    assert result.info.settings["epochs"] == 3
    assert result.info.settings["export"]["format"] == "toy"
    text = sidecar.sidecar_path(result.path).read_text()
    assert str(model.path.parent) not in text
    assert "somebody" not in text


def test_open_axes_are_proven_at_two_sizes(model, registry):
    result = export(model, "toy", {"dynamic": True}, registry=registry)
    assert result.info.dynamic == {"batch", "height", "width"}
    assert result.info.parity.images == 6


def test_half_that_the_cpu_refuses_is_proven_where_it_was_made(model, registry):
    result = export(model, "toy", {"half": True, "device": "cuda"}, registry=make_registry_with_cuda())
    assert ToyBackend.devices == ["cpu", "cuda"]
    assert result.info.parity is not None
    ToyBackend.devices.clear()
    unproven = export(model, "toy", {"half": True}, registry=registry)
    assert "half is not for the CPU" in unproven.reason


def make_registry_with_cuda():
    from dataclasses import replace

    return make_registry(backends=(replace(PT, devices=("cpu", "cuda")), TOYS))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("broken"), ExportError("cannot")])
def test_nothing_is_left_of_an_export_that_stops(model, registry, monkeypatch, error):
    listener = Listener()
    registry.manager.register(listener)
    monkeypatch.setattr(Toy, "fails", error)
    with pytest.raises(type(error)):
        export(model, "toy", registry=registry)
    assert names(model.path.parent) == ["seeing.pt"]
    assert listener.received[-1] == ("failed", type(error).__name__)


def test_a_disk_that_is_full_is_told_as_that_and_not_by_the_name_of_a_file(model, registry, monkeypatch):
    monkeypatch.setattr(Toy, "fails", OSError(errno.ENOSPC, "No space left on device", "seeing.onnx"))
    with pytest.raises(ExportError, match="format 'toy' cannot be written: No space left on device"):
        export(model, "toy", registry=registry)
    assert names(model.path.parent) == ["seeing.pt"]


def test_exporter_that_writes_nothing(model, registry, monkeypatch):
    monkeypatch.setattr(Toy, "writes", False)
    with pytest.raises(ExportError, match="wrote nothing") as caught:
        export(model, "toy", registry=registry)
    assert "acme-toy" in caught.value.hint


def test_folder_that_cannot_be_written(model, registry, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="cannot be written"):
        export(model, "toy", {"output": tmp_path / "file" / "x.toy"}, registry=registry)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission(model, registry):
    model.path.parent.chmod(0o500)
    try:
        with pytest.raises(DataError, match="cannot be written"):
            export(model, "toy", registry=registry)
    finally:
        model.path.parent.chmod(0o700)


def test_model_from_the_cache_is_exported_into_the_current_folder(tmp_path, monkeypatch):
    cached = weights_folder() / "yolov8n-seg.pt"
    cached.parent.mkdir(parents=True)
    cached.write_text("weights")
    assert default_destination(cached, TOY) == Path("yolov8n-seg.toy")
    assert default_destination(tmp_path / "my.best.pt", TOY) == tmp_path / "my.best.toy"
    assert default_destination(tmp_path / "best.pt", BOX) == tmp_path / "best_box"


def test_verify_compares_two_files(model, registry):
    result = export(model, "toy", {"verify": False, "error": 2.0}, registry=registry)
    found = verify(result.artifact, model, registry=registry)
    assert not found.holds
    assert found.parity.box == pytest.approx(2, abs=0.01)
    assert verify(
        result.artifact, model, registry=registry, tolerance=Tolerance(box=3, mask_iou=0, matched=0.9, raw=1)
    ).holds


def test_progress_is_logged(model, registry, caplog):
    caplog.set_level(logging.INFO, logger="segx")
    export(model, "toy", registry=registry)
    assert "writing toy" in caplog.text
    assert "boxes within" in caplog.text


# What is made is what is proven


def make_toys(exporter, backend=None, *, also=(), **changes):
    """Return a registry in which the toy format is made and run by these."""
    manager = pluggy.PluginManager("segx")
    manager.add_hookspecs(hookspecs)
    declared = dict.fromkeys(("architecture", "command"), ())
    toy = dataclasses.replace(TOY, load=lambda: exporter, **changes)
    toys = dataclasses.replace(TOYS, formats={**TOYS.formats, "case": (".case",)})
    toys = toys if backend is None else dataclasses.replace(toys, load=lambda: backend)
    declared |= {
        "task": tuple(get_registry().tasks.values()),
        "dataset_format": tuple(get_registry().dataset_formats.values()),
        "exporter": (toy, BOX, *also),
        "backend": (PT, toys),
    }
    return Registry(Discovery(manager=manager, plugins=(), broken=(), disabled=(), declared=declared))


def test_the_proof_opens_with_the_info_that_was_returned(model):
    class OtherNames(Toy):
        def export(self, source, job):
            done = super().export(source, job)
            return done.replace(outputs=("protos", "rows"), dynamic=frozenset({"batch"}))

    class ByName(ToyBackend):
        def open(self, artifact, options):
            session = super().open(artifact, options)
            plain = session.run

            def run(images):
                assert images.shape[2:] == (320, 320), "only the batch is open"
                found = dict(zip(("rows", "protos"), plain(images), strict=True))
                return tuple(found[name] for name in session.info.outputs)

            session.run = run
            return session

    result = export(model, "toy", {"dynamic": True}, registry=make_toys(OtherNames(), ByName()))
    assert result.reason == ""
    assert result.info.outputs == ("protos", "rows")
    assert result.info.dynamic == {"batch"}
    assert result.info.parity.objects > 0
    assert sidecar.read(result.path) == result.info


def test_a_head_of_which_nothing_is_found_is_unproven(registry, tmp_path, monkeypatch, caplog):
    """Neither side finds anything, and raw outputs of another head say nothing: told, and not recorded as proven."""
    monkeypatch.chdir(tmp_path)

    class Elsewhere(Toy):
        def export(self, source, job):
            return super().export(source, job).replace(head="toy-raw/1")

    class Zeros(ToyBackend):
        def open(self, artifact, options):
            session = super().open(artifact, options)
            plain = session.run
            session.run = lambda images: tuple(np.zeros_like(output) for output in plain(images))
            return session

    untrained = ModelFake(SOURCE)
    plain = untrained.run
    untrained.run = lambda images: tuple(output * np.float32(1e-6) for output in plain(images))
    result = export(untrained, "toy", registry=make_toys(Elsewhere(), Zeros()))
    assert result.info.parity is None
    assert "nothing could be compared" in result.reason
    assert "is not verified" in caplog.text


@pytest.mark.parametrize(
    "error", [ModelError("libcuda.so.1: cannot open"), ImportError("libcudart"), RuntimeError("a\nb")]
)
def test_what_cannot_be_opened_for_the_proof_is_kept_aside(model, error):
    class Broken(ToyBackend):
        def open(self, artifact, options):
            raise error

    with pytest.raises(ExportError, match="cannot be proven") as caught:
        export(model, "toy", registry=make_toys(Toy(), Broken()))
    assert "seeing.rejected.toy" in caught.value.hint
    assert "\n" not in caught.value.message
    assert names(model.path.parent) == ["seeing.pt", "seeing.rejected.toy", "seeing.rejected.toy.segx.json"]


def test_what_is_stopped_while_it_is_proven_is_kept_aside(model, caplog):
    class Stopped(ToyBackend):
        def open(self, artifact, options):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(model, "toy", registry=make_toys(Toy(), Stopped()))
    assert "seeing.rejected.toy" in caplog.text
    assert names(model.path.parent) == ["seeing.pt", "seeing.rejected.toy", "seeing.rejected.toy.segx.json"]


def test_the_first_wrong_link_of_a_chain_is_named(model, registry, monkeypatch):
    with pytest.raises(ExportError, match="toy, which it is made from, differs already"):
        export(model, "box", {"error": 2.0}, registry=registry)

    def bent(self, source, job):
        job.destination.mkdir()
        (job.destination / "toy.json").write_text('{"error": 2.0}')
        return job.info

    monkeypatch.setattr(Box, "export", bent)
    with pytest.raises(ExportError) as caught:
        export(model, "box", registry=registry)
    assert "differs already" not in caught.value.message


# From a finished graph


class CaseOptions(ExportOptions):
    """Options of a format that is made of a toy as it is."""

    half: bool = option(False, "smaller numbers")
    dynamic: bool = option(False, "open axes")


class Case:
    seen: list = []  # noqa: RUF012 - a record of the tests

    def check(self, info, options):
        if options.dynamic and options.batch > 1:
            raise UsageError("batch fixes what dynamic leaves open")

    def export(self, source, job):
        Case.seen.append((job.info, job.options))
        job.destination.write_bytes(source.path.read_bytes())
        return job.info

    def write_info(self, path, info):
        raise AssertionError("its info lies beside it")


CASE = ExporterSpec(
    name="case",
    summary="a case",
    load=Case,
    suffix=".case",
    source="toy",
    options=CaseOptions,
    precisions=("fp32", "fp16"),
    tolerance=STRICT,
    provider="acme-toy",
)


@pytest.fixture
def cases(monkeypatch):
    monkeypatch.setattr(Case, "seen", [])

    class Halves(ToyBackend):
        def open(self, artifact, options):
            return super().open(artifact, dataclasses.replace(options, device="cuda"))

    return make_toys(Toy(), Halves(), also=(CASE,))


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        ({"imgsz": (64, 96), "batch": 2}, {"imgsz": (64, 96), "batch": 2, "dynamic": frozenset()}),
        ({"imgsz": 64, "dynamic": True}, {"imgsz": (64, 64), "batch": 1, "dynamic": AXES}),
        ({"half": True, "verify": False}, {"precision": "fp16"}),
    ],
)
def test_what_a_finished_graph_is_fixed_to_is_taken_over(model, cases, made, wanted):
    middle = export(model, "toy", made, registry=cases).artifact
    export(middle, "case", {"verify": False}, registry=cases)
    info, options = Case.seen[0]
    assert {name: getattr(info, name) for name in wanted} == wanted
    assert options.batch == info.batch
    assert options.precision == info.precision
    assert options.dynamic == bool(info.dynamic)


@pytest.mark.parametrize(
    ("asked", "reported"),
    [
        ({"imgsz": 320}, "imgsz=320,320: .*is fixed to 64,96"),
        ({"batch": 4}, "batch=4: .*is fixed to batch 2"),
        ({"dynamic": True}, "dynamic=True: .*leaves no axis open"),
    ],
)
def test_what_a_finished_graph_is_not_is_refused(model, cases, asked, reported):
    middle = export(model, "toy", {"imgsz": (64, 96), "batch": 2}, registry=cases).artifact
    with pytest.raises(UsageError, match=reported):
        export(middle, "case", asked, registry=cases)
    assert export(middle, "case", {"imgsz": (64, 96), "batch": 2}, registry=cases).info.parity is not None
    lower = export(middle, "case", {"half": True, "verify": False}, registry=cases)
    assert lower.info.precision == "fp16"


def test_a_format_without_the_precision_of_its_source_is_refused(model, registry):
    half = export(model, "toy", {"half": True, "verify": False}, registry=registry).artifact
    with pytest.raises(UsageError, match=r"is fp16, and box made from it cannot be fp32"):
        export(half, "box", registry=registry)


def test_a_graph_with_suppression_inside_is_not_exported_further(model, registry):
    middle = export(model, "toy", registry=registry).artifact
    content = {"task": "segment", "names": {0: "a"}, "args": {"nms": True}}
    sidecar.sidecar_path(middle.path).write_text(json.dumps(content))
    with pytest.raises(ModelError, match="yolov8-seg-final/1") as caught:
        export(middle, "box", registry=registry)
    assert "nms=False" in caught.value.hint


# Names


@pytest.mark.parametrize(
    ("source", "suffix", "wanted"),
    [
        ("yolov8n-seg_saved_model", ".tflite", "yolov8n-seg.tflite"),
        ("m.v2_saved_model", ".tflite", "m.v2.tflite"),
        ("a/yolov8n-seg_int8.tflite", "_edgetpu.tflite", "a/yolov8n-seg_int8_edgetpu.tflite"),
        ("yolov8n-seg.PT", "_box", "yolov8n-seg_box"),
        ("my.best", ".toy", "my.best.toy"),
        ("mine.yaml", ".toy", "mine.toy"),
    ],
)
def test_the_sources_own_suffix_gives_way(source, suffix, wanted):
    assert default_destination(Path(source), dataclasses.replace(TOY, suffix=suffix)) == Path(wanted)


def test_precisions_do_not_take_each_others_name(model, registry):
    full = export(model, "toy", registry=registry).path
    half = export(model, "toy", {"half": True, "verify": False}, registry=registry).path
    assert (full.name, half.name) == ("seeing.toy", "seeing_fp16.toy")
    assert full.exists()
    again = default_destination(half, BOX, precision="fp16", registry=registry)
    assert again.name == "seeing_fp16_box"


def test_a_model_that_came_with_a_plugin_is_exported_into_the_working_folder(tmp_path):
    embedded = tmp_path / "installed" / "shapes.pt"
    embedded.parent.mkdir()
    embedded.write_text("weights")
    link = tmp_path / "link.pt"
    link.symlink_to(embedded)
    spec = ArchitectureSpec(
        name="a", summary="s", load=object, task="segment", weights={"shapes.pt": WeightsFile(path=embedded)}
    )
    registry = make_registry()
    registry.architectures.claims["a"] = [spec]
    assert default_destination(embedded, TOY, registry=registry) == Path("shapes.toy")
    assert default_destination(link, TOY, registry=registry) == Path("link.toy")
    assert default_destination(tmp_path / "other.pt", TOY, registry=registry) == tmp_path / "other.toy"


@pytest.mark.parametrize("what", ["file", "folder", "link", "empty folder"])
def test_a_folder_loses_only_what_an_export_has_put_there(model, registry, what):
    folder = export(model, "box", {"error": 0.1}, registry=registry).path
    size = (folder / "toy.json").stat().st_size
    assert sidecar.read(folder).files == {"toy.json": (size, zlib.crc32((folder / "toy.json").read_bytes()))}
    foreign = folder / "notes" / "NOTES.txt"
    foreign.parent.mkdir()
    if what == "file":
        foreign.write_text("mine")
    elif what == "link":
        foreign.symlink_to(model.path)
    elif what == "folder":
        foreign.mkdir()
        (foreign / "x").write_text("mine")
    before = sorted(folder.rglob("*"))
    opened = PtFake.opened
    with pytest.raises(UsageError, match=r"notes.*which no export has put there"):
        export(model, "box", registry=registry)
    assert sorted(folder.rglob("*")) == before
    assert PtFake.opened == opened, "refused before any work"


@pytest.mark.parametrize("kind", ["toy", "box"])
def test_a_folder_of_the_users_own_is_not_taken_away(model, registry, tmp_path, kind):
    folder = tmp_path / f"out{'.toy' if kind == 'toy' else '_box'}"
    folder.mkdir()
    (folder / "NOTES.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"NOTES\.txt"):
        export(model, kind, {"output": folder}, registry=registry)
    assert names(folder) == ["NOTES.txt"]


@pytest.mark.parametrize("kind", ["file", "folder", "nowhere"])
def test_nothing_is_written_through_a_link(model, registry, tmp_path, kind):
    elsewhere = tmp_path / "elsewhere"
    if kind == "file":
        elsewhere.write_text("mine")
    elif kind == "folder":
        elsewhere.mkdir()
    link = tmp_path / "out.toy"
    link.symlink_to(elsewhere)
    with pytest.raises(UsageError, match="is a link"):
        export(model, "toy", {"output": link}, registry=registry)
    assert link.is_symlink()
    assert elsewhere.exists() == (kind != "nowhere")


def test_a_rejected_folder_does_not_take_a_foreign_one_away(model, registry):
    foreign = model.path.parent / "seeing.rejected_box"
    foreign.mkdir()
    (foreign / "NOTES.txt").write_text("mine")
    with pytest.raises(ExportError, match="differs") as caught:
        export(model, "box", {"error": 2.0}, registry=registry)
    assert names(foreign) == ["NOTES.txt"]
    assert "seeing.rejected-2_box" in caught.value.hint


def test_exports_side_by_side_leave_one_of_them_whole(model, registry):
    """The artefact and what lies beside it are of the same export, whichever came last."""
    errors = [0.001 * number for number in range(8)]

    def one(error):
        export(model, "toy", {"error": error, "verify": False}, registry=registry)
        return export(model, "box", {"error": error, "verify": False}, registry=registry)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, errors))
    assert names(model.path.parent) == ["seeing.pt", "seeing.toy", "seeing.toy.segx.json", "seeing_box"]
    toy = model.path.with_suffix(".toy")
    assert json.loads(toy.read_text())["error"] == sidecar.read(toy).settings["export"]["error"]
    box = model.path.with_name("seeing_box")
    assert json.loads((box / "toy.json").read_text())["error"] == sidecar.read(box).settings["export"]["error"]


STOPPED = """
import os, signal, sys, time
sys.path.insert(0, {tests!r})
import test_export as t
class Slow(t.Toy):
    def export(self, source, job):
        job.destination.write_text("half")
        print("working", flush=True)
        time.sleep(60)
t.export(t.Artifact(path=t.Path({model!r}), format="pt"), "toy", registry=t.make_toys(Slow()))
"""


@pytest.mark.skipif(os.name == "nt", reason="signals are of other systems")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_nothing_behind(model, number):
    code = STOPPED.format(tests=str(Path(__file__).parent), model=str(model.path))
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert child.stdout.readline() == "working\n"
        assert any(name.startswith(".segx-") for name in names(model.path.parent))
        child.send_signal(number)
        assert child.wait(30) != 0
    finally:
        child.kill()
        child.communicate()
    assert names(model.path.parent) == ["seeing.pt"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


# What a format demands of what comes before it


class WholeOptions(ExportOptions):
    """Options of a format whose numbers are whole, made of a toy of half ones."""

    int8: bool = option(False, "whole numbers")
    dynamic: bool = option(False, "open axes")


WHOLE = dataclasses.replace(
    CASE,
    name="whole",
    suffix=".whole",
    options=WholeOptions,
    precisions=("fp32", "int8"),
    tolerance={"fp32": Tolerance(), "int8": Tolerance()},
    demands=lambda options: Demands(source={"half": options.int8, "error": 0.25}),
    axes=frozenset({"batch"}),
)


@pytest.fixture
def jobs(monkeypatch):
    """What the toy is asked for."""
    seen = []
    plain = Toy.export
    monkeypatch.setattr(Case, "seen", [])
    monkeypatch.setattr(Toy, "export", lambda self, source, job: seen.append(job) or plain(self, source, job))
    return seen


def test_a_format_decides_what_it_is_made_from(model, jobs):
    registry = make_toys(Toy(), also=(WHOLE,))
    export(model, "whole", {"int8": True, "dynamic": True, "verify": False}, registry=registry)
    (job,) = jobs
    assert (job.options.half, job.options.error, job.info.precision) == (True, 0.25, "fp16")
    assert job.info.dynamic == {"batch"}, "only what every format of the chain can leave open"
    assert job.scratch.parent == job.destination.parent
    assert Case.seen[0][0].precision == "int8"
    export(model, "whole", {"verify": False}, registry=registry)
    assert (jobs[1].options.half, jobs[1].info.dynamic) == (False, frozenset())
    middle = export(model, "toy", registry=registry).artifact
    with pytest.raises(UsageError, match=r"is fp32: whole in int8 is made from toy in fp16"):
        export(middle, "whole", {"int8": True}, registry=registry)


def test_axes_that_no_format_leaves_open_are_refused(model, jobs):
    closed = dataclasses.replace(WHOLE, axes=frozenset())
    with pytest.raises(UsageError, match="dynamic=True: format whole leaves no axis open"):
        export(model, "whole", {"dynamic": True}, registry=make_toys(Toy(), also=(closed,)))
    assert not jobs


def test_options_of_the_formats_on_the_way_may_be_given(model, jobs):
    registry = make_toys(Toy(), also=(CASE,))
    result = export(model, "case", {"error": 0.125, "verify": False}, registry=registry)
    assert jobs[0].options.error == 0.125
    assert result.info.settings["export"]["error"] == 0.125, "it is remembered"
    assert {info.name for info in registry.export_options("case").describe()} >= {"half", "dynamic", "error"}
    with pytest.raises(UsageError, match="option 'eror' is not known; did you mean 'error'"):
        export(model, "case", {"eror": 1}, registry=registry)
    middle = export(model, "toy", registry=registry).artifact
    with pytest.raises(UsageError, match=r"error=0\.5: .*seeing\.toy is finished"):
        export(middle, "case", {"error": 0.5}, registry=registry)
    export(middle, "case", {"error": 0.0, "verify": False}, registry=registry)


def test_a_form_is_the_head_that_the_architecture_has_for_it(model, jobs):
    raw = dataclasses.replace(CASE, demands=lambda _: Demands(form="raw"))
    registry = make_toys(Toy(), also=(raw,))
    with pytest.raises(UsageError, match="format 'case' needs a model that ends in raw outputs") as refusal:
        export(model, "case", registry=registry)
    assert "has: decoded" in refusal.value.hint
    family = ArchitectureSpec(
        name=SOURCE.architecture, summary="s", load=object, task="segment", heads={"raw": "yolov8-seg/1"}
    )
    registry.architectures.claims[family.name] = [family]
    export(model, "case", {"verify": False}, registry=registry)
    assert jobs[0].info.head == "yolov8-seg/1"
    family = dataclasses.replace(family, heads={"raw": "toy-raw/1"})
    registry.architectures.claims[family.name] = [family]
    export(model, "case", {"verify": False}, registry=registry)
    assert jobs[1].info.head == Case.seen[-1][0].head == "toy-raw/1", "the whole chain carries it"
    middle = export(model, "toy", registry=registry).artifact
    with pytest.raises(UsageError, match="needs a graph that ends in toy-raw/1, not yolov8-seg/1"):
        export(middle, "case", registry=registry)


class FinalOptions(ToyOptions, SuppressionOptions):
    """Options of a format whose graph can suppress by itself."""


class FinalCaseOptions(CaseOptions, SuppressionOptions):
    """Options of a format made of such a graph."""


SUPPRESSES = {
    "options": FinalOptions,
    "demands": lambda options: Demands(makes="final" if options.nms else None),
    "cuts": ("raw",),
}
LIMITS = {"conf": 0.4, "iou": 0.7, "max_det": 300}


def test_a_finished_graph_that_ends_in_boxes_is_cut_where_its_format_can_be(model, jobs):
    raw = dataclasses.replace(CASE, demands=lambda _: Demands(form="raw"))
    middle = export(model, "toy", registry=make_toys(Toy())).artifact
    with pytest.raises(UsageError, match="needs a graph that ends in yolov8-seg-raw/1, not yolov8-seg/1"):
        export(middle, "case", {"verify": False}, registry=make_toys(Toy(), also=(raw,)))
    registry = make_toys(Toy(), also=(raw,), cuts=("raw",))
    result = export(middle, "case", {"verify": False}, registry=registry)
    info = Case.seen[-1][0]
    assert info.head == result.info.head == "yolov8-seg-raw/1", "its exporter cuts it, whatever family it is of"
    assert info.outputs == ("boxes", "scores", "coefficients", "prototypes")
    assert info.decoding == {"strides": [8, 16, 32], "bins": 16}
    family = ArchitectureSpec(
        name=SOURCE.architecture, summary="s", load=object, task="segment", heads={"raw": "yolov8-seg-raw/1"}
    )
    registry.architectures.claims[family.name] = [family]
    export(model, "case", {"verify": False}, registry=registry)
    assert jobs[-1].info.head == "yolov8-seg-raw/1", "of a model it is the graph from the start"
    assert Case.seen[-1][0].head == "yolov8-seg-raw/1"


def test_a_graph_that_ends_raw_is_taken_as_it_is(model, jobs):
    middle = export(model, "toy", registry=make_toys(Toy())).artifact
    info = sidecar.read(middle.path)
    raw = info.replace(head="yolov8-seg-raw/1", outputs=("boxes", "scores", "coefficients", "prototypes"))
    sidecar.write(middle.path, raw.replace(decoding={"strides": [8], "bins": 8}))
    for form in ("decoded", "raw"):  # nothing demanded, and this
        case = dataclasses.replace(CASE, demands=lambda _, form=form: Demands(form=form))
        export(middle, "case", {"verify": False}, registry=make_toys(Toy(), also=(case,), cuts=("raw",)))
        assert Case.seen[-1][0].head == "yolov8-seg-raw/1"
        assert Case.seen[-1][0].decoding == {"strides": [8], "bins": 8}


def test_a_link_that_suppresses_says_how(model, jobs):
    registry = make_toys(Toy(), **SUPPRESSES)
    result = export(model, "toy", {"nms": True, "conf": 0.4, "verify": False}, registry=registry)
    for info in (jobs[0].info, result.info):
        assert info.head == "yolov8-seg-final/1"
        assert info.outputs == ("detections", "prototypes")
        assert info.decoding == LIMITS
    export(model, "toy", {"verify": False}, registry=registry)
    assert jobs[1].info.head == "yolov8-seg/1"


def test_suppression_reaches_the_link_that_does_it_where_the_format_can_hold_it(model, jobs):
    case = dataclasses.replace(CASE, options=FinalCaseOptions)
    registry = make_toys(Toy(), also=(case,), **SUPPRESSES)
    result = export(model, "case", {"nms": True, "conf": 0.4, "verify": False}, registry=registry)
    assert (jobs[0].options.nms, jobs[0].info.decoding) == (True, LIMITS)
    assert (result.info.head, result.info.decoding) == ("yolov8-seg-final/1", LIMITS)
    plain = make_toys(Toy(), also=(CASE,), **SUPPRESSES)
    assert not {"nms", "conf"} & {info.name for info in plain.export_options("case").describe()}
    with pytest.raises(UsageError, match="nms"):
        export(model, "case", {"nms": True}, registry=plain)
    raw = dataclasses.replace(case, demands=lambda _: Demands(form="raw"))
    both = make_toys(Toy(), also=(raw,), **SUPPRESSES)
    family = ArchitectureSpec(
        name=SOURCE.architecture, summary="s", load=object, task="segment", heads={"raw": "yolov8-seg-raw/1"}
    )
    both.architectures.claims[family.name] = [family]
    with pytest.raises(UsageError, match="nms=True: case with these options is made from raw outputs"):
        export(model, "case", {"nms": True}, registry=both)


def test_a_finished_graph_that_suppresses_goes_on_only_into_formats_that_hold_it(model, jobs):
    case = dataclasses.replace(CASE, options=FinalCaseOptions)
    registry = make_toys(Toy(), also=(case,), **SUPPRESSES)
    made = export(model, "toy", {"nms": True, "conf": 0.4, "verify": False}, registry=registry).artifact
    with pytest.raises(ModelError, match=r"'yolov8-seg-final/1': it suppresses by itself, and case cannot do that"):
        export(made, "case", registry=make_toys(Toy(), also=(CASE,)))
    for asked in ({}, {"nms": True}, {"conf": 0.4}):
        result = export(made, "case", {**asked, "verify": False}, registry=registry)
        assert (result.info.head, result.info.decoding) == ("yolov8-seg-final/1", LIMITS)
        assert Case.seen[-1][1].conf == 0.4
    with pytest.raises(UsageError, match=r"conf=0\.6: .* suppresses by itself, that is 0\.4 in it"):
        export(made, "case", {"conf": 0.6}, registry=registry)
    plain = export(model, "toy", {"verify": False}, registry=registry).artifact
    with pytest.raises(UsageError, match=r"nms=True: .* is finished, and ends in yolov8-seg/1"):
        export(plain, "case", {"nms": True}, registry=registry)


class CalibratedOptions(CalibrationOptions):
    """Options of a format that is calibrated."""


class Calibrated(Case):
    """Looks at the images twice, as some tools do."""

    def check(self, info, options):
        return

    def export(self, source, job):
        Case.seen.append((job.images and len(job.images), [[*job.images], [*job.images]] if job.images else None))
        job.notify("calibrating", 1, 2)
        job.destination.write_bytes(source.path.read_bytes())
        return job.info


CALIBRATED = dataclasses.replace(
    CASE,
    load=Calibrated,
    options=CalibratedOptions,
    precisions=("fp32", "int8"),
    tolerance={"fp32": Tolerance(), "int8": Tolerance()},
    demands=lambda options: Demands(images=options.most if options.int8 else 0),
)


def test_images_to_calibrate_on_are_opened_before_any_work(model, jobs, tmp_path, caplog):
    registry = make_toys(Toy(), also=(CALIBRATED,))
    listener = Listener()
    registry.manager.register(listener)
    done = export(model, "case", {"int8": True, "most": 3, "batch": 2, "verify": False}, registry=registry)
    count, (first, second) = Case.seen[0]
    assert count == 3
    assert [batch.shape for batch in first] == [(2, 3, 320, 320)] * 2, "the last one is filled up"
    assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))
    assert done.info.settings["calibration"]["data"] == "drawn"
    assert "calibrated on drawn images" in caplog.text
    assert jobs[0].images is None, "who has not asked for them gets none"
    export(model, "case", {"verify": False}, registry=registry)
    assert Case.seen[1] == (None, None)
    with pytest.raises(DataError):
        export(model, "case", {"int8": True, "data": str(tmp_path / "absent.yaml")}, registry=registry)
    assert len(jobs) == 2


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "set"
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    for number in range(20):
        cv2.imwrite(str(folder / "images" / f"{number:02}.png"), np.full((40, 60, 3), 10 * number, np.uint8))
        (folder / "labels" / f"{number:02}.txt").write_text("0 0.1 0.1 0.9 0.1 0.5 0.9\n")
    return folder


def test_images_of_a_data_set_are_spread_evenly(photographs, caplog):
    info = SOURCE.replace(imgsz=(64, 96), batch=1)
    options = CalibratedOptions(data=str(photographs), most=4, verify=False)
    images, noted = open_calibration(options, info, 4, get_registry())
    assert [path.name for path in images.paths] == ["00.png", "05.png", "10.png", "15.png"]
    assert (noted["images"], len(images), images.held_back) == (4, 4, ())
    images.paths[2].write_bytes(b"no image")
    again = Calibration.from_dict(json.loads(json.dumps(images.to_dict())))
    assert [batch.shape for batch in again] == [(1, 3, 64, 96)] * 3
    assert "10.png" in caplog.text, "what cannot be read is passed over"
    remembered, _ = open_calibration(
        CalibratedOptions(verify=False), info.replace(settings={"data": str(photographs)}), 300, get_registry()
    )
    assert len(remembered) == 19, "what cannot be read is not among them"


def test_what_proves_a_file_is_not_calibrated_on(photographs):
    options = CalibratedOptions(data=str(photographs))
    images, noted = open_calibration(options, SOURCE, 300, get_registry())
    assert [path.name for path in images.held_back] == ["00.png", "10.png"]
    assert not {*images.held_back} & {*images.paths}
    assert len(images.paths) == noted["images"] == 18
    few, _ = open_calibration(options.replace(most=3), SOURCE, 3, get_registry())
    assert len(few) == 3
    assert not {*few.held_back} & {*few.paths}


def test_few_images_are_all_calibrated_on(photographs):
    for file in sorted((photographs / "images").iterdir())[7:]:
        file.unlink()
    images, _ = open_calibration(CalibratedOptions(data=str(photographs)), SOURCE, 300, get_registry())
    assert (len(images), images.held_back) == (7, ())


@pytest.mark.parametrize(
    ("options", "proven_on"),
    [
        ({"int8": True}, ["00.png", "10.png"]),
        ({}, [f"{number:02}.png" for number in (0, 2, 5, 7, 10, 12, 15, 17)]),
        ({"int8": True, "verify": False}, None),
        ({"verify": False}, None),
    ],
)
@pytest.mark.usefixtures("jobs")
def test_a_data_set_that_is_named_proves_the_file(model, photographs, monkeypatch, options, proven_on):
    """Its photographs beside the drawn images, whether or not it is calibrated on them."""
    from segx.flows import parity

    seen, prove = [], parity.prove
    monkeypatch.setattr(parity, "prove", lambda *a, images, **k: seen.append(images) or prove(*a, images=images, **k))
    registry = make_toys(Toy(), also=(CALIBRATED,))
    export(model, "case", {"data": str(photographs), **options}, registry=registry)
    if proven_on is None:
        assert not seen
    else:
        assert [Path(image.path).name for image in seen[0]] == proven_on
        assert Case.seen[-1][0] == (18 if options else None)


@pytest.mark.parametrize(
    ("named", "advice"),
    [(True, "it was calibrated on all 18 images that"), (False, "name 100 images or more of yours, data=")],
)
@pytest.mark.usefixtures("jobs")
def test_a_coarse_file_is_rejected_with_how_many_images_to_give(model, photographs, monkeypatch, named, advice):
    from segx.flows import parity

    prove = parity.prove
    monkeypatch.setattr(
        parity, "prove", lambda *a, **k: dataclasses.replace(prove(*a, **k), problems=("boxes differ",))
    )
    options = {"int8": True, **({"data": str(photographs)} if named else {})}
    with pytest.raises(ExportError, match="boxes differ") as caught:
        export(model, "case", options, registry=make_toys(Toy(), also=(CALIBRATED,)))
    assert advice in caught.value.hint


def test_a_data_set_to_prove_on_that_is_not_there_is_told_before_any_work(model, jobs, tmp_path):
    with pytest.raises(DataError):
        export(model, "case", {"data": str(tmp_path / "absent.yaml")}, registry=make_toys(Toy(), also=(CALIBRATED,)))
    assert not jobs


@pytest.mark.parametrize(
    ("count", "advice"),
    [
        (1, "calibrate on 36 images, not 1: most=36 fraction=1"),
        (36, "calibrated on all 36 images that few.yaml has for it: name a data set or a split of 100"),
        (100, ""),
    ],
)
def test_advice_on_calibration_is_what_the_data_set_can_give(count: int, advice: str) -> None:
    from segx.flows.calibration import more_images

    said = more_images({"data": "few.yaml", "images": count, "of": max(count, 36)})
    assert advice in said
    assert bool(advice) == bool(said)
