"""What labelme and X-AnyLabeling write in their own ways, and what is wrong with files of people."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import re
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from segx.data.convert import convert
from segx.data.splits import open_dataset
from segx.errors import DataError
from segx.options.verbs import DataConvertOptions
from segx.plugin.registry import get_registry
from segx.structures.annotations import masks_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from segx.plugin.interfaces import Dataset

TRIANGLE = [[10, 10], [30, 10], [10, 30]]


def shape(label: Any, points: Any, kind: str | None = "polygon", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}


def place(folder: Path, stem: str, shapes: Sequence[Any], **changes: Any) -> None:
    """Write an image of 60 x 80 pixels, and its JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / f"{stem}.png"), np.full((60, 80, 3), 90, np.uint8))
    content = {"version": "5.4.1", "shapes": shapes, "imagePath": f"{stem}.png", "imageHeight": 60, "imageWidth": 80}
    (folder / f"{stem}.json").write_text(json.dumps(content | changes))


def read(folder: Path, names: Sequence[str] | None = None) -> Dataset:
    definition = folder.parent / "data.yaml"
    rows = [f"path: {folder.parent}", f"train: {folder.name}", f"val: {folder.name}"]
    definition.write_text("\n".join([*rows, *([f"names: {json.dumps(list(names))}"] if names else [])]))
    return open_dataset(definition, "train")


def png(mask: np.ndarray) -> str:
    return base64.b64encode(cv2.imencode(".png", mask.astype(np.uint8) * 255)[1].tobytes()).decode()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "set"


def test_each_kind_of_shape(folder: Path) -> None:
    hole = np.ones((20, 30), np.bool_)
    hole[5:10, 5:10] = False
    place(
        folder,
        "a",
        [
            shape("b", TRIANGLE, None),
            shape("b", [[40, 30], [50, 30]], "circle"),
            shape("a", [[50, 40], [20, 5]], "rectangle"),
            shape("a", [[1, 2], [5, 2], [5, 8], [1, 8]], "rectangle"),
            shape("a", [[10, 10], [20, 20], [10, 30], [0, 20]], "rotation", direction=0.78),
            shape("b", [[7, 9], [36, 28]], "mask", mask=png(hole)),
        ],
    )
    (sample,) = read(folder)
    found = sample.annotations
    assert [one.category for one in found] == [1, 1, 0, 0, 0, 1]
    assert [one.has_mask for one in found] == [True, True, False, False, False, True]
    assert found[2].box == (20, 5, 30, 35)
    assert found[3].box == (1, 2, 4, 6)
    assert found[4].box == (0, 10, 20, 20)
    masks = masks_of(found, sample.shape)
    assert masks.area[0] == pytest.approx(200, abs=20)
    assert masks.area[1] == pytest.approx(math.pi * 100, rel=0.02)
    dense = masks.data[5].astype(bool)
    np.testing.assert_array_equal(dense[9:29, 7:37], hole)
    assert dense.sum() == hole.sum()
    assert found[5].box == (7, 9, 30, 20)


