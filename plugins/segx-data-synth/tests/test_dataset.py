"""Drawn data sets: the same seed draws the same files, masks are exact, and nothing that is there is overwritten."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from segx.data.splits import open_dataset, read_definition
from segx.errors import DataError
from segx.structures import rle
from segx_data_synth import scene as painting
from segx_data_synth.dataset import image, write_dataset
from segx_data_synth.scene import draw_scene
from segx_data_synth.shapes import SHAPES

if TYPE_CHECKING:
    from pathlib import Path

NAMES = list(SHAPES)


def hashes(folder: Path) -> dict[str, str]:
    """Return file to hash of its content."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def holes(mask: np.ndarray[Any, Any]) -> int:
    """Return the number of holes of more than a pixel or two."""
    outlines, hierarchy = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return sum(row[3] >= 0 and cv2.contourArea(line) > 4 for line, row in zip(outlines, hierarchy[0], strict=True))


# What is written


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The YAML of a small data set."""
    return write_dataset(tmp_path_factory.mktemp("synth") / "shapes", images=4, val_images=3, imgsz=96, seed=5)


def test_the_same_seed_writes_the_same_files_however_many_processes_draw(written: Path, tmp_path: Path) -> None:
    again = write_dataset(tmp_path / "shapes", images=4, val_images=3, imgsz=96, seed=5, workers=2)
    assert hashes(again.parent) == hashes(written.parent)
    assert len(hashes(again.parent)) == 4 + 3 + 2 + 1


def test_another_seed_draws_other_images(written: Path, tmp_path: Path) -> None:
    other = write_dataset(tmp_path / "shapes", images=4, val_images=3, imgsz=96, seed=6)
    images = [
        {hash_ for name, hash_ in hashes(path.parent).items() if name.endswith(".jpg")} for path in (written, other)
    ]
    assert images[0].isdisjoint(images[1])
    assert len(images[0]) == 7, "images of one data set differ from one another, in and across splits"


def test_a_longer_data_set_begins_with_the_images_of_a_shorter_one(written: Path, tmp_path: Path) -> None:
    longer = hashes(write_dataset(tmp_path / "shapes", images=6, val_images=3, imgsz=96, seed=5).parent)
    assert all(longer[name] == own for name, own in hashes(written.parent).items() if name.startswith("images"))


@pytest.mark.parametrize(("split", "count"), [("train", 4), ("val", 3)])
def test_the_coco_reader_finds_pixel_for_pixel_what_was_drawn(written: Path, split: str, count: int) -> None:
    samples = open_dataset(written, split)
    assert len(samples) == count
    assert dict(samples.names) == dict(enumerate(NAMES))
    assert not samples.problems
    for index in range(count):
        drawn, sample = image(5, split, index, 96), samples[index]
        assert sample.shape == drawn.image.shape[:2] == cv2.imread(str(sample.path)).shape[:2]
        assert [annotation.category for annotation in sample.annotations] == [item.category for item in drawn.objects]
        for annotation, item in zip(sample.annotations, drawn.objects, strict=True):
            assert annotation.rle is not None
            bitmap, (left, top) = rle.to_bitmap(rle.counts_of(annotation.rle["counts"]), *sample.shape)
            mask = np.zeros(sample.shape, np.bool_)
            mask[top : top + bitmap.shape[0], left : left + bitmap.shape[1]] = bitmap
            assert np.array_equal(mask, item.mask)
            assert annotation.area == item.mask.sum()
            assert annotation.box == cv2.boundingRect(item.mask.view(np.uint8))


def test_the_definition_can_be_moved_with_its_folder(written: Path) -> None:
    definition = read_definition(written)
    assert definition.root == written.parent
    assert dict(definition.names or {}) == dict(enumerate(NAMES))


def test_progress_counts_the_images_of_both_splits(tmp_path: Path) -> None:
    received: list[tuple[int, int]] = []
    write_dataset(
        tmp_path / "s", images=2, val_images=1, imgsz=64, progress=lambda done, total: received.append((done, total))
    )
    assert received == [(1, 3), (2, 3), (3, 3)]


# What is refused


def test_a_folder_that_holds_something_is_left_alone(written: Path) -> None:
    before = hashes(written.parent)
    with pytest.raises(DataError, match="holds something already"):
        write_dataset(written.parent, images=1, val_images=1, imgsz=64)
    assert hashes(written.parent) == before


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(DataError, match="is a file"):
        write_dataset(tmp_path / "taken", images=1, val_images=1, imgsz=64)
    assert (tmp_path / "taken").read_text() == "mine"


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert write_dataset(tmp_path / "empty", images=1, val_images=1, imgsz=64) == tmp_path / "empty" / "empty.yaml"


def test_a_place_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        write_dataset(tmp_path / "file" / "shapes", images=1, val_images=1, imgsz=64)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(DataError, match="cannot be written"):
            write_dataset(tmp_path / "shapes", images=1, val_images=1, imgsz=64)
    finally:
        tmp_path.chmod(0o700)


def test_nothing_is_left_of_a_data_set_that_could_not_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def write(path: Path, data: bytes) -> int:
        written.append(path)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        return len(data)

    monkeypatch.setattr(type(tmp_path), "write_bytes", write)
    with pytest.raises(DataError, match="cannot be written: No space left on device"):
        write_dataset(tmp_path / "shapes", images=5, val_images=1, imgsz=64)
    assert len(written) == 3
    assert not list(tmp_path.iterdir())


# What is drawn


@pytest.mark.parametrize("seed", range(12))
def test_the_mask_of_an_object_is_where_its_colour_is_seen(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every object gets a colour of its own, no shadow and no texture; then the image itself says who is where."""
    levels = (20.0, 128.0, 235.0)
    colours: list[np.ndarray[Any, Any]] = []

    def surface(rng: np.random.Generator, place: Any, height: int, width: int, light: float) -> Any:
        number = len(colours) + 1  # the background has number 0
        colours.append(np.array([levels[number // 9], levels[number // 3 % 3], levels[number % 3]], np.float32))
        return np.broadcast_to(colours[-1], (height, width, 3))

    monkeypatch.setattr(painting, "_surface", surface)
    monkeypatch.setattr(painting, "_shadow", lambda *_: None)
    monkeypatch.setattr(painting, "_background", lambda _, h, w: np.full((h, w, 3), levels[0], np.float32))
    drawn = draw_scene(np.random.default_rng(seed), height=160, width=200)
    code = np.digitize(drawn.image.astype(np.float32), [74, 181]) @ np.array([9, 3, 1])
    owner = np.zeros(code.shape, np.uint8)
    for number, item in enumerate(drawn.objects, start=1):
        owner[item.mask] = number
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    even = [cv2.erode(each, cross) == cv2.dilate(each, cross) for each in (owner, code.astype(np.uint8))]
    settled = even[0] & even[1]  # edges are mixed colours
    assert settled.mean() > 0.8
    seen = {number: int(np.bincount(code[owner == number]).argmax()) for number in range(1, len(drawn.objects) + 1)}
    assert len(set(seen.values())) == len(seen)
    for number, colour in seen.items():
        assert (code[settled & (owner == number)] == colour).all()
        assert (code[settled & (owner != number)] != colour).all()


@pytest.mark.parametrize("seed", range(6))
def test_no_pixel_belongs_to_two_objects(seed: int) -> None:
    drawn = draw_scene(np.random.default_rng(seed), height=128, width=128)
    assert max(sum(item.mask.astype(np.int64) for item in drawn.objects).flat) == 1
    assert all(item.mask.sum() >= 24 for item in drawn.objects)


@pytest.mark.parametrize(("name", "expected"), [("ring", 1), ("gear", 1), ("ball", 0), ("star", 0), ("moon", 0)])
def test_what_has_a_hole_has_it_in_its_mask(name: str, expected: int) -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        cover, place = painting._outline(rng, NAMES.index(name), 200, 200)
        mask, (x, y, radius) = cover >= 0.5, place
        if radius > 20 and radius < min(x, y, 200 - x, 200 - y):  # large, and all of it inside
            assert holes(mask) == expected
            return
    pytest.fail("no seed drew a large one")


def test_what_lies_in_front_cuts_what_lies_behind() -> None:
    """Somewhere an object is seen in two parts, or has a hole that its kind does not have."""
    for seed in range(60):
        for item in draw_scene(np.random.default_rng(seed), height=128, width=128).objects:
            parts = cv2.connectedComponents(item.mask.view(np.uint8))[0] - 1
            if NAMES[item.category] in {"ball", "box"} and (parts > 1 or holes(item.mask)):
                return
    pytest.fail("nothing hides anything")


def test_images_are_varied() -> None:
    drawn = [image(0, "train", index, 96) for index in range(40)]
    assert {item.category for each in drawn for item in each.objects} == set(range(len(NAMES)))
    assert len({each.image.shape for each in drawn}) > 10
    assert all(max(each.image.shape) == 96 for each in drawn)
    assert min(len(each.objects) for each in drawn) <= 2
    assert max(len(each.objects) for each in drawn) >= 8
