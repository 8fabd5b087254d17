"""What a model says of itself comes from strangers: it is read whole, or refused in one line."""

from __future__ import annotations

import ast
import json
import os
import random
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from segx.artifact import AXES, ArtifactInfo, Parity
from segx.errors import ModelError
from segx.io import sidecar

if TYPE_CHECKING:
    from pathlib import Path

PARITY = Parity(images=4, raw={"output0": 0.5}, box=0.1, score=0.01, mask_iou=0.99, objects=7, matched=1.0)
INFO = ArtifactInfo(
    names={0: "person", 1: "it's"},
    imgsz=(320, 640),
    batch=2,
    dynamic=frozenset({"batch"}),
    precision="int8",
    settings={"data": "a.yaml", "export": {"format": "x", "imgsz": [320, 640]}},
    versions={"segx": "1"},
    date="2026-11-23T10:00:00+00:00",
    files={"model.bin": (3, 12), "part/model.xml": (0, 0)},
    decoding={"strides": [8, 16, 32], "bins": 16},
    parity=PARITY,
    extra={"author": "somebody's"},
)
FOREIGN = {"task": "segment", "names": "{0: 'ok', 1: 'defect'}", "imgsz": "[320, 320]", "stride": "32", "batch": "1"}

DEEP: list[Any] = []
for _ in range(2000):
    DEEP = [DEEP]

ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 10**30, -(10**30), float("inf"), float("-inf"), float("nan"), "", " ", "what"),
    *("9" * 10_000, int("9" * 4000), "1e999", "nan", "inf", "-", "\x00", "\ud800", "[" * 5000, "{" * 300, "-" * 50_000),
    *([], {}, [[]], [1], [1, 2, 3], [None, None], ["640", "x"], {"0": {}}, {"a": "b"}, {-1: "x"}, {1: "x"}, b"x"),
    *("[640", "[640, 640, 640]", "{0: 'a', 0.0: 'b'}", "{'0': 'a', 0: 'b'}", "{0: {}}", "[[[]]]", "x" * 100_000),
    *("__import__('os')", '{"a": 1e999}', '{"head": []}', "1" * 400, DEEP, "[" * 90_000 + "]" * 90_000),
)


def mutated(metadata: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """Return metadata with one to three things changed, inside the document of our own too."""
    changed: dict[str, Any] = dict(metadata)
    for _ in range(chance.randint(1, 3)):
        key = chance.choice([*changed, "args", "end2end", "head", "nms", "other"])
        value = changed.get(key, "")
        match chance.randrange(5):
            case 0:
                changed[key] = chance.choice(ODD)
            case 1:
                changed.pop(key, None)
            case 2 if isinstance(value, str):
                changed[key] = value[: chance.randrange(len(value) + 1)]
            case 3 if isinstance(value, str) and value:
                place = chance.randrange(len(value))
                changed[key] = value[:place] + chance.choice("{}[]'\",:0e-\\\x00é") + value[place + 1 :]
            case _ if "segx" in metadata:
                changed["segx"] = _within(json.loads(metadata["segx"]), chance)
    return changed


def _within(document: dict[str, Any], chance: random.Random) -> Any:
    place, key = document, chance.choice(list(document))
    if isinstance(document[key], dict) and document[key] and chance.random() < 0.6:
        place = document[key]
        key = chance.choice(list(place))
    place[key] = chance.choice(ODD)
    try:
        return json.dumps(document) if chance.random() < 0.7 else document
    except (TypeError, ValueError, RecursionError):
        return document


@pytest.mark.parametrize("start", [INFO.to_metadata(), FOREIGN, {**FOREIGN, "args": "{'half': True, 'nms': False}"}])
def test_whatever_is_changed_is_read_or_refused_in_one_line(start: dict[str, str]) -> None:
    chance = random.Random(7)
    read, reported = 0, []
    for _ in range(1500):
        metadata = mutated(start, chance)
        try:
            info = ArtifactInfo.from_metadata(metadata, where="x.onnx")
        except ModelError as error:
            reported.append(error.message)
            continue
        read += 1
        assert info.names == dict(enumerate(info.names.values()))
        assert min(info.imgsz) > 0
        assert info.stride > 0
        assert info.batch > 0
        assert info.dynamic <= AXES
        again = ArtifactInfo.from_metadata(info.to_metadata())  # what is read can be written, and read again
        assert again.dynamic == info.dynamic  # a set, whose order is another one by chance
        one, other = (each.replace(dynamic=frozenset()) for each in (again, info))
        assert repr(one) == repr(other)  # not ==, for the settings may hold what is no number
    assert read > 100
    assert len(reported) > 300
    assert [line for line in reported if not line.startswith("x.onnx: ") or "\n" in line or len(line) > 500] == []


def test_a_document_survives_the_way_there_and_back() -> None:
    assert ArtifactInfo.from_metadata(INFO.to_metadata()) == INFO


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, ("fp32", "yolov8-seg/1", frozenset())),
        ({"args": "{'half': True}"}, ("fp16", "yolov8-seg/1", frozenset())),
        ({"args": {"half": True, "dynamic": True}}, ("fp16", "yolov8-seg/1", AXES)),
        ({"args": "{'int8': True, 'half': False}"}, ("int8", "yolov8-seg/1", frozenset())),
        ({"args": "{'quantize': 16}"}, ("fp16", "yolov8-seg/1", frozenset())),
        ({"args": "{'quantize': 8, 'half': False}"}, ("int8", "yolov8-seg/1", frozenset())),
        ({"args": "{'quantize': None, 'nms': False}", "end2end": "False"}, ("fp32", "yolov8-seg/1", frozenset())),
        ({"args": "{'nms': True}"}, ("fp32", "yolov8-seg-final/1", frozenset())),
        ({"args": "{'nms': True}", "end2end": "True"}, ("fp32", "yolov8-seg-final/1", frozenset())),
        ({"end2end": True}, ("fp32", "yolov8-seg-end2end/1", frozenset())),
        ({"head": "other/3"}, ("fp32", "other/3", frozenset())),
        ({"head": "Segment"}, ("fp32", "yolov8-seg/1", frozenset())),
        ({"head": "Segment", "args": "{'nms': True}"}, ("fp32", "yolov8-seg-final/1", frozenset())),
        ({"head": "Segment99"}, ("fp32", "Segment99", frozenset())),
        ({"head": "Segment99", "end2end": "True"}, ("fp32", "Segment99-end2end/1", frozenset())),
    ],
)
def test_what_other_tools_say_of_their_files(said: dict[str, Any], expected: tuple[Any, ...]) -> None:
    info = ArtifactInfo.from_metadata({**FOREIGN, **said})
    assert (info.precision, info.head, info.dynamic) == expected


