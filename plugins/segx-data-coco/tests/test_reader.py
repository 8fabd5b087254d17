"""COCO JSON read as it is, with every kind of thing that can be wrong with it."""

from __future__ import annotations

import copy
import json
import math
import os
import time
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from segx.errors import DataError
from segx.io import index_cache
from segx.structures.annotations import DatasetSource
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
    dataset = read(write(tmp_path, [annotation(segmentation=parts, area=7.5, bbox=[10, 5, 40, 25])]))
    (found,) = dataset[0].annotations
    assert [ring.ravel().tolist() for ring in found.polygons] == parts
    assert (found.category, found.box, found.area, found.crowd, found.id) == (0, (10, 5, 40, 25), 7.5, False, 1)
    assert (dataset.names, dataset.category_ids) == ({0: "cat", 1: "dog"}, {0: 3, 1: 90})


@pytest.mark.parametrize("counts", [[200, 100, 2100], "X6T3dQ2"], ids=["plain", "compressed"])
def test_rle_is_read_plain_and_compressed(tmp_path: Path, counts: Any) -> None:
    rle = {"size": [40, 60], "counts": counts}
    dataset = read(write(tmp_path, [annotation(segmentation=rle, iscrowd=1)]))
    (found,) = dataset[0].annotations
    assert found.crowd
    assert found.polygons == ()
    assert found.rle == {"size": [40, 60], "counts": b"X6T3dQ2"}


def test_a_box_alone_has_no_mask(tmp_path: Path) -> None:
    dataset = read(write(tmp_path, [annotation(segmentation=[]), annotation(2, segmentation=...)]))
    assert [found.has_mask for found in dataset[0].annotations] == [False, False]
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
    first, second = dataset[0].annotations
    assert (first.box, first.area) == ((10, 10, 20, 20), None)
    assert second.box == (5, 0, 3, 40)


BAD = {
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
    "its RLE is of 60 x 40 pixels, its image of 40 x 60": annotation(
        2, segmentation={"size": [60, 40], "counts": [2400]}
    ),
    "its RLE has no size": annotation(2, segmentation={"counts": [2400]}),
    "its RLE has no counts": annotation(2, segmentation={"size": [40, 60]}),
    "its RLE has the size [40], not a height and a width": annotation(2, segmentation={"size": [40], "counts": [1]}),
    "its RLE cannot be read (compressed run lengths are damaged)": annotation(
        2, segmentation={"size": [40, 60], "counts": "\u00e9"}
    ),
    "its RLE has a run longer than any image": annotation(2, segmentation={"size": [40, 60], "counts": [10**30]}),
    "its RLE is empty": annotation(2, segmentation={"size": [40, 60], "counts": [2400]}),
    "its RLE cannot be read": annotation(2, segmentation={"size": [40, 60], "counts": "\x01"}),
    "has no bbox, polygon or RLE": annotation(2, bbox=..., segmentation=[[1, 2]]),
    "is not a mapping": 7,
    "its segmentation is a str": annotation(2, segmentation="mask.png"),
    "image [1] is not among the images": annotation(2, image_id=[1]),
    "image True is not among the images": annotation(2, image_id=True),
    "category {} is not among the categories": annotation(2, category_id={}),
    "its bbox holds a number that is in no image": annotation(2, bbox=[1, 2, 10**400, 4]),
    "part 1: holds a number that is in no image": annotation(2, segmentation=[[1, 2, 1e300, 4, 5, 6]]),
    "its RLE cannot be read (counts are 5)": annotation(2, segmentation={"size": [40, 60], "counts": 5}),
    "its iscrowd 'no' is neither 0 nor 1": annotation(2, iscrowd="no"),
    "its area -1 cannot be one": annotation(2, area=-1),
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_annotation_is_named_and_only_it_is_left_out(tmp_path: Path, reason: str) -> None:
    path = write(tmp_path, [annotation(1), BAD[reason], annotation(3)])
    for dataset in (read(path), read(path)):  # from the file, and from the cache
        assert {1, 3} <= {found.id for found in dataset[0].annotations}
        reported = [*dataset.problems, *(line for _, line in dataset.notes)]
        (problem,) = [line for line in reported if reason in line]
        assert problem.startswith(f"{path}: annotation {'no. 2' if 'mapping' in reason else '2'}: ")


def test_an_annotation_keeps_its_good_parts(tmp_path: Path) -> None:
    dataset = read(write(tmp_path, [annotation(segmentation=[[1, 2, 3, 4], *SQUARE])]))
    (found,) = dataset[0].annotations
    assert [ring.ravel().tolist() for ring in found.polygons] == SQUARE
    assert (len(dataset.problems), len(dataset.notes)) == (0, 1)


def test_what_is_kept_otherwise_than_written_is_no_problem(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "one.png", "height": 0, "width": 60}]
    path = write(tmp_path, [annotation(1, area="big"), annotation(2, segmentation=[[1, 1, 5, 5]])], images=images)
    few = "4 numbers are no polygon: it takes three points or more"
    for dataset in (read(path), read(path)):
        assert [found.has_mask for found in dataset[0].annotations] == [True, False]
        assert dataset.problems == ()
        assert dataset.notes == (
            ("mended", f"{path}: image 1: height 0 and width 60 are no size: it is taken from the image"),
            ("mended", f"{path}: annotation 1: its area 'big' cannot be one: it is measured instead"),
            ("mended", f"{path}: annotation 2: part 1: {few}; the part is left out"),
        )