def test_shapes_of_a_group_are_one_object(folder: Path) -> None:
    other = [[x + 40, y + 20] for x, y in TRIANGLE]
    bits = png(np.ones((4, 4), np.bool_))
    place(
        folder,
        "a",
        [
            shape("a", TRIANGLE, group_id=1),
            shape("a", other, group_id=1),
            shape("b", TRIANGLE, group_id=1),
            shape("a", TRIANGLE),
            shape("a", TRIANGLE),
            shape("b", TRIANGLE, group_id=2),
            shape("b", [[60, 50], [63, 53]], "mask", mask=bits, group_id=2),
        ],
    )
    (sample,) = read(folder)
    assert [(one.category, len(one.polygons)) for one in sample.annotations] == [(0, 2), (1, 1), (0, 1), (0, 1), (1, 0)]
    assert sample.annotations[0].box == (10, 10, 60, 40)
    areas = masks_of(sample.annotations, sample.shape).area
    assert areas[0] == 2 * areas[2]
    assert areas[4] == areas[2] + 16


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (shape("a", [[1, 1], [9, 9]], "line"), "line has no area"),
        (shape("a", [[1, 1]], "point"), "point has no area"),
        (shape("a", [[1, 1], [9, 9]]), "polygon of 2 points has no area"),
        (shape("a", [[1, 1], [9, 9], [20, 20]], "blob"), "shape_type 'blob' is not known"),
        (shape("a", "nothing"), "'points' is not a list"),
        (shape("a", [[1, 2, 3], [1, 2, 3], [1, 2, 3]]), "'points' is not a list"),
        (shape("a", [[1, None], [9, 9], [5, 1]]), "'points' is not a list|no place in an image"),
        (shape("a", [[1, float("nan")], [9, 9], [5, 1]]), "no place in an image"),
        (shape("a", [[1e30, 1], [9, 9], [5, 1]]), "no place in an image"),
        (shape("a", [[100, 100], [120, 100], [100, 120]]), "covers nothing of the image"),
        (shape("a", [[5, 5], [5, 5]], "rectangle"), "covers nothing of the image"),
        (shape("a", [[5, 5], [9, 9], [1, 1]], "circle"), "circle of 3 points"),
        (shape(None, TRIANGLE), "it has no label"),
        (shape(" ", TRIANGLE), "it has no label"),
        (shape("zebra", TRIANGLE), "label 'zebra' is none of the classes"),
        ("a triangle", "it has no label"),
        (shape("a", [[1, 1], [9, 9]], "mask"), "takes two points and a PNG"),
        (shape("a", [[1, 1], [9, 9]], "mask", mask="?"), "no base64"),
        (shape("a", [[1, 1], [9, 9]], "mask", mask=base64.b64encode(b"GIF").decode()), "no PNG that fits"),
        (shape("a", [[1, 1], [9, 9]], "mask", mask=png(np.ones((999, 4)))), "no PNG that fits"),
        (shape("a", [[1, 1], [9, 9]], "mask", mask=png(np.zeros((4, 4)))), "covers nothing"),
    ],
)
def test_a_bad_shape_is_named_and_only_it_is_left_out(folder: Path, bad: Any, reason: str) -> None:
    place(folder, "a", [shape("a", TRIANGLE), bad, shape("b", TRIANGLE)])
    dataset = read(folder, ["a", "b"])
    assert [one.category for one in dataset[0].annotations] == [0, 1]
    (problem,) = dataset.problems
    assert problem.startswith(f"{folder / 'a.json'}: shape 2: ")
    assert re.search(reason, problem)


ODD = [
    None,
    True,
    -1,
    0,
    10**30,
    1e308,
    math.nan,
    math.inf,
    "",
    "x\0y",
    "../../x",
    [],
    [[]],
    [1],
    {},
    {"a": [1]},
    "9" * 5000,
]
FIELDS = ("imagePath", "imageData", "imageHeight", "imageWidth", "version", "flags")
SHAPES_FIELDS = ("label", "points", "group_id", "shape_type", "mask", "flags")


@pytest.mark.parametrize("name", ["shapes", *FIELDS, *SHAPES_FIELDS])
def test_whatever_stands_in_a_field_is_read_or_told(folder: Path, name: str) -> None:
    for odd in ODD:
        for kind in ("polygon", "mask", "circle"):
            shapes: Any = [shape("a", TRIANGLE, kind), shape("a", TRIANGLE)]
            if name in SHAPES_FIELDS:
                shapes[0][name] = odd
            elif name == "shapes":
                shapes = odd
            place(folder, "a", shapes, **({name: odd} if name in FIELDS else {}))
            with contextlib.suppress(DataError):
                dataset = read(folder, ["a"])
                assert all(sample.shape == (60, 80) for sample in dataset)


def test_what_reaches_out_of_the_image_is_cut(folder: Path) -> None:
    place(folder, "a", [shape("a", [[-20, 10], [30, 10], [30, 40], [-20, 40]])])
    dataset = read(folder)
    assert dataset[0].annotations[0].box == (0, 10, 30, 30)
    assert [kind for kind, _ in dataset.notes] == ["outside"]  # type: ignore[attr-defined]
    assert "20.0 pixels" in dataset.notes[0][1]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("{", "it is no JSON"),
        ("[" * 100_000, "it is no JSON"),
        ("[1]", "it holds no shapes"),
        (json.dumps({"imagePath": "b.png"}), "it holds no shapes"),
        (json.dumps({"shapes": [], "imagePath": "gone.png"}), "its image 'gone.png' is not there"),
        (json.dumps({"shapes": [], "imagePath": "gone.png", "imageData": "iVBO"}), "lies within the JSON"),
        (json.dumps({"shapes": [], "imagePath": "a.png"}), "is of the same image"),
    ],
)
def test_a_bad_file_is_named_and_only_it_is_left_out(folder: Path, written: str, reason: str) -> None:
    place(folder, "a", [shape("a", TRIANGLE)])
    (folder / "b.json").write_text(written)
    dataset = read(folder)
    assert len(dataset) == 1
    (problem,) = dataset.problems
    assert problem.startswith(f"{folder / 'b.json'}: ")
    assert reason in problem


