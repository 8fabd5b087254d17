"""What a verb does once: open the model's file, check its options, write what it makes."""

from __future__ import annotations

import copy
import os
import pickle
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from segx import YOLO
from segx.artifact import Artifact
from segx.flows.export import ExportResult
from segx.options.schema import Options
from segx.testing.models import TINY_YOLOV8
from segx_cli.main import main
from segx_data_synth.dataset import write_dataset

if TYPE_CHECKING:
    from collections.abc import Iterator

QUICK: dict[str, Any] = {"epochs": 1, "imgsz": 64, "batch": 4, "device": "cpu", "plots": False, "workers": 1}

_opened: list[str] = []
_listening: list[bool] = []


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if _listening and event == "open" and isinstance(arguments[0], str | os.PathLike):
        _opened.append(str(Path(os.fspath(arguments[0])).absolute()))


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Every file that Python opens during the test; what a runtime opens by itself is not among them."""
    if not hasattr(sys, "_segx_tests_listen"):
        sys._segx_tests_listen = True  # type: ignore[attr-defined]  # hooks cannot be taken away
        sys.addaudithook(_listen)
    _opened.clear()
    _listening.append(True)
    yield _opened
    _listening.clear()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a drawn data set, and a tiny model trained on it as ``.pt`` and ``.onnx``."""
    folder = tmp_path_factory.mktemp("once")
    write_dataset(folder / "set", images=4, val_images=2, imgsz=64)
    definition = folder / "tinyn-seg.yaml"
    definition.write_text(TINY_YOLOV8)
    model = YOLO(definition)
    model.train(data=str(next((folder / "set").glob("*.yaml"))), project=folder / "runs", **QUICK)
    path = model.save(folder / "tiny.pt")
    YOLO(path).export("onnx", imgsz=64, output=folder / "tiny.onnx", verify=False)
    return folder


def words(verb: str, kind: str, place: Path, out: Path) -> dict[str, Any]:
    """Return the options of a verb on the tiny model."""
    data = str(next((place / "set").glob("*.yaml")))
    return {
        "predict": {"source": next((place / "set/images/val").iterdir()), "project": out},
        "val": {"data": data, "project": out, "plots": False},
        "train": {"data": data, "project": out, **QUICK},
        "export": {"format": "onnx" if kind == "pt" else "torchscript", "imgsz": 64, "output": out / "made.onnx"},
    }[verb]


VERBS = [("predict", "pt"), ("val", "pt"), ("train", "pt"), ("export", "pt"), ("predict", "onnx"), ("val", "onnx")]


@pytest.mark.parametrize(("verb", "kind"), VERBS)
def test_a_model_file_is_opened_once(verb: str, kind: str, place: Path, tmp_path: Path, opened: list[str]) -> None:
    """Besides, an ``.onnx`` is read for ONNX Runtime, which is handed bytes and does not open it by itself."""
    model = place / f"tiny.{kind}"
    getattr(YOLO(model), verb)(**words(verb, kind, place, tmp_path))
    assert opened.count(str(model)) == (2 if kind == "onnx" else 1)


@pytest.mark.parametrize(("verb", "kind"), VERBS)
def test_options_are_checked_once(
    verb: str, kind: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the command line to the work: what is checked is handed on, not its names and values."""
    checked: list[str] = []
    finish = Options.__post_init__

    def count(self: Options) -> None:
        checked.append(type(self).__name__)
        finish(self)

    monkeypatch.setattr(Options, "__post_init__", count)
    monkeypatch.chdir(tmp_path)
    given = [f"{name}={value}" for name, value in words(verb, kind, place, tmp_path).items()]
    assert main(["segment", verb, f"model={place / f'tiny.{kind}'}", *given]) == 0
    name = {"predict": "PredictOptions", "val": "ValOptions", "train": "TrainOptions", "export": "OnnxOptions"}[verb]
    whole = 2 if verb == "train" else 1  # data and input size are looked at and written down as they are meant
    assert checked.count(name) == whole


def test_a_model_that_was_replaced_is_read_again(place: Path, tmp_path: Path) -> None:
    path, other = tmp_path / "mine.pt", YOLO(place / "tinyn-seg.yaml")
    path.write_bytes((place / "tiny.pt").read_bytes())
    model = YOLO(path)
    other.save(path)
    assert dict(model._sessions.model("test").info.names) == dict(other.names)


def test_an_export_is_written_once(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its info is appended when it is proven; the graph is not written again."""
    from segx_export_onnx import exporter

    whole: list[int] = []
    write = exporter.write_bytes
    monkeypatch.setattr(exporter, "write_bytes", lambda path, data: whole.append(len(data)) or write(path, data))
    made = YOLO(place / "tiny.pt").export("onnx", imgsz=64, output=tmp_path / "made.onnx")
    assert len(whole) == 1
    assert 0 < made.size - whole[0] < 20_000
    assert YOLO(made).metadata.parity == made.parity
    assert made.parity is not None
    assert [path.name for path in tmp_path.iterdir()] == ["made.onnx"]


def test_what_an_export_returns_is_its_path_as_text(place: Path, tmp_path: Path) -> None:
    made = YOLO(place / "tiny.pt").export("onnx", imgsz=64, output=tmp_path / "made.onnx", verify=False)
    assert isinstance(made, str)
    assert (made.parent, made.suffix, made.exists()) == (made.path.parent, ".onnx", True)
    with pytest.raises(AttributeError):
        made.nothing_of_the_kind  # noqa: B018
    assert isinstance(made, os.PathLike)
    assert made.endswith("made.onnx")
    assert made == str(tmp_path / "made.onnx") == os.fspath(made)
    assert Path(made) == made.path == tmp_path / "made.onnx"
    assert f"{made}" == str(made.path)
    assert made.replace(".onnx", ".engine").endswith("made.engine")
    assert YOLO(made).task == "segment"
    assert (made.parity, made.reason) == (None, "verify=False")
    assert made.seconds > 0
    assert made.size == made.path.stat().st_size
    for copied in (copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert isinstance(copied, ExportResult)
        assert copied == made
        assert (copied.info, copied.reason, copied.artifact) == (made.info, made.reason, made.artifact)


def test_what_a_file_says_is_kept_until_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    artifact = Artifact(path=path, format="x")
    reads: list[str] = []

    def read(path: Path) -> str:
        reads.append(path.read_text())
        return reads[-1]

    assert [artifact.once(read), artifact.once(read), artifact.take(read)] == ["one"] * 3
    assert len(reads) == 1
    assert artifact.once(read) == "one"
    path.write_text("three")
    assert artifact.once(read) == "three"
    assert len(reads) == 3
    for copied in (copy.deepcopy(artifact), pickle.loads(pickle.dumps(artifact))):
        assert copied == artifact
        assert copied.once(read) == "three"
    assert len(reads) == 5