def test_ids_written_as_text_are_read_and_reported_of_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        [
            annotation(1, id="10", image_id="1"),
            annotation(2, id="ann-7", category_id="3"),
            annotation(3, category_id=90, image_id="1"),
            annotation(4, image_id="01"),
        ],
        categories=[{"id": "3", "name": "cat"}, {"id": "90", "name": "dog"}],
    )
    dataset = read(path)
    assert [(found.id, found.category) for found in dataset[0].annotations] == [(10, 0), (-2, 0), (3, 1)]
    assert dataset.category_ids == {0: 3, 1: 90}
    assert dataset.problems == (f"{path}: annotation 4: image '01' is not among the images",)
    assert [line for _, line in dataset.notes] == [
        f"{path}: 2 ids of categories written as text: read as numbers",
        f"{path}: 5 ids of annotations, or in them, written as text: read as numbers",
    ]
    with pytest.raises(DataError, match=r"category no\. 1 has the id 'a-b', not a number") as error:
        read(write(tmp_path, [], categories=[{"id": "a-b", "name": "cat"}]))
    assert "number the categories" in error.value.hint


def test_categories_of_one_name_stay_apart(tmp_path: Path) -> None:
    categories = [{"id": 3, "name": "cat"}, {"id": 90, "name": "cat"}]
    path = write(tmp_path, [annotation(1), annotation(2, category_id=90)], categories=categories)
    assert [found.category for found in read(path, names={0: "dog", 1: "cat", 2: "cat"})[0].annotations] == [1, 2]
    assert [found.category for found in read(path, names={0: "cat"})[0].annotations] == [0, 0]


def test_an_image_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    images = [
        {"id": 1, "file_name": "one.png", "height": 40, "width": 60},
        {"id": 2, "file_name": "pipe.png"},
    ]
    path = write(tmp_path, [annotation()], images=images)
    os.mkfifo(tmp_path / "pipe.png")
    assert read(path).problems == (f"{path}: {tmp_path / 'pipe.png'}: not there",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is a list, not a COCO data set"),
        ('[{"image_id": 1, "score": 0.5}]', "holds predictions, not ground truth"),
        ('{"images": [], "annotations": []}', "has no list 'categories'"),
        ('{"images": [], "annotations": null, "categories": []}', "'annotations' is null, not a list"),
        ('{"images": ["\udce9"], "annotations": []}', "is not UTF-8 text"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "names no images"),
        ('{"images": [], "annotations": [], "categories": []}', "names no category"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "has no id or no name"),
    ],
)
def test_what_is_no_data_set_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(DataError, match=message) as error:
        read(path)
    assert "\n" not in error.value.message


