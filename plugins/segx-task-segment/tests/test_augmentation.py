"""Masks, boxes and classes stay together through any chain of augmentations."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segx.structures.annotations import Annotation, Sample
from segx.structures.masks import Masks
from segx_task_segment.metrics.coco import annotations_of
from segx_task_segment.training.augment import (
    Augmentation,
    Augmented,
    LabelledImage,
    _worth_keeping,
    augment,
    copy_paste,
    jitter_colour,
)
from segx_task_segment.training.collating import batch_of, part_of, shrink
from segx_task_segment.training.instances import Instance, Polygons, from_bitmap, place
from segx_task_segment.training.loader import TrainLoader
from segx_task_segment.training.samples import LoaderSettings, polygons_of

SIZE = (96, 128)


def blob(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return a random bitmap with parts and holes."""
    field = cv2.GaussianBlur(rng.random((height, width)).astype(np.float32), (0, 0), 4)
    return (field > np.quantile(field, 0.6)).view(np.uint8)


def painted(seed: int, count: int = 4) -> LabelledImage:
    """Return an image where each object has a colour of its own: colour tells where an object went."""
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
        image[Masks.from_polygons(rings[-1:], SIZE).data[0] > 0] = (0, 0, 60 * (index + 1))
    return LabelledImage(image=image, shapes=Polygons.of(list(range(count)), rings))


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_a_bitmap_is_trained_on_as_it_is(seed):
    bitmap = blob(np.random.default_rng(seed), 40, 56)
    masks = Masks.from_bitmaps([bitmap], [[5, 7]], SIZE)
    annotation = Annotation(category=0, box=(5, 7, 56, 40), rle=dict(masks.rle[0]))
    assert_placed_are(masks, [annotation])


def assert_placed_are(masks: Masks, annotations: list[Annotation]) -> None:
    """Objects drawn into an image of their own size have exactly these masks."""
    shape = masks.frame
    sample = Sample(path=Path("a.png"), id=0, shape=shape, annotations=tuple(annotations))
    drawn = np.zeros(masks.shape, np.uint8)
    for plane, item in zip(drawn, place(polygons_of(sample, shape), shape), strict=True):
        if item is not None:
            rows, columns = item.bitmap.shape
            plane[item.top : item.top + rows, item.left : item.left + columns] = item.bitmap
    np.testing.assert_array_equal(drawn, masks.data)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_masks_that_are_trained_on_are_those_that_measure(seed):
    """Parts that overlap, lie apart, reach out of the image or enclose nothing; boxes too."""
    rng = np.random.default_rng(seed)
    annotations = [
        Annotation(
            category=0,
            box=tuple(rng.uniform(0, 50, 4).tolist()),
            polygons=tuple(
                rng.uniform(-15, 120, 2) + rng.uniform(0, 40, (int(rng.integers(3, 9)), 2))
                for _ in range(int(rng.integers(0, 4)))
            ),
        )
        for _ in range(5)
    ]
    sample = Sample(path=Path("a.png"), id=0, shape=SIZE, annotations=tuple(annotations))
    assert_placed_are(annotations_of(sample).masks, annotations)


def test_masks_that_are_trained_on_are_those_that_measure_in_real_images(real_data):
    images = real_data / "coco-mini/annotations/instances_val2017.json"
    document = json.loads(images.read_text())
    shapes = {image["id"]: (image["height"], image["width"]) for image in document["images"][:25]}
    for number, shape in shapes.items():
        annotations = [
            Annotation(
                category=0,
                box=tuple(item["bbox"]),
                polygons=tuple(np.reshape(ring, (-1, 2)) for ring in item["segmentation"]),
            )
            for item in document["annotations"]
            if item["image_id"] == number and not item["iscrowd"]
        ]
        sample = Sample(path=Path("a.png"), id=0, shape=shape, annotations=tuple(annotations))
        assert_placed_are(annotations_of(sample).masks, annotations)


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


