"""Masks, boxes and classes stay together through any chain of augmentations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segx.interfaces import Sample, Truth
from segx_task_segment.training.augment import Augmentation, Augmented, Picture, augment, copy_paste
from segx_task_segment.training.instances import Placed, Shapes, fill, from_bitmap, place, trace
from segx_task_segment.training.loader import LoaderSettings, TrainLoader, collate, shrink

if TYPE_CHECKING:
    from pathlib import Path

SIZE = (96, 128)


def blob(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return a random bitmap with parts and holes."""
    field = cv2.GaussianBlur(rng.random((height, width)).astype(np.float32), (0, 0), 4)
    return (field > np.quantile(field, 0.6)).view(np.uint8)


def painted(seed: int, count: int = 4) -> Picture:
    """Return a picture where each object has a colour of its own: colour tells where an object went."""
    rng = np.random.default_rng(seed)
    height, width = SIZE
    image = np.zeros((height, width, 3), np.uint8)
    rings = []
    for index in range(count):
        centre = rng.uniform((20, 20), (width - 20, height - 20))
        ring = centre + rng.uniform(10, 18) * np.stack(
            [np.cos(np.linspace(0, 6.28, 24, endpoint=False)), np.sin(np.linspace(0, 6.28, 24, endpoint=False))], 1
        )
        rings.append([ring.astype(np.float32)])
        image[fill(rings[-1], 0, 0, width, height) > 0] = (0, 0, 60 * (index + 1))
    return Picture(image=image, shapes=Shapes.from_rings(list(range(count)), rings))


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_tracing_and_filling_gives_the_same_pixels(seed):
    bitmap = blob(np.random.default_rng(seed), 40, 56)
    again = fill(trace(bitmap, 5, 7), 5, 7, 56, 40)
    assert np.count_nonzero(again != bitmap) <= 0.01 * bitmap.size


def test_filling_keeps_holes_and_parts():
    outer = np.array([[2, 2], [22, 2], [22, 22], [2, 22]], np.float32)
    hole = np.array([[8, 8], [16, 8], [16, 16], [8, 16]], np.float32)
    part = np.array([[25, 2], [30, 2], [30, 10], [25, 10]], np.float32)
    bitmap = fill([outer, hole, part], 0, 0, 32, 24)
    assert bitmap.sum() == 20 * 20 - 8 * 8 + 5 * 8
    assert bitmap[12, 12] == 0
    assert bitmap[5, 27] == 1


chains = st.builds(
    Augmentation,
    hsv_h=st.just(0.0),
    hsv_s=st.just(0.0),
    hsv_v=st.just(0.0),
    degrees=st.floats(0, 180),
    translate=st.floats(0, 0.5),
    scale=st.floats(0, 0.8),
    shear=st.floats(0, 20),
    perspective=st.floats(0, 0.001),
    flipud=st.sampled_from([0.0, 0.5, 1.0]),
    fliplr=st.sampled_from([0.0, 0.5, 1.0]),
    mosaic=st.sampled_from([0.0, 1.0]),
    copy_paste=st.sampled_from([0.0, 0.7]),
)


@given(seed=st.integers(0, 10_000), changes=chains)
@settings(max_examples=60, deadline=None)
def test_boxes_enclose_masks_after_any_chain(seed, changes):
    rng = np.random.default_rng(seed)
    others = iter(range(seed + 1, seed + 100))
    result = augment(painted(seed), lambda: painted(next(others)), size=(160, 160), settings=changes, rng=rng)
    assert result.image.shape == (160, 160, 3)
    for item in result.objects:
        x1, y1, x2, y2 = item.box
        x, y, width, height = cv2.boundingRect(item.bitmap)
        assert width
        assert height
        assert 0 <= x1 < x2 <= 160
        assert 0 <= y1 < y2 <= 160
        np.testing.assert_allclose(
            [x1, y1, x2, y2],
            [item.left + x, item.top + y, item.left + x + width, item.top + y + height],
            atol=1.51,
        )


