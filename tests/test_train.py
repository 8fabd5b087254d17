"""Training from end to end, with a tiny model and drawn images: what a run leaves, remembers and survives."""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import math
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
import torch
import yaml

from segx import YOLO, __version__
from segx.data.splits import open_dataset
from segx.errors import DataError, ModelError, PluginError, UsageError
from segx.flows import train_lines, val
from segx.flows.train_lines import EpochLines
from segx.flows.train_record import _alone, as_csv
from segx.options.verbs import TrainOptions
from segx.plugin.registry import get_registry
from segx.runs import Step
from segx.testing.models import TINY_YOLOV8
from segx_cli.main import main
from segx_data_synth.dataset import write_dataset
from segx_task_segment.training import loader

if TYPE_CHECKING:
    from collections.abc import Iterator

QUICK: dict[str, Any] = {
    "epochs": 2,
    "imgsz": 64,
    "batch": 4,
    "device": "cpu",
    "plots": False,
    "workers": 1,
    "nbs": 4,
    "warmup_epochs": 0,
}
PLAIN: dict[str, Any] = {**QUICK, "epochs": 1, "mosaic": 0.0}
IMAGES = 10


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Sums of several threads may differ in the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The YAML of a data set of ten images and four to validate on."""
    return write_dataset(tmp_path_factory.mktemp("data") / "shapes", images=IMAGES, val_images=4, imgsz=96)


@pytest.fixture(scope="module")
def tiny_yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The YAML of the tiny model."""
    path = tmp_path_factory.mktemp("design") / "tiny-seg.yaml"
    path.write_text(TINY_YOLOV8)
    return path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where the commands are given."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def once(shapes: Path, tiny_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[YOLO, Any]:
    """A run of one epoch, and what it returned."""
    model = YOLO(tiny_yaml)
    return model, model.train(data=str(shapes), **{**PLAIN, "project": tmp_path_factory.mktemp("once")})


@pytest.fixture
def finished(once: tuple[YOLO, Any], place: Path) -> Path:
    """``runs/segment/train`` below the folder where the commands are given: a copy of the run of one epoch."""
    folder = place / "runs" / "segment" / "train"
    shutil.copytree(once[1].save_dir, folder)
    return folder


