"""Files and folders come whole or not at all, and nothing is written through a link or over what is there."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from segx.errors import DataError, UsageError
from segx.io.files import GrowingFile, copy_new, new_folder, replacing, write_bytes, write_text


def full(*_: Any) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    link = tmp_path / "out.txt"
    link.symlink_to(mine)
    write_text(link, "new")
    assert (mine.read_text(), link.read_text(), link.is_symlink()) == ("mine", "new", False)


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    for name in ("a" * 251 + ".txt", "a." + "s" * 253, "写" * 83 + ".txt"):
        assert write_bytes(tmp_path / name, b"x").read_bytes() == b"x"
    with pytest.raises(DataError, match="is a folder"), replacing(Path()):
        pass


def test_text_that_is_not_utf8_is_reported_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.txt: cannot be written: 'b\\udcff' in it is not UTF-8"):
        write_text(tmp_path / "a.txt", "b\udcff")


def test_a_growing_file_appears_when_it_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    growing = GrowingFile(path)
    growing.write("[]")
    assert not path.exists()
    assert growing.finish() == path
    growing.discard()
    assert path.read_text() == "[]"
    path.unlink()
    GrowingFile(path).discard()
    assert not list(tmp_path.iterdir())
    lost = GrowingFile(path)
    monkeypatch.setattr(lost, "_file", SimpleNamespace(write=full))
    with pytest.raises(DataError, match="No space left"):
        lost.write("x")
    lost.discard()
    assert not list(tmp_path.iterdir())


def test_what_is_flushed_last_may_not_fit(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    growing = GrowingFile(tmp_path / "a.json")
    growing.write("x" * 3000)  # still in the buffer
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(DataError, match="cannot be written"):
            growing.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_a_copy_goes_to_a_new_name_only_and_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, mine, link = tmp_path / "a.png", tmp_path / "mine.png", tmp_path / "link.png"
    source.write_bytes(b"x" * 100)
    mine.write_bytes(b"mine")
    link.symlink_to(mine)
    for target in (mine, link):
        with pytest.raises(FileExistsError):
            copy_new(source, target)
    assert mine.read_bytes() == b"mine"
    copy_new(source, tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes() == source.read_bytes()
    for broken in (lambda _, out, __: full(out.write(b"x")), lambda _, out, __: out.write(b"x")):
        monkeypatch.setattr(shutil, "copyfileobj", broken)
        with pytest.raises(OSError, match=r"No space left|1 of 100 bytes"):
            copy_new(source, tmp_path / "c.png")
        assert not (tmp_path / "c.png").exists()


@pytest.mark.parametrize("there", [False, True], ids=["new", "empty"])
def test_of_two_that_write_into_one_folder_one_succeeds(tmp_path: Path, there: bool) -> None:
    folder = tmp_path / "out"
    if there:
        folder.mkdir()

    def write(inside: Path, name: str) -> None:
        for part in ("images", name):
            (inside / part).mkdir()
            (inside / part / name).touch()
        (inside / "a.yaml").write_text(name)

    def both() -> None:
        with new_folder(folder) as first:
            write(first, "1")
            with new_folder(folder) as second:
                write(second, "2")

    with pytest.raises(DataError, match="holds something already"):
        both()
    assert sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*")) == [
        "2",
        "2/2",
        "a.yaml",
        "images",
        "images/2",
    ]
    assert (folder / "a.yaml").read_text() == "2"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_no_folder_of_the_user_is_taken_for_a_part(tmp_path: Path) -> None:
    for name in (".out.part", "out.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("mine")
    with new_folder(tmp_path / "out") as work:
        (work / "a").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a"]
    assert (tmp_path / ".out.part" / "notes.txt").read_text() == "mine"
    with pytest.raises(DataError, match="holds something"), new_folder(tmp_path / "out.part"):
        pass
    with pytest.raises(DataError, match="is a file"), new_folder(tmp_path / "out" / "a"):
        pass
    with pytest.raises(UsageError, match="no folder"), new_folder(Path()):
        pass