@given(seed=st.integers(0, 10_000), changes=chains)
@settings(max_examples=60, deadline=None)
def test_masks_lie_on_their_objects_after_any_chain(seed, changes):
    """Each object has its own colour, so the picture under a mask says whether it is the right one."""
    changes = Augmentation(**{**vars(changes), "copy_paste": 0.0, "mosaic": 0.0})
    result = augment(
        painted(seed, 1), lambda: painted(0), size=(160, 160), settings=changes, rng=np.random.default_rng(seed)
    )
    red = result.image[..., 2].astype(int)
    coloured = (red > 30) & (result.image[..., 0] < 30)
    drawn = np.zeros((160, 160), bool)
    for item in result.objects:
        drawn[item.top : item.top + item.bitmap.shape[0], item.left : item.left + item.bitmap.shape[1]] |= (
            item.bitmap > 0
        )
    if result.objects:
        both, either = np.count_nonzero(coloured & drawn), np.count_nonzero(coloured | drawn)
        border = cv2.Canny(drawn.view(np.uint8) * 255, 50, 150).astype(bool).sum()
        assert either - both <= 1.5 * border + 4


def test_a_copy_hides_what_is_behind_it():
    left = Placed(category=1, box=(10, 40, 30, 60), left=10, top=40, bitmap=np.ones((20, 20), np.uint8))
    right = Placed(category=2, box=(65, 56, 85, 76), left=65, top=56, bitmap=np.ones((20, 20), np.uint8))
    picture = Augmented(image=np.zeros((100, 100, 3), np.uint8), objects=(left, right))
    result = copy_paste(picture, 1.0, np.random.default_rng(0))
    frame = np.zeros((100, 100), int)
    for item in result.objects:
        frame[item.top : item.top + item.bitmap.shape[0], item.left : item.left + item.bitmap.shape[1]] += item.bitmap
    assert len(result.objects) == 4
    assert frame.max() == 1


def test_the_same_generator_gives_the_same_picture():
    def once() -> Augmented:
        others = iter(range(1, 10))
        return augment(
            painted(0),
            lambda: painted(next(others)),
            size=(96, 96),
            settings=Augmentation(mixup=1.0, copy_paste=0.5),
            rng=np.random.default_rng(5),
        )

    first, second = once(), once()
    np.testing.assert_array_equal(first.image, second.image)
    assert [item.box for item in first.objects] == [item.box for item in second.objects]