def test_images_are_found_where_coco_keeps_them(tmp_path: Path) -> None:
    path = write(tmp_path / "annotations", [annotation()])
    image = tmp_path / "images" / "val" / "one.png"
    image.parent.mkdir(parents=True)
    (tmp_path / "annotations" / "one.png").rename(image)
    assert read(path)[0].path == image


TOLD = "1 image found by the end of the name alone"


@pytest.mark.parametrize(
    "name",
    [
        "images\\one.png",
        "..\\..\\label-studio\\media\\upload\\4\\one.png",
        "images/1/one.png",
        "/home/other/data/one.png",
        "C:\\data\\one.png",
        "one%2Epng",
    ],
)
def test_names_of_other_machines_are_found_by_their_end(tmp_path: Path, name: str) -> None:
    images = [{"id": 1, "file_name": name, "height": 40, "width": 60}]
    path = write(tmp_path / "sub", [annotation()], images=images)
    for given in (None, tmp_path / "sub"):
        dataset = read(path, images=given)
        assert dataset[0].path == tmp_path / "sub" / "one.png"
        assert TOLD in dataset.notes[0][1]


def test_an_end_that_several_names_share_finds_none_of_them(tmp_path: Path) -> None:
    names = ["one.png", "a/one.png", "a/two.png", "b/two.png", "/x/three.png"]
    images = [{"id": n, "file_name": name, "height": 40, "width": 60} for n, name in enumerate(names)]
    path = write(tmp_path, [annotation(image_id=0)], images=images)
    for name in ("two.png", "three.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((40, 60, 3), np.uint8))
    dataset = read(path)
    assert [sample.path.name for sample in dataset] == ["one.png", "three.png"]
    assert len(dataset.problems) == 3


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


def test_a_missing_image_is_named_and_left_out(tmp_path: Path) -> None:
    images = [
        {"id": 2, "file_name": "two.png", "height": 9, "width": 9},
        {"id": 1, "file_name": "one.png", "height": 40, "width": 60},
    ]
    dataset = read(write(tmp_path, [annotation(), annotation(2, image_id=2)], images=images))
    assert [(sample.id, [found.id for found in sample.annotations]) for sample in dataset] == [(1, [1])]
    assert dataset.problems == (f"{tmp_path / 'instances_val.json'}: {tmp_path / 'two.png'}: not there",)


def test_sizes_that_the_json_leaves_out_come_from_the_images(tmp_path: Path) -> None:
    dataset = read(write(tmp_path, [annotation()], images=[{"id": "x", "file_name": "one.png"}]))
    assert dataset[0].shape == (40, 60)


def test_names_of_a_yaml_number_the_categories(tmp_path: Path) -> None:
    path = write(tmp_path, [annotation(), annotation(2, category_id=90)])
    dataset = read(path, names={0: "dog", 1: "bird", 2: "cat"})
    assert [found.category for found in dataset[0].annotations] == [2, 0]
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
    assert [(sample.id, sample.annotations[0].id) for sample in dataset] == [(1, 1), (2, 7)]


def test_files_that_number_images_and_classes_alike_stay_apart(tmp_path: Path) -> None:
    first = write(tmp_path / "a", [annotation()])
    swapped = [{"id": 3, "name": "dog"}, {"id": 4, "name": "emu"}]
    second = write(tmp_path / "b", [annotation(), annotation(2, category_id=4)], categories=swapped)
    dataset = CocoReader().read(DatasetSource(origin=tmp_path, split="val", entries=(first, second)))
    assert dataset.names == {0: "cat", 1: "dog", 2: "emu"}
    assert [(sample.id, [(t.id, t.category) for t in sample.annotations]) for sample in dataset] == [
        (1, [(1, 0)]),
        (2, [(3, 1), (2, 2)]),
    ]
    assert len(set(dataset.category_ids.values())) == 3
    assert "1 image id and 1 annotation id" in dataset.notes[-1][1]


def test_files_that_annotate_the_same_image_are_brought_together(tmp_path: Path) -> None:
    first = write(tmp_path, [annotation()])
    second = first.with_name("dogs.json")
    second.write_text(first.read_text().replace('"category_id": 3', '"category_id": 90'))
    (sample,) = CocoReader().read(DatasetSource(origin=tmp_path, split="val", entries=(first, second)))
    assert [found.category for found in sample.annotations] == [0, 1]


def test_an_id_of_several_images_costs_them_and_no_other(tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f, "height": 40, "width": 60} for n, f in ((1, "one.png"), (1, "two.png"))]
    images += [{"id": 2, "file_name": "three.png", "height": 40, "width": 60}] * 2
    path = write(tmp_path, [annotation(), annotation(2, image_id=2)], images=images)
    for name in ("two.png", "three.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((40, 60, 3), np.uint8))
    dataset = read(path)
    assert [(sample.path.name, len(sample.annotations)) for sample in dataset] == [("three.png", 1)]
    assert "image 1: 2 images have this id (one.png, two.png)" in dataset.problems[0]
    assert "image 2: it is there twice" in dataset.notes[0][1]


def test_a_changed_file_is_read_again_even_with_its_old_time(tmp_path: Path) -> None:
    path = write(tmp_path, [annotation(area=400)])
    os.utime(path, ns=(1, 1))
    assert read(path)[0].annotations[0].area == 400
    assert read(path)[0].annotations[0].area == 400
    path.write_text(path.read_text().replace("400", "500"))  # same length, newer time
    assert read(path)[0].annotations[0].area == 500


def test_an_edit_that_keeps_size_and_time_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_cache, "_FRESH_NS", 0)  # as if it were written long ago
    path = write(tmp_path, [annotation(area=400)])
    time.sleep(0.02)
    assert read(path)[0].annotations[0].area == 400
    state = path.stat()
    path.write_text(path.read_text().replace("400", "500"))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert read(path)[0].annotations[0].area == 500


