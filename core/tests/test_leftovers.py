"""What killed processes leave is removed by those who come later, and what others are still writing is not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from segx.io.files import new_folder, replacing, write_text
from segx.runtime import leftovers
from segx.runtime.leftovers import is_left, scratch, sweep, temporary_name

pytestmark = pytest.mark.skipif(not Path("/proc/self/ns/pid").exists(), reason="processes are told apart by /proc")

WRITE = """
import sys, time
from pathlib import Path
from segx.io.files import new_folder, replacing
with replacing(Path(sys.argv[1]) / "a.json") as file, new_folder(Path(sys.argv[1]) / "b") as folder:
    file.write_text("half of it")
    (folder / "c.txt").write_text("half of it")
    print("writing", flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each test be a process that has swept nothing yet."""
    monkeypatch.setattr(leftovers, "_swept", set())


def writer(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", WRITE, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def of_process(number: int) -> str:
    return re.sub(r"-\d+-", f"-{number}-", temporary_name(".part"), count=1) if number else ""


def dead() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_killed_process_left_is_removed_and_what_a_live_one_writes_is_not(tmp_path: Path) -> None:
    first, second = writer(tmp_path), writer(tmp_path)
    try:
        end(first)
        assert len(list(tmp_path.iterdir())) == 4
        write_text(tmp_path / "mine.txt", "whole")
        assert {path.name.split("-")[3] for path in tmp_path.glob(".segx-*")} == {str(second.pid)}
        assert len(list(tmp_path.iterdir())) == 3
    finally:
        end(second)
    leftovers._swept.clear()
    with new_folder(tmp_path / "new"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", "new"]


def test_own_files_stay(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("mine")
        sweep(tmp_path)
        assert temporary.exists()
    assert (tmp_path / "a.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "change",
    [
        lambda name: name.replace(name.split("-")[1], "0123abcd"),  # another machine's, on a shared disk
        lambda name: ".segx-downloads.json",  # a record
        lambda name: ".segx-0123456789abcdef.part",  # an earlier version's: it does not say whose
        lambda name: name.removeprefix("."),
        lambda name: f"x{name}",
        lambda name: f".segx-{'9' * 5000}",
    ],
)
def test_what_cannot_be_told_stays(change: object) -> None:
    name = of_process(dead())
    assert is_left(name)
    assert callable(change)
    assert not is_left(change(name))


def test_after_a_start_of_the_machine_all_are_gone() -> None:
    name = temporary_name()
    boot = name.split("-")[2]
    assert not is_left(name)
    assert is_left(name.replace(boot, f"{int(boot, 16) ^ 1:08x}"))


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    treasure = tmp_path / "treasure"
    treasure.mkdir()
    (treasure / "gold.txt").write_text("gold")
    place = tmp_path / "place"
    place.mkdir()
    number = dead()
    (place / of_process(number)).symlink_to(treasure)
    inner = place / of_process(number)
    inner.mkdir()
    (inner / "way").symlink_to(treasure)
    sweep(place)
    assert list(place.iterdir()) == []
    assert (treasure / "gold.txt").read_text() == "gold"


def test_a_machine_that_cannot_be_seen_from_others_sweeps_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leftovers._here.cache_clear()
    monkeypatch.setattr(leftovers, "_read", lambda path: "")
    try:
        assert not is_left(of_process(dead()))
    finally:
        leftovers._here.cache_clear()


def test_processes_of_others_live() -> None:
    assert leftovers._lives(1)
    assert leftovers._lives(os.getpid())
    assert leftovers._lives(10**9 * 9)


KILLED = """
import sys, time
from segx.runtime import child
made = child.Child("time:sleep", {"secs": 600}, what="x", hear=lambda _: None)
print(made._process.pid, flush=True)
time.sleep(600)
"""


def test_the_folder_of_a_child_that_was_killed_with_its_parent_goes_when_another_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child takes its folder away when its parent ends; where both are killed at once, nobody does."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first, second = (
        subprocess.Popen(
            [sys.executable, "-c", KILLED],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        for _ in range(2)
    )
    children = [int(process.stdout.readline()) for process in (first, second)]  # type: ignore[union-attr]
    try:
        first.send_signal(signal.SIGSTOP)  # else it would see its child end, and clean up
        os.kill(children[0], signal.SIGKILL)
        end(first)
        assert len(list(tmp_path.iterdir())) == 2
        with scratch() as mine:
            assert mine.stat().st_mode & 0o077 == 0
            owners = {path.name.split("-")[3] for path in tmp_path.iterdir()}
            assert owners == {str(second.pid), str(os.getpid())}
    finally:
        os.kill(children[1], signal.SIGKILL)
        end(second)
    assert not mine.exists()


def test_what_other_users_left_is_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / of_process(dead())
    left.write_text("half of it")
    monkeypatch.setattr(os, "getuid", lambda: left.stat().st_uid + 1)
    sweep(tmp_path)
    assert left.exists()
