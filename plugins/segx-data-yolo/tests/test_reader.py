"""YOLO data sets: images, label files, classes, and what is kept in the cache."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from segx.errors import DataError
from segx.io import index_cache
from segx.structures.annotations import DatasetSource
from segx_data_yolo import label_index
from segx_data_yolo.plugin import segx_dataset_formats
from segx_data_yolo.reader import YoloReader, image_ids, label_file

if TYPE_CHECKING:
    from pathlib import Path

NAMES = {0: "a", 1: "b"}
TRIANGLE = "0.1 0.1 0.5 0.1 0.5 0.5"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collects how many files are parsed."""
    counts: list[int] = []
    original = label_index.parse

    def counting(contents: Any) -> Any:
        if len(contents):
            counts.append(len(contents))
        return original(contents)

    monkeypatch.setattr(label_index, "parse", counting)
    return counts


def make(folder: Path, rows: dict[str, str], *, size: tuple[int, int] = (20, 30)) -> Path:
    for name, text in rows.items():
        image, label = folder / "images" / f"{name}.png", folder / "labels" / f"{name}.txt"
        for path in (image, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(image), np.zeros((*size, 3), np.uint8))
        label.write_text(text)
        os.utime(label, ns=(10**18, 10**18))  # long ago, so that stamps are trusted
        os.utime(image, ns=(10**18, 10**18))
    return folder / "images"


def read(*entries: Path, names: dict[int, str] | None = NAMES) -> Any:
    return YoloReader().read(DatasetSource(origin=entries[0], split="train", entries=entries, names=names))


def test_labels_lie_beside_images() -> None:
    sep = os.sep
    assert label_file(sep.join(["", "d", "images", "val", "x.y.jpg"])) == sep.join(
        ["", "d", "labels", "val", "x.y.txt"]
    )
    nested = sep.join(["", "images", "set", "images", "x.jpg"])
    assert label_file(nested) == sep.join(["", "images", "set", "labels", "x.txt"])
    assert label_file(sep.join(["", "d", "photos", "x.jpg"])) == sep.join(["", "d", "photos", "x.txt"])


def test_ids_are_stems_and_stay_apart() -> None:
    assert image_ids(["/a/000017.jpg", "/a/dog.png"]) == [17, "dog"]
    assert image_ids(["/a/x/1.jpg", "/a/y/1.jpg"]) == ["x/1.jpg", "y/1.jpg"]


def test_a_class_outside_the_names_is_named_with_its_line(tmp_path: Path) -> None:
    folder = make(tmp_path, {"one": f"1 {TRIANGLE}\n2 {TRIANGLE}\n0 {TRIANGLE}"})
    dataset = read(folder)
    assert [annotation.category for annotation in dataset[0].annotations] == [1, 0]
    assert dataset.problems == (f"{tmp_path / 'labels' / 'one.txt'}, line 2: class 2 is outside 0..1",)
    assert read(folder, names=None).names == {0: "class0", 1: "class1", 2: "class2"}


def test_lists_and_folders_together(tmp_path: Path) -> None:
    folder = make(tmp_path / "a", {"one": f"0 {TRIANGLE}", "sub/two": ""})
    make(tmp_path / "b", {"three": f"1 {TRIANGLE}"})
    listing = tmp_path / "b" / "list.txt"
    listing.write_text("./images/three.png\n\nimages/absent.png\n")
    dataset = read(folder, listing)
    assert [sample.path.name for sample in dataset] == ["one.png", "two.png", "three.png"]
    assert [len(sample.annotations) for sample in dataset] == [1, 0, 1]
    assert dataset[0].shape == (20, 30)
    (problem,) = dataset.problems
    assert problem == f"{listing}, line 3: {tmp_path / 'b' / 'images' / 'absent.png'} is not there"


def test_nothing_there_is_reported_with_what_was_tried(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="holds no images") as error:
        read(tmp_path / "images")
    assert str(tmp_path / "images") in error.value.hint
    listing = tmp_path / "list.txt"
    listing.write_text("gone.png\n")
    with pytest.raises(DataError, match="none of the images") as error:
        read(listing)
    assert str(tmp_path / "gone.png") in error.value.hint


def test_an_unreadable_image_is_named_and_left_out(tmp_path: Path) -> None:
    folder = make(tmp_path, {"good": f"0 {TRIANGLE}", "bad": f"1 {TRIANGLE}"})
    (folder / "bad.png").write_bytes(b"no image")
    dataset = read(folder)
    assert [sample.path.name for sample in dataset] == ["good.png"]
    assert dataset[0].annotations[0].category == 0
    assert dataset.problems[0].startswith(f"{folder / 'bad.png'}: ")