def test_damaged_cache_is_made_anew(tmp_path: Path, own_cache: Path) -> None:
    path = write(tmp_path, [annotation()])
    read(path)
    (index,) = own_cache.rglob("*.npz")
    index.write_bytes(b"PK damaged")
    assert len(read(path)[0].annotations) == 1


@pytest.mark.parametrize("number", [10**30, 2.5, True, None, [1], ..., 1])
def test_an_annotation_without_an_id_of_its_own_gets_one(tmp_path: Path, number: Any) -> None:
    dataset = read(write(tmp_path, [annotation(1), annotation(id=number), annotation(3)]))
    assert [found.id for found in dataset[0].annotations] == [1, 4, 3]
    assert not dataset.problems
    (note,) = dataset.notes
    assert "1 annotation without an id, or with one that is there twice: numbered anew" in note[1]


def test_ids_that_are_all_zero_or_fractions_cost_nothing(tmp_path: Path) -> None:
    dataset = read(write(tmp_path, [annotation(0), annotation(0), annotation(0)]))
    assert [found.id for found in dataset[0].annotations] == [0, 1, 2]
    dataset = read(write(tmp_path, [annotation(id=2.0), annotation(id=7.0)]))
    assert [found.id for found in dataset[0].annotations] == [2, 7]
    assert "2 annotation ids written as fractions" in dataset.notes[0][1]


