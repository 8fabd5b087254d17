"""``segx data``: what is wrong is found, what is converted is the same, what is divided stays apart."""

from __future__ import annotations

import importlib
import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest

from segx.data.check import check
from segx.data.convert import convert
from segx.data.show import show
from segx.data.split import split
from segx.data.splits import open_dataset
from segx.data.tally import notify
from segx.errors import DataError, UsageError
from segx.flows.train import read_splits
from segx.ops.polygons import Polygon, one_ring
from segx.options.verbs import DataCheckOptions, DataConvertOptions, DataShowOptions, DataSplitOptions, TrainOptions
from segx.plugin.registry import get_registry
from segx.structures.annotations import masks_of
from segx.structures.masks import Masks
from segx.testing.scenes import draw_scene
from segx_cli.main import main

yolo_writer = importlib.import_module("segx_data_yolo.writer")
TRIANGLE = "0.1 0.1 0.5 0.1 0.5 0.5"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGX_CACHE", str(tmp_path / "cache"))


def image(path: Path, seed: int, size: tuple[int, int] = (40, 60)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8))


def label(folder: Path, name: str, text: str) -> None:
    path = folder / "labels" / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def faulty(folder: Path) -> Path:
    """A data set with one of everything that can be wrong."""
    for number, name in enumerate(["train/a", "train/b", "train/c", "val/d", "val/e"]):
        image(folder / "images" / f"{name}.png", number)
    shutil.copy(folder / "images" / "train" / "a.png", folder / "images" / "train" / "again.png")
    shutil.copy(folder / "images" / "train" / "b.png", folder / "images" / "val" / "leaked.png")
    whole = (folder / "images" / "train" / "c.png").read_bytes()
    (folder / "images" / "train" / "c.png").write_bytes(whole[: len(whole) // 2])
    label(folder, "train/a", f"0 {TRIANGLE}\n0 {TRIANGLE}\n0 0.5 0.5 0.01 0.5\n0 1 2 3\n")
    label(folder, "train/orphan", f"0 {TRIANGLE}\n")
    label(folder, "val/d", f"1 {TRIANGLE}\n")
    path = folder / "set.yaml"
    path.write_text("train: images/train\nval: images/val\nnames: [cat, dog, bird]\n")
    return path


def report(data: Path | str, **options: Any) -> Any:
    return check(DataCheckOptions.parse({"data": str(data), **options}), get_registry())


def test_everything_that_is_wrong_is_found_and_nothing_is_changed(tmp_path: Path) -> None:
    path = faulty(tmp_path / "set")
    before = {item: item.read_bytes() for item in (tmp_path / "set").rglob("*") if item.is_file()}
    found = report(path)
    assert {item: item.read_bytes() for item in (tmp_path / "set").rglob("*") if item.is_file()} == before
    assert found.counts == {
        "corrupt": 1, "dropped": 2, "duplicate": 1, "leaked": 1, "tiny": 1, "stray": 1, "unused": 1, "unlearned": 1
    }  # fmt: skip
    reported = {finding.kind: finding.what for finding in found.findings}
    assert "c.png" in reported["corrupt"]
    assert "a.png = " in reported["duplicate"]
    assert "again.png" in reported["duplicate"]
    assert "leaked.png" in reported["leaked"]
    assert "orphan.txt" in reported["stray"]
    assert reported["unused"] == "bird"
    assert reported["unlearned"].startswith("dog: 1 object in")
    assert found.splits["train"].classes == {"cat": 2, "dog": 0, "bird": 0}
    assert (found.splits["train"].images, found.splits["train"].empty) == (4, 3)
    assert found.splits["train"].boxes_only == 1
    json.dumps(found.to_dict())
    assert "leaked (1): images that are in several splits" in found.to_table()


def test_objects_that_reach_out_and_images_of_another_size(tmp_path: Path) -> None:
    image(tmp_path / "one.png", 0)
    image(tmp_path / "two.png", 1, (30, 30))
    corners = [50, 10, 70, 10, 70, 30]
    content = {
        "images": [{"id": i, "file_name": f, "height": 40, "width": 60} for i, f in enumerate(("one.png", "two.png"))],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": 5, "image_id": 0, "category_id": 1, "bbox": [50, 10, 20, 20], "segmentation": [corners]}
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    found = report(tmp_path / "a.json")
    assert found.counts == {"size": 1, "outside": 1}
    assert "reaches 10.0 pixels out" in found.to_table()
    assert "is 30x30, ground truth is for 40x60" in found.to_table()


def test_classes_are_counted_by_number_and_double_names_are_reported(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png", 0)
    label(tmp_path, "a", f"0 {TRIANGLE}\n1 0.5 0.5 0.6 0.6\n1 0.5 0.5 0.5 0.5")
    (tmp_path / "set.yaml").write_text("train: images\nval: images\nnames: [a, a, b]\n")
    found = report(tmp_path)
    assert found.splits["train"].classes == {"a (class 0)": 1, "a (class 1)": 2, "b": 0}
    assert [(f.split, f.what) for f in found.findings if f.kind == "names"] == [
        ("train+val", "a: the name of the classes 0, 1")
    ]
    assert [f.what for f in found.findings if f.kind == "unused"] == ["b"]


def test_what_is_kept_otherwise_than_written_is_reported_apart_from_what_is_dropped(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png", 0)
    image(tmp_path / "images" / "a.jpg", 1)
    label(tmp_path, "a", "0 0.1 0.1 0.5 0.5\nnonsense")
    (tmp_path / "set.yaml").write_text("trian: images\nval: images\nnames: [a]\nnotes: mine\n")
    found = report(tmp_path)
    reported = {finding.kind: finding.what for finding in found.findings}
    assert {kind: found.counts[kind] for kind in ("dropped", "outside", "shared", "yaml")} == {
        "dropped": 2, "outside": 2, "shared": 1, "yaml": 1
    }  # fmt: skip
    assert "line 1: the box reaches 0.15 out of 0..1" in reported["outside"]
    assert reported["yaml"] == f"{tmp_path / 'set.yaml'}: trian: means nothing; did you mean train:?"
    assert "nothing is wrong" not in found.to_table()


def test_a_folder_as_coco_writes_it_is_read_with_its_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = complicated(tmp_path / "set")
    found = report(tmp_path / "set")
    assert (found.splits["data"].objects, found.splits["data"].empty) == (5, 0)
    shutil.copy(path, path.with_name("instances_val.json"))
    assert main(["data", "check", f"data={tmp_path / 'set'}"]) == 3
    said = capsys.readouterr().err
    assert "holds 2 COCO JSONs" in said
    assert f"data={path}" in said


def test_strict_ends_with_three(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = faulty(tmp_path / "set")
    assert main(["data", "check", f"data={path}"]) == 0
    assert main(["data", "check", str(path), "--strict"]) == 3
    assert "tiny (1)" in capsys.readouterr().out
    assert main(["data", "check", f"data={path}", "strict", "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["counts"]["leaked"] == 1
    clean = tmp_path / "clean"
    image(clean / "images" / "a.png", 0)
    label(clean, "a", f"0 {TRIANGLE}")
    (clean / "set.yaml").write_text("train: images\nnames: [cat]\n")
    assert main(["data", "check", f"data={clean}", "strict"]) == 3
    assert "lacking (1)" in capsys.readouterr().out
    image(clean / "other" / "images" / "b.png", 1)
    label(clean / "other", "b", f"0 {TRIANGLE}")
    (clean / "set.yaml").write_text("train: images\nval: other/images\nnames: [cat]\n")
    assert main(["data", "check", f"data={clean}", "strict"]) == 0
    assert "nothing is wrong" in capsys.readouterr().out


def test_the_command_line_helps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data"]) == 0
    assert "convert" in capsys.readouterr().out
    assert main(["data", "split", "--help"]) == 0
    assert "fractions" in capsys.readouterr().out
    assert main(["data", "chek"]) == 2
    assert "did you mean 'check'" in capsys.readouterr().err
    assert main(["data", "check", "strickt=true"]) == 2
    assert "did you mean 'strict'" in capsys.readouterr().err
    assert main(["data", "check"]) == 2
    assert main(["data", "check", "data=nope.yaml"]) == 3
    assert main(["data", "convert", "data=coco8-seg", "to=voc"]) == 2


def test_what_is_not_named_is_written_in_the_other_format(tmp_path: Path) -> None:
    path = coco(tmp_path / "a.json", ["square"], images=1)
    done = convert(DataConvertOptions.parse({"data": str(path), "output": tmp_path / "yolo"}), get_registry())
    assert (tmp_path / "yolo" / "labels").is_dir()
    convert(DataConvertOptions.parse({"data": str(done.yaml), "output": tmp_path / "coco"}), get_registry())
    assert (tmp_path / "coco" / "annotations" / "train.json").is_file()


def complicated(folder: Path) -> Path:
    """COCO JSON with parts, a hole, a crowd, a box alone."""
    image(folder / "images" / "one.png", 0, (80, 100))
    ys, xs = np.mgrid[:80, :100]
    distance = np.hypot(xs - 30, ys - 40)
    ring = (distance < 25) & (distance > 10)
    (hole,) = Masks.from_dense(ring[None]).rle
    rle = {"size": hole["size"], "counts": hole["counts"].decode()}
    parts = [[60, 10, 80, 10, 80, 30, 60, 30], [70, 50, 95, 50, 95, 70, 70, 70], [75, 20, 90, 20, 90, 40, 75, 40]]
    rows: list[dict[str, Any]] = [
        {"id": 11, "bbox": [5, 15, 50, 50], "segmentation": rle, "area": 1650.5},
        {"id": 12, "bbox": [60, 10, 35, 60], "segmentation": parts, "area": 1200},
        {"id": 13, "bbox": [5, 15, 50, 50], "segmentation": rle, "iscrowd": 1, "area": 1650},
        {"id": 14, "bbox": [1, 2, 30, 40], "segmentation": [], "area": 1200},
        {"id": 15, "bbox": [3.25, 3, 10, 10], "segmentation": [[3.25, 3, 13.25, 3, 13.25, 13]], "area": 50},
    ]
    content = {
        "images": [{"id": 7, "file_name": "one.png", "height": 80, "width": 100}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 44, "name": "dög"}],
        "annotations": [{"image_id": 7, "category_id": 44, "iscrowd": 0, **row} for row in rows],
    }
    path = folder / "annotations" / "instances.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("images", ["link", "copy"])
def test_to_coco_and_back_to_coco_nothing_is_lost(tmp_path: Path, images: str) -> None:
    path = complicated(tmp_path / "a")
    options = {"data": str(path), "to": "coco", "output": tmp_path / "b", "image_files": images}
    done = convert(DataConvertOptions.parse(options), get_registry())
    assert set(done.losses) == {"boxes"}
    assert (tmp_path / "b" / "images" / "train" / "one.png").is_symlink() is (images == "link")
    (before,), (after,) = open_dataset(path), open_dataset(done.yaml, "train")
    assert (after.id, after.shape) == (before.id, before.shape)
    for one, other in zip(before.annotations, after.annotations, strict=True):
        assert (one.category, one.box, one.crowd, one.area, one.id, one.rle) == (
            other.category, other.box, other.crowd, other.area, other.id, other.rle
        )  # fmt: skip
        assert [ring.tolist() for ring in one.polygons] == [ring.tolist() for ring in other.polygons]
    dataset = open_dataset(done.yaml, "train")
    assert (dataset.names, dataset.category_ids) == ({0: "cat", 1: "dög"}, {0: 3, 1: 44})


def test_to_yolo_says_what_it_cannot_hold_and_keeps_every_pixel(tmp_path: Path) -> None:
    path = complicated(tmp_path / "a")
    options = DataConvertOptions.parse({"data": str(path), "to": "yolo", "output": tmp_path / "b"})
    done = convert(options, get_registry())
    assert done.losses == {"crowds": 1, "joined": 2, "traced": 1, "boxes": 1}
    assert done.worst == 1
    assert not done.named
    assert "1 crowd left out" in done.to_table()
    (before,) = open_dataset(path)
    dataset = open_dataset(done.yaml, "train")
    assert not dataset.problems
    (after,) = dataset
    kept = [annotation for annotation in before.annotations if not annotation.crowd]
    original = masks_of(kept, before.shape)
    np.testing.assert_array_equal(original.data, masks_of(after.annotations, after.shape).data)
    assert [annotation.category for annotation in after.annotations] == [1, 1, 1, 1]
    assert [annotation.has_mask for annotation in after.annotations] == [annotation.has_mask for annotation in kept]


def test_one_ring_joins_parts_and_holes() -> None:
    squares = [np.array([[0, 0], [s, 0], [s, s], [0, s]], np.float32) for s in (30, 10, 6)]
    rng = np.random.default_rng(0)
    for _ in range(20):
        flips = rng.random(4) < 0.5
        rings = [
            ring[::-1] if flip else ring for ring, flip in zip([squares[0], *[squares[1]] * 2], flips, strict=False)
        ]
        parts = [
            Polygon(exterior=rings[0] + 2, holes=(rings[1] + 5, squares[2] + 20)),
            Polygon(exterior=rings[2] + (40, 35)),
        ]
        joined = Masks.from_polygons([[one_ring(parts)]], (60, 70))
        np.testing.assert_array_equal(joined.data, Masks.from_polygons([parts], (60, 70)).data)


@pytest.mark.parametrize("images", ["link", "copy"])
@pytest.mark.parametrize("to", ["yolo", "coco"])
def test_namesakes_come_out_apart_and_no_file_of_the_user_changes(tmp_path: Path, to: str, images: str) -> None:
    names = ("x/1.png", "y/1.png", "x_1.png", "1-2.png", "z/1.jpg", "1.PNG", "b\udcff.png", "con.png")
    for number, name in enumerate(names):
        image(tmp_path / "set" / "images" / "any.png", number)
        (tmp_path / "set" / "images" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "set" / "images" / "any.png").rename(tmp_path / "set" / "images" / name)
        label(tmp_path / "set", str(Path(name).with_suffix("")), f"{number} {TRIANGLE}\n")
    path = tmp_path / "set" / "set.yaml"
    path.write_text(f"train: images\nnames: [{', '.join('abcdefgh')}]\n")
    before = {file: file.read_bytes() for file in (tmp_path / "set").rglob("*.*")}
    options = {"data": str(path), "to": to, "output": tmp_path / "new", "image_files": images}
    done = convert(DataConvertOptions.parse(options), get_registry())
    assert {file: file.read_bytes() for file in (tmp_path / "set").rglob("*.*")} == before
    original = {sample.annotations[0].category: sample.path.read_bytes() for sample in open_dataset(path, "train")}
    assert len(original) == len(names)
    new = open_dataset(done.yaml, "train")
    assert {sample.annotations[0].category: sample.path.read_bytes() for sample in new} == original
    written = [file.name.casefold() for file in (tmp_path / "new" / "images" / "train").iterdir()]
    assert len({Path(name).stem for name in written}) == len(names)
    assert not any("con." in name and not name.startswith("_") for name in written)


def test_a_copy_that_does_not_fit_is_reported_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = many(tmp_path / "set", 4)

    def half(_: Any, out: Any, __: int) -> None:
        out.write(b"half")

    options = {"data": str(path), "to": "coco", "output": tmp_path / "new", "image_files": "copy"}
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", half)
        with pytest.raises(DataError, match=r"new/images/train/00\.png cannot be written: 4 of \d+ bytes"):
            convert(DataConvertOptions.parse(options), get_registry())
    assert sorted(item.name for item in tmp_path.iterdir() if item.name != "cache") == ["set"]


def test_a_name_that_is_not_utf8_goes_into_no_list(tmp_path: Path) -> None:
    path = many(tmp_path / "set", 4)
    (tmp_path / "set" / "images" / "00.png").rename(tmp_path / "set" / "images" / "b\udcff.png")
    with pytest.raises(DataError, match="not UTF-8, no list can hold it"):
        divide(path, tmp_path / "new", fractions=(0.5, 0.5))
    assert not (tmp_path / "new").exists()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    path = complicated(tmp_path / "a")
    with pytest.raises(DataError, match="holds something already"):
        convert(DataConvertOptions.parse({"data": str(path), "output": tmp_path / "a"}), get_registry())
    with pytest.raises(UsageError, match="no folder to write"):
        convert(DataConvertOptions.parse({"data": str(path)}), get_registry())


def full_disk(monkeypatch: pytest.MonkeyPatch, *, after: int) -> None:
    """Let so many files be renamed into place, then none."""
    replace, left = Path.replace, [after]

    def guarded(self: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", guarded)


@pytest.mark.parametrize("there", [False, True], ids=["new", "empty"])
@pytest.mark.parametrize("command", ["yolo", "coco", "split"])
def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, there: bool
) -> None:
    path, output = many(tmp_path / "set", 4), tmp_path / "new"
    if there:
        output.mkdir()

    def run() -> Any:
        if command == "split":
            return divide(path, output, fractions=(0.5, 0.5))
        return convert(DataConvertOptions.parse({"data": str(path), "to": command, "output": output}), get_registry())

    with monkeypatch.context() as patch:
        full_disk(patch, after=1)
        with pytest.raises(DataError, match="No space left on device") as error:
            run()
        assert ".part" not in error.value.message
    assert sorted(item.name for item in tmp_path.iterdir() if item.name != "cache") == ["new"] * there + ["set"]
    assert not there or not list(output.iterdir())
    assert len(open_dataset(run().yaml, "train")) == {"split": 2}.get(command, 4)
    assert not [item for item in output.rglob("*") if ".part" in item.name]


def many(folder: Path, count: int = 20) -> Path:
    for number in range(count):
        image(folder / "images" / f"{number:02}.png", number // 2 if number < 4 else number)
        label(folder, f"{number:02}", f"{number % 2} {TRIANGLE}")
    path = folder / "set.yaml"
    path.write_text("train: images\nnames: [cat, dog]\n")
    return path


def divide(data: Path, output: Path, **options: Any) -> Any:
    return split(DataSplitOptions.parse({"data": str(data), "output": output, **options}), get_registry())


def test_parts_are_disjoint_whole_and_the_same_for_the_same_seed(tmp_path: Path) -> None:
    path = many(tmp_path / "set")
    done = divide(path, tmp_path / "parts", fractions=(0.6, 0.2, 0.2))
    parts = {name: [sample.path.name for sample in open_dataset(done.yaml, name)] for name in ("train", "val", "test")}
    names = [name for part in parts.values() for name in part]
    assert sorted(names) == [f"{number:02}.png" for number in range(20)]
    assert 3 <= len(parts["val"]) <= 6
    for pair in ({"00.png", "01.png"}, {"02.png", "03.png"}):  # the same image twice never ends up on both sides
        assert any(pair <= set(part) for part in parts.values())
    assert done.kept_together == 2
    again = divide(path, tmp_path / "again", fractions=(0.6, 0.2, 0.2))
    assert (tmp_path / "again" / "val.txt").read_text() == (tmp_path / "parts" / "val.txt").read_text()
    other = divide(path, tmp_path / "other", fractions=(0.6, 0.2, 0.2), seed=1)
    assert (tmp_path / "other" / "val.txt").read_text() != (tmp_path / "parts" / "val.txt").read_text()
    assert again.images.keys() == other.images.keys()
    assert report(done.yaml).counts.get("leaked") is None


def test_json_is_divided_as_json(tmp_path: Path) -> None:
    yolo = many(tmp_path / "set", 6)
    done = convert(DataConvertOptions.parse({"data": str(yolo), "output": tmp_path / "coco"}), get_registry())
    parts = divide(done.yaml, tmp_path / "parts", fractions=(0.5, 0.5))
    train, val = open_dataset(parts.yaml, "train"), open_dataset(parts.yaml, "val")
    assert len(train) + len(val) == 6
    assert {sample.id for sample in train}.isdisjoint(sample.id for sample in val)
    assert all(sample.path.is_file() for sample in train)
    assert sum(len(sample.annotations) for dataset in (train, val) for sample in dataset) == 6


@pytest.mark.parametrize("fractions", [(1.0,), (0.5, 0.6), (0.25, 0.25, 0.25, 0.25), (0.8, 0.1)])
def test_shares_must_make_one(tmp_path: Path, fractions: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="two or three shares that make 1"):
        divide(many(tmp_path / "set", 4), tmp_path / "parts", fractions=fractions)


def test_too_few_images_are_reported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 image cannot be divided into 2 parts"):
        divide(many(tmp_path / "set", 2), tmp_path / "parts")


def test_a_sheet_of_ground_annotation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "set"
    for number in range(5):
        scene = draw_scene(40, 60, objects=number % 3)
        (folder / "images").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / "images" / f"{number}.png"), scene.image)
        label(folder, str(number), "\n".join(f"{item.category} {TRIANGLE}" for item in scene.objects))
    (folder / "set.yaml").write_text("train: images\nnames: [red, green, blue]\n")
    options = {"data": str(folder), "count": 5, "columns": 2, "side": 64, "output": tmp_path / "sheet.png"}
    written = show(DataShowOptions.parse(options), get_registry())
    drawn = cv2.imread(str(written))
    assert drawn.shape == (3 * 64, 2 * 64, 3)
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 20
    (folder / "images" / "1.png").write_bytes((folder / "images" / "1.png").read_bytes()[:60])
    with caplog.at_level("WARNING"):
        assert show(DataShowOptions.parse(options), get_registry()) == written
    (reported,) = [record.getMessage() for record in caplog.records if "not shown" in record.getMessage()]
    assert str(folder / "images" / "1.png") in reported
    assert cv2.imread(str(written)).shape == (2 * 64, 2 * 64, 3)
    with pytest.raises(DataError, match="no image of the split has an object of these classes"):
        show(DataShowOptions.parse({**options, "classes": (2,)}), get_registry())
    assert main(["data", "show", f"data={folder}", "count=2", f"output={tmp_path / 'b.png'}"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "b.png")


def coco(path: Path, names: list[str], *, seed: int = 0, images: int = 2, **changes: Any) -> Path:
    """A COCO JSON of images with a square and a triangle each; categories are numbered in the order of ``names``."""
    rings = {"square": [10, 10, 30, 10, 30, 30, 10, 30], "triangle": [5, 35, 25, 35, 15, 5]}
    content: dict[str, Any] = {
        "images": [{"id": i, "file_name": f"{path.stem}{i}.png", "height": 40, "width": 60} for i in range(images)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, start=1)],
        "annotations": [
            {
                "id": 2 * i + place + 1,
                "image_id": i,
                "category_id": names.index(name) + 1,
                "segmentation": [rings[name]],
                **changes,
            }
            for i in range(images)
            for place, name in enumerate(name for name in rings if name in names)
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    for i in range(images):
        image(path.parent / f"{path.stem}{i}.png", seed + i)
    return path


def numbered_otherwise(folder: Path) -> Path:
    coco(folder / "train.json", ["square", "triangle"])
    coco(folder / "val.json", ["triangle", "square"], seed=7)
    coco(folder / "test.json", ["triangle"], seed=9)
    path = folder / "set.yaml"
    path.write_text("train: train.json\nval: val.json\ntest: test.json\n")
    return path


@pytest.mark.parametrize("to", ["yolo", "coco"])
def test_splits_that_number_their_classes_otherwise_are_paired_by_name(tmp_path: Path, to: str) -> None:
    path = numbered_otherwise(tmp_path / "set")
    assert report(path).counts["classes"] == 2
    done = convert(DataConvertOptions.parse({"data": str(path), "to": to, "output": tmp_path / "new"}), get_registry())
    for split_name in ("train", "val", "test"):
        for data in (path, done.yaml):
            dataset = open_dataset(data, split_name)
            for annotation in (annotation for sample in dataset for annotation in sample.annotations):
                corners = len(annotation.polygons[0])
                assert dataset.names[annotation.category] == {4: "square", 3: "triangle"}[corners]
            assert dict(dataset.names) == {0: "square", 1: "triangle"}


def test_a_split_that_is_not_there_harms_only_who_asks_for_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = numbered_otherwise(tmp_path / "set")
    (tmp_path / "set" / "test.json").unlink()
    assert len(open_dataset(path, "val")) == 2
    found = report(path)
    assert (found.counts["missing"], list(found.splits)) == (1, ["train", "val"])
    done = convert(DataConvertOptions.parse({"data": str(path), "output": tmp_path / "new"}), get_registry())
    assert list(done.images) == ["train", "val"]
    assert "test of" in caplog.text
    with pytest.raises(DataError, match=r"test of .* is not there"):
        open_dataset(path, "test")


def test_splits_of_several_formats_need_names(tmp_path: Path) -> None:
    coco(tmp_path / "val.json", ["square", "triangle"])
    image(tmp_path / "images" / "a.png", 0)
    label(tmp_path, "a", f"0 {TRIANGLE}\n")
    path = tmp_path / "set.yaml"
    path.write_text("train: images\nval: val.json\n")
    with pytest.raises(DataError, match="several formats") as error:
        open_dataset(path, "val")
    assert "names:" in error.value.hint
    path.write_text("train: images\nval: val.json\nnames: [triangle, square]\n")
    assert open_dataset(path, "val").names == {0: "triangle", 1: "square"}


def test_parts_name_the_images_as_they_are_reached(tmp_path: Path) -> None:
    """Labels are found by that name: those of the folder a link leads to are others, or none."""
    many(tmp_path / "raw", count=6)
    (tmp_path / "set").mkdir()
    shutil.copytree(tmp_path / "raw" / "labels", tmp_path / "set" / "labels")
    for file in (tmp_path / "raw" / "labels").rglob("*.txt"):
        file.write_text("")
    (tmp_path / "set" / "images").symlink_to(tmp_path / "raw" / "images")
    path = tmp_path / "set" / "set.yaml"
    path.write_text("train: images\nnames: [cat, dog, bird]\n")
    (tmp_path / "disk" / "deep").mkdir(parents=True)
    (tmp_path / "linked").symlink_to(tmp_path / "disk" / "deep")
    expected = sum(len(sample.annotations) for sample in open_dataset(path, "train"))
    assert expected
    for output in (tmp_path / "parts", tmp_path / "linked" / "parts"):
        parts = divide(path, output)
        found = [len(sample.annotations) for name in ("train", "val") for sample in open_dataset(parts.yaml, name)]
        assert sum(found) == expected


def test_what_was_converted_by_links_is_divided_with_its_labels(tmp_path: Path) -> None:
    path = coco(tmp_path / "a.json", ["square", "triangle"], images=6)
    done = convert(
        DataConvertOptions.parse({"data": str(path), "to": "yolo", "output": tmp_path / "yolo"}), get_registry()
    )
    parts = divide(done.yaml, tmp_path / "parts", fractions=(0.5, 0.5))
    found = [len(sample.annotations) for name in ("train", "val") for sample in open_dataset(parts.yaml, name)]
    assert sum(found) == 12


def brushed(folder: Path) -> Path:
    """Squares as polygons, triangles as an annotation tool's brush writes them."""
    path = coco(folder / "a.json", ["square", "triangle"], images=3)
    content = json.loads(path.read_text())
    for item in content["annotations"]:
        item["iscrowd"] = int(item["category_id"] == 2)
    path.write_text(json.dumps(content))
    return path


def test_crowds_that_leave_many_objects_out_are_reported_and_can_be_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = brushed(tmp_path)
    found = report(path)
    assert found.counts == {"crowds": 1}
    assert "3 of 6 objects have iscrowd: 1, most of triangle" in found.to_table()
    assert "left out: 3 crowds" in found.to_table()
    notify("train", open_dataset(path))
    assert "train: 6 objects, 3 with a mask; left out: 3 crowds" in caplog.text
    assert "crowds=objects" in caplog.text
    assert report(path, crowds="objects").counts == {}
    for crowds, count in (("ignore", 3), ("objects", 6)):
        output = tmp_path / crowds
        done = convert(
            DataConvertOptions.parse({"data": str(path), "to": "yolo", "output": output, "crowds": crowds}),
            get_registry(),
        )
        assert done.objects == {"train": count}
        assert ("nothing is lost" in done.to_table()) is (crowds == "objects")


def test_few_crowds_are_no_finding_and_no_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = coco(tmp_path / "a.json", ["square"], images=40)
    content = json.loads(path.read_text())
    content["annotations"][0]["iscrowd"] = 1
    path.write_text(json.dumps(content))
    assert report(path).counts == {}
    with caplog.at_level(logging.WARNING, "segx"):
        notify("train", open_dataset(path))
    assert not caplog.text


def test_check_reports_what_train_would_refuse(tmp_path: Path) -> None:
    boxes = coco(tmp_path / "boxes" / "a.json", ["square"], segmentation=[], bbox=[1, 1, 9, 9])
    assert "no object has a mask" in report(boxes).to_table()
    crowds = coco(tmp_path / "crowds" / "a.json", ["square"], iscrowd=1)
    assert "all objects are crowds" in report(crowds).to_table()


def test_a_size_that_is_exchanged_is_reported_and_one_that_is_turned_is_not(tmp_path: Path) -> None:
    path = coco(tmp_path / "a.json", ["square"], images=1)
    content = json.loads(path.read_text())
    content["images"][0].update(height=60, width=40)
    path.write_text(json.dumps(content))
    assert report(path).counts == {"size": 1}
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    with PIL.Image.open(tmp_path / "a0.png") as opened:
        opened.save(tmp_path / "a0.jpg", exif=exif)
    content["images"][0]["file_name"] = "a0.jpg"
    path.write_text(json.dumps(content))
    assert report(path).counts == {}


def test_what_is_written_is_read_back_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = coco(tmp_path / "a.json", ["square", "triangle"])
    options = {"data": str(path), "to": "yolo"}
    done = convert(DataConvertOptions.parse({**options, "output": tmp_path / "right"}), get_registry())
    assert "nothing is lost: what is written was read back and compared" in done.to_table()
    original = vars(yolo_writer)["row_of"]
    for name, damage in {
        "moved": lambda row: row.replace(" 0.166667", " 0.45") if row.startswith("0") else row,
        "swapped": lambda row: str(1 - int(row[0])) + row[1:],
        "gone": lambda row: "nonsense" if row.startswith("0") else row,
    }.items():
        monkeypatch.setattr(yolo_writer, "row_of", lambda *a, damage=damage: damage(original(*a)))
        done = convert(DataConvertOptions.parse({**options, "output": tmp_path / name}), get_registry())
        assert "nothing is lost" not in done.to_table()
        assert done.losses[{"moved": "changed"}.get(name, "missing")] == 2
        assert done.named


def test_an_outline_over_the_edge_is_written_as_it_is_seen(tmp_path: Path) -> None:
    """Cut by coordinate, its slope would change."""
    path = coco(tmp_path / "a.json", ["square"], images=1, segmentation=[[-20, 0, 20, 30, 20, 38, -20, 38]])
    done = convert(
        DataConvertOptions.parse({"data": str(path), "to": "yolo", "output": tmp_path / "b"}), get_registry()
    )
    assert not done.losses
    (before,), (after,) = open_dataset(path), open_dataset(done.yaml, "train")
    seen, written = (masks_of(sample.annotations, sample.shape) for sample in (before, after))
    assert float(seen.iou(written)[0, 0]) > 0.99  # COCO rounds the cut corners to a fifth of a pixel
    assert [0, 15] in after.annotations[0].polygons[0].round(3).tolist()


def test_rows_that_were_left_out_are_lost(tmp_path: Path) -> None:
    image(tmp_path / "images" / "a.png", 0)
    label(tmp_path, "a", f"0 {TRIANGLE}\n0 nonsense\n")
    done = convert(
        DataConvertOptions.parse({"data": str(tmp_path), "output": tmp_path / "new", "to": "coco"}), get_registry()
    )
    assert done.losses == {"unread": 1}
    assert "nothing is lost" not in done.to_table()


def test_hundreds_of_holes_are_joined_in_seconds() -> None:
    bitmap = np.zeros((110, 110), np.bool_)
    bitmap[5:-5, 5:-5] = np.random.default_rng(0).random((100, 100)) < 0.95
    original = Masks.from_bitmaps([bitmap], np.zeros((1, 2), np.int32), (110, 110))
    began = time.process_time()
    ring = one_ring(original.polygons[0])
    assert time.process_time() - began < 2
    assert float(original.iou(Masks.from_polygons([[ring]], (110, 110)))[0, 0]) == 1


BROKEN: dict[str, dict[str, Any]] = {
    "boxes only": {"segmentation": []},
    "crowds only": {"iscrowd": 1},
    "no object": {"category_id": 99},
    "outlines without area": {"segmentation": [[1, 1, 5, 5, 9, 9]]},
    "classes that are not there": {"image_id": 99},
    "text for an outline": {"segmentation": "mask.png"},
    "ids all alike": {"id": 1},
    "boxes elsewhere": {"bbox": [40, 0, 5, 5]},
    "no area": {"area": 0},
}


@pytest.mark.parametrize("what", BROKEN)
def test_check_finds_whatever_train_reports_of_or_refuses(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    for seed, name in ((0, "train"), (9, "val")):
        coco(tmp_path / f"{name}.json", ["square", "triangle"], seed=seed, **{"bbox": [5, 5, 25, 30], **BROKEN[what]})
    path = tmp_path / "set.yaml"
    path.write_text("train: train.json\nval: val.json\n")
    options = TrainOptions(data=str(path))
    reported = False
    with caplog.at_level(logging.INFO, "segx"):
        try:
            splits = read_splits(options)
            get_registry().tasks.load("segment").train_loader(splits.train, options, stride=32)
        except DataError:
            reported = True
    reported = reported or bool(caplog.messages)
    assert reported
    assert report(path).findings
