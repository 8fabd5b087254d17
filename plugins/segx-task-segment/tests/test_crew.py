"""Processes that prepare images: the same batches, whoever makes them, and nothing left behind however they end."""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from segx.errors import DataError, ModelError
from segx.runtime.memory import SharedMemory
from segx.structures.annotations import AnnotationTable, TableDataset
from segx_task_segment.training.augment import LabelledImage
from segx_task_segment.training.instances import Polygons
from segx_task_segment.training.loader import TrainLoader
from segx_task_segment.training.reading import SharedCache
from segx_task_segment.training.samples import LoaderSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from segx.structures.batch import TrainBatch

pytestmark = pytest.mark.skipif(os.name != "posix", reason="open files are not handed over")

COUNT, SIDE = 11, 64


def drawn(folder: Path, count: int = COUNT) -> TableDataset:
    """Write images with three squares each, one of them in two parts."""
    rng = np.random.default_rng(3)
    corners = rng.uniform(2, 30, (count * 4, 1, 2))
    xy = (corners + np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * rng.uniform(8, 30, (count * 4, 1, 1))).reshape(-1, 2)
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        small = rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)
        cv2.imwrite(str(folder / f"{index}.png"), cv2.resize(small, (SIDE, SIDE - index)))
    objects = 3 * count
    table = AnnotationTable(
        offsets=np.arange(0, objects + 1, 3),
        category=(np.arange(objects) % 2).astype(np.int32),
        crowd=np.zeros(objects, bool),
        area=np.full(objects, np.nan),
        id=np.arange(objects),
        box=np.full((objects, 4), 10.0),
        parts=np.sort(np.concatenate([np.arange(0, 4 * count, 4) + step for step in (0, 1, 2)] + [[4 * count]])),
        points=np.arange(0, 16 * count + 1, 4),
        xy=xy,
        runs=np.zeros(objects + 1, np.int64),
        counts=np.zeros(0, np.uint8),
    )
    return TableDataset(
        files=[folder / f"{index}.png" for index in range(count)],
        ids=list(range(count)),
        sizes=np.array([(SIDE - index, SIDE) for index in range(count)], np.int32),
        table=table,
        names={0: "even", 1: "odd"},
        category_ids={0: 0, 1: 1},
    )


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., TrainLoader]]:
    """Makes loaders of two processes, and ends them."""
    made: list[TrainLoader] = []
    dataset = drawn(tmp_path / "data")

    def loader(**settings: Any) -> TrainLoader:
        chosen: dict[str, Any] = {"imgsz": SIDE, "batch": 4, "workers": 2, "processes": True, **settings}
        made.append(TrainLoader(dataset, LoaderSettings(**chosen)))
        return made[-1]

    yield loader
    for each in made:
        each.close()


def pids(loader: TrainLoader) -> list[int]:
    assert loader._crew is not None, "processes are at work"
    return [child._process.pid for child in loader._crew._children]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def equal(one: list[TrainBatch], two: list[TrainBatch]) -> bool:
    assert len(one) == len(two)
    pairs = [
        pair for a, b in zip(one, two, strict=True) for pair in zip(vars(a).values(), vars(b).values(), strict=True)
    ]
    return all(np.array_equal(a, b) and getattr(a, "dtype", 0) == getattr(b, "dtype", 0) for a, b in pairs)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"workers": 3, "batch": 2},
        {"overlap": False, "mask_ratio": 1},
        {"multi_scale": 0.5},
        {"rect": True},
        {"cache_bytes": 1},
        {"cache_bytes": 6 * (3 * SIDE**2 + (1 << 16)), "batch": 1},
    ],
    ids=["plain", "three", "own masks", "multi_scale", "rect", "no cache", "small cache"],
)
def test_processes_make_the_same_batches_as_nobody(make: Callable[..., TrainLoader], settings: dict[str, Any]) -> None:
    apart, alone = make(**settings), make(**{**settings, "workers": 0})
    for epoch, how in [(0, {}), (1, {}), (1, {"start": 1}), (2, {"closed": True})]:
        assert equal(list(apart.epoch(epoch, **how)), list(alone.epoch(epoch, **how)))
    assert len(pids(apart)) == settings.get("workers", 2)


