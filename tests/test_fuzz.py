"""Whatever is typed, and whatever is in a file: it is read, or it ends in one line of words and the right exit code.

Sound files are changed at random places, by hypothesis, so that what goes wrong is made small before it is shown.
``SEGX_FUZZ=2000`` tries more of each than the few of every day.
"""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import shutil
import unicodedata
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import onnx
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segx import YOLO
from segx.errors import SegxError
from segx.flows import train_record
from segx.options import verbs
from segx.options.schema import Options
from segx.plugin.registry import get_registry
from segx.testing import damage
from segx.testing.models import TINY_YOLOV8
from segx_cli.commands import COMMANDS
from segx_cli.main import main

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = int(os.environ.get("SEGX_FUZZ", "25"))
few = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="SEGX_FUZZ" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)

SQUARE = [10.0, 10.0, 50.0, 10.0, 50.0, 50.0, 10.0, 50.0]
COCO: dict[str, Any] = {
    "info": {"year": 2026},
    "images": [{"id": n + 1, "file_name": f"{n}.png", "width": 64, "height": 64} for n in range(2)],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [SQUARE], "bbox": [10, 10, 40, 40], "area": 1600,
         "iscrowd": 0},
        {"id": 2, "image_id": 2, "category_id": 2, "segmentation": {"size": [64, 64], "counts": [640, 20, 3436]},
         "bbox": [10, 0, 1, 20], "area": 20, "iscrowd": 1},
    ],
    "categories": [{"id": 1, "name": "square"}, {"id": 2, "name": "line", "supercategory": "x"}],
}  # fmt: skip
DEFINITION: dict[str, Any] = {
    "path": ".",
    "train": "images/train",
    "val": ["images/val"],
    "names": {0: "square", 1: "line"},
    "nc": 2,
}
OPTIONS: dict[str, Any] = {"mode": "predict", "imgsz": 64, "conf": 0.25, "source": "images/train", "classes": [0]}

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-3, 100),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        [
            "",
            ".",
            "..",
            "/",
            "~",
            "~nobody",
            "\x00",
            "\x1b[2J",
            "nan",
            "1e999",
            "[",
            "{",
            "a/b",
            "http://x",
            "yes",
            "9" * 5000,
        ]
    ),
    st.sampled_from([10**400, -1, 2**31, 2**63, 2**64, float("inf"), 1e308, -0.0]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.text(max_size=6), st.integers(0, 5)), inner, max_size=3),
    ),
    max_leaves=6,
)


def places(document: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value within a document."""
    yield way
    if isinstance(document, dict):
        for key, value in document.items():
            yield from places(value, (*way, key))
    elif isinstance(document, list):
        for index, value in enumerate(document):
            yield from places(value, (*way, index))


@st.composite
def changed(draw: st.DrawFn, document: Any) -> Any:
    """Draw a document with one to three values replaced, taken away, doubled, or given another name."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        way = draw(st.sampled_from(list(places(document))))
        if not way:
            if draw(st.integers(0, 9)) == 0:
                return draw(values)
            continue
        inside = document
        for key in way[:-1]:
            inside = inside[key]
        action = draw(st.integers(0, 5))
        if action == 0:
            del inside[way[-1]]
        elif action == 1 and isinstance(inside, list):
            inside.append(copy.deepcopy(inside[way[-1]]))
        elif action == 1:
            inside[draw(st.text(max_size=6))] = inside.pop(way[-1])
        else:
            inside[way[-1]] = draw(values)
    return document


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """Draw bytes with a few of them replaced, left out, repeated, or all after one cut off."""
    found = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(len(found) - 1, 0)))
        action = draw(st.integers(0, 3))
        if action == 0:
            found[at : at + draw(st.integers(0, 3))] = draw(st.binary(min_size=0, max_size=6))
        elif action == 1:
            found[at : at + 1] = draw(
                st.sampled_from([b"\xff", b"\x00", b"-", b"e999", b"nan", b"\n", b" ", b"\r", b"."])
            )
        elif action == 2:
            found[at:at] = found[at : at + draw(st.integers(1, 40))] * draw(st.integers(1, 3))
        else:
            del found[at:]
    return bytes(found)