@given(left=st.integers(0, 20), top=st.integers(0, 20), seed=st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_small_masks_are_the_majority_of_their_pixels(left, top, seed):
    bitmap = blob(np.random.default_rng(seed), 40, 40)
    item = from_bitmap(bitmap, left, top, 0)
    frame = np.zeros((64, 64), np.uint8)
    frame[top : top + 40, left : left + 40] = bitmap
    expected = frame.reshape(16, 4, 16, 4).mean(axis=(1, 3)) >= 0.5
    small, row, column = shrink(item, (16, 16), 4)
    mine = np.zeros((16, 16), bool)
    mine[row : row + small.shape[0], column : column + small.shape[1]] = small > 0
    np.testing.assert_array_equal(mine, expected)


def test_a_batch_is_rgb():
    image = np.random.default_rng(0).integers(0, 255, (32, 64, 3)).astype(np.uint8)
    batch = collate([Augmented(image=image, objects=())], ("a.jpg",))
    np.testing.assert_array_equal(batch.images[0], image[..., ::-1].transpose(2, 0, 1))


def test_what_no_tile_covers_is_grey():
    picture = Picture(image=np.zeros((32, 64, 3), np.uint8), shapes=Shapes.empty())
    result = augment(
        picture, lambda: picture, size=(64, 64), settings=Augmentation.none(), rng=np.random.default_rng(0)
    )
    assert (result.image[:15] == 114).all()
    assert (result.image[18:46] == 0).all()


@pytest.mark.parametrize("overlap", [True, False])
def test_a_batch_holds_hidden_parts_only_without_overlap(overlap):
    large = Placed(category=0, box=(0, 0, 32, 32), left=0, top=0, bitmap=np.ones((32, 32), np.uint8))
    small = Placed(category=1, box=(8, 8, 16, 16), left=8, top=8, bitmap=np.ones((8, 8), np.uint8))
    picture = Augmented(image=np.zeros((64, 64, 3), np.uint8), objects=(small, large))
    batch = collate([picture], ("a.jpg",), mask_ratio=4, overlap=overlap)
    assert batch.classes.tolist() == [0, 1]
    if overlap:
        assert np.count_nonzero(batch.masks == 1) == 8 * 8 - 2 * 2
        assert np.count_nonzero(batch.masks == 2) == 2 * 2
    else:
        assert batch.masks.sum(axis=(1, 2)).tolist() == [64, 4]
    np.testing.assert_allclose(batch.boxes[1], [12 / 64, 12 / 64, 8 / 64, 8 / 64])


@dataclass
class Drawn:
    """A data set of drawn files."""

    folder: Path
    count: int

    names: ClassVar = {0: "thing"}
    category_ids: ClassVar = {0: 1}
    problems = ()
    fingerprint = ""

    def __post_init__(self) -> None:
        for index in range(self.count):
            cv2.imwrite(str(self.folder / f"{index}.png"), painted(index).image)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        truths = tuple(
            Truth(category=0, box=(0, 0, 1, 1), polygons=(painted(index).shapes.rings(k)[0].astype(np.float64),))
            for k in range(4)
        )
        return Sample(path=self.folder / f"{index}.png", id=index, shape=SIZE, truths=truths)

    def __iter__(self):
        return (self[index] for index in range(self.count))

    def paths(self):
        return [self.folder / f"{index}.png" for index in range(self.count)]

    def shapes(self):
        return np.array([SIZE] * self.count, np.int32)


def same(first, second) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(vars(first).values(), vars(second).values(), strict=True))


def test_any_batch_can_be_made_without_those_before_it(tmp_path):
    dataset = Drawn(tmp_path, 10)
    loader = TrainLoader(dataset, LoaderSettings(imgsz=64, batch=3, multi_scale=0.5))
    whole = list(loader.epoch(2))
    rest = list(TrainLoader(dataset, LoaderSettings(imgsz=64, batch=3, multi_scale=0.5)).epoch(2, start=2))
    assert len(whole) == len(loader) == 4
    assert all(same(a, b) for a, b in zip(whole[2:], rest, strict=True))
    assert not same(whole[0], next(iter(loader.epoch(3))))


def test_threads_give_the_same_batches(tmp_path):
    dataset = Drawn(tmp_path, 8)
    alone = list(TrainLoader(dataset, LoaderSettings(imgsz=64, batch=3)).epoch(0))
    helped = list(TrainLoader(dataset, LoaderSettings(imgsz=64, batch=3, workers=3)).epoch(0))
    assert all(same(a, b) for a, b in zip(alone, helped, strict=True))


def test_another_seed_gives_other_batches(tmp_path):
    dataset = Drawn(tmp_path, 6)
    one = next(TrainLoader(dataset, LoaderSettings(imgsz=64, batch=6, seed=1)).epoch(0))
    two = next(TrainLoader(dataset, LoaderSettings(imgsz=64, batch=6, seed=2)).epoch(0))
    assert not np.array_equal(one.images, two.images)


def test_processes_share_an_epoch(tmp_path):
    dataset = Drawn(tmp_path, 7)
    parts = [
        [
            path
            for batch in TrainLoader(dataset, LoaderSettings(imgsz=64, batch=2, rank=r, world=2)).epoch(0)
            for path in batch.paths
        ]
        for r in range(2)
    ]
    assert len(parts[0]) == len(parts[1]) == 4
    assert len(set(parts[0]) | set(parts[1])) == 7


def test_objects_outside_the_picture_are_left_out():
    far = np.array([[200, 200], [220, 200], [220, 220]], np.float32)
    assert place(Shapes.from_rings([0], [[far]]), (96, 96)) == [None]
