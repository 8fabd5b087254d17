"""Memory that a batch has freed is used again by the next: all of it during training, some while predicting."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest

from segx.testing.training import tiny_run
from segx_torch import memory
from segx_torch.memory import retain_heap
from segx_torch.training import trainer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def own_process(monkeypatch):
    monkeypatch.setattr(memory, "process_taken", lambda: True)


needs_glibc = pytest.mark.skipif(memory._glibc() is None, reason="only glibc's memory can be kept")


MEASURE = """
import contextlib, resource, torch
from segx_torch import memory
memory.process_taken = lambda: True
MIB = 1 << 18  # numbers of 32 bits

def pages_asked_for(mib, rounds=8):
    torch.zeros(mib * MIB)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.zeros(mib * MIB).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1])

print(pages_asked_for(96), resident())
with memory.retain_heap():
    print(pages_asked_for(96), resident())
print(resident(), pages_asked_for(384, 2))
"""


class Seen(NamedTuple):
    """In pages: what the system handed out for tensors made one after the other, and what the process then held."""

    asked_before: int
    held_before: int
    asked_within: int
    held_within: int
    held_after: int
    asked_after: int


def seen_around_retain_heap(**environment: str) -> Seen:
    """In a process of its own, because what others have allocated decides where a tensor finds room."""
    return Seen(*numbers_of(MEASURE, **environment))


def numbers_of(code: str, **environment: str) -> list[int]:
    ours = ("MALLOC_", "GLIBC_TUNABLES")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=inherited | environment, capture_output=True, text=True, check=True
    )
    return [int(line) for line in done.stdout.split()]


@needs_glibc
def test_the_memory_of_one_batch_serves_the_next():
    seen = seen_around_retain_heap()
    assert seen.asked_within < seen.asked_before / 2
    one = 96 << 8  # pages of 4 KiB
    assert seen.held_within > seen.held_before + 0.9 * one
    assert seen.held_after < seen.held_before + 0.5 * one
    assert seen.asked_after > 0.9 * 8 * one  # no hole in the heap is as large as 384 MiB


@needs_glibc
@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("MALLOC_TRIM_THRESHOLD_", "131072", False),
        ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=131072", False),
        ("MALLOC_ARENA_MAX", "2", True),
    ],
)
def test_what_the_environment_sets_stays(name, value, kept):
    seen = seen_around_retain_heap(**{name: value})
    assert (seen.asked_within < seen.asked_before / 2) == kept


def test_a_program_that_only_uses_segx_keeps_its_allocator(monkeypatch):
    monkeypatch.setattr(memory, "_glibc", object)  # has no mallopt
    with pytest.raises(AttributeError, match="mallopt"), retain_heap():
        pass
    monkeypatch.setattr(memory, "process_taken", lambda: False)
    with retain_heap():
        pass


def test_another_c_library_is_left_alone(monkeypatch):
    def none(name: None) -> None:
        raise OSError

    monkeypatch.setattr(memory.ctypes, "CDLL", none)
    with retain_heap():
        pass


def test_training_keeps_memory_until_it_ends(tmp_path: Path, monkeypatch):
    kept = [False]

    @contextlib.contextmanager
    def watched() -> Iterator[None]:
        kept.append(True)
        yield
        kept.append(False)

    class Steps(list):
        def append(self, step: object) -> None:
            super().append((step, kept[-1]))

    monkeypatch.setattr(trainer, "retain_heap", watched)
    steps = Steps()
    tiny_run(tmp_path / "run", steps=steps, epochs=1)
    assert steps
    assert all(during for _, during in steps)
    assert not kept[-1]


IN_A_THREAD = """
import resource, threading, torch
from segx_torch import memory
memory.process_taken = lambda: {taken}
{before}
torch.set_num_threads(1)
network = torch.nn.Sequential(*(torch.nn.Conv2d(8, 8, 3, padding=1) for _ in range(4)))
def run():
    with torch.inference_mode():
        images = torch.zeros(1, 8, 320, 320)
        for _ in range(3):
            network(images)
        begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            network(images)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun)
thread = threading.Thread(target=run)
thread.start(), thread.join()
"""


@needs_glibc
@pytest.mark.parametrize(("taken", "fewer"), [(True, True), (False, False)])
def test_a_thread_that_predicts_keeps_its_maps(taken, fewer):
    [kept] = numbers_of(IN_A_THREAD.format(taken=taken, before="memory.enlarge_heap()"))
    [without] = numbers_of(IN_A_THREAD.format(taken=taken, before=""))
    assert (kept < without / 2) == fewer
