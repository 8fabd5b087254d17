"""COCO JSON read as it is, with every kind of thing that can be wrong with it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from segx.errors import DataError
from segx.interfaces import DatasetSource
from segx_data_coco.reader import CocoReader, image_folders

if TYPE_CHECKING:
    from pathlib import Path

SQUARE = [[10, 10, 30, 10, 30, 30, 10, 30]]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def annotation(number: int = 1, **changes: Any) -> dict[str, Any]:
    plain = {
        "id": number,
        "image_id": 1,
        "category_id": 3,
        "bbox": [10, 10, 20, 20],
        "area": 400,
        "iscrowd": 0,
        "segmentation": SQUARE,
    }
    return {name: value for name, value in {**plain, **changes}.items() if value is not ...}


def write(folder: Path, annotations: list[Any], **changes: Any) -> Path:
    content = {
        "images": [{"id": 1, "file_name": "one.png", "height": 40, "width": 60}],
        "annotations": annotations,
        "categories": [{"id": 3, "name": "cat"}, {"id": 90, "name": "dog"}],
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "instances_val.json"
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))
    cv2.imwrite(str(folder / "one.png"), np.zeros((40, 60, 3), np.uint8))
    return path


def read(path: Path, names: dict[int, str] | None = None, images: Path | None = None) -> Any:
    return CocoReader().read(DatasetSource(origin=path, split="val", entries=(path,), names=names, images=images))


def test_polygons_keep_their_parts_and_every_digit(tmp_path: Path) -> None:
    parts = [[10.13, 10.27, 30.5, 10, 30, 30.01], [40, 5, 50, 5, 50, 12.3, 40, 12]]
    dataset = read(write(tmp_path, [annotation(segmentation=parts, area=7.5)]))
    (truth,) = dataset[0].truths
    assert [ring.ravel().tolist() for ring in truth.polygons] == parts
    assert (truth.category, truth.box, truth.area, truth.crowd, truth.id) == (0, (10, 10, 20, 20), 7.5, False, 1)
    assert (dataset.names, dataset.category_ids) == ({0: "cat", 1: "dog"}, {0: 3, 1: 90})


@pytest.mark.parametrize("counts", [[200, 100, 2100], "X6T3dQ2"], ids=["plain", "compressed"])
def test_rle_is_read_plain_and_compressed(tmp_path: Path, counts: Any) -> None:
    rle = {"size": [40, 60], "counts": counts}
    dataset = read(write(tmp_path, [annotation(segmentation=rle, iscrowd=1)]))
    (truth,) = dataset[0].truths
    assert truth.crowd
    assert truth.polygons == ()
    assert truth.rle == {"size": [40, 60], "counts": b"X6T3dQ2"}


def test_a_box_alone_has_no_mask(tmp_path: Path) -> None:
    dataset = read(write(tmp_path, [annotation(segmentation=[]), annotation(2, segmentation=...)]))
    assert [truth.has_mask for truth in dataset[0].truths] == [False, False]
    assert not dataset.problems


def test_missing_box_and_area_come_from_the_mask(tmp_path: Path) -> None:
    dataset = read(
        write(
            tmp_path,
            [
                annotation(bbox=..., area=...),
                annotation(2, bbox=[], segmentation={"size": [40, 60], "counts": [200, 100, 2100]}),
            ],
        )
    )
    first, second = dataset[0].truths
    assert (first.box, first.area) == ((10, 10, 20, 20), None)
    assert second.box == (5, 0, 3, 40)


BAD = {
    "its id is there twice": annotation(1),
    "image 9 is not among the images": annotation(2, image_id=9),
    "category 4 is not among the categories": annotation(2, category_id=4),
    "is not x, y, width, height": annotation(2, bbox=[1, 2, 3]),
    "its bbox holds NaN": annotation(2, bbox=[1, 2, float("nan"), 4]),
    "its box is empty": annotation(2, bbox=[1, 2, 0, 4]),
    "part 1: holds NaN": annotation(2, segmentation=[[1, 2, float("nan"), 4, 5, 6]]),
    "part 1: 4 numbers are no polygon": annotation(2, segmentation=[[1, 2, 3, 4]]),
    "part 2: 7 numbers": annotation(2, segmentation=[*SQUARE, [1, 2, 3, 4, 5, 6, 7]]),
    "part 1: holds something that is no number": annotation(2, segmentation=[["a", 2, 3, 4, 5, 6]]),
    "its polygon has no area": annotation(2, segmentation=[[1, 1, 5, 5, 9, 9]]),
    "its RLE does not fill 40 x 60 pixels": annotation(2, segmentation={"size": [40, 60], "counts": [5, 5]}),
    "its RLE is of 60 x 40 pixels, its picture of 40 x 60": annotation(
        2, segmentation={"size": [60, 40], "counts": [2400]}
    ),
    "its RLE is empty": annotation(2, segmentation={"size": [40, 60], "counts": [2400]}),
    "its RLE cannot be read": annotation(2, segmentation={"size": [40, 60], "counts": "\x01"}),
    "has no bbox, polygon or RLE": annotation(2, bbox=..., segmentation=[[1, 2]]),
    "is not a mapping": 7,
    "its segmentation is a str": annotation(2, segmentation="mask.png"),
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_annotation_is_named_and_only_it_is_left_out(tmp_path: Path, reason: str) -> None:
    path = write(tmp_path, [annotation(1), BAD[reason], annotation(3)])
    for dataset in (read(path), read(path)):  # from the file, and from the cache
        assert {1, 3} <= {truth.id for truth in dataset[0].truths}
        (problem,) = [line for line in dataset.problems if reason in line]
        assert problem.startswith(f"{path}: annotation {'1' if 'twice' in reason else '2'}: ")


def test_an_annotation_keeps_its_good_parts(tmp_path: Path) -> None:
    dataset = read(write(tmp_path, [annotation(segmentation=[[1, 2, 3, 4], *SQUARE])]))
    (truth,) = dataset[0].truths
    assert [ring.ravel().tolist() for ring in truth.polygons] == SQUARE
    assert len(dataset.problems) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is a list, not a COCO data set"),
        ('[{"image_id": 1, "score": 0.5}]', "holds predictions, not ground truth"),
        ('{"images": [], "annotations": []}', "has no list 'categories'"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "names no pictures"),
        ('{"images": [], "annotations": [], "categories": []}', "names no category"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "has no id or no name"),
    ],
)
def test_what_is_no_data_set_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read(path)
    assert "\n" not in error.value.message


def test_pictures_are_found_where_coco_keeps_them(tmp_path: Path) -> None:
    path = write(tmp_path / "annotations", [annotation()])
    picture = tmp_path / "images" / "val" / "one.png"
    picture.parent.mkdir(parents=True)
    (tmp_path / "annotations" / "one.png").rename(picture)
    assert read(path)[0].path == picture


def test_every_folder_tried_is_listed(tmp_path: Path) -> None:
    path = write(tmp_path / "a", [annotation()])
    (tmp_path / "a" / "one.png").unlink()
    with pytest.raises(DataError, match="are not to be found") as error:
        read(path)
    assert all(str(folder / "one.png") in error.value.hint for folder in image_folders(path))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    cv2.imwrite(str(elsewhere / "one.png"), np.zeros((40, 60, 3), np.uint8))
    assert read(path, images=elsewhere)[0].path == elsewhere / "one.png"


def test_a_missing_picture_is_named_and_left_out(tmp_path: Path) -> None:
    images = [
        {"id": 2, "file_name": "two.png", "height": 9, "width": 9},
        {"id": 1, "file_name": "one.png", "height": 40, "width": 60},
    ]
    dataset = read(write(tmp_path, [annotation(), annotation(2, image_id=2)], images=images))
    assert [(sample.id, [truth.id for truth in sample.truths]) for sample in dataset] == [(1, [1])]
    assert dataset.problems == (f"{tmp_path / 'instances_val.json'}: {tmp_path / 'two.png'}: not there",)


def test_sizes_that_the_json_leaves_out_come_from_the_pictures(tmp_path: Path) -> None:
    dataset = read(write(tmp_path, [annotation()], images=[{"id": "x", "file_name": "one.png"}]))
    assert dataset[0].shape == (40, 60)


def test_names_of_a_yaml_number_the_categories(tmp_path: Path) -> None:
    path = write(tmp_path, [annotation(), annotation(2, category_id=90)])
    dataset = read(path, names={0: "dog", 1: "bird", 2: "cat"})
    assert [truth.category for truth in dataset[0].truths] == [2, 0]
    assert (dataset.category_ids[0], dataset.category_ids[2]) == (90, 3)
    assert len(set(dataset.category_ids.values())) == 3
    with pytest.raises(DataError, match="has objects of dog"):
        read(path, names={0: "cat"})


def test_several_files_are_one_split(tmp_path: Path) -> None:
    first = write(tmp_path / "a", [annotation()])
    other = [{"id": 2, "file_name": "one.png", "height": 40, "width": 60}]
    second = write(tmp_path / "b", [annotation(7, image_id=2)], images=other)
    source = DatasetSource(origin=tmp_path / "x.yaml", split="val", entries=(first, second))
    dataset = CocoReader().read(source)
    assert [(sample.id, sample.truths[0].id) for sample in dataset] == [(1, 1), (2, 7)]
    with pytest.raises(DataError, match="share picture ids"):
        CocoReader().read(DatasetSource(origin=tmp_path, split="val", entries=(first, first)))


def test_a_changed_file_is_read_again_even_with_its_old_time(tmp_path: Path) -> None:
    import os

    path = write(tmp_path, [annotation(area=400)])
    os.utime(path, ns=(1, 1))
    assert read(path)[0].truths[0].area == 400
    assert read(path)[0].truths[0].area == 400
    path.write_text(path.read_text().replace("400", "500"))  # same length, newer time
    assert read(path)[0].truths[0].area == 500


def test_damaged_cache_is_made_anew(tmp_path: Path, own_cache: Path) -> None:
    path = write(tmp_path, [annotation()])
    read(path)
    (index,) = own_cache.rglob("*.npz")
    index.write_bytes(b"PK damaged")
    assert len(read(path)[0].truths) == 1