@pytest.fixture(scope="module")
def whole(shapes: Path, tiny_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[YOLO, Any]:
    """A run with everything there is to write, and what it returned."""
    model = YOLO(tiny_yaml)
    folder = tmp_path_factory.mktemp("whole")
    options = {**QUICK, "plots": True, "epochs": 3, "close_mosaic": 1, "export": "torchscript", "project": folder}
    return model, model.train(data=str(shapes), **options)


def cli(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``segx`` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "segx_cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def words(options: dict[str, Any]) -> list[str]:
    return [f"{name}={value}" for name, value in options.items()]


def state(path: Path) -> dict[str, torch.Tensor]:
    """Return what was trained, its average and the optimiser's moments as flat tensors."""
    content = torch.load(path, weights_only=True)
    moments = content["training"]["optimizer"]["state"]
    return {
        **{f"raw.{name}": value for name, value in content["training"]["weights"].items()},
        **{f"average.{name}": value for name, value in content["weights"].items()},
        **{f"{i}.{name}": torch.as_tensor(value) for i, entry in moments.items() for name, value in entry.items()},
    }


def same(one: Path, two: Path) -> bool:
    first, second = state(one), state(two)
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


# What a run leaves


def test_training_returns_the_measure_of_the_best_weights(whole: tuple[YOLO, Any]) -> None:
    model, results = whole
    assert model.trained is not None
    assert results.save_dir == model.trained.folder
    assert model.path == model.trained.best
    assert results.images == 4
    assert math.isfinite(results.seg.map)
    assert math.isfinite(results.box.map50)
    assert len(results.seg.maps) == 6
    assert results.fitness == pytest.approx(max(row["fitness"] for row in model.trained.history))


def test_a_model_remembers_its_data_and_how_it_looked_at_them(
    whole: tuple[YOLO, Any], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From any folder, as the checkpoint is opened by anybody."""
    model, results = whole
    assert model.trained is not None
    again = YOLO(model.trained.last or "").val(plots=False, device="cpu")
    assert again.settings["data"] == results.settings["data"]
    assert again.settings["imgsz"] == "64x64"
    mine = model.val(plots=False, device="cpu").results_dict
    np.testing.assert_allclose(list(mine.values()), list(results.results_dict.values()), atol=1e-6)


def test_a_run_leaves_what_it_said_it_would(whole: tuple[YOLO, Any]) -> None:
    model, _ = whole
    assert model.trained is not None
    folder = model.trained.folder
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {"weights/last.pt", "weights/best.pt", "weights/best.torchscript", "args.yaml", "manifest.json"} <= names
    assert {"results.csv", "results.png", "labels.png", "metrics.json", "report.html"} <= names
    drawn = {f"train_batch{number}.jpg" for number in (0, 1, 2, 6, 7, 8)}
    assert {name for name in names if name.startswith("train_batch")} == drawn
    assert not [name for name in names if "/." in name or name.startswith(".")], "nothing half written"
    for name in (*drawn, "results.png", "labels.png"):
        assert cv2.imread(str(folder / name)) is not None, name
    assert model.trained.exported == folder / "weights" / "best.torchscript"


def test_the_table_has_a_row_for_each_epoch(whole: tuple[YOLO, Any]) -> None:
    model, _ = whole
    assert model.trained is not None
    with (model.trained.folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert {"time", "train/box_loss", "train/seg_loss", "train/cls_loss", "train/dfl_loss"} <= rows[0].keys()
    assert {"metrics/mAP50-95(B)", "metrics/mAP50-95(M)", "fitness", "lr/pg0", "lr/pg1"} <= rows[0].keys()
    losses = [float(row[f"val/{name}_loss"]) for row in rows for name in ("box", "seg", "cls", "dfl")]
    assert all(math.isfinite(value) for value in losses)
    assert all(float(row["val/cls_loss"]) > 0 for row in rows)
    for row, kept in zip(rows, model.trained.history, strict=True):
        assert float(row["train/seg_loss"]) == pytest.approx(kept["train/seg_loss"], rel=1e-5)


def test_the_manifest_says_what_the_run_was_made_of(whole: tuple[YOLO, Any], shapes: Path) -> None:
    model, _ = whole
    assert model.trained is not None
    manifest = json.loads((model.trained.folder / "manifest.json").read_text())
    assert manifest["command"] == sys.argv
    assert torch.__version__.startswith(manifest["versions"]["torch"])
    assert manifest["versions"]["segx-core"] == __version__
    assert manifest["seed"] == 0
    for split, images in (("train", IMAGES), ("val", 4)):
        hashed = open_dataset(shapes, split).fingerprint
        assert manifest["data"][split] == {"images": images, "fingerprint": hashed}
    options = yaml.safe_load((model.trained.folder / "args.yaml").read_text())
    assert (options["epochs"], options["imgsz"], options["data"]) == (3, 64, str(shapes))
    assert (options["task"], options["mode"]) == ("segment", "train")
    assert options["save_dir"] == str(model.trained.folder)


def test_without_plots_nothing_is_drawn(finished: Path) -> None:
    suffixes = {path.suffix for path in finished.rglob("*") if path.is_file()}
    assert ".pt" in suffixes
    assert not suffixes & {".jpg", ".png", ".html"}


def test_without_save_the_weights_are_written_at_the_end(shapes: Path, tiny_yaml: Path, place: Path) -> None:
    model = YOLO(tiny_yaml)
    model.train(data=str(shapes), save=False, **QUICK)
    assert sorted(path.name for path in Path("runs/segment/train/weights").iterdir()) == ["last.pt"]
    assert model.trained is not None
    assert model.path == model.trained.last


# Options


def test_the_seed_alone_decides(shapes: Path, tiny_yaml: Path, finished: Path) -> None:
    """It is 0 where nothing is given."""
    for seed, workers in ((0, 2), (3, 1)):
        model = YOLO(tiny_yaml)
        model.train(data=str(shapes), seed=seed, **{**PLAIN, "workers": workers})
        assert model.trained is not None
        assert same(finished / "weights" / "last.pt", model.trained.last or Path()) == (seed == 0)


def test_training_on_some_classes_and_a_part_of_the_data(shapes: Path, tiny_yaml: Path, place: Path) -> None:
    results = YOLO(tiny_yaml).train(data=str(shapes), classes=[0, 2], fraction=0.5, **{**QUICK, "epochs": 1})
    assert set(results.ap_class_index) <= {0, 2}
    manifest = json.loads((results.save_dir / "manifest.json").read_text())
    assert manifest["data"]["train"]["images"] == IMAGES // 2
    again = YOLO(results.save_dir / "weights" / "last.pt").val(plots=False, device="cpu")
    assert set(again.ap_class_index) <= {0, 2}, "remembered"


def test_all_classes_as_one(shapes: Path, tiny_yaml: Path, place: Path) -> None:
    model = YOLO(tiny_yaml)
    model.train(data=str(shapes), single_cls=True, **{**QUICK, "epochs": 1})
    assert dict(model.names) == {0: "object"}
    assert model.val(plots=False, device="cpu").ap_class_index.tolist() == [0]


def test_a_model_for_other_classes_takes_over_what_fits(
    shapes: Path, tiny_yaml: Path, place: Path, whole: tuple[YOLO, Any], caplog: pytest.LogCaptureFixture
) -> None:
    model, _ = whole
    caplog.set_level(logging.INFO, "segx")
    other = YOLO(tiny_yaml)
    other.train(data=str(shapes), pretrained=str(model.path), **{**QUICK, "epochs": 1})
    assert len(YOLO(tiny_yaml).names) != len(model.names)
    assert re.search(r"6 classes: \d+ tensors moved over, 0 begin anew", caplog.text)
    with pytest.raises(UsageError, match=r"pretrained=false starts from nothing"):
        YOLO(model.path or "").train(data=str(shapes), pretrained=False, **QUICK)


@pytest.mark.parametrize(
    "options",
    [
        {"rect": True},
        {"multi_scale": 0.5},
        {"mask_ratio": 2, "overlap_mask": False},
        {"freeze": 3, "cos_lr": True},
        {"mixup": 0.5, "copy_paste": 0.5, "degrees": 10, "perspective": 0.0005},
        {"mosaic": 1.0},
        {"optimizer": "SGD", "warmup_epochs": 1},
    ],
    ids=lambda options: next(iter(options)),
)
def test_each_option_makes_another_run(
    shapes: Path, tiny_yaml: Path, place: Path, once: tuple[YOLO, Any], options: dict[str, Any]
) -> None:
    """That runs, too; what exactly an option does is tested where it is done."""
    model = YOLO(tiny_yaml)
    model.train(data=str(shapes), **{**PLAIN, **options})
    rows = []
    for run in (once[0], model):
        assert run.trained is not None
        rows.append(run.trained.history[0])
    losses = [[row[f"train/{name}_loss"] for name in ("box", "seg", "cls", "dfl")] for row in rows]
    assert all(math.isfinite(value) for value in losses[1])
    assert losses[0] != losses[1]


def test_a_run_that_fails_leaves_the_model_as_its_file_says(
    shapes: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = YOLO(finished / "weights" / "last.pt")
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    before = model(image, conf=0.0, imgsz=64)[0].boxes.data

    def stop(*_args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("segx.flows.train_record.Record._write_row", stop)
    with pytest.raises(KeyboardInterrupt):
        model.train(data=str(shapes), **{**QUICK, "lr0": 0.1, "optimizer": "SGD"})
    np.testing.assert_array_equal(model(image, conf=0.0, imgsz=64)[0].boxes.data, before)


def test_the_command_line_prints_the_best_weights_or_one_document(
    shapes: Path, tiny_yaml: Path, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["segment", "train", f"model={tiny_yaml}", f"data={shapes}", *words({**QUICK, "epochs": 1})]
    assert main([*line, "--quiet"]) == 0
    printed, reported = capsys.readouterr()
    assert printed == "runs/segment/train/weights/best.pt\n"
    assert reported.count("\n") == 1
    assert "3 steps of the optimiser in all teach little" in reported
    assert main([*line, "--json"]) == 0
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert document["folder"] == "runs/segment/train2"
    assert (document["epochs"], document["exported"]) == (1, None)
    assert document["metrics"]
    assert "1/1" in shown.err


# Words for people


def step(number: int, seconds: float, **more: float) -> Step:
    metrics = {"epoch": number, "time": seconds, "train/box_loss": 1.25, "train/seg_loss": 2.5, **more}
    return Step(kind="epoch", index=number - 1, total=50, metrics=metrics)


def test_one_line_for_each_epoch(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "segx")
    lines = EpochLines(epochs=50)
    for number in (1, 2):
        for _ in range(2):
            batch = Step(kind="batch", index=0, total=2, name="64x96", metrics={"instances": 7.0})
            lines.on_step(batch, epoch=number - 1)
        lines.on_step(step(number, 90.0 * number, **{"metrics/mAP50-95(B)": 0.5, "metrics/mAP50-95(M)": 0.25}), epoch=0)
    header, first, second = (record.message for record in caplog.records)
    assert " ".join(header.split()) == "Epoch box seg Instances Size Box mAP Mask mAP Time Left"
    assert " ".join(first.split()) == "1/50 1.25 2.5 14 64x96 0.5000 0.2500 0:01:30 1:13:30"
    assert second.split()[-1] == "1:12:00"
    assert len(header) == len(first) == len(second)


def test_lines_are_seen_where_no_log_is_kept(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("segx"), "propagate", False)
    EpochLines(epochs=50).on_step(step(1, 2.0), epoch=0)
    assert "1/50" in capsys.readouterr().err
    EpochLines(epochs=50, shown=False).on_step(step(1, 2.0), epoch=0)
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal_only(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_lines, "_unheard", lambda: True)
    batch = Step(kind="batch", index=0, total=2, name="64x64", metrics={"instances": 7.0, "train/box_loss": 1.5})
    lines = EpochLines(epochs=5)
    lines.on_step(batch, epoch=1)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    lines = EpochLines(epochs=5)
    lines.on_step(batch, epoch=1)
    lines.on_step(batch, epoch=1)
    assert lines._bar.shown.postfix == "box=1.500, instances=14, size=64x64"
    lines.close()
    assert "2/5" in capsys.readouterr().err


# Export


def test_a_missing_exporter_is_reported_before_the_first_epoch(
    shapes: Path, tiny_yaml: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as left_out:
        left_out.setenv("SEGX_DISABLE_PLUGINS", "segx-export-openvino")
        get_registry.cache_clear()
        try:
            with pytest.raises(PluginError, match="segx-export-openvino, which SEGX_DISABLE_PLUGINS leaves out"):
                YOLO(tiny_yaml).train(data=str(shapes), export="openvino", **QUICK)
        finally:
            get_registry.cache_clear()
    with pytest.raises(UsageError, match=r"'onx' is not known; did you mean 'onnx'"):
        YOLO(tiny_yaml).train(data=str(shapes), export="onx", **QUICK)
    assert list(place.iterdir()) == []


def test_a_model_that_cannot_be_exported_is_reported_before_the_first_epoch(
    shapes: Path, tiny_yaml: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: Any, **_named: Any) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(torch.jit, "trace", fail)
    with pytest.raises(Exception, match="no such operator"):
        YOLO(tiny_yaml).train(data=str(shapes), export="torchscript", **QUICK)
    assert list(place.iterdir()) == []


def test_an_export_that_fails_at_the_end_loses_nothing(
    shapes: Path, tiny_yaml: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from segx.errors import ExportError
    from segx.flows import train

    real = train.export

    def fail(model: Any, *args: Any, **named: Any) -> Any:
        if "preflight" in str(model.path):
            return real(model, *args, **named)
        raise ExportError("the file is broken")

    monkeypatch.setattr(train, "export", fail)
    with pytest.raises(ExportError, match=r"broken[\s\S]*best\.pt; to try again: segx export model="):
        YOLO(tiny_yaml).train(data=str(shapes), export="torchscript", **{**QUICK, "epochs": 1})
    assert YOLO("runs/segment/train/weights/best.pt").val(plots=False, device="cpu").images == 4


# Resume


@pytest.fixture(params=["drawn", pytest.param("real", marks=pytest.mark.real)])
def small_set(request: pytest.FixtureRequest, shapes: Path, tmp_path: Path) -> Path:
    """Ten drawn images, or a few real photographs with polygon labels."""
    if request.param == "drawn":
        return shapes
    photos = request.getfixturevalue("real_data") / "coco-mini" / "images"
    for split, count in (("train", 8), ("val", 4)):
        chosen = sorted((photos / f"{split}2017").glob("*.jpg"))[:count]
        (tmp_path / f"{split}.txt").write_text("\n".join(map(str, chosen)))
    names = yaml.safe_load((photos.parent / "coco-mini-seg.yaml").read_text())["names"]
    path = tmp_path / "photos.yaml"
    path.write_text(yaml.safe_dump({"path": ".", "train": "train.txt", "val": "val.txt", "names": names}))
    return path


@pytest.mark.slow
def test_killed_at_a_random_moment_and_resumed_it_is_the_straight_run(
    small_set: Path, tiny_yaml: Path, place: Path
) -> None:
    """By the command line alone, with SIGKILL, on images read from files."""
    options = {**QUICK, "epochs": 5, "data": small_set, "model": tiny_yaml}
    straight = YOLO(tiny_yaml)
    straight.train(data=str(small_set), name="straight", **{**QUICK, "epochs": 5})
    command = [sys.executable, "-m", "segx_cli", "train", *words(options), "name=killed"]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    table = Path("runs/segment/killed/results.csv")
    try:
        while not table.exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.5))
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    last = Path("runs/segment/killed/weights/last.pt")
    assert YOLO(last).names, "whole, whenever it was killed"
    ended = cli("train", f"resume={last}")
    if ended.returncode:
        assert "has finished, after 5 epochs" in ended.stderr
    assert straight.trained is not None
    assert same(straight.trained.last or Path(), last)
    with table.open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3", "4", "5"]


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Images are prepared by processes, as on a GPU; the loaders that did it."""
    made, make = [], loader.make_loader

    def other(data: Any, options: TrainOptions, **how: Any) -> Any:
        made.append(make(data, options, **{**how, "processes": not options.rect}))
        return made[-1]

    monkeypatch.setattr(loader, "make_loader", other)
    yield made
    assert all(each._crew is None for each in made), "closed"


@pytest.mark.skipif(os.name != "posix", reason="there are threads only")
def test_processes_that_prepare_images_change_nothing_and_a_stopped_run_goes_on(
    shapes: Path, tiny_yaml: Path, place: Path, monkeypatch: pytest.MonkeyPatch, apart: list[Any]
) -> None:
    options = {**QUICK, "data": str(shapes), "epochs": 3, "close_mosaic": 1, "val": False}
    with monkeypatch.context() as patch:
        patch.setattr(loader.TrainLoader, "_hands", lambda self: self._threads())
        YOLO(tiny_yaml).train(**options, name="threads")
    model, seen = YOLO(tiny_yaml), []

    def stop(_: Any) -> None:
        seen.append([child._process.pid for child in apart[-1]._crew._children])
        if len(seen) == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    model.add_callback("on_train_batch_end", stop)
    with pytest.raises(KeyboardInterrupt):
        model.train(**options, name="apart")
    assert len(seen) == 4
    assert seen[0] == seen[3], "the same processes for all epochs"
    assert not any(Path(f"/proc/{pid}/cmdline").exists() for pid in seen[0])
    YOLO("runs/segment/apart/weights/last.pt").train(resume=True)
    assert same(Path("runs/segment/threads/weights/last.pt"), Path("runs/segment/apart/weights/last.pt"))


@pytest.mark.skipif(os.name != "posix", reason="there are threads only")
def test_a_process_that_is_killed_ends_the_run_in_one_line_and_it_goes_on(
    shapes: Path, tiny_yaml: Path, place: Path, apart: list[Any]
) -> None:
    model, batches = YOLO(tiny_yaml), []

    def kill(_: Any) -> None:
        batches.append(1)
        if len(batches) == 4:
            os.kill(apart[-1]._crew._children[0]._process.pid, signal.SIGKILL)

    model.add_callback("on_train_batch_end", kill)
    with pytest.raises(ModelError, match="process 1 of 1 that prepares images was ended by SIGKILL") as error:
        model.train(**{**QUICK, "data": str(shapes), "epochs": 4, "val": False})
    last = Path("runs/segment/train/weights/last.pt")
    assert error.value.hint == f"to go on: segx segment train resume={last}"
    YOLO(last).train(resume=True)
    with Path("runs/segment/train/results.csv").open(newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3", "4"]


def test_a_run_killed_between_its_last_epoch_and_the_measurement_is_measured(
    shapes: Path, tiny_yaml: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*args: Any, announced: bool = True, **named: Any) -> Any:
        if announced:  # the run's last measurement, not one after an epoch
            raise KeyboardInterrupt
        return measure(*args, announced=announced, **named)

    measure = val.validate
    options = {**QUICK, "epochs": 1, "export": "torchscript"}
    with monkeypatch.context() as patch:
        patch.setattr(val, "validate", killed)
        with pytest.raises(KeyboardInterrupt):
            YOLO(tiny_yaml).train(data=str(shapes), **options)
    manifest = Path("runs/segment/train/manifest.json")
    assert "finished" not in json.loads(manifest.read_text())
    metrics = YOLO(tiny_yaml).train(resume="runs/segment/train")
    assert json.loads(manifest.read_text())["finished"]["metrics"]["metrics/mAP50-95(M)"] == metrics.seg.map
    assert Path("runs/segment/train/weights/best.torchscript").exists()
    with pytest.raises(UsageError, match="has finished, after 1 epoch"):
        YOLO(tiny_yaml).train(resume="runs/segment/train")


def test_what_is_given_now_wins_over_what_is_remembered(finished: Path, tiny_yaml: Path, place: Path) -> None:
    last = Path("runs/segment/train/weights/last.pt")
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    os.chdir(elsewhere)
    results = YOLO(tiny_yaml).train(resume=place / last, epochs=3, save_period=2)
    assert results.save_dir == place / "runs" / "segment" / "train"
    assert {path.name for path in (place / last).parent.iterdir()} == {"best.pt", "last.pt", "epoch2.pt"}
    assert list(elsewhere.iterdir()) == []
    manifest = json.loads((results.save_dir / "manifest.json").read_text())
    assert len(manifest["resumed"]) == 1
    assert (results.save_dir / "results.csv").read_text().count("\n") == 4


def test_resume_takes_the_folder_of_a_run_and_tidies_it(finished: Path, tiny_yaml: Path) -> None:
    half = Path("runs/segment/train/weights/.last-0a1b2c3d.pt")
    half.write_bytes(b"as a kill may leave it")
    results = YOLO(tiny_yaml).train(resume="runs/segment/train", epochs=2)
    assert results.save_dir == finished
    assert not half.exists()


def test_a_checkpoint_that_was_moved_begins_a_new_folder(finished: Path, place: Path) -> None:
    moved = place / "saved" / "last.pt"
    moved.parent.mkdir()
    (finished / "weights" / "last.pt").rename(moved)
    results = YOLO(moved).train(resume=True, epochs=2)
    assert results.save_dir.name == "train2"
    assert [path.name for path in moved.parent.iterdir()] == ["last.pt"]


def test_data_that_changed_since_are_reported(tiny_yaml: Path, place: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write_dataset(place / "mine", images=4, val_images=2, imgsz=64)
    YOLO(tiny_yaml).train(data=str(data), **{**QUICK, "epochs": 1})
    annotations = data.parent / "annotations" / "train.json"
    document = json.loads(annotations.read_text())
    del document["annotations"][0]
    annotations.write_text(json.dumps(document))
    YOLO("runs/segment/train/weights/last.pt").train(resume=True, epochs=2)
    assert "has changed since the run began" in caplog.text
    for split in ("train", "val"):
        annotations = data.parent / "annotations" / f"{split}.json"
        document = json.loads(annotations.read_text())
        document["categories"][0]["name"] = "other"
        annotations.write_text(json.dumps(document))
    definition = yaml.safe_load(data.read_text())
    definition["names"][0] = "other"
    data.write_text(yaml.safe_dump(definition))
    with pytest.raises(DataError, match=r"has other classes than the run"):
        YOLO("runs/segment/train/weights/last.pt").train(resume=True, epochs=3)


def test_a_run_that_goes_on_is_not_taken_over_and_fetches_nothing(
    tiny_yaml: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_dataset(place / "mine", images=4, val_images=2, imgsz=64)
    definition = yaml.safe_load(data.read_text())
    data.write_text(yaml.safe_dump({**definition, "path": "set", "download": "http://127.0.0.1:9/set.zip"}))
    (place / "mine" / "set").symlink_to(place / "mine")
    YOLO(tiny_yaml).train(data=str(data), **{**QUICK, "epochs": 1})
    last, args = Path("runs/segment/train/weights/last.pt"), Path("runs/segment/train/args.yaml")
    before = args.read_bytes()
    monkeypatch.setattr("segx.flows.train_record._LONGEST_WAIT", 0.0)
    with _alone(Path("runs/segment/train")), pytest.raises(UsageError, match="in use by another process"):
        YOLO(last).train(resume=True, epochs=2)
    assert args.read_bytes() == before
    (place / "mine" / "set").unlink()
    with pytest.raises(DataError, match="is not downloaded unasked"):
        YOLO(last).train(resume=True, epochs=2)


@pytest.mark.parametrize(
    ("resume", "expected"),
    [
        ("nowhere/last.pt", "resume=nowhere/last.pt is not there"),
        ("plain.pt", "plain.pt does not come from a run that could go on"),
        ("design.yaml", "needs the last.pt of a run"),
        ("runs/segment/train/weights/best.pt", "holds a model, but not the state of a run"),
        ("runs/segment/train/weights/last.pt", "has finished, after 1 epoch[\\s\\S]*epochs=2"),
    ],
)
@pytest.mark.usefixtures("finished")
def test_resume_of_what_is_no_run(tiny_yaml: Path, place: Path, resume: str, expected: str) -> None:
    YOLO(tiny_yaml).save("plain.pt")
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    with pytest.raises((ModelError, UsageError), match=expected):
        YOLO(tiny_yaml).train(resume=resume)
    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}.keys() == before.keys()


# Bad input

SQUARE = "0 .1 .1 .6 .1 .6 .6 .1 .6\n"


def polygons(folder: Path, *rows: str | None, definition: str = "names: [a, b]\n", val: bool = True) -> str:
    """Write a data set of one grey image for each label file; None: without one."""
    for split in ("train", "val") if val else ("train",):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for number, text in enumerate(rows):
            cv2.imwrite(str(folder / "images" / split / f"{number}.png"), np.full((64, 64, 3), 100, np.uint8))
            if text is not None:
                (folder / "labels" / split / f"{number}.txt").write_text(text)
    path = folder / "mine.yaml"
    path.write_text(f"path: .\ntrain: images/train\nval: images/val\n{definition}")
    return str(path)


@pytest.mark.parametrize(
    ("rows", "definition", "expected"),
    [
        ((None, None), "names: [a, b]\n", "none of the 2 training images has a labelled object"),
        (("", ""), "names: [a, b]\n", "none of the 2 training images has a labelled object"),
        (("7 .1 .1 .6 .1 .6 .6\n",), "names: [a, b]\n", "none of the 1 training images"),
        ((SQUARE,), "names: [a, b]\nnc: 5\n", "nc is 5, but names has 2"),
        ((), "names: [a, b]\n", "is an empty folder"),
    ],
    ids=["no labels", "empty labels", "class out of range", "nc and names", "empty split"],
)
def test_data_that_cannot_be_learned_from(
    tiny_yaml: Path, place: Path, rows: tuple[str | None, ...], definition: str, expected: str
) -> None:
    data = polygons(place / "data", *rows, definition=definition)
    with pytest.raises(DataError, match=expected):
        YOLO(tiny_yaml).train(data=data, **QUICK)
    assert not Path("runs").exists()


def test_a_row_of_a_class_that_is_not_there_is_named_and_only_it_is_dropped(
    tiny_yaml: Path, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = polygons(place / "data", SQUARE, f"{SQUARE}7 .1 .1 .6 .1 .6 .6\n")
    results = YOLO(tiny_yaml).train(data=data, **{**QUICK, "epochs": 1})
    assert "1.txt, line 2: class 7 is outside 0..1" in caplog.text
    assert results.images == 2


def test_classes_of_the_data_replace_those_of_the_model(tiny_yaml: Path, place: Path) -> None:
    model = YOLO(tiny_yaml)
    assert len(model.names) == 3
    model.train(data=polygons(place / "data", SQUARE), **{**QUICK, "epochs": 1})
    assert dict(model.names) == {0: "a", 1: "b"}


@pytest.mark.real
def test_weights_that_were_folded_keep_what_they_know(
    real_data: Path, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The real weights have been rebuilt from folded ones; their mask AP at this size is 0.241 before training."""
    caplog.set_level(logging.INFO)
    data = real_data / "coco-mini" / "coco-mini-seg.yaml"
    model = YOLO(real_data / "weights" / "yolov8n-seg.pt")
    metrics = model.train(data=data, epochs=1, imgsz=256, fraction=0.15, batch=8, plots=False, workers=2)
    assert "66 BatchNorm layers had no statistics" in caplog.text
    assert "taken from 33 images" in caplog.text
    assert metrics.seg.map > 0.18


def test_objects_to_learn_from_but_none_to_be_measured_by(tiny_yaml: Path, place: Path) -> None:
    data = polygons(place / "data", SQUARE)
    (place / "data" / "labels" / "val" / "0.txt").write_text("")
    with pytest.raises(DataError, match="none of the 1 validation images has a labelled object"):
        YOLO(tiny_yaml).train(data=data, **QUICK)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"lr0": -1}, "lr0=-1 is outside above 0"),
        ({"fraction": 2}, "fraction=2 is outside above 0, up to 1"),
        ({"optimizer": "adamm"}, "optimizer=adamm is not one of auto, SGD,.*did you mean 'Adam'"),
        ({"cache": "dsk"}, "cache=dsk is not one of ram, disk, true, false; did you mean 'disk'"),
        ({"epoch": 3}, "option 'epoch' is not known; did you mean 'epochs'"),
        ({"classes": [9]}, r"classes=\[9\]: .* has 0..1"),
        ({"batch": 0}, "batch=0: give a number of images"),
        ({"freeze": 99}, "freeze=99: there is no layer 11; they are numbered 0..10"),
        ({"data": None}, "no data set is named"),
    ],
)
def test_options_that_cannot_be(tiny_yaml: Path, place: Path, options: dict[str, Any], expected: str) -> None:
    data = polygons(place / "data", SQUARE)
    with pytest.raises(UsageError, match=expected):
        YOLO(tiny_yaml).train(**{**QUICK, "data": data, **options})
    assert not list(Path("runs").rglob("*.yaml")), "no folder of a run that never began"


def test_a_folder_that_cannot_be_written(tiny_yaml: Path, place: Path) -> None:
    (place / "file").write_text("")
    with pytest.raises(DataError, match=r"file/train cannot be made[\s\S]*project=FOLDER"):
        YOLO(tiny_yaml).train(data=polygons(place / "data", SQUARE), project="file", **QUICK)


def test_a_full_disk_loses_nothing(finished: Path) -> None:
    """The limit on the size of files stands for it: the very write of the checkpoint fails."""
    last = finished / "weights" / "last.pt"
    before = last.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))
    try:
        with pytest.raises(DataError, match=r"last\.pt: cannot be written[\s\S]*the state before is safe") as caught:
            YOLO(last).train(resume=True, epochs=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(caught.value).count("\n") == 1
    assert last.read_bytes() == before
    assert sorted(path.name for path in last.parent.iterdir()) == ["best.pt", "last.pt"]
    assert YOLO(last).train(resume=True, epochs=2).images == 4


def test_a_table_that_somebody_keeps_open_does_not_end_the_run(
    shapes: Path, tiny_yaml: Path, place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from segx.io import files

    write, refused = files.write_text, 0

    def locked(path: Path, text: str) -> Path:
        nonlocal refused
        if path.name == "results.csv" and refused < 2:
            refused += 1
            raise DataError(f"{path}: cannot be written (Permission denied)")
        return write(path, text)

    monkeypatch.setattr(files, "write_text", locked)
    YOLO(tiny_yaml).train(data=str(shapes), **{**QUICK, "epochs": 2})
    assert caplog.text.count("results.csv: cannot be written (Permission denied); the figures are in") == 2
    assert Path("runs/segment/train/results.csv").read_text().count("\n") == 3


def test_a_short_run_learns_something(
    shapes: Path, tiny_yaml: Path, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Fewer batches than make a step: their gradients are not lost, and it is said that this is little."""
    YOLO(tiny_yaml).save("start.pt")
    start = YOLO("start.pt")
    start.train(data=str(shapes), **{**QUICK, "epochs": 1, "batch": 16, "nbs": 64, "seed": 1})
    weights = torch.load("runs/segment/train/weights/last.pt", weights_only=True)["training"]["weights"]
    before = torch.load("start.pt", weights_only=True)["weights"]
    kernels = [name for name in weights if name.startswith("model.0.") and name.endswith("conv.weight")]
    assert kernels
    assert not any(torch.equal(weights[name], before[name].float()) for name in kernels)
    assert "1 step of the optimiser in all teach" in caplog.text


def test_the_options_of_a_run_are_a_configuration(whole: tuple[YOLO, Any], place: Path) -> None:
    model, _ = whole
    assert model.trained is not None
    shutil.copy(model.trained.folder / "args.yaml", "again.yaml")
    assert main(["cfg=again.yaml", "epochs=1", "project=again", "name=run"]) == 0, "it says itself what is done"
    assert Path("again/run/weights/best.pt").exists()


def test_a_part_of_the_data_is_spread_over_all(shapes: Path) -> None:
    from segx.flows.train import read_splits

    indices = list(read_splits(TrainOptions(data=str(shapes), fraction=0.3)).indices)
    assert indices == [0, 3, 6]


def test_what_is_wrong_with_the_images_for_validation_is_reported(
    tiny_yaml: Path, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_dataset(place / "d", images=4, val_images=4, imgsz=64)
    image = min((data.parent / "images" / "val").iterdir())
    image.unlink()
    YOLO(tiny_yaml).train(data=str(data), **{**QUICK, "epochs": 1})
    assert image.name in caplog.text


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"name": "other"}, "name=other: a run goes on in its own folder"),
        ({"project": "p"}, "project=p: a run goes on in its own folder"),
        ({"classes": [0]}, "classes: this run began with None"),
        ({"single_cls": True}, "single_cls: this run began with False"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
@pytest.mark.usefixtures("finished")
def test_what_a_run_cannot_be_turned_into(tiny_yaml: Path, options: dict[str, Any], expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        YOLO(tiny_yaml).train(resume="runs/segment/train", epochs=2, **options)


def test_a_size_is_rounded_up_to_whole_strides(
    shapes: Path, tiny_yaml: Path, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = YOLO(tiny_yaml)
    model.train(data=str(shapes), **{**QUICK, "epochs": 2, "imgsz": 50})
    assert caplog.text.count("imgsz=50 is rounded up to 64: multiples of 32") == 1
    best = YOLO("runs/segment/train/weights/best.pt")
    assert best.metadata.imgsz == (64, 64)
    assert best.val(rect=False, device="cpu", plots=False).images == 4


def test_weights_for_another_task(place: Path, shapes: Path, tiny_yaml: Path) -> None:
    YOLO(tiny_yaml).save("segment.pt")
    weights = torch.load("segment.pt", weights_only=True)["weights"]
    boxes_only = {name: value for name, value in weights.items() if ".cv4." not in name and ".proto." not in name}
    torch.save(boxes_only, "detect.pt")
    with pytest.raises(ModelError, match=r"detect\.pt: bare weights, of no configuration that is known"):
        YOLO("detect.pt").train(data=str(shapes), **QUICK)
    YOLO(tiny_yaml).load("detect.pt")


# Several processes

SCRIPT = """
import logging, sys
from segx import YOLO
logging.basicConfig(level=logging.INFO, format="%(message)s")
for number in range(2):
    model = YOLO(sys.argv[1])
    results = model.train(
        data=sys.argv[2], epochs=1, imgsz=64, batch=4, plots=False, accelerator="cpu", devices=2, project="shared"
    )
    print("measured", results.images, model.trained.folder, flush=True)
"""


@pytest.mark.slow
def test_two_processes_speak_write_and_go_on_as_one(shapes: Path, tiny_yaml: Path, place: Path) -> None:
    Path("script.py").write_text(SCRIPT)
    ended = subprocess.run(
        [sys.executable, "script.py", str(tiny_yaml), str(shapes)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == ["measured 4 shared/train", "measured 4 shared/train2"]
    assert ended.stderr.count("2 processes, cpu") == 2, "told once for each of the two runs"
    for name in ("train", "train2"):
        received = list(Path("shared", name).glob("events.out.tfevents.*"))
        assert len(received) == 1, "the hooks are heard, by one"
        assert b"metrics/mAP50-95(M)" in received[0].read_bytes()


NODES = 2


@pytest.mark.slow
def test_two_machines_are_as_one_with_two_processes(shapes: Path, tiny_yaml: Path, place: Path) -> None:
    """Two launchers on loopback, as two machines have them, and a job of Slurm as it looks to them."""
    options = {name: value for name, value in QUICK.items() if name != "device"} | {"accelerator": "cpu"}
    train = ["-m", "segx_cli", "segment", "train", *words({"data": shapes, "model": tiny_yaml, **options})]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def begin(folder: str, *line: str, **variables: str) -> subprocess.Popen[str]:
        Path(folder).mkdir()
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
        given: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": folder}
        return subprocess.Popen([sys.executable, *line], env=environment, **given)

    def node(rank: int) -> subprocess.Popen[str]:
        launch = ["-m", "torch.distributed.run", f"--nnodes={NODES}", f"--node-rank={rank}", "--nproc-per-node=1"]
        where = ["--master-addr=127.0.0.1", f"--master-port={port}"]
        slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": str(NODES), "SLURM_NODEID": str(rank)}
        slurm |= {"SLURM_PROCID": str(rank), "SLURM_LOCALID": "0", "SLURM_NODELIST": "node[1-2]"}
        return begin(f"node{rank}", *launch, *where, *train, **slurm)

    told = []
    with contextlib.ExitStack() as running:
        nodes = [running.enter_context(node(rank)) for rank in range(NODES)]
        for process in nodes:
            running.callback(process.kill)
        for process in nodes:
            told.append(process.communicate(timeout=200))
            assert process.returncode == 0, told
    with begin("one", *train, "devices=2") as process:
        assert process.wait(200) == 0, process.communicate()

    assert "2 processes, cpu" in told[0][1]
    assert [out for out, _ in told[1:]] == [""]
    assert list(Path("node1").rglob("*")) == [], "only the first machine writes"
    (apart,) = Path("node0").rglob("last.pt")
    (together,) = Path("one").rglob("last.pt")
    assert same(apart, together)


def test_rows_of_different_columns_make_one_table() -> None:
    assert as_csv([{"epoch": 1, "a": 0.5}, {"epoch": 2, "b": math.nan}]) == "epoch,a,b\n1,0.5,\n2,,nan\n"


def test_validating_on_what_was_trained_on_is_reported(
    shapes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from segx.flows.train import read_splits

    read_splits(TrainOptions(data=str(shapes)))
    assert "the same as training images" not in caplog.text
    content = yaml.safe_load(shapes.read_text())
    path = tmp_path / "set.yaml"
    path.write_text(yaml.safe_dump({**content, "path": str(shapes.parent), "val": content["train"]}))
    read_splits(TrainOptions(data=str(path)))
    assert "the validation images are the same as training images" in caplog.text


def test_data_without_a_mask_are_refused_before_a_folder_is_made(tiny_yaml: Path, place: Path) -> None:
    written = write_dataset(place / "boxes", images=2, val_images=1, imgsz=96)
    for file in written.parent.rglob("*.json"):
        content = json.loads(file.read_text())
        for annotation in content["annotations"]:
            annotation["segmentation"] = []
        file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="no object to train on has a mask"):
        YOLO(tiny_yaml).train(data=str(written), **QUICK)
    assert not (place / "runs").exists()


def test_a_yaml_without_val_is_reported_what_to_do(tiny_yaml: Path, place: Path) -> None:
    written = write_dataset(place / "alone", images=2, val_images=1, imgsz=96)
    content = yaml.safe_load(written.read_text())
    del content["val"]
    written.write_text(yaml.safe_dump(content))
    with pytest.raises(DataError, match="has no split 'val'") as error:
        YOLO(tiny_yaml).train(data=str(written), **QUICK)
    assert "segx data split" in error.value.hint
    assert "split=train" not in error.value.hint