def test_files_are_parsed_again_when_one_has_changed(
    tmp_path: Path, parsed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_cache, "_FRESH_NS", 0)  # as if all were written long ago
    rows = {f"{number:02}": f"0 {TRIANGLE}" for number in range(10)}
    folder = make(tmp_path, rows)
    time.sleep(0.02)
    first = read(folder)
    assert parsed == [10]
    assert read(folder).fingerprint == first.fingerprint
    assert parsed == [10]
    make(tmp_path, {"03": f"1 {TRIANGLE}"})  # same length, same old time: told apart by neither
    os.utime(tmp_path / "labels" / "03.txt", ns=(10**18 + 1, 10**18 + 1))
    (tmp_path / "labels" / "05.txt").unlink()
    make(tmp_path, {"10": "0 0.5 0.5 0.1 0.1\nbad"})
    changed = read(folder)
    assert parsed == [10, 11]
    assert [[annotation.category for annotation in sample.annotations] for sample in changed] == (
        [[0]] * 3 + [[1], [0], []] + [[0]] * 5
    )
    assert len(changed.problems) == 1
    assert changed.fingerprint != first.fingerprint
    again = read(folder)
    assert parsed == [10, 11]
    assert (again.problems, again.fingerprint) == (changed.problems, changed.fingerprint)


def test_a_file_changed_just_now_is_not_trusted(tmp_path: Path, parsed: list[int]) -> None:
    folder = make(tmp_path, {"one": f"0 {TRIANGLE}"})
    label = tmp_path / "labels" / "one.txt"
    now = time.time_ns()
    os.utime(label, ns=(now, now))
    read(folder)
    label.write_text(f"1 {TRIANGLE}")
    os.utime(label, ns=(now, now))  # the same size and time, as a fast editor on a coarse clock leaves it
    assert read(folder)[0].annotations[0].category == 1


def test_an_edit_that_keeps_size_and_time_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_cache, "_FRESH_NS", 0)
    folder = make(tmp_path, {"one": f"0 {TRIANGLE}"})
    label, image = tmp_path / "labels" / "one.txt", folder / "one.png"
    time.sleep(0.02)
    assert read(folder)[0].annotations[0].category == 0
    times = [(path, path.stat()) for path in (label, image)]
    label.write_text(f"1 {TRIANGLE}")
    turned = image.read_bytes().replace(b"\x00\x00\x00\x1e\x00\x00\x00\x14", b"\x00\x00\x00\x14\x00\x00\x00\x1e")
    image.write_bytes(turned)
    for path, state in times:
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    (sample,) = read(folder)
    assert (sample.annotations[0].category, sample.shape) == (1, (30, 20))


def test_files_are_left_as_they_are(tmp_path: Path) -> None:
    folder = make(tmp_path, {"one": "nonsense", "two": f"0 {TRIANGLE}\n0 {TRIANGLE}"})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    list(read(folder))
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and "cache" not in path.parts}
    assert after == before


def test_thousands_of_files_are_read_in_seconds(tmp_path: Path) -> None:
    labels, images = tmp_path / "labels", tmp_path / "images"
    labels.mkdir()
    images.mkdir()
    rng = np.random.default_rng(0)
    rows = [f"0 {' '.join(f'{v:.6f}' for v in rng.random(40))}" for _ in range(50)]
    _, png = cv2.imencode(".png", np.zeros((8, 8), np.uint8))
    count = 3_000
    for number in range(count):
        (labels / f"{number}.txt").write_text("\n".join(rows[number % 40 : number % 40 + 7]))
        (images / f"{number}.png").write_bytes(png.tobytes())
    begun = time.process_time()
    dataset = read(images)
    assert time.process_time() - begun < 20  # about half a second where it was written
    assert len(dataset.table) == 7 * count