def test_ids_of_images_and_categories_may_be_written_as_fractions(tmp_path: Path) -> None:
    images = [{"id": 1.0, "file_name": "one.png", "height": 40, "width": 60}]
    path = write(tmp_path, [annotation(image_id=1)], images=images, categories=[{"id": 3.0, "name": "cat"}])
    (sample,) = read(path)
    assert (sample.id, len(sample.annotations)) == (1, 1)


def test_an_rle_may_lie_in_a_list(tmp_path: Path) -> None:
    dataset = read(
        write(tmp_path, [annotation(segmentation=[{"size": [40, 60], "counts": [410, 20, 1970]}], bbox=...)])
    )
    assert dataset[0].annotations[0].box == (10, 10, 1, 20)


MENDED = {
    "its box is empty": {"bbox": [0, 0, 0, 0]},
    "bbox [30, 30, -20, -20] is not that of its outline": {"bbox": [30, 30, -20, -20]},
    "its bbox holds NaN or infinity": {"bbox": [math.nan] * 4},
    "bbox [0, 50, 20, 20] is not that of its outline": {"bbox": [0, 50, 20, 20]},
    "its iscrowd '0' is text": {"iscrowd": "0"},
    "its iscrowd 7 is neither 0 nor 1": {"iscrowd": 7},
    "its area 0 cannot be one": {"area": 0},
    "its outline is written as pairs": {"segmentation": [[10, 10], [30, 10], [30, 30], [10, 30]]},
    "its outline is written as pairs: read": {"segmentation": [[[10, 10], [30, 10], [30, 30], [10, 30]]]},
    "its run lengths are fractions": {"segmentation": {"size": [40, 60], "counts": [410.0, 20.0, 1970.0]}, "bbox": ...},
}


@pytest.mark.parametrize("note", MENDED)
def test_only_the_outline_and_the_class_matter(tmp_path: Path, note: str) -> None:
    path = write(tmp_path, [annotation(**MENDED[note])])
    for dataset in (read(path), read(path)):  # from the file, and from the cache
        (found,) = dataset[0].annotations
        assert found.has_mask
        assert not found.crowd
        assert found.box == ((10, 10, 1, 20) if "fractions" in note else (10, 10, 20, 20))
        assert not dataset.problems
        assert [line for kind, line in dataset.notes if kind == "mended" and note in line]


def test_boxes_alone_are_mended_as_far_as_they_say_anything(tmp_path: Path) -> None:
    boxes = [["10", "10", "20", "20"], [30, 30, -20, -20]]
    dataset = read(write(tmp_path, [annotation(n, segmentation=[], bbox=box) for n, box in enumerate(boxes)]))
    assert [found.box for found in dataset[0].annotations] == [(10, 10, 20, 20)] * 2


def test_a_box_that_is_cut_or_rounded_stays_as_it_is_stated(tmp_path: Path) -> None:
    out = [[-60, 10, 20, 10, 20, 30, -60, 30]]
    boxes = {(0, 10, 20, 20): out, (11.5, 8, 22, 20): SQUARE}
    rows = [annotation(n, bbox=list(box), segmentation=ring) for n, (box, ring) in enumerate(boxes.items())]
    dataset = read(write(tmp_path, rows))
    assert [found.box for found in dataset[0].annotations] == list(boxes)
    assert not dataset.notes


def test_an_outline_of_equal_lobes_is_an_object(tmp_path: Path) -> None:
    dataset = read(write(tmp_path, [annotation(segmentation=[[10, 10, 30, 10, 10, 30, 30, 30]], area=...)]))
    assert len(dataset[0].annotations) == 1
    assert not dataset.problems


@pytest.mark.parametrize("size", [(10**12, 60), (40, -1), ("40", "60"), (None, 60), (1 << 20, 1 << 20)])
def test_a_size_that_is_none_is_reported_and_taken_from_the_image(tmp_path: Path, size: tuple[Any, Any]) -> None:
    image = {"id": 1, "file_name": "one.png", "height": size[0], "width": size[1]}
    dataset = read(write(tmp_path, [annotation()], images=[image]))
    assert dataset[0].shape == (40, 60)
    assert "image 1: height" in dataset.notes[0][1]


