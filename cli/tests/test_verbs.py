"""The verbs from end to end, with a tiny model and drawn images."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, ClassVar

import cv2
import numpy as np
import pytest

from segx.options.verbs import TrainOptions
from segx.plugin.registry import Registry, get_registry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Segx = Callable[..., Any]


def test_predict_writes_images_and_says_where(segx: Segx, tiny_model: Path, photos: Path, tmp_path: Path) -> None:
    ended = segx("segment", "predict", f"model={tiny_model}", f"source={photos}", "conf=0.001", "imgsz=64")
    assert ended.code == 0, ended.err
    folder = tmp_path / ended.out.strip()
    assert sorted(path.name for path in folder.iterdir()) == ["0.png", "1.png"]
    assert "2 images" in ended.err
    again = segx("predict", "--model", tiny_model, "--source", photos, "imgsz=64", "-q")
    assert again.out.strip() != ended.out.strip()
    assert again.err == ""


def test_predict_without_a_folder_prints_what_was_found(segx: Segx, tiny_model: Path, photos: Path) -> None:
    ended = segx("predict", f"model={tiny_model}", f"source={photos}", "--no-save", "imgsz=64", "--quiet")
    assert ended.code == 0
    assert [line.partition(": ")[0] for line in ended.out.splitlines()] == [
        str(photos / "0.png"),
        str(photos / "1.png"),
    ]
    assert not (photos.parent / "runs").exists()


def test_predict_as_json_is_one_document(segx: Segx, tiny_model: Path, photos: Path) -> None:
    ended = segx("predict", f"model={tiny_model}", f"source={photos}", "--json", "conf=0.001", "max_det=3", "imgsz=64")
    document = ended.document
    assert document["folder"]
    assert document["failed"] == []
    assert [image["shape"] for image in document["images"]] == [[80, 120], [80, 120]]
    for image in document["images"]:
        assert len(image["objects"]) == 3
        assert {"name", "class", "confidence", "box", "segments"} <= set(image["objects"][0])


def test_an_image_that_cannot_be_read_is_reported_by_the_exit_code(segx: Segx, tiny_model: Path, photos: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"no image")
    ended = segx("predict", f"model={tiny_model}", f"source={photos}", "--json", "--no-save", "imgsz=64")
    assert ended.code == 3
    assert len(ended.document["images"]) == 2
    assert ended.document["failed"][0]["path"].endswith("broken.jpg")


def test_several_sources(segx: Segx, tiny_model: Path, photos: Path) -> None:
    files = [photos / "0.png", photos / "1.png"]
    for line in (["--source", *files], [f"source=[{files[0]}, {files[1]}]"]):
        document = segx("predict", f"model={tiny_model}", *line, "--no-save", "--json", "imgsz=64").document
        assert [image["path"] for image in document["images"]] == list(map(str, files))


def test_sources_of_every_name(segx: Segx, tiny_onnx: Path, photos: Path) -> None:
    image = (photos / "0.png").read_bytes()
    for name in ("[draft.png", "a,b.png", "it's.png", "dir[1]/x.png", "b.png/in.png", "c.png"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(image)
    os.chdir(photos)
    (photos / "rows.csv").write_text('c.png, "a,b.png"\n[draft.png,not there\n')

    def found(source: str) -> list[str]:
        ended = segx("predict", f"model={tiny_onnx}", f"source={source}", "save=false", "conf=0.9", "--json")
        assert ended.code == 0, ended.err
        return [image["path"] for image in ended.document["images"]]

    assert found("[draft.png") == ["[draft.png"]
    assert found("dir[1]/*.png") == ["dir[1]/x.png"]
    assert found("b.png") == ["b.png/in.png"]
    assert found("['a,b.png', c.png]") == ["a,b.png", "c.png"]
    assert found('["a,b.png", "it\'s.png"]') == ["a,b.png", "it's.png"]
    assert found("['a,b.png']") == ["a,b.png"]
    assert found("[c.png]") == ["c.png"]
    assert found("[c].png") == ["c.png"]
    assert len(found(".")) == 6  # b.png is a folder
    assert found("rows.csv") == ["c.png", "a,b.png", "[draft.png"]
    assert "several sources in a row" in segx("predict", f"model={tiny_onnx}", "source=rows.csv", "save=false").err


@pytest.mark.parametrize("word", ["model", "source", "conf"])
def test_what_is_endless_is_cut(segx: Segx, tiny_onnx: Path, word: str) -> None:
    values = {"model": str(tiny_onnx), "source": "a.png", word: "x" * 3000}
    ended = segx("predict", *(f"{name}={value}" for name, value in values.items()))
    assert ended.code in {2, 3, 4}
    assert len(ended.err) < 600
    assert "xxx..." in ended.err


def test_another_task_says_what_the_model_is_for(segx: Segx, tiny_onnx: Path) -> None:
    for line in (["detect", "predict", f"model={tiny_onnx}"], ["predict", "task=detect", f"model={tiny_onnx}"]):
        ended = segx(*line, "source=a.png")
        assert (ended.code, ended.err) == (2, f"segx: {tiny_onnx} is a model for 'segment', not for 'detect'\n")
    ended = segx("detect", "predict", "source=a.png")
    assert ended.err.startswith("segx: task 'detect' is not installed\n  installed tasks: segment")


@pytest.mark.parametrize("name", ["yolo11n-seg.pt", "yolov9c-seg.pt", "yolo11n-seg.yaml"])
def test_a_model_of_another_version_is_no_misspelling(segx: Segx, name: str) -> None:
    ended = segx("info", f"model={name}")
    assert "no architecture that is installed has a model of this number" in ended.err
    assert "did you mean" not in ended.err
    assert "did you mean 'yolov8n-seg.pt'" in segx("info", "model=yolo8n-seg.pt").err


def test_what_is_missing_is_reported_by_the_exit_code(segx: Segx, tiny_model: Path, photos: Path) -> None:
    ended = segx("predict", "model=absent.pt", f"source={photos}")
    assert ended.code == 4
    assert "absent.pt" in ended.err
    ended = segx("predict", f"model={tiny_model}", "source=absent.jpg")
    assert ended.code == 3
    assert "absent.jpg" in ended.err
    assert not (photos.parent / "runs").exists()


def test_a_known_name_offline_says_where_to_get_it(segx: Segx, photos: Path) -> None:
    ended = segx("predict", "model=yolov8n-seg.pt", f"source={photos}")
    assert ended.code == 4
    assert "SEGX_OFFLINE" in ended.err
    assert "get http" in ended.err


def test_info_of_a_checkpoint_and_of_a_definition(segx: Segx, tiny_model: Path) -> None:
    ended = segx("info", f"model={tiny_model}")
    assert ended.code == 0, ended.err
    assert "tiny-seg" in ended.out
    assert "GFLOPs" in ended.out
    document = segx("info", "--model", tiny_model, "--json").document
    assert document["format"] == "pt"
    assert document["bytes"] == tiny_model.stat().st_size
    assert len(document["names"]) == 3
    assert document["summary"]["parameters"] > 0
    definition = segx("info", "model=yolov8n-seg.yaml", "--json").document
    assert (definition["file"], definition["summary"]["parameters"]) == (None, 3_409_968)


def test_export_proves_and_says_where(segx: Segx, tiny_model: Path, tmp_path: Path) -> None:
    target = tmp_path / "made" / "tiny.onnx"
    ended = segx("export", f"model={tiny_model}", "format=onnx", "imgsz=64,96", f"output={target}", "--json")
    assert ended.code == 0, ended.err
    assert ended.document["file"] == str(target)
    assert ended.document["bytes"] == target.stat().st_size
    assert ended.document["parity"]["images"] > 0
    shown = segx("info", f"model={target}")
    assert "64x96" in shown.out
    assert "compared" in shown.out


def test_export_refuses_what_cannot_be(segx: Segx, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = segx("export", f"model={tiny_model}", "format=onnx", "opset=99")
    assert (ended.code, ended.err) == (2, "segx: opset=99 is outside 11..27\n")
    monkeypatch.setenv("SEGX_DISABLE_PLUGINS", "segx-export-openvino")
    get_registry.cache_clear()
    try:
        ended = segx("export", f"model={tiny_model}", "format=openvino")
    finally:
        get_registry.cache_clear()
    assert ended.code == 5
    assert "segx-export-openvino" in ended.err


class _Trained:
    folder, best, last, exported, history = "run", "run/best.pt", "run/last.pt", None, ()


class _Metrics:
    def to_dict(self) -> dict[str, float]:
        return {"seg.map": 0.5}


class _Model:
    calls: ClassVar[list[tuple[str, dict[str, Any]]]] = []

    def __init__(self, model: str, task: str | None = None) -> None:
        self.model = model
        self.trained = _Trained()

    def train(self, **options: Any) -> _Metrics:
        self.calls.append((self.model, options))
        return _Metrics()


def test_train_passes_on_only_what_was_typed(segx: Segx, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is typed wins over what a run that goes on began with, so defaults must not look typed."""
    monkeypatch.setattr("segx.model.YOLO", _Model)
    assert segx("segment", "train", "model=a.yaml", "data=b.yaml", "epochs=2").out == "run/best.pt\n"
    assert _Model.calls.pop() == ("a.yaml", {"options": TrainOptions(data="b.yaml", epochs=2)})
    assert segx("train", "resume=run/last.pt", "epochs=9", "--json").document["metrics"] == {"seg.map": 0.5}
    assert _Model.calls.pop() == ("run/last.pt", {"resume": True, "epochs": 9})
    for line in (["resume=true"], ["resume"]):
        assert segx("train", "model=run/last.pt", *line).code == 0
        assert _Model.calls.pop() == ("run/last.pt", {"resume": True})
    assert segx("train", "model=a.yaml", "pretrained=false").code == 0
    assert _Model.calls.pop() == ("a.yaml", {"options": TrainOptions(pretrained=False)})
    assert segx("train", "data=b.yaml").code == 2