def run(*line: object, codes: set[int]) -> int:
    """Run a command line and hold it to its promise."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(word) for word in line])
    said = err.getvalue()
    assert "unexpected" not in said, said
    assert "Traceback" not in said + out.getvalue(), said
    assert code in codes, (code, said)
    if code:
        lines = said.rstrip("\n").split("\n")
        last = max(index for index, text in enumerate(lines) if text.startswith("segx: "))
        rest = lines[last + 1 :]
        assert len(rest) <= 1 or rest[0] == "  tried:", said  # what to type or do next, or where it was looked for
        assert all(text.startswith("  ") for text in rest), said
        assert len(lines[last]) > len("segx: "), said
    steering = {
        sign for sign in said if unicodedata.category(sign) in {"Cc", "Cs", "Zl", "Zp"} or "\u202a" <= sign <= "\u202e"
    }
    assert steering <= {"\n", "\r"}, said  # a bar returns to the start of its line
    return code


@pytest.fixture(autouse=True)
def _own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SEGX_OFFLINE", "1")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model as ``tiny-seg.pt`` and ``tiny-seg.onnx``."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny-seg.yaml").write_text(TINY_YOLOV8)
    checkpoint = YOLO(folder / "tiny-seg.yaml").save(folder / "tiny-seg.pt")
    YOLO(checkpoint).export("onnx", imgsz=64, verify=False)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of a small data set in YOLO's layout, with a COCO JSON of the same images beside it."""
    folder = tmp_path / "data"
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for number in range(2):
            cv2.imwrite(str(folder / f"images/{split}/{number}.png"), np.full((64, 64, 3), 60 * number + 30, np.uint8))
            (folder / f"labels/{split}/{number}.txt").write_text(f"{number} 0.2 0.2 0.8 0.2 0.8 0.8\n")
    (folder / "data.yaml").write_text(yaml.safe_dump(DEFINITION))
    (folder / "coco.json").write_text(json.dumps({**COCO, "images": [
        {**image, "file_name": f"images/train/{image['file_name']}"} for image in COCO["images"]
    ]}))  # fmt: skip
    return folder


def look(source: Path, folder: Path) -> None:
    """Check a data set and convert it: what the one reads the other must not break over."""
    run("data", "check", f"data={source}", codes={0, 2, 3})
    target = folder / "converted"
    run("data", "convert", f"data={source}", "to=coco", f"output={target}", codes={0, 2, 3})
    shutil.rmtree(target, ignore_errors=True)


def test_the_sound_files_are_sound(data: Path, tiny: Path) -> None:
    assert run("data", "check", f"data={data / 'data.yaml'}", codes={0, 3}) in {0, 3}
    look(data / "data.yaml", data)
    look(data / "coco.json", data)
    for name in ("tiny-seg.pt", "tiny-seg.onnx"):
        run("info", f"model={tiny / name}", codes={0})


@few
@given(document=changed(DEFINITION))
def test_definitions_of_data_sets(document: Any, data: Path) -> None:
    place = data / "data.yaml"
    place.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8", errors="replace")
    look(place, data)


@few
@given(text=damaged(yaml.safe_dump(DEFINITION).encode()))
def test_damaged_definitions(text: bytes, data: Path) -> None:
    (data / "data.yaml").write_bytes(text)
    look(data / "data.yaml", data)


@few
@given(text=damaged(b"0 0.1 0.1 0.5 0.1 0.5 0.5\n1 0.5 0.5 0.25 0.25\n0 0.2 0.2 0.8 0.2 0.8 0.8 0.2 0.8\n"))
def test_label_files(text: bytes, data: Path) -> None:
    (data / "labels/train/0.txt").write_bytes(text)
    look(data / "data.yaml", data)