def test_a_json_of_another_size_is_left_out(folder: Path) -> None:
    place(folder, "a", [shape("a", TRIANGLE)])
    place(folder, "b", [shape("a", TRIANGLE)], imageHeight=600, imageWidth=800)
    dataset = read(folder)
    assert len(dataset) == 1
    assert "800 x 600 pixels, b.png has 80 x 60" in next(iter(dataset.problems))
    place(folder, "b", [shape("a", TRIANGLE)], imageHeight=None, imageWidth=None)
    assert len(read(folder)) == 2


@pytest.mark.parametrize("written", ["pics/a.png", "..\\set\\pics\\a.png", ".\\pics\\a.png", "C:\\me\\b\\a.png"])
def test_images_are_found_however_they_are_written(folder: Path, written: str) -> None:
    place(folder, "a", [shape("a", TRIANGLE)], imagePath=written)
    (folder / "pics").mkdir()
    target = folder / ("a.png" if written.startswith("C:") else "pics/a.png")
    (folder / "a.png").rename(target)
    dataset = read(folder)
    assert [path.resolve() for path in dataset.paths()] == [target.resolve()]


def test_an_image_without_a_json_is_not_background(folder: Path) -> None:
    place(folder, "a", [shape("a", TRIANGLE)])
    place(folder, "b", [])
    cv2.imwrite(str(folder / "c.png"), np.zeros((60, 80, 3), np.uint8))
    dataset = read(folder)
    assert [len(sample.annotations) for sample in dataset] == [1, 0]
    assert "1 image without a JSON left out, such as c.png" in next(iter(dataset.problems))


def test_classes(folder: Path) -> None:
    line = shape("edge", [[1, 1], [2, 2]], "line")
    place(folder, "a", [shape("dog", TRIANGLE), shape("cat", TRIANGLE), shape(7, TRIANGLE), line])
    assert dict(read(folder).names) == {0: "7", 1: "cat", 2: "dog"}
    assert dict(read(folder, ["dog", "cat", "7"]).names) == {0: "dog", 1: "cat", 2: "7"}
    (folder / "labels.txt").write_text("__ignore__\n_background_\ndog\n7\ncat\n")
    assert dict(read(folder).names) == {0: "dog", 1: "7", 2: "cat"}


def test_splits_with_other_labels_agree(folder: Path) -> None:
    place(folder / "train", "a", [shape("b", TRIANGLE)])
    place(folder / "val", "b", [shape("a", TRIANGLE)])
    (folder / "d.yaml").write_text("train: train\nval: val\n")
    for split, name in (("train", "b"), ("val", "a")):
        dataset = open_dataset(folder / "d.yaml", split)
        assert dict(dataset.names) == {0: "b", 1: "a"}
        assert dataset.names[dataset[0].annotations[0].category] == name


def test_only_folders_of_its_own_are_taken(folder: Path) -> None:
    registry = get_registry()
    place(folder, "a", [shape("a", TRIANGLE)])
    assert registry.dataset_format_for(folder).name == "labelme"
    assert registry.dataset_format_for(folder / "a.json").name == "labelme"
    (folder / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    assert registry.dataset_format_for(folder).name == "yolo", "who converted them there wants these"
    (folder / "a.txt").unlink()
    (folder / "a.json").unlink()
    assert registry.dataset_format_for(folder).name == "yolo"


def test_nothing_to_read_is_one_line(folder: Path) -> None:
    place(folder, "a", [], imagePath="gone.png")
    (folder / "a.png").rename(folder / "other.png")
    with pytest.raises(DataError, match="no annotation of labelme that can be read") as caught:
        read(folder)
    assert "gone.png" in caught.value.hint


@pytest.mark.parametrize("to", ["coco", "yolo"])
def test_it_is_converted(folder: Path, to: str) -> None:
    bits = np.ones((9, 9), np.bool_)
    place(folder, "a", [shape("a", TRIANGLE), shape("b", [[40, 30], [48, 38]], "mask", mask=png(bits))])
    read(folder, ["a", "b"])
    output = folder.parent / "out"
    done = convert(DataConvertOptions(data=str(folder.parent / "data.yaml"), to=to, output=output), get_registry())
    assert done.objects == {"train": 2, "val": 2}
    (before,), (after,) = open_dataset(folder.parent / "data.yaml", "train"), open_dataset(done.yaml, "train")
    overlap = masks_of(before.annotations, before.shape).iou(masks_of(after.annotations, after.shape))
    assert overlap.diagonal().min() > 0.97