def coloured(seed: int) -> LabelledImage:
    """Return discs that do not touch on black, those of class c in full channel c: colour tells class and place."""
    rng = np.random.default_rng([7, seed])
    height, width = SIZE
    image = np.zeros((height, width, 3), np.uint8)
    classes, rings = [], []
    for row, column in [(24, 24), (24, 64), (24, 104), (72, 24), (72, 64), (72, 104)]:
        if rng.random() < 0.3:
            continue
        angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        centre = rng.uniform(-3, 3, 2) + np.array([column, row])
        ring = (centre + rng.uniform(8, 16) * np.stack([np.cos(angles), np.sin(angles)], 1)).astype(np.float32)
        classes.append(int(rng.integers(3)))
        rings.append([ring])
        image[Masks.from_polygons([[ring]], SIZE).data[0] > 0, classes[-1]] = 255
    return LabelledImage(image=image, shapes=Polygons.of(classes, rings))


def any_chain(rng: np.random.Generator) -> Augmentation:
    """Return any geometry, with each of mosaic, mix-up, copy-paste, perspective and flips in half of the chains."""
    some = {name: float(rng.integers(2)) for name in ("mosaic", "mixup", "flipud", "fliplr")}
    return Augmentation(
        **some,
        copy_paste=rng.integers(2) * 0.7,
        perspective=rng.integers(2) * 0.001,
        degrees=rng.integers(2) * 180.0,
        shear=rng.integers(2) * 20.0,
        translate=rng.uniform(0, 0.4),
        scale=rng.uniform(0, 0.7),
        hsv_h=0.0,
        hsv_s=0.0,
        hsv_v=0.0,
    )


def drawn_of(result: Augmented, category: int) -> np.ndarray:
    """Return bool (H, W): where the masks of a class lie."""
    frame = np.zeros(result.image.shape[:2], bool)
    for item in result.objects:
        if item.category == category:
            rows, columns = item.bitmap.shape
            frame[item.top : item.top + rows, item.left : item.left + columns] |= item.bitmap > 0
    return frame


def test_masks_and_classes_lie_on_their_objects_after_any_chain():
    """In both directions: under a mask is the colour of its class, and what has that colour has a mask of it.

    Colour is what a channel has above the least one, so that the grey of padding is none; mix-up halves it.
    """
    square = np.ones((5, 5), np.uint8)
    objects = pixels = 0
    combined = set()
    for seed in range(160):
        rng = np.random.default_rng(seed)
        changes, others = any_chain(rng), iter(range(seed + 1, seed + 100))
        result = augment(coloured(seed), lambda: coloured(next(others)), size=(160, 160), settings=changes, rng=rng)  # noqa: B023 - called now
        combined.add((changes.mosaic, changes.mixup, changes.copy_paste > 0, changes.perspective > 0))
        colour = result.image.astype(int) - result.image.min(axis=-1, keepdims=True)
        for category in range(3):
            drawn, seen = drawn_of(result, category), colour[..., category] >= 50
            inner = cv2.erode(drawn.view(np.uint8), square, borderValue=0) > 0
            assert np.count_nonzero(inner & ~seen) <= 0.01 * np.count_nonzero(inner), (seed, category, changes)
            undrawn = cv2.erode((seen & ~drawn).view(np.uint8), square, borderValue=0)
            assert np.count_nonzero(undrawn) <= 4, (seed, category, changes)  # rests that are not worth keeping
            pixels += np.count_nonzero(inner)
        objects += len(result.objects)
    assert len(combined) == 16
    assert objects > 800
    assert pixels > 100_000


def flat(value: int, *, corner: int | None = None) -> LabelledImage:
    """Return an image of one grey with, where asked for, one object at its upper left, in one channel."""
    image, rings = np.full((64, 64, 3), value, np.uint8), []
    if corner is not None:
        image[4:20, 4:20, corner] = 200
        rings = [[np.array([[4, 4], [20, 4], [20, 20], [4, 20]], np.float32)]]
    return LabelledImage(image=image, shapes=Polygons.of([corner] * len(rings), rings))


def still(**changes: float) -> Augmentation:
    return Augmentation(**{**vars(Augmentation.none()), **changes})


def mixed(seed: int, first: LabelledImage, second: LabelledImage, **changes: float) -> Augmented:
    rng = np.random.default_rng(seed)
    return augment(first, lambda: second, size=(64, 64), settings=still(mixup=1.0, **changes), rng=rng)