@few
@given(document=changed(COCO))
def test_coco_documents(document: Any, data: Path) -> None:
    place = data / "images/train/annotations.json"
    place.write_text(json.dumps(document), encoding="utf-8")
    look(place, data)


@few
@given(text=damaged(json.dumps(COCO).encode()))
def test_damaged_coco_documents(text: bytes, data: Path) -> None:
    place = data / "images/train/annotations.json"
    place.write_bytes(text)
    look(place, data)


@few
@given(drawn=st.data())
def test_metadata_of_models(drawn: st.DataObject, tiny: Path, tmp_path: Path) -> None:
    model = onnx.load(tiny / "tiny-seg.onnx")
    metadata = {item.key: item.value for item in model.metadata_props}
    inner = {key: _document(text) for key, text in metadata.items()}
    document = drawn.draw(changed(inner))
    del model.metadata_props[:]
    for key, value in (document if isinstance(document, dict) else {"names": document}).items():
        text = value if isinstance(value, str) else drawn.draw(st.sampled_from([str, _dumped]))(value)
        model.metadata_props.add(key=_utf8(str(key)), value=_utf8(text))
    onnx.save(model, tmp_path / "m.onnx")
    run("info", f"model={tmp_path / 'm.onnx'}", codes={0, 4})
    cv2.imwrite(str(tmp_path / "a.png"), np.full((64, 64, 3), 90, np.uint8))
    run("predict", f"model={tmp_path / 'm.onnx'}", f"source={tmp_path / 'a.png'}", "save=false", codes={0, 2, 4})