def test_an_image_of_unknown_size_that_cannot_be_read_is_named_and_left_out(tmp_path: Path) -> None:
    images = [{"id": number, "file_name": name} for number, name in enumerate(("one.png", "two.png"), start=1)]
    path = write(tmp_path, [annotation(1), annotation(2, image_id=2)], images=images)
    (tmp_path / "two.png").write_text("no image")
    dataset = read(path)
    assert [(sample.id, [found.id for found in sample.annotations]) for sample in dataset] == [(1, [1])]
    assert "two.png: the size of the image cannot be read" in dataset.problems[0]
    (tmp_path / "one.png").write_text("no image")
    with pytest.raises(DataError, match="none of its images can be read"):
        read(path)


def test_rle_that_does_not_fill_an_image_of_unknown_size_is_left_out(tmp_path: Path) -> None:
    frames = [{"size": [40, 60], "counts": [200, 100, 2100]}, {"size": [40, 61], "counts": [200, 100, 2140]}]
    annotations = [annotation(n, segmentation=frame, bbox=...) for n, frame in enumerate(frames, start=1)]
    dataset = read(write(tmp_path, annotations, images=[{"id": 1, "file_name": "one.png"}]))
    assert [(found.id, found.box) for found in dataset[0].annotations] == [(1, (5, 0, 3, 40))]
    assert "annotation 2: its RLE does not fill 40 x 60 pixels" in dataset.problems[0]


ODD = [
    *(None, True, "", "x", "a\0b", "\ud800", "y" * 5000, [], {}, -1, 1.5, math.inf, math.nan, 10**12, 10**30, 10**400),
    *(1e300, [1], [[1]], [[[1]]], [10**400] * 8, [1e300] * 8, [None] * 8, [math.nan] * 8, [[1, 2, 3, 4, 5, 6]] * 2),
    {"size": [40, 60], "counts": [2400]},
]


def places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the way to every value of a JSON."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(inner for key, item in items for inner in places(item, (*place, key)))]


def test_no_value_whatever_breaks_more_than_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put every odd value in every place: the file is refused in one line, or what it costs is told."""
    annotations = [
        annotation(1, segmentation=[*SQUARE, [1.5, 1, 3, 1, 3, 3]]),
        annotation(2, segmentation={"size": [40, 60], "counts": [200, 100, 2100]}, image_id=2, bbox=..., iscrowd=1),
        annotation(3, segmentation=..., area=...),
    ]
    images = [{"id": 1, "file_name": "one.png", "height": 40, "width": 60}, {"id": 2, "file_name": "two.png"}]
    path = write(tmp_path, annotations, images=images)
    cv2.imwrite(str(tmp_path / "two.png"), np.zeros((40, 60, 3), np.uint8))
    whole = json.loads(path.read_text())
    monkeypatch.setattr(index_cache, "store", lambda *_: None)  # a thousand files to read once
    tried = refused = reported = kept = 0
    for place in places(whole)[1:]:
        for odd in ODD:
            content = copy.deepcopy(whole)
            inner = content
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = odd
            path.write_text(json.dumps(content))
            tried += 1
            try:
                dataset = read(path)
            except DataError as error:
                refused += error.message.count("\n") == 0
                continue
            boxes = [found.box for sample in dataset for found in sample.annotations]
            assert np.isfinite(boxes).all()
            assert len(boxes) == 3 or dataset.problems or dataset.notes or (place, odd) == (("annotations",), []), (
                place,
                odd,
            )
            reported += bool(dataset.problems or dataset.notes)
            kept += not (dataset.problems or dataset.notes)
    assert refused + reported + kept == tried
    assert refused > 100
    assert reported > 500