def test_how_another_tool_suppresses_is_kept_where_it_says_so() -> None:
    said = {"args": "{'nms': True, 'iou': 0.45, 'conf': None, 'max_det': 100}"}
    assert ArtifactInfo.from_metadata({**FOREIGN, **said}).decoding == {"iou": 0.45, "max_det": 100}
    assert ArtifactInfo.from_metadata({**FOREIGN, "args": "{'nms': True}"}).decoding == {}
    assert ArtifactInfo.from_metadata({**FOREIGN, "args": "{'nms': False, 'iou': 0.45}"}).decoding == {}


def test_arguments_that_cannot_be_read_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    assert ArtifactInfo.from_metadata({**FOREIGN, "args": "{'data': PosixPath('x')}"}).precision == "fp32"
    assert "args cannot be read" in caplog.text


def test_our_own_document_goes_before_what_other_tools_said() -> None:
    info = INFO.replace(extra={"half": "True", "nms": "True"})
    assert ArtifactInfo.from_metadata(info.to_metadata()) == info


@pytest.mark.parametrize(("head", "nms"), [("yolov8-seg/1", False), ("yolov8-seg-final/1", True)])
def test_other_tools_are_told_what_they_ask_for(head: str, nms: bool, tmp_path: Path) -> None:
    """The incumbent suppresses once more, and fails, unless ``args`` says that the graph does."""
    info = INFO.replace(head=head, precision="fp16", dynamic=frozenset({"batch"}))
    said = {"batch": info.batch, "half": True, "int8": False, "dynamic": True, "nms": nms}
    assert ast.literal_eval(info.to_metadata()["args"]) == said
    assert yaml.safe_load(sidecar.write(tmp_path, info).read_text(encoding="utf-8"))["args"] == said
    foreign = ArtifactInfo.from_metadata({**FOREIGN, "args": str(said)})
    assert (foreign.head, foreign.precision) == (head, "fp16"), "they are read here as they are there"


def test_a_proof_of_before_there_were_typical_figures_is_read() -> None:
    written = INFO.to_metadata()
    own = json.loads(written["segx"]) if isinstance(written["segx"], str) else written["segx"]
    for name in ("typical_box", "typical_mask_iou", "quality"):
        del own["parity"][name]
    parity = ArtifactInfo.from_metadata({**written, "segx": json.dumps(own)}).parity
    assert parity is not None
    assert (parity.box, parity.typical_mask_iou) == (PARITY.box, 1.0)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.97])
def test_metadata_cut_short_are_reported(tmp_path: Path, share: float) -> None:
    text = sidecar.write(tmp_path, INFO).read_text(encoding="utf-8")
    cut = text[: int(len(text) * share)].rpartition("\n")[0]
    assert isinstance(yaml.safe_load(cut), dict), "still YAML"
    sidecar.folder_sidecar_path(tmp_path).write_text(cut, encoding="utf-8")
    with pytest.raises(ModelError, match="cut short"):
        sidecar.read(tmp_path)


BOMB = "\n".join(
    [
        "a0: &a0 [x, x]",
        *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)),
    ]
)


@pytest.mark.parametrize(
    "text",
    [BOMB, "a: " + "[" * 3000, f"stride: {'9' * 10_000}", "names: !!int ''", "? {a: b}\n: c", "x: !!bool y", "- 1"],
)
def test_yaml_of_any_kind_ends_in_one_line(tmp_path: Path, text: str) -> None:
    sidecar.folder_sidecar_path(tmp_path).write_text(text, encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        sidecar.read(tmp_path)
    assert "metadata.yaml" in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(sidecar.sidecar_path(tmp_path / "x.onnx"))
    with pytest.raises(ModelError, match="not a regular file"):
        sidecar.read(tmp_path / "x.onnx")


@pytest.mark.parametrize(
    "graph", [{"imgsz": (0, 64)}, {"imgsz": (1 << 40, 64)}, {"batch": 0}, {"batch": -1}, {"outputs": ("a", "a")}]
)
def test_what_a_graph_says_is_checked_too(graph: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match=r"x\.onnx: its graph cannot be used"):
        INFO.replace(**graph).checked(where="x.onnx")
    assert INFO.checked(where="x.onnx") is INFO