def test_mixup_blends_by_beta_32_32():
    """Zhang et al., mixup, 2018: mean 1/2, standard deviation 1 / (2 sqrt(65)) = 0.062."""
    shares = np.array([mixed(seed, flat(200), flat(0)).image[0, 0, 0] / 200 for seed in range(400)])
    assert abs(shares.mean() - 0.5) < 0.01
    assert abs(shares.std() - 0.062) < 0.008


def test_a_mixed_image_is_the_blend_with_the_objects_of_both():
    rng = np.random.default_rng(0)
    one, two = (rng.integers(0, 256, (64, 64, 3)).astype(np.uint8) for _ in range(2))
    shapes = flat(0, corner=0).shapes, flat(0, corner=2).shapes
    result = mixed(3, LabelledImage(image=one, shapes=shapes[0]), LabelledImage(image=two, shapes=shapes[1]))
    a, b, mix = (each.astype(np.float64) for each in (one, two, result.image))
    share = ((mix - b) * (a - b)).sum() / ((a - b) ** 2).sum()
    assert 0.3 < share < 0.7
    assert np.abs(mix - (share * a + (1 - share) * b)).max() <= 1
    assert [item.category for item in result.objects] == [0, 2]


def test_both_images_of_a_mixup_are_flipped_alike():
    seen = set()
    for seed in range(40):
        result = mixed(seed, flat(0, corner=0), flat(0, corner=2), fliplr=0.5, flipud=0.5)
        (one, two) = (item.box for item in result.objects)
        assert one == two
        seen.add(one[:2])
    assert seen == {(4, 4), (44, 4), (4, 44), (44, 44)}


def jittered(colour: tuple[int, int, int], count: int, **gains: float) -> np.ndarray:
    """Return float (count, 3): hue, saturation and value that a flat image of this one comes to."""
    image = cv2.cvtColor(np.full((2, 2, 3), colour, np.uint8), cv2.COLOR_HSV2BGR)
    made = [jitter_colour(image, still(**gains), np.random.default_rng(seed)) for seed in range(count)]
    return np.array([cv2.cvtColor(each, cv2.COLOR_BGR2HSV)[0, 0] for each in made], np.float64)


def test_colour_changes_within_its_gains_and_over_all_of_them():
    hue, saturation, value = jittered((60, 100, 120), 300, hsv_h=0.2, hsv_s=0.7, hsv_v=0.4).T
    for found, middle, gain in ((hue, 60, 0.2), (saturation, 100, 0.7), (value, 120, 0.4)):
        assert middle * (1 - gain) - 4 <= found.min() <= middle * (1 - 0.9 * gain)
        assert middle * (1 + 0.9 * gain) <= found.max() <= middle * (1 + gain) + 4
        assert abs(found.mean() - middle) < 0.1 * gain * middle + 2


def test_saturation_and_value_stop_at_white():
    _, saturation, value = jittered((60, 230, 250), 200, hsv_s=0.7, hsv_v=0.4).T
    assert saturation.max() == value.max() == 255
    assert saturation.min() >= 230 * 0.3 - 4
    assert value.min() >= 250 * 0.6 - 2


def test_hue_goes_on_at_red_past_its_end():
    hue = jittered((179, 255, 255), 200, hsv_h=0.05)[:, 0]
    past = hue < 90
    assert 60 < past.sum() < 140
    assert hue[past].max() <= 179 * 1.05 - 180 + 1
    assert hue[~past].min() >= 179 * 0.95 - 1
    assert hue.max() < 180


def test_hue_goes_round_as_often_as_it_takes():
    """Also where it leaves what eight bits hold."""
    hue = jittered((170, 255, 255), 100, hsv_h=1.0)[:, 0]
    factors = np.array([np.random.default_rng(seed).uniform(-1, 1, 3)[0] for seed in range(100)]) + 1
    away = np.abs(hue - 170 * factors % 180)
    assert (170 * factors > 256).any()
    assert np.minimum(away, 180 - away).max() <= 2


def test_no_gain_leaves_colours_alone():
    image = painted(1).image
    assert jitter_colour(image, still(), np.random.default_rng(0)) is image