def _document(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _dumped(value: Any) -> str:
    return json.dumps(value, default=str, skipkeys=True)


def _utf8(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


@few
@given(drawn=st.data())
def test_checkpoints(drawn: st.DataObject, tiny: Path, tmp_path: Path) -> None:
    place = tmp_path / "m.pt"
    with zipfile.ZipFile(tiny / "tiny-seg.pt") as source, zipfile.ZipFile(place, "w") as target:
        names = source.namelist()
        hit = drawn.draw(st.sampled_from([next(name for name in names if name.endswith("data.pkl")), *names]))
        for name in names:
            target.writestr(name, drawn.draw(damaged(source.read(name))) if name == hit else source.read(name))
    run("info", f"model={place}", codes={0, 4})


@few
@given(drawn=st.data())
def test_damaged_model_files(drawn: st.DataObject, tiny: Path, tmp_path: Path) -> None:
    name = drawn.draw(st.sampled_from(["tiny-seg.pt", "tiny-seg.onnx"]))
    content = (tiny / name).read_bytes()
    edge = drawn.draw(st.integers(0, 2000))
    head, middle, tail = content[:edge], content[edge : -edge or None], content[len(content) - edge :] if edge else b""
    place = tmp_path / name
    place.write_bytes(drawn.draw(damaged(head)) + middle + drawn.draw(damaged(tail)))
    run("info", f"model={place}", codes={0, 4})


@few
@given(document=changed(OPTIONS))
def test_files_of_options(document: Any, data: Path, tiny: Path, tmp_path: Path) -> None:
    place = tmp_path / "options.yaml"
    place.write_text(yaml.safe_dump(document, allow_unicode=True), encoding="utf-8", errors="replace")
    line = (f"model={tiny / 'tiny-seg.onnx'}", f"cfg={place}", f"source={data / 'images/train'}", "save=false")
    run("predict", *line, codes={0, 2, 3, 4})


OWNERS = [
    (name, action)
    for name, command in COMMANDS.items()
    if name not in {"doctor", "train"}
    for action in ([None, *(action for action in command.actions if action.name != "new")])
]


@few
@given(drawn=st.data())
def test_command_lines(drawn: st.DataObject, tiny: Path) -> None:
    name, action = drawn.draw(st.sampled_from(OWNERS))
    owner = COMMANDS[name] if action is None else action
    line = [name] if action is None else [name, action.name]
    words = st.one_of(scalars.map(str), st.lists(scalars, max_size=3).map(str))
    for _ in range(drawn.draw(st.integers(0, 4))):
        option = drawn.draw(st.sampled_from(list(owner.known_names()) or ["x"]))
        value = drawn.draw(words)
        line.append(
            drawn.draw(st.sampled_from([f"{option}={value}", f"--{option}={value}", value, option, f"--{option}"]))
        )
    if name in {"predict", "val", "info", "export"} and drawn.draw(st.booleans()):
        line.append(f"model={tiny / 'tiny-seg.onnx'}")
    run(*line, codes={0, 2, 3, 4, 5})


KINDS = [
    *(kind for kind in vars(verbs).values() if isinstance(kind, type) and issubclass(kind, Options)),
    *(spec.options for spec in get_registry().exporters.values()),
]
python_values = st.one_of(
    values,
    st.binary(max_size=4),
    st.sampled_from(
        [
            *(np.float32("nan"), np.int64(-1), np.array([1.0, np.inf]), np.zeros((2, 2)), np.array("x"), range(10**9)),
            *({1, "a"}, frozenset({1}), 1j, object(), Path("x"), Path("\0"), type, len, (), ((),), [[[1]]], b"\xff"),
        ]
    ),
)


@few
@given(drawn=st.data())
def test_options_by_type(drawn: st.DataObject) -> None:
    kind = drawn.draw(st.sampled_from(KINDS))
    for info in kind.describe():
        value = drawn.draw(python_values)
        with contextlib.suppress(SegxError):
            made = kind.parse({info.name: value})
            assert kind.parse(made.as_dict()) == made, (info.name, value)


@few
@given(
    text=damaged(b'source,label\n0.png,1\n"1.png",2\n**/*.png,\nhttp://127.0.0.1:9/x.png\n'),
    suffix=st.sampled_from([".txt", ".csv", ".streams"]),
)
def test_lists_of_sources(text: bytes, suffix: str, data: Path, tiny: Path) -> None:
    place = data / f"images/train/list{suffix}"
    place.write_bytes(text)
    if suffix != ".streams" or b"\n0" not in text:  # a number alone is a camera
        line = (f"model={tiny / 'tiny-seg.onnx'}", f"source={place}", "save=false", "imgsz=64", "--quiet")
        run("predict", *line, codes={0, 2, 3})


def test_the_cache(data: Path, tmp_path: Path) -> None:
    rng = damage.generator("cache")
    for name in ("data.yaml", "coco.json"):
        before = run("data", "check", f"data={data / name}", codes={0, 3})
        for _ in range(damage.tries(10)):
            for path in [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]:
                path.write_bytes(damage.damaged(path.read_bytes(), rng))
            assert run("data", "check", f"data={data / name}", codes={0, 3}) == before


@few
@given(drawn=st.data())
def test_what_a_run_has_left(drawn: st.DataObject, tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "weights").mkdir(parents=True, exist_ok=True)
    shutil.copy(tiny / "tiny-seg.pt", folder / "weights/last.pt")
    manifest = drawn.draw(changed({"command": ["x"], "resumed": [{"seed": 1}], "finished": {"time": "now"}}))
    table = drawn.draw(damaged(b"epoch,time,loss\n1,2.5,0.5\n2,5,0.25\n"))
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "results.csv").write_bytes(table)
    (folder / "args.yaml").write_bytes(drawn.draw(damaged(b"model: x\nepochs: 3\n")))
    found = train_record._read_manifest(folder)
    assert found is None or isinstance(found, dict)
    assert all({"epoch", "time"} <= row.keys() for row in train_record._read_rows(folder / "results.csv"))
    run("train", f"resume={folder / 'weights/last.pt'}", codes={2, 3, 4})
