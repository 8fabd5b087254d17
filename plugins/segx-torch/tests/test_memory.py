"""Memory that a batch has freed is used again by the next: all of it during training, some while predicting."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch

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


def pages_asked_for(rounds: int = 8) -> int:
    """Return how many pages the system hands out for tensors of 48 MB, one after the other."""
    torch.zeros(12 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.zeros(12 << 20).add_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@needs_glibc
def test_the_memory_of_one_batch_serves_the_next():
    without = pages_asked_for()
    with retain_heap():
        kept = pages_asked_for()
    after = pages_asked_for()
    assert kept < without / 4
    assert after > without / 2


@needs_glibc
@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("MALLOC_TRIM_THRESHOLD_", "131072", False),
        ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=131072", False),
        ("MALLOC_ARENA_MAX", "2", True),
    ],
)
def test_what_the_environment_sets_stays(monkeypatch, name, value, kept):
    without = pages_asked_for()
    monkeypatch.setenv(name, value)
    with retain_heap():
        assert (pages_asked_for() < without / 2) == kept


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
    """In processes of their own: each begins with an allocator that nothing has used."""

    def pages(before: str) -> int:
        code = IN_A_THREAD.format(taken=taken, before=before)
        return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    assert (pages("memory.enlarge_heap()") < pages("") / 2) == fewer
