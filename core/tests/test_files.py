"""Files that other programs wrote: read whole and bounded, or refused in one line."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import yaml

from segx.data.splits import define
from segx.errors import DataError, ModelError, SegxError, UsageError
from segx.io import files, index_cache, sidecar
from segx.io.files import read_mapping, read_options
from segx.io.yaml_text import NotYamlError, load
from segx.model import YOLO
from segx.options.verbs import PredictOptions

LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{n + 1}: &a{n + 1} [*a{n}, *a{n}]\n" for n in range(60))
BAD = {
    "bomb": LAUGHS,
    "endless": "a: &a [*a]\n",
    "deep": "a: " + "[" * 400 + "]" * 400,
    "deeper": "[" * 100_000,
    "digits": "conf: " + "9" * 10_000,
    "date": "a: 2024-13-01",
    "list": "- a",
    "text": "a",
    "empty": "",
    "tag": "a: !!python/object/apply:os.system [id]",
    "control": "a: \x00",
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGX_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", BAD)
def test_a_yaml_that_is_no_mapping_is_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(BAD[name])
    with pytest.raises(UsageError, match=r"bad\.yaml") as caught:
        read_mapping(path, error=UsageError, what="options")
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 500
    with pytest.raises(ModelError):
        YOLO(path)


@pytest.mark.parametrize("target", ["pipe", "/dev/zero", "folder"])
def test_what_is_no_file_is_not_read(tmp_path: Path, target: str) -> None:
    path, model = tmp_path / "x.yaml", tmp_path / "model.onnx"
    for place in (path, sidecar.sidecar_path(model)):
        if target == "pipe":
            os.mkfifo(place)
        elif target == "folder":
            place.mkdir()
        else:
            place.symlink_to(target)
    model.touch()
    with pytest.raises(UsageError, match=r"not a regular file|[Ii]s a directory|no file"):
        read_mapping(path, error=UsageError, what="options")
    with pytest.raises(ModelError, match=r"not a regular file|[Ii]s a directory|no file"):
        sidecar.read(model)
    with pytest.raises(SegxError):
        YOLO(path)
    with pytest.raises(DataError):
        define(path)


@pytest.mark.parametrize("name", ["model.pt", "model.onnx", "model.torchscript", "model.xyz"])
def test_a_model_that_is_a_pipe_or_a_device_is_not_read(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    (tmp_path / f"zero-{name}").symlink_to("/dev/zero")
    for path in tmp_path.glob("*model*"):
        with pytest.raises(ModelError, match=r"not a regular file|[Ii]s a directory|no file"):
            YOLO(path)


def test_an_index_that_somebody_else_wrote_is_made_anew(tmp_path: Path) -> None:
    index_cache.store("key", {"a": np.arange(3)})
    path = index_cache.indexes_folder() / "key.npz"
    data = path.read_bytes()
    assert index_cache.load("key")["a"].tolist() == [0, 1, 2]  # type: ignore[index]
    path.with_name("other.npz").write_bytes(data)
    assert index_cache.load("other") is None
    for place in range(0, len(data), 7):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert index_cache.load("key") is None
    with path.open("wb") as file:
        np.savez(file, a=np.array(["text"]))
    assert index_cache.load("key") is None
    path.unlink()
    os.mkfifo(path)
    assert index_cache.load("key") is None


@pytest.mark.parametrize("note", ["1", "{}", "null", "[]", "[1]", "[[], {}, 3]", "[" * 900, '[0, 0, "../x"]', "\x00"])
def test_a_stamp_of_the_wrong_type_is_made_anew(tmp_path: Path, note: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_cache, "_FRESH_NS", -1)  # as if the file were written long ago
    path = tmp_path / "a.json"
    path.write_text("{}")
    digest = index_cache.file_digest(path)
    (stamp,) = index_cache.indexes_folder().iterdir()
    stamp.write_text(note)
    assert index_cache.file_digest(path) == digest


def test_both_ends_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    assert files.both_ends(tmp_path / "a", 3) == b"012789"
    assert files.both_ends(tmp_path / "a", 8) == b"0123456723456789"
    assert files.both_ends(tmp_path, 3) == files.both_ends(tmp_path / "none", 3) == b""


TWICE = "conf: 0.5\nimgsz: 640\n# the same once more\nconf: 0.9\n"


def test_a_key_that_is_there_twice_is_told_with_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text(TWICE)
    with pytest.raises(UsageError, match=r"conf: is there twice, in line 1 and line 4: keep one") as caught:
        read_options(path)
    assert str(path) in caught.value.message
    for read in (define, YOLO):
        with pytest.raises(SegxError, match=r"conf: is there twice, in line 1 and line 4"):
            read(path)
    (tmp_path / "m_openvino_model").mkdir()
    (tmp_path / "m_openvino_model" / "metadata.yaml").write_text("args:\n  half: true\n  half: false\n")
    with pytest.raises(ModelError, match=r"half: is there twice, in line 2 and line 3"):
        sidecar.read_metadata(tmp_path / "m_openvino_model")


def test_a_key_of_options_with_a_dash_and_with_an_underscore_is_one(tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    path.write_text("save-txt: true\nsave_txt: false\n")
    with pytest.raises(UsageError, match="save-txt is there with a dash and with an underscore"):
        read_options(path)
    path.write_text("save-txt: true\nmax-det: 3\n")
    assert read_options(path) == {"save_txt": "true", "max_det": 3}


def test_what_yaml_itself_allows_twice_is_read() -> None:
    text = "base: &b {k: 1, l: 1}\nother: &o {<<: *b, k: 2}\nlast:\n  - {<<: *b, l: 3}\n  - {<<: *b}\n"
    assert load(text)["last"] == [{"k": 1, "l": 3}, {"k": 1, "l": 1}]


def test_names_of_classes_are_text_and_nothing_else_is() -> None:
    text = "names: {0: yes, 1: 007, 2: 1:30, 3: 2024-01-01, 4: null}\nnc: 5\nargs: {names: [no]}\n"
    found = load(text)
    assert found["names"] == {0: "yes", 1: "007", 2: "1:30", 3: "2024-01-01", 4: "null"}
    assert (found["nc"], found["args"]) == (5, {"names": [False]})


def test_names_that_come_by_merging_are_text_too() -> None:
    base = "base: &base\n  names: [yes, null, 007]\n"
    assert load(base + "<<: *base\n")["names"] == ["yes", "null", "007"]
    assert load(base + "<<: [*base]\nnc: 3\n")["names"] == ["yes", "null", "007"]
    assert load("few: &few {0: no, 1: off}\nnames:\n  <<: *few\n  1: on\n")["names"] == {0: "no", 1: "on"}
    assert load("names: {0: , 1: a}")["names"] == {0: None, 1: "a"}, "what is left out is no name"


def test_options_of_a_file_mean_what_they_mean_when_typed(tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    path.write_text(
        "name: 007\nproject: 2024-01-01\nclasses: [no, 1:30, 3, cat]\nsave: no\nconf: 0.4\niou: 1e-1\n"
        "imgsz: [320, 640]\nmax_det: 10\ndevice: 0\nline_width: null\n"
    )
    options = PredictOptions.parse(read_options(path))
    assert (options.name, options.project, options.classes) == ("007", Path("2024-01-01"), ("no", "1:30", 3, "cat"))
    assert (options.save, options.conf, options.iou, options.imgsz) == (False, 0.4, 0.1, (320, 640))
    assert (options.max_det, options.device, options.line_width) == (10, "0", None)


@pytest.mark.parametrize("keys", [("1", "1.0"), ("1", "0x1"), ("yes", "true"), ("~", "null")], ids=str)
def test_keys_that_are_one_in_python_are_there_twice(keys: tuple[str, str]) -> None:
    with pytest.raises(NotYamlError, match="is there twice, in line 1 and line 2"):
        load("".join(f"{key}: a\n" for key in keys))
    assert load("1: a\n'1': b\n") == {1: "a", "1": "b"}


def test_the_parser_without_its_library_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml, "__with_libyaml__", False)
    name = "segx.io.yaml_text"
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    plain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plain)
    text = "names: {0: yes}\na: [1, {b: 2.5}]\nc: &x {d: null}\ne: *x\n"
    assert plain.load(text) == load(text)
    with pytest.raises(plain.NotYamlError, match=r"conf: is there twice, in line 1 and line 4"):
        plain.load(TWICE)


def test_an_error_is_cut_in_the_middle_of_what_nobody_reads() -> None:
    error = SegxError("begin " + "a word " * 1000 + "end", hint="try " + "this or " * 1000 + "that")
    for text, first, last in ((error.message, "begin a", "end"), (error.hint, "try this", "that")):
        assert 2500 < len(text) < 4000
        assert text.startswith(first)
        assert text.endswith(last)
        assert " ... " in text
    whole = "a word " * 500
    assert SegxError(whole).message == whole
