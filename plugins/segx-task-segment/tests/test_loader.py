"""What is read for training: caches, options that decide what a batch holds, images that cannot be read."""

from __future__ import annotations

import gc
import logging
import threading
import time
import tracemalloc
import weakref
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from segx.errors import DataError, UsageError
from segx.io.images import image_of
from segx.options.verbs import TrainOptions
from segx.structures.annotations import Annotation, Sample
from segx_task_segment.training import loader as loading
from segx_task_segment.training import reading
from segx_task_segment.training.augment import LabelledImage
from segx_task_segment.training.instances import Polygons, place
from segx_task_segment.training.loader import TrainLoader, make_loader, require_masks
from segx_task_segment.training.reading import DEFAULT_BYTES, DiskCache, MemoryCache, needed_bytes, read_for_training
from segx_task_segment.training.samples import Images, LoaderSettings, polygons_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from segx.structures.batch import TrainBatch

STILL = {
    **dict.fromkeys(("mosaic", "hsv_h", "hsv_s", "hsv_v", "translate", "scale", "fliplr", "mixup", "copy_paste"), 0.0),
    "workers": 0,
    "imgsz": 64,
}
"""Options that leave images as they are."""


def square(x: float, y: float, side: float) -> np.ndarray:
    return np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]], np.float64)


@dataclass
class Squares:
    """Images of several shapes, each with a red square of class 0 and, over its corner, a green one of class 2."""

    folder: Path
    sides: tuple[tuple[int, int], ...] = ((64, 64), (64, 32), (32, 64), (64, 64))
    names: dict[int, str] = field(default_factory=lambda: {0: "red", 1: "none", 2: "green"})

    def __post_init__(self) -> None:
        for number, (height, width) in enumerate(self.sides):
            image = np.full((height, width, 3), 40 * number, np.uint8)
            image[4:20, 4:20] = (0, 0, 255)
            image[16:28, 16:28] = (0, 255, 0)
            cv2.imwrite(str(self.folder / f"{number}.png"), image)

    def __len__(self) -> int:
        return len(self.sides)

    def __getitem__(self, index: int) -> Sample:
        annotations = (
            Annotation(category=0, box=(4, 4, 16, 16), polygons=(square(4, 4, 16),), id=1),
            Annotation(category=2, box=(16, 16, 12, 12), polygons=(square(16, 16, 12),), id=2),
        )
        return Sample(path=self.folder / f"{index}.png", id=index, shape=self.sides[index], annotations=annotations)

    def paths(self) -> list[Path]:
        return [self.folder / f"{index}.png" for index in range(len(self))]

    def shapes(self) -> NDArray[np.int32]:
        return np.array(self.sides, np.int32)


@pytest.fixture
def squares(tmp_path: Path) -> Squares:
    folder = tmp_path / "data"
    folder.mkdir()
    return Squares(folder)


def loader(dataset: Any, *, batch: int = 4, indices: Any = None, **options: Any) -> TrainLoader:
    chosen = TrainOptions.parse({**STILL, **options})
    return make_loader(dataset, chosen, rank=0, world=1, batch=batch, indices=indices)


def batches(dataset: Any, **options: Any) -> list[TrainBatch]:
    return list(loader(dataset, **options).epoch(0))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# Options


def test_fraction_takes_the_first_images(squares: Squares) -> None:
    (batch,) = batches(squares, indices=range(2))
    assert {path[-5:] for path in batch.paths} == {"0.png", "1.png"}


def test_classes_leaves_other_objects_out_and_their_numbers_alone(squares: Squares) -> None:
    (batch,) = batches(squares, classes=2)
    assert batch.classes.tolist() == [2] * 4


def test_single_cls_makes_all_objects_one_class(squares: Squares) -> None:
    (batch,) = batches(squares, single_cls=True)
    assert batch.classes.tolist() == [0] * 8