def test_an_exported_model_needs_no_torch(tiny_onnx: Path, photos: Path) -> None:
    """Everything that only training and exporting need is made unimportable."""
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['torch', 'torchvision', 'onnx', 'typer', 'pydantic', 'pandas'], None))\n"
        "import segx_cli.main as m\n"
        f"sys.exit(m.main(['segment', 'predict', 'model={tiny_onnx}', 'source={photos}', '--quiet']))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert sorted(path.name for path in (photos.parent / ended.stdout.strip()).iterdir()) == ["0.png", "1.png"]


def test_a_file_of_options_runs_the_verb_it_names(segx: Segx, tiny_onnx: Path, photos: Path) -> None:
    (photos.parent / "options.yaml").write_text(f"model: {tiny_onnx}\nsource: {photos}\nsave: false\nepochs: 3\n")
    ended = segx("predict", "cfg=options.yaml", "--json")
    assert ended.code == 0, ended.err
    assert len(ended.document["images"]) == 2
    assert "left aside: epochs" in ended.err


def test_a_task_that_the_model_does_not_have(segx: Segx, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = get_registry()
    catalog = dataclasses.replace(registry.tasks["segment"], name="count", provider="acme-count")
    declared = {**registry._discovery.declared, "task": (*registry._discovery.declared["task"], catalog)}
    wider = Registry(dataclasses.replace(registry._discovery, declared=declared))
    monkeypatch.setattr("segx.plugin.registry.get_registry", lambda: wider)
    ended = segx("count", "predict", f"model={tiny_onnx}", "source=x.png")
    assert ended.code == 2
    assert "is a model for 'segment', not for 'count'" in ended.err


@pytest.mark.parametrize(
    ("signal", "code", "words"), [("SIGINT", 130, "segx: stopped"), ("SIGTERM", 143, "segx: stopped by SIGTERM")]
)
def test_a_signal_in_a_real_run_is_calm(tiny_model: Path, photos: Path, signal: str, code: int, words: str) -> None:
    """The signal comes while an image is being run, after its model was opened."""
    program = (
        "import os, signal, sys, segx_cli.main as m\n"
        "from segx.structures.results import Results\n"
        f"Results.verbose = lambda self: os.kill(os.getpid(), signal.{signal})\n"
        f"sys.exit(m.main(['predict', 'model={tiny_model}', 'source={photos}', '--no-save', 'imgsz=64']))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False, env=os.environ.copy()
    )
    assert ended.returncode == code, ended.stderr
    assert ended.stderr.splitlines()[-1] == words
    assert "Traceback" not in ended.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems do not say what was the most")
def test_a_large_image_is_held_once_where_nobody_else_gets_it(tiny_onnx: Path, tmp_path: Path) -> None:
    """What drawing adds to the peak of a run is less than another copy; in a program the image stays as it was."""
    cv2.imwrite(str(tmp_path / "large.jpg"), np.full((8100, 8000, 3), 90, np.uint8))
    line = [f"model={tiny_onnx}", f"source={tmp_path / 'large.jpg'}", "conf=0.0001", "max_det=2", "save_crop=box"]
    peaks = {}
    for name, taken in (("copied", ""), ("spared", "segx.runtime.take_process();")):
        program = (
            "import pathlib, sys, segx.runtime, segx_cli.main as m;"
            f"{taken} code = m.main(['predict', *{line!r}, 'name={name}']);"
            "print(pathlib.Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0]); sys.exit(code)"
        )
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        peaks[name] = int(ended.stdout.splitlines()[-1]) << 10
    assert peaks["copied"] - peaks["spared"] > 0.7 * 8100 * 8000 * 3
    first, second = (sorted((tmp_path / f"runs/segment/{name}").rglob("*.jpg")) for name in peaks)
    assert len(first) > 1, "a drawing and crops"
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