@pytest.mark.parametrize(
    ("size", "before", "has_mask", "kept"),
    [
        ((2.0, 30), (2, 30), True, False),
        ((2.1, 30), (2.1, 30), True, True),
        ((30, 2.0), (30, 2), True, False),
        ((300, 3.0), (300, 3), True, False),
        ((299, 3.0), (299, 3), True, True),
        ((3.0, 300), (3, 300), True, False),
        ((10, 9.9), (100, 100), True, False),
        ((10, 10.1), (100, 100), True, True),
        ((30, 33), (100, 100), False, False),
        ((30, 34), (100, 100), False, True),
    ],
)
def test_which_rests_of_objects_are_kept(size, before, has_mask, kept):
    width, height = size
    item = Instance(
        category=0, box=(0, 0, width, height), left=0, top=0, bitmap=np.ones((1, 1), np.uint8), has_mask=has_mask
    )
    assert _worth_keeping(item, np.array(before, np.float64)) is kept


@pytest.mark.parametrize("has_mask", [True, False])
def test_a_box_alone_is_dropped_where_a_mask_would_stay(has_mask):
    """A twentieth of the object is left in the image, which is moved to the left."""
    ring = np.array([[0, 20], [40, 20], [40, 60], [0, 60]], np.float32)
    image = LabelledImage(image=np.zeros((80, 80, 3), np.uint8), shapes=Polygons.of([0], [[ring]], [has_mask]))
    left = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        result = augment(image, lambda: image, size=(80, 80), settings=still(translate=0.49), rng=rng)
        left += [(item.box[2] - item.box[0]) * (item.box[3] - item.box[1]) / 1600 for item in result.objects]
    assert len(left) > 100
    assert (min(left) > 0.10) is not has_mask


def test_a_copy_hides_what_is_behind_it():
    left = Instance(category=1, box=(10, 40, 30, 60), left=10, top=40, bitmap=np.ones((20, 20), np.uint8))
    right = Instance(category=2, box=(65, 56, 85, 76), left=65, top=56, bitmap=np.ones((20, 20), np.uint8))
    image = Augmented(image=np.zeros((100, 100, 3), np.uint8), objects=(left, right))
    result = copy_paste(image, 1.0, np.random.default_rng(0))
    frame = np.zeros((100, 100), int)
    for item in result.objects:
        frame[item.top : item.top + item.bitmap.shape[0], item.left : item.left + item.bitmap.shape[1]] += item.bitmap
    assert len(result.objects) == 4
    assert frame.max() == 1


def test_the_same_generator_gives_the_same_image():
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


def collated(sample, *, overlap=True):
    images = np.empty((1, 3, *sample.image.shape[:2]), np.uint8)
    part = part_of(sample, images[0], mask_ratio=4, overlap=overlap)
    return batch_of(images, [part], ("a.jpg",), overlap=overlap)


def test_a_batch_is_rgb():
    image = np.random.default_rng(0).integers(0, 255, (32, 64, 3)).astype(np.uint8)
    batch = collated(Augmented(image=image, objects=()))
    np.testing.assert_array_equal(batch.images[0], image[..., ::-1].transpose(2, 0, 1))


def test_what_no_tile_covers_is_grey():
    image = LabelledImage(image=np.zeros((32, 64, 3), np.uint8), shapes=Polygons.of([], []))
    result = augment(image, lambda: image, size=(64, 64), settings=Augmentation.none(), rng=np.random.default_rng(0))
    assert (result.image[:15] == 114).all()
    assert (result.image[18:46] == 0).all()


@pytest.mark.parametrize("overlap", [True, False])
def test_a_batch_holds_hidden_parts_only_without_overlap(overlap):
    large = Instance(category=0, box=(0, 0, 32, 32), left=0, top=0, bitmap=np.ones((32, 32), np.uint8))
    small = Instance(category=1, box=(8, 8, 16, 16), left=8, top=8, bitmap=np.ones((8, 8), np.uint8))
    image = Augmented(image=np.zeros((64, 64, 3), np.uint8), objects=(small, large))
    batch = collated(image, overlap=overlap)
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
        annotations = tuple(
            Annotation(category=0, box=(0, 0, 1, 1), polygons=(ring,))
            for ring in np.split(painted(index).shapes.rings.xy, 4)
        )
        return Sample(path=self.folder / f"{index}.png", id=index, shape=SIZE, annotations=annotations)

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


def test_objects_outside_the_image_are_left_out():
    far = np.array([[200, 200], [220, 200], [220, 220]], np.float32)
    assert place(Polygons.of([0], [[far]]), (96, 96)) == [None]