def test_only_a_label_file_that_is_not_there_means_background(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path, dict.fromkeys(("absent", "closed", "folder", "good", "hidden", "pipe"), f"0 {TRIANGLE}"))
    labels = tmp_path / "labels"
    for name in ("absent", "folder", "pipe"):
        (labels / f"{name}.txt").unlink()
    (labels / "folder.txt").mkdir()
    os.mkfifo(labels / "pipe.txt")
    closed, hidden = str(labels / "closed.txt"), str(labels / "hidden.txt")
    real_open, real_stat = open, os.stat

    def guarded_open(file: Any, *args: Any, **kwargs: Any) -> Any:
        if str(file) == closed:
            raise PermissionError(13, "Permission denied")
        return real_open(file, *args, **kwargs)

    def guarded_stat(path: Any, *args: Any, **kwargs: Any) -> Any:
        if str(path) == hidden:
            raise PermissionError(13, "Permission denied")
        return real_stat(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", guarded_open)
        patch.setattr(os, "stat", guarded_stat)
        for dataset in (read(folder), read(folder)):  # the second time from the cache
            assert [len(sample.annotations) for sample in dataset] == [0, 0, 0, 1, 0, 0]
            assert dataset.problems == (
                f"{closed}: cannot be read (Permission denied): its image has no labels",
                f"{labels / 'folder.txt'}: it is not a file: its image has no labels",
                f"{hidden}: cannot be read (Permission denied): its image has no labels",
                f"{labels / 'pipe.txt'}: it is not a file: its image has no labels",
            )
    assert [len(sample.annotations) for sample in read(folder)] == [0, 1, 0, 1, 1, 0]  # once it may be read, it is


def test_images_are_files_that_are_not_hidden(tmp_path: Path) -> None:
    folder = make(tmp_path, {"one": f"0 {TRIANGLE}", ".cache/two": "", "._one": "", "sub/three": ""})
    os.mkfifo(folder / "pipe.png")
    (folder / "circle.png").symlink_to("circle.png")
    dataset = read(folder)
    assert [sample.path.name for sample in dataset] == ["one.png", "three.png"]
    assert dataset.problems == tuple(
        f"{folder / name}: it is not a file that can be read" for name in ("circle.png", "pipe.png")
    )


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path, {"one": f"0 {TRIANGLE}", "closed/two": ""})
    refused = {str(folder / "closed")}
    scandir = os.scandir

    def guarded(path: Any) -> Any:
        if str(path) in refused:
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    assert read(folder).problems == (f"{folder / 'closed'}: the folder cannot be read (Permission denied)",)
    refused.add(str(folder))
    with pytest.raises(DataError, match="no image that can be read") as error:
        read(folder)
    assert error.value.hint == f"{folder}: the folder cannot be read (Permission denied)"


def test_labels_that_lie_beside_their_images_are_reported(tmp_path: Path) -> None:
    folder = make(tmp_path, {"one": "", "two": ""})
    for name in ("one", "two"):
        (tmp_path / "labels" / f"{name}.txt").rename(folder / f"{name}.txt")
    (problem,) = read(folder).problems
    assert problem.startswith(f"{folder / 'one.txt'}: labels of 2 images lie beside them and are not read")
    assert str(tmp_path / "labels" / "one.txt") in problem


def test_labels_beside_a_part_of_the_images_are_reported(tmp_path: Path) -> None:
    make(tmp_path / "a", {"one": f"0 {TRIANGLE}"})
    make(tmp_path / "b", {"two": f"0 {TRIANGLE}", "three": ""})
    beside = tmp_path / "b" / "images" / "two.txt"
    (tmp_path / "b" / "labels" / "two.txt").rename(beside)
    (problem,) = read(tmp_path / "a" / "images", tmp_path / "b" / "images").problems
    assert problem.startswith(f"{beside}: labels of 1 image lie beside")


def test_images_with_one_label_file_together_are_reported(tmp_path: Path) -> None:
    folder = make(tmp_path, {"one": f"0 {TRIANGLE}"})
    cv2.imwrite(str(folder / "one.jpg"), np.zeros((20, 30, 3), np.uint8))
    dataset = read(folder)
    assert len(dataset) == 2
    label = tmp_path / "labels" / "one.txt"
    assert dataset.notes == (("shared", f"{label} is read for {folder / 'one.jpg'} and {folder / 'one.png'}"),)


def test_a_box_that_reaches_out_is_cut_and_reported_of(tmp_path: Path) -> None:
    folder = make(tmp_path, {"one": "7 0.5 0.5 0.1 0.1\n0 0.1 0.1 0.21 0.2\n1 0.1 0.5 0.5 0.5"}, size=(100, 200))
    for dataset in (read(folder), read(folder)):
        rounded, out = dataset[0].annotations
        np.testing.assert_allclose(rounded.box, (0, 0, 41, 20), atol=1e-3)
        np.testing.assert_allclose(out.box, (0, 25, 70, 50), atol=1e-3)
        label = tmp_path / "labels" / "one.txt"
        assert dataset.notes == (("outside", f"{label}, line 3: the box reaches 0.15 out of 0..1 and is cut"),)