def test_rect_batches_images_of_like_shape_with_little_padding(squares: Squares) -> None:
    shapes = [batch.images.shape[2:] for batch in batches(squares, batch=1, rect=True, mosaic=1.0)]
    assert shapes == [(32, 64), (64, 64), (64, 64), (64, 32)]
    padding = [(batch.images == 114).all(axis=1).any() for batch in batches(squares, batch=1, rect=True)]
    assert padding == [False] * 4


def test_multi_scale_gives_each_batch_its_own_size(squares: Squares) -> None:
    def sizes(epoch: int, **options: Any) -> list[int]:
        made = loader(squares, batch=1, imgsz=128, multi_scale=0.5, **options)
        return [batch.images.shape[2] for batch in made.epoch(epoch)]

    seen = {side for epoch in range(6) for side in sizes(epoch)}
    assert len(seen) >= 3
    assert all(64 <= side <= 192 and side % 32 == 0 for side in seen)
    assert sizes(3) == sizes(3)
    assert [sizes(3, seed=5), sizes(4, seed=5)] != [sizes(3), sizes(4)]


def test_overlap_mask_false_keeps_what_is_hidden(squares: Squares) -> None:
    (hidden,) = batches(squares, mask_ratio=1, batch=1, indices=[0])
    (whole,) = batches(squares, mask_ratio=1, batch=1, indices=[0], overlap_mask=False)
    assert hidden.masks.shape == (1, 64, 64)
    assert whole.masks.shape == (2, 64, 64)
    red = int(np.flatnonzero(whole.classes == 0)[0])
    assert (hidden.masks[0] == red + 1).sum() == 16 * 16 - 4 * 4
    assert whole.masks[red].sum() == 16 * 16


def test_mask_ratio_is_the_size_of_masks(squares: Squares) -> None:
    assert [batches(squares, mask_ratio=ratio)[0].masks.shape[1:] for ratio in (1, 2, 4)] == [
        (64, 64),
        (32, 32),
        (16, 16),
    ]


def test_a_batch_has_one_size_only(squares: Squares) -> None:
    with pytest.raises(UsageError, match="rect and multi_scale do not go together"):
        loader(squares, rect=True, multi_scale=0.5)


@pytest.mark.parametrize("ratio", [3, 5, 6, 7, 12, 31])
def test_a_mask_ratio_that_does_not_fit_is_refused_before_the_first_epoch(squares: Squares, ratio: int) -> None:
    with pytest.raises(UsageError, match=f"mask_ratio={ratio} does not divide .* multiples of 32") as error:
        loader(squares, mask_ratio=ratio)
    assert error.value.hint == "use one of 1, 2, 4, 8, 16, 32"


