"""Drawing beside the training: in order, in a thread, and never in its way."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from segx.flows import train_drawings
from segx.flows.train_drawings import Drawings, watched
from segx.structures.batch import TrainBatch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Images:
    """Draws by noting what it was given."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []
        self.threads: set[str] = set()
        self.hold = threading.Event()
        self.hold.set()
        self.fail: Exception | None = None

    def batch(self, batch: TrainBatch, path: Path) -> Path:
        return self._draw(path, batch.paths[0])

    def labels(self, samples: Any, path: Path) -> Path:
        return self._draw(path, list(samples))

    def curves(self, rows: Any, path: Path) -> Path:
        return self._draw(path, len(rows))

    def _draw(self, path: Path, what: Any) -> Path:
        self.hold.wait(10)
        self.threads.add(threading.current_thread().name)
        if self.fail is not None:
            raise self.fail
        self.seen.append((path.name, what))
        return path


class Loader:
    """Four batches an epoch, named by epoch and number."""

    def __len__(self) -> int:
        return 4

    def epoch(self, number: int, *, start: int = 0, closed: bool = False) -> Iterator[TrainBatch]:
        for index in range(start, 4):
            yield TrainBatch(
                images=np.zeros((1, 3, 32, 32), np.uint8),
                batch_idx=np.zeros(0, np.int64),
                classes=np.zeros(0, np.int64),
                boxes=np.zeros((0, 4), np.float32),
                masks=np.zeros((1, 8, 8), np.uint8),
                overlap=True,
                has_mask=np.zeros(0, bool),
                paths=(f"{number}.{index}{' closed' if closed else ''}",),
            )


@pytest.fixture
def images() -> Images:
    return Images()


@pytest.fixture
def drawings(images: Images, tmp_path: Path) -> Drawings:
    return Drawings(images, tmp_path)


def made(drawings: Drawings, rank: int = 0) -> Any:
    return watched(lambda **_: Loader(), lambda: drawings)(rank=rank, world=2, batch=1)


def test_the_first_batches_are_drawn_and_the_first_without_mosaic(drawings: Drawings, images: Images) -> None:
    loader = made(drawings)
    for number in range(5):
        batches = list(loader.epoch(number, closed=number >= 3))
        assert [batch.paths[0].split()[0] for batch in batches] == [f"{number}.{index}" for index in range(4)]
    drawings.close()
    assert [name for name, _ in images.seen] == [f"train_batch{number}.jpg" for number in (0, 1, 2, 12, 13, 14)]
    assert [what for _, what in images.seen][3:] == ["3.0 closed", "3.1 closed", "3.2 closed"]


def test_a_run_that_goes_on_draws_what_it_does_anew(drawings: Drawings, images: Images) -> None:
    loader = made(drawings)
    list(loader.epoch(0, start=2))
    list(loader.epoch(1))
    drawings.close()
    assert [name for name, _ in images.seen] == ["train_batch2.jpg"]


def test_other_processes_draw_nothing(drawings: Drawings) -> None:
    assert isinstance(made(drawings, rank=1), Loader)


def test_nothing_waits_for_a_drawing(drawings: Drawings, images: Images) -> None:
    images.hold.clear()
    began = time.monotonic()
    list(made(drawings).epoch(0))
    drawings.labels(range(10), range(10))
    assert drawings.done() == ()
    assert time.monotonic() - began < 1
    images.hold.set()
    finished = drawings.close()
    assert [path.name for path in finished] == [
        "train_batch0.jpg",
        "train_batch1.jpg",
        "train_batch2.jpg",
        "labels.png",
    ]
    assert threading.current_thread().name not in images.threads
    assert len(images.threads) == 1
    assert drawings.done() == (), "each is told once"


def test_a_drawing_that_fails_is_reported_once_and_stops_nothing(
    drawings: Drawings, images: Images, caplog: pytest.LogCaptureFixture
) -> None:
    images.fail = ValueError("no ink")
    list(made(drawings).epoch(0))
    assert drawings.close() == ()
    assert [record.message for record in caplog.records] == ["an image of the run could not be drawn: no ink"]


def test_curves_are_drawn_now_and_then_and_at_the_end(
    drawings: Drawings, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[dict[str, float]] = [{"epoch": 1.0}]
    drawings.curves(rows)
    monkeypatch.setattr(train_drawings, "_SECONDS", 0.0)
    drawings.curves(rows)
    rows.append({"epoch": 2.0})
    drawings.curves(rows, last=True)
    drawings.close()
    assert images.seen == [("results.png", 1), ("results.png", 2)]


def test_without_an_epoch_there_are_no_curves(drawings: Drawings, images: Images) -> None:
    drawings.curves([], last=True)
    drawings.close()
    assert images.seen == []


def test_labels_of_a_large_data_set_are_counted_in_part(
    drawings: Drawings, images: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_drawings, "_SAMPLES", 4)
    drawings.labels(range(100), range(2, 12))
    drawings.close()
    assert images.seen == [("labels.png", [2, 5, 8, 11])]


def test_a_run_that_is_stopped_does_not_wait_long(drawings: Drawings, images: Images) -> None:
    images.hold.clear()
    for number in range(5):
        drawings.batch(number, next(Loader().epoch(number)))
    began = time.monotonic()
    drawings.close(wait=False)
    assert time.monotonic() - began < 5
    images.hold.set()