def test_linked_folders_are_read_by_the_name_they_are_reached_by(tmp_path: Path) -> None:
    elsewhere = make(tmp_path / "disk", {"one": f"0 {TRIANGLE}", "deep/two": f"1 {TRIANGLE}"})
    (tmp_path / "disk" / "labels" / "one.txt").write_text(f"1 {TRIANGLE}")
    images = tmp_path / "set" / "images"
    images.mkdir(parents=True)
    (images / "train").symlink_to(elsewhere)
    (tmp_path / "set" / "labels" / "train" / "deep").mkdir(parents=True)
    for name in ("one", "deep/two"):
        (tmp_path / "set" / "labels" / "train" / f"{name}.txt").write_text(f"0 {TRIANGLE}")
    dataset = read(images)
    assert [sample.path for sample in dataset] == [images / "train" / "one.png", images / "train" / "deep" / "two.png"]
    assert [annotation.category for sample in dataset for annotation in sample.annotations] == [0, 0]
    assert segx_dataset_formats()[0].detects(images)


def test_links_in_circles_end_and_no_folder_is_read_twice(tmp_path: Path) -> None:
    images = make(tmp_path / "set", {"train/one": "", "train/b/two": "", "val/three": ""})
    (images / "train" / "a").symlink_to("b")
    (images / "train" / "back").symlink_to("..")
    (images / "train" / "self").symlink_to("self")
    dataset = read(images / "train")
    assert [sample.path.name for sample in dataset] == ["one.png", "two.png"]
    assert [sample.path.parent.name for sample in dataset] == ["train", "b"]
    assert any("back: the link leads back" in problem for problem in dataset.problems)


def test_class_names_come_from_the_list_that_annotation_tools_write(tmp_path: Path) -> None:
    images = make(tmp_path, {"one": f"1 {TRIANGLE}"})
    assert read(images, names=None).names == {0: "class0", 1: "class1"}
    (tmp_path / "classes.txt").write_text("007\n yes \n\n")
    assert read(images, names=None).names == {0: "007", 1: "yes"}
    assert read(images).names == NAMES


def test_an_outline_that_is_cut_is_reported_each_time(tmp_path: Path) -> None:
    images = make(tmp_path, {"one": "", "two": "0 -0.2 0 0.2 0.4 0.2 0.8 -0.2 0.8"})
    for _ in range(2):  # from the file, and from the cache
        assert [line for kind, line in read(images).notes if kind == "outside"] == [
            f"{tmp_path / 'labels' / 'two.txt'}, line 1: the outline reaches 0.2 out of 0..1 and is cut"
        ]


def test_a_list_of_another_machine_is_found_by_the_end_of_its_names(tmp_path: Path) -> None:
    make(tmp_path, {"train/one": f"0 {TRIANGLE}", "train/two": "", "train/three": ""})
    path = tmp_path / "train.txt"
    path.write_text("data/images/train/one.png\nC:\\set\\images\\train\\two.png\nelsewhere/three.png\n")
    dataset = read(path)
    assert [sample.path.name for sample in dataset] == ["one.png", "two.png"]
    assert len(dataset[0].annotations) == 1
    assert "2 images found by the end of the name alone" in dataset.notes[0][1]
    assert "line 3" in dataset.problems[0]


@pytest.mark.parametrize("folder", ["photos", "images"])
def test_annotations_of_labelme_beside_the_images_are_told_of(tmp_path: Path, folder: str) -> None:
    place = tmp_path / folder
    place.mkdir()
    shape = {"label": "a", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon"}
    for name in ("one", "two", "three"):
        cv2.imwrite(str(place / f"{name}.png"), np.zeros((20, 30, 3), np.uint8))
    for name in ("one", "two"):
        content = {"shapes": [shape], "imagePath": f"{name}.png", "imageData": "A" * 200_000, "imageHeight": 20}
        (place / f"{name}.json").write_text(json.dumps(content))
    (problem,) = read(place).problems
    assert "annotations of 2 images lie beside them as labelme" in problem
    for name in ("one", "two"):
        (place / f"{name}.json").write_text("{}")
    assert not read(place).problems, "any other JSON is none of these"


def test_folders_in_other_capitals_are_told_of(tmp_path: Path) -> None:
    for folder in ("Images/Train", "Labels/Train"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("one", "two"):
        cv2.imwrite(str(tmp_path / "Images" / "Train" / f"{name}.png"), np.zeros((20, 30, 3), np.uint8))
    (tmp_path / "Labels" / "Train" / "one.txt").write_text(f"0 {TRIANGLE}\n")
    (problem,) = read(tmp_path / "Images" / "Train").problems
    assert "labels of 1 image are not read: the folders have to be called 'images' and 'labels'" in problem
    assert problem.startswith(str(tmp_path / "Labels" / "Train" / "one.txt"))