def test_masks_for_which_there_is_no_room_arrive_too(
    make: Callable[..., TrainLoader], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """All four images of a mosaic are the same one with many objects: their masks are larger than the room for them."""
    one = drawn(tmp_path / "one", 1)
    many = np.tile(np.arange(1), 600)
    table = one.table.in_order(many, np.array([0, 600]))
    settings = {"imgsz": SIDE, "batch": 2, "overlap": False, "mask_ratio": 1}
    dataset = TableDataset(**{**vars(one), "table": table})
    apart = TrainLoader(dataset, LoaderSettings(**settings, workers=1, processes=True))
    (batch,), (alone,) = list(apart.epoch(0)), list(TrainLoader(dataset, LoaderSettings(**settings)).epoch(0))
    assert batch.masks.nbytes > 64 * SIDE**2 + (1 << 16)
    assert equal([batch], [alone])
    apart.close()


def test_an_epoch_that_is_given_up_leaves_nothing_in_the_next(make: Callable[..., TrainLoader]) -> None:
    apart, alone = make(batch=1), make(batch=1, workers=0)
    for _ in range(4):
        epoch = apart.epoch(0)
        next(epoch)
        epoch.close()  # type: ignore[attr-defined]  # it is a generator
    assert equal(list(apart.epoch(1)), list(alone.epoch(1)))


def test_batches_in_use_lie_where_they_were_made_and_are_copied_beyond_two(make: Callable[..., TrainLoader]) -> None:
    apart = make(batch=1)
    held = list(apart.epoch(0))
    assert apart._crew is not None
    assert [batch.images.base is not None for batch in held] == [True, True] + [False] * (COUNT - 2)
    assert equal(held, list(make(batch=1, workers=0).epoch(0)))
    assert len(list(apart.epoch(1))) == COUNT, "there is room while they are held"
    del held
    gc.collect()
    assert sorted(apart._crew._free) == list(range(len(apart._crew._slots)))


# Ends


def begun(make: Callable[..., TrainLoader]) -> tuple[TrainLoader, Any]:
    """Return a loader in the middle of an epoch, and the epoch."""
    apart = make(batch=1)
    epoch = apart.epoch(0)
    next(epoch)
    return apart, epoch


def test_a_killed_process_ends_the_epoch_and_the_others(make: Callable[..., TrainLoader]) -> None:
    apart, epoch = begun(make)
    first, second = pids(apart)
    os.kill(second, signal.SIGKILL)
    with pytest.raises(ModelError, match="process 2 of 2 that prepares images was ended by SIGKILL"):
        list(epoch)
    assert not alive(first)
    assert len(list(apart.epoch(1))) == COUNT, "others are started"


def test_whatever_stops_the_program_ends_a_process_that_does_not_answer(make: Callable[..., TrainLoader]) -> None:
    apart, epoch = begun(make)
    first, second = pids(apart)
    os.kill(second, signal.SIGSTOP)
    with pytest.raises(KeyboardInterrupt):
        epoch.throw(KeyboardInterrupt)
    assert apart._crew.closed
    assert not alive(first)
    assert not alive(second)


def test_ctrl_c_while_the_rest_of_an_epoch_is_waited_for_ends_it_too(
    make: Callable[..., TrainLoader], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    apart, epoch = begun(make)
    first, second = pids(apart)
    os.kill(second, signal.SIGSTOP)
    crew = apart._crew
    monkeypatch.setattr(crew, "_messages", SimpleNamespace(get=interrupted))
    with pytest.raises(KeyboardInterrupt):
        epoch.close()
    assert crew.closed
    assert not alive(first)
    assert not alive(second)


def test_what_fails_there_fails_here(make: Callable[..., TrainLoader], tmp_path: Path) -> None:
    apart, alone = make(), make(workers=0)
    for path in (tmp_path / "data").iterdir():
        path.unlink()
    with pytest.raises(DataError) as here:
        list(alone.epoch(0))
    with pytest.raises(DataError) as there:
        list(apart.epoch(0))
    assert (str(here.value), here.value.hint) == (str(there.value), there.value.hint)


def test_what_cannot_be_read_is_reported_once(
    make: Callable[..., TrainLoader], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "data" / "3.png").write_bytes(b"\x89PNG")
    apart, alone = make(), make(workers=0)
    assert equal([*apart.epoch(0), *apart.epoch(1)], [*alone.epoch(0), *alone.epoch(1)])
    mine, theirs = [record for record in caplog.records if "it is left out" in record.message]
    assert mine.message == theirs.message
    assert "3.png" in mine.message


def test_a_loader_that_is_dropped_ends_its_processes(make: Callable[..., TrainLoader], tmp_path: Path) -> None:
    apart = TrainLoader(drawn(tmp_path / "own"), make().settings)
    list(apart.epoch(0))
    running = pids(apart)
    del apart
    gc.collect()
    assert not any(map(alive, running))


def test_a_data_set_that_no_other_process_knows_is_prepared_by_threads(
    tmp_path: Path, make: Callable[..., TrainLoader], caplog: pytest.LogCaptureFixture
) -> None:
    class Own(TableDataset, eq=False):
        """A class of nowhere."""

    caplog.set_level(logging.INFO, "segx.train")
    apart = TrainLoader(Own(**vars(drawn(tmp_path / "own"))), make().settings)
    assert len(list(apart.epoch(0))) == len(list(apart.epoch(1))) == 3
    assert apart._crew is None
    assert caplog.text.count("images are prepared by threads, not by processes: Own cannot be handed") == 1


SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
print("script", flush=True)
import test_crew
from pathlib import Path
loader = test_crew.TrainLoader(
    test_crew.drawn(Path({folder!r})),
    test_crew.LoaderSettings(imgsz=64, batch=4, workers=2, processes=True),
)
for batch in loader.epoch(0):
    print(*test_crew.pids(loader), flush=True)
    {end}
print("done", flush=True)
"""


@pytest.mark.parametrize("end", ["", "sys.stdin.read()"])
def test_a_script_needs_no_guard_and_its_processes_end_with_it(tmp_path: Path, end: str) -> None:
    """They import nothing of the script's; when it is killed they hear of it."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(SCRIPT).format(tests=str(Path(__file__).parent), folder=str(tmp_path / "d"), end=end)
    )
    before = {path.name for path in Path("/dev/shm").iterdir()} if Path("/dev/shm").exists() else set()
    words = [sys.executable, str(script)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "script\n"
        running = [int(pid) for pid in process.stdout.readline().split()]
        assert len(running) == 2
        if end:
            assert all(map(alive, running))
            process.kill()
        rest = process.stdout.read()
    assert "script" not in rest
    assert ("done" in rest) is not bool(end)
    wait_for(lambda: not any(map(alive, running)))
    if Path("/dev/shm").exists():
        left = {path.name for path in Path("/dev/shm").iterdir()} - before
        assert not [name for name in left if "segx" in name]


# What was read


def test_processes_share_what_they_have_read(make: Callable[..., TrainLoader], tmp_path: Path) -> None:
    apart, alone = make(), make(workers=0)
    for epoch in range(4):
        list(apart.epoch(epoch))
    expected = list(alone.epoch(4))
    for path in (tmp_path / "data").iterdir():
        path.unlink()
    assert equal(list(apart.epoch(4)), expected)


def image(value: int, side: int = 8) -> LabelledImage:
    ring = np.array([[0.0, 0], [4, 0], [4, value]])
    return LabelledImage(image=np.full((side, side, 3), value, np.uint8), shapes=Polygons.of([value], [[ring]]))


OTHER = """
import sys
from test_crew import SharedCache, SharedMemory, image
cache = SharedCache(SharedMemory.inherited(int(sys.argv[1])), places=2, room=4096)
got = cache.get(0)
print(got and int(got.image[0, 0, 0]), got and got.shapes.classes.tolist(), flush=True)
cache.put(0, image(9))
cache.put(1, image(7))
sys.stdin.read()
"""


def test_images_are_shared_and_left_alone_while_somebody_looks_at_them() -> None:
    memory = SharedMemory.new()
    mine = SharedCache(memory, places=2, room=4096)
    assert mine.get(0) is None
    mine.put(0, image(5))
    got = mine.get(0)
    assert got is not None
    assert not got.image.flags.writeable
    words = [sys.executable, "-c", OTHER, str(memory.place)]
    with subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[int(memory.place)],
        cwd=Path(__file__).parent,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "5 [5]\n", "the other one sees it"
        wait_for(lambda: mine.get(1) is not None)
        assert (got.image == 5).all(), "it could not be written over"
        mine.put(0, image(6))
        assert (got.image == 5).all(), "nor by ourselves"
        mine.release()
        mine.put(0, image(6))
        process.communicate()
    five, seven = mine.get(0), mine.get(1)
    assert five is not None
    assert seven is not None
    assert (five.image == 5).all(), "the other one still looked at it"
    assert (seven.image == 7).all()
    mine.release()
    mine.put(0, image(6))
    six = mine.get(0)
    assert six is not None
    assert (six.image == 6).all()


def test_places_go_by_the_order_where_there_are_few() -> None:
    cache = SharedCache(SharedMemory.new(), places=3, room=4096)
    order = [4, 2, 0, 1, 3]
    cache.arrange(order)
    for position in order[:3]:
        cache.put(position, image(position))
    assert [cache.get(position) is not None for position in order] == [True] * 3 + [False] * 2
    cache.release()
    cache.put(order[3], image(1))
    assert [cache.get(position) is not None for position in order] == [False, True, True, True, False]


def test_what_is_larger_than_its_place_is_not_kept() -> None:
    cache = SharedCache(SharedMemory.new(), places=1, room=4096)
    cache.put(0, image(5, 200))
    assert cache.get(0) is None