@pytest.mark.parametrize("ratio", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("how", [{"rect": True}, {"multi_scale": 0.5}, {"imgsz": 70, "overlap_mask": False}])
def test_any_mask_ratio_that_fits_gives_whole_masks(squares: Squares, ratio: int, how: dict[str, Any]) -> None:
    for batch in batches(squares, batch=1, mask_ratio=ratio, **how):
        height, width = batch.images.shape[2:]
        assert batch.masks.shape[1:] == (height // ratio, width // ratio)
        assert height % ratio == width % ratio == 0


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(("imgsz", "sizes"), [(32, [3, 2]), (64, [3, 1])])
def test_an_image_alone_in_its_batch_gets_company_where_it_is_as_small_as_the_stride(
    squares: Squares, imgsz: int, sizes: list[int], workers: int
) -> None:
    found = [len(batch.images) for batch in batches(squares, batch=3, imgsz=imgsz, workers=workers)]
    assert found == sizes


def test_objects_without_a_mask_are_not_enough_to_train_on(squares: Squares) -> None:
    options = TrainOptions(data="boxes.yaml")
    require_masks(squares, options)
    bare = [replace(annotation, polygons=()) for annotation in squares[0].annotations]
    crowd = replace(squares[0].annotations[0], crowd=True)
    sample = replace(squares[0], annotations=(*bare, crowd))
    with pytest.raises(DataError, match=r"boxes\.yaml: no object to train on has a mask"):
        require_masks([sample], options)  # type: ignore[arg-type]  # no more of a data set is looked at


def test_closed_epochs_are_without_mosaic_mixup_and_copy_paste(squares: Squares) -> None:
    made = loader(squares, mosaic=1.0, mixup=1.0, copy_paste=1.0)
    (plain,) = batches(squares)
    (closed,) = made.epoch(0, closed=True)
    (mixed,) = made.epoch(0)
    for name in ("images", "batch_idx", "classes", "boxes", "masks"):
        assert np.array_equal(getattr(closed, name), getattr(plain, name))
    assert closed.paths == mixed.paths
    assert not np.array_equal(mixed.images, plain.images)


def test_closed_epochs_keep_the_other_changes(squares: Squares) -> None:
    (closed,) = loader(squares, mosaic=1.0, fliplr=1.0).epoch(0, closed=True)
    (plain,) = batches(squares)
    assert np.array_equal(closed.images, plain.images[..., ::-1])


# Processes and threads


def test_workers_are_no_more_than_this_process_has_cores(squares: Squares, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "cores", lambda: 6)
    options = TrainOptions.parse({**STILL, "workers": 8})
    assert make_loader(squares, options, rank=0, world=1, batch=2).settings.workers == 6
    assert make_loader(squares, options, rank=0, world=2, batch=2).settings.workers == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert make_loader(squares, options, rank=0, world=8, batch=2).settings.workers == 3
    assert make_loader(squares, options, rank=0, world=1, batch=2).settings.workers == 6
    monkeypatch.setattr(loading, "cores", lambda: 1)
    assert make_loader(squares, options, rank=0, world=8, batch=2).settings.workers == 1


def test_processes_share_what_memory_is_free(
    squares: Squares, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    needed = needed_bytes(squares.shapes(), 64)
    monkeypatch.setattr(reading, "DEFAULT_BYTES", 1)
    monkeypatch.setattr(reading, "_free_memory", lambda: 3 * needed)
    options = TrainOptions.parse({**STILL, "cache": "ram"})
    assert make_loader(squares, options, rank=0, world=2, batch=2).settings.cache_bytes == 2 * needed
    assert not caplog.records
    assert make_loader(squares, options, rank=0, world=4, batch=2).settings.cache_bytes == 1
    assert "cache=ram would take" in caplog.text


def test_threads_that_meet_a_bad_image_at_once_tell_it_once(squares: Squares, caplog: pytest.LogCaptureFixture) -> None:
    class Slow(set[int]):
        """Gives other threads time between looking and adding."""

        def __contains__(self, index: object) -> bool:
            there = super().__contains__(index)
            time.sleep(0.05)
            return there

    images = loader(squares)._samples.images
    images._bad = Slow()
    threads = [threading.Thread(target=images._leave_out, args=(0, DataError("bad"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [record.message for record in caplog.records] == ["bad; it is left out"]


# Caches


def test_objects_are_kept_no_longer_than_their_images(squares: Squares) -> None:
    images = Images(squares, range(4), LoaderSettings(imgsz=64, batch=1, cache_bytes=1))
    shapes = [weakref.ref(images[index].shapes) for index in range(4)]
    gc.collect()
    assert [each() is not None for each in shapes] == [False, False, False, True]


def test_the_limit_of_memory_counts_objects_too() -> None:
    rings = [[np.zeros((1000, 2))]]
    image = LabelledImage(image=np.zeros((1, 1, 3), np.uint8), shapes=Polygons.of([0], rings))
    assert 16000 < image.nbytes < 16200


def test_parts_that_meet_are_filled_where_they_are_only() -> None:
    parts = tuple(square(5000 + 20 * number, 3000, 30) for number in range(4))
    annotation = Annotation(category=0, box=(5000, 3000, 90, 30), polygons=parts)
    sample = Sample(path=Path("a.png"), id=0, shape=(6000, 8000), annotations=(annotation,))
    tracemalloc.start()
    (item,) = place(polygons_of(sample, sample.shape), sample.shape)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert item is not None
    assert item.box == (5000, 3000, 5090, 3030)
    assert item.area == 90 * 30
    assert peak < 1 << 20


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are decoded, in order."""
    seen: list[str] = []
    real = reading.image_of

    def image_of(sample: Sample, *, least: int) -> Any:
        seen.append(sample.path.name)
        return real(sample, least=least)

    monkeypatch.setattr(reading, "image_of", image_of)
    return seen


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("SEGX_CACHE", str(folder))
    return folder


def same(one: list[TrainBatch], two: list[TrainBatch]) -> bool:
    return all(np.array_equal(a.images, b.images) and a.paths == b.paths for a, b in zip(one, two, strict=True))


def test_cache_disk_decodes_once_for_all_runs_and_never_writes_beside_the_data(
    squares: Squares, reads: list[str], cache: Path
) -> None:
    before = contents(squares.folder)
    plain = batches(squares)
    del reads[:]
    first, second = batches(squares, cache="disk"), batches(squares, cache="disk")
    assert sorted(reads) == [f"{number}.png" for number in range(4)]
    assert same(plain, first)
    assert same(first, second)
    assert contents(squares.folder) == before
    assert len(list((cache / "images").rglob("*.npy"))) == 4


def test_cache_disk_goes_by_content(squares: Squares, reads: list[str], cache: Path) -> None:
    batches(squares, cache="disk", batch=1, indices=[0])
    cv2.imwrite(str(squares.folder / "0.png"), np.full((64, 64, 3), 200, np.uint8))
    (again,) = batches(squares, cache="disk", batch=1, indices=[0])
    assert (again.images == 200).all()
    batches(squares, cache="disk", batch=1, indices=[0], imgsz=96)
    assert len(reads) == 3


def test_a_damaged_entry_is_made_anew(squares: Squares, cache: Path) -> None:
    plain = batches(squares, cache="disk")
    for path in (cache / "images").rglob("*.npy"):
        path.write_bytes(path.read_bytes()[:100])
    assert same(plain, batches(squares, cache="disk"))
    assert same(plain, batches(squares, cache="disk"))


def test_a_full_disk_is_no_reason_to_stop(
    squares: Squares, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_args: Any, **_named: Any) -> None:
        raise OSError(28, "No space left on device")

    plain = batches(squares)
    monkeypatch.setattr(np, "save", full)
    assert same(plain, batches(squares, cache="disk"))
    assert [record.message for record in caplog.records if "No space left" in record.message][1:] == [], "told once"
    assert "going on without" in caplog.text


def test_no_room_on_the_disk_is_reported_before(
    squares: Squares, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    batches(squares, cache="disk")
    assert not (cache / "images").exists()
    assert "cache=disk may take" in caplog.text


def test_cache_ram_keeps_all_and_says_when_that_is_too_much(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reading, "_free_memory", lambda: 100 << 30)
    assert reading.memory_limit(10 << 30) >= 10 << 30
    assert not caplog.records
    monkeypatch.setattr(reading, "_free_memory", lambda: 5 << 30)
    assert reading.memory_limit(10 << 30) == DEFAULT_BYTES
    assert "cache=ram would take 10.7 GB of 5.4 GB" in caplog.text


def test_needed_bytes_is_what_images_take(squares: Squares) -> None:
    taken = sum(read_for_training(squares[index], 64).nbytes for index in range(4))
    assert needed_bytes(squares.shapes(), 64) == taken


def test_the_memory_cache_stays_within_its_limit() -> None:
    memory = MemoryCache(250)
    for index in range(4):
        memory.put(index, np.zeros(100, np.uint8))
        assert memory.get(0) is not None or index > 1
    assert [memory.get(index) is not None for index in range(4)] == [True, False, False, True]


def test_a_run_reads_each_image_once(squares: Squares, reads: list[str]) -> None:
    made = loader(squares)
    for epoch in range(3):
        list(made.epoch(epoch))
    assert len(reads) == 4


# What cannot be read


def test_images_that_cannot_be_read_are_left_out_and_reported_once(
    squares: Squares, caplog: pytest.LogCaptureFixture
) -> None:
    (squares.folder / "0.png").unlink()
    (squares.folder / "1.png").write_bytes((squares.folder / "1.png").read_bytes()[:60])
    made = loader(squares, workers=2)
    for epoch in range(2):
        (batch,) = made.epoch(epoch)
        assert batch.images.shape[0] == 4
    reported = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert sorted(message.partition(": ")[2] for message in reported) == [
        "No such file or directory; it is left out",
        "image file is truncated; it is left out",
    ]


def test_no_image_at_all_is_an_error(squares: Squares) -> None:
    for path in squares.paths():
        path.unlink()
    with pytest.raises(DataError, match="none of the training images can be read"):
        batches(squares)


def test_an_image_of_another_size_than_its_labels_is_left_out(
    squares: Squares, caplog: pytest.LogCaptureFixture
) -> None:
    cv2.imwrite(str(squares.folder / "0.png"), np.zeros((20, 90, 3), np.uint8))
    batches(squares)
    assert "0.png: it is 20x90, its ground truth is for 64x64; it is left out" in caplog.text


@pytest.mark.parametrize("turned", [False, True])
def test_labels_may_be_for_the_image_before_or_after_it_is_turned(tmp_path: Path, *, turned: bool) -> None:
    from PIL import Image

    image = np.zeros((40, 80, 3), np.uint8)
    image[:, :20] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned to the right
    Image.fromarray(image).save(tmp_path / "0.jpg", exif=exif, quality=100)
    shape = (80, 40) if turned else (40, 80)
    sample = Sample(path=tmp_path / "0.jpg", id=0, shape=shape, annotations=())
    read = read_for_training(sample, 80)
    assert read.shape[:2] == shape
    assert (read[:10].mean() > 200) == turned
    assert (read[:, :10].mean() > 200) != turned


def test_training_takes_the_images_that_validation_takes(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 20 * 30).reshape(20, 30).astype(np.float32)
    cv2.imwrite(str(tmp_path / "float.tiff"), ramp)
    path = tmp_path / "ümläut 图.png"
    path.write_bytes(cv2.imencode(".png", (ramp * 65535).astype(np.uint16))[1].tobytes())
    for file in (tmp_path / "float.tiff", path):
        sample = Sample(path=file, id=0, shape=(20, 30), annotations=())
        read = read_for_training(sample, 30)
        np.testing.assert_array_equal(read, image_of(sample))
        assert np.abs(read[..., 0] - 255 * ramp).max() < 1


def test_half_a_jpeg_is_left_out(tmp_path: Path) -> None:
    data = cv2.imencode(".jpg", np.random.default_rng(0).integers(0, 255, (300, 400, 3)).astype(np.uint8))[1].tobytes()
    (tmp_path / "0.jpg").write_bytes(data[: len(data) // 2])
    sample = Sample(path=tmp_path / "0.jpg", id=0, shape=(300, 400), annotations=())
    for imgsz in (64, 400):
        with pytest.raises(DataError, match=r"0\.jpg: .*truncated"):
            read_for_training(sample, imgsz)


@pytest.mark.parametrize("imgsz", [16, 32, 64, 100])
def test_large_images_are_read_small(tmp_path: Path, imgsz: int) -> None:
    ramp = np.tile(np.linspace(0, 255, 400).astype(np.uint8)[None, :, None], (301, 1, 3))
    cv2.imwrite(str(tmp_path / "0.jpg"), ramp)
    sample = Sample(path=tmp_path / "0.jpg", id=0, shape=(301, 400), annotations=())
    read = read_for_training(sample, imgsz)
    assert read.shape == (round(301 * imgsz / 400), imgsz, 3)
    assert abs(read.mean() - 127.5) < 2


def test_the_disk_cache_reads_what_it_wrote(tmp_path: Path, cache: Path) -> None:
    cv2.imwrite(str(tmp_path / "0.png"), np.arange(3 * 8 * 8, dtype=np.uint8).reshape(8, 8, 3))
    sample = Sample(path=tmp_path / "0.png", id=0, shape=(8, 8), annotations=())
    one, two = DiskCache(8).read(sample), DiskCache(8).read(sample)
    assert np.array_equal(one, two)
