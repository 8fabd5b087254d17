"""Data sets as users name them: YAMLs good and bad, what is tried, what is downloaded."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import logging
import os
import subprocess
import sys
import threading
import time
import zipfile
from contextlib import ExitStack
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from segx.data import download as data
from segx.data import splits
from segx.data.splits import define, find_reader, locate, open_dataset, present, read_definition, shipped_names
from segx.errors import DataError
from segx.io.archives import unpack
from segx.io.download import only_one
from segx.plugin.specs import DatasetFormatSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segx.structures.annotations import DatasetSource


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def find_split(data: str | Path, split: str = "val", images: Path | None = None) -> DatasetSource:
    """Return where one split of a data set lies."""
    return splits._source(define(data), split, splits._images_folder(images), fetch=True)


def write(folder: Path, text: str, name: str = "set.yaml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text)
    return path


def test_path_is_relative_to_the_yaml_whatever_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    yaml = write(tmp_path / "sets", "path: ../photos\nval: [a, b/list.txt]\ntrain: a\nnames: [x, y]\n")
    (tmp_path / "photos" / "a").mkdir(parents=True)
    (tmp_path / "photos" / "b").mkdir()
    (tmp_path / "photos" / "b" / "list.txt").touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    source = find_split(yaml, "val")
    assert source.entries == (tmp_path / "photos" / "a", tmp_path / "photos" / "b" / "list.txt")
    assert source.names == {0: "x", 1: "y"}
    monkeypatch.chdir(tmp_path)
    assert find_split("sets/set.yaml", "train").entries == (tmp_path / "photos" / "a",)


def test_every_path_tried_is_listed(tmp_path: Path) -> None:
    yaml = write(tmp_path, "path: root\nval: ../valid/images\n")
    with pytest.raises(DataError, match=r"val of .* is not there") as error:
        find_split(yaml)
    assert str(tmp_path / "valid" / "images") in error.value.hint
    assert str(tmp_path / "root" / "valid" / "images") in error.value.hint
    (tmp_path / "root" / "valid" / "images").mkdir(parents=True)  # as Roboflow writes it
    assert find_split(yaml).entries == (tmp_path / "root" / "valid" / "images",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- train\n- val\n", "holds a list, not a data set"),
        ("", "holds nothing, not a data set"),
        ("just words", "holds a text, not a data set"),
        ("a: [1", r"cannot be read as YAML \(line"),
        ("\x00", r"cannot be read as YAML \(.*character"),
        ("val: a\nval: b\n", r"\(val: is there twice, in line 1 and line 2: keep one\)"),
        ("val: a\nnames: {0: a,\n  0: b}\n", r"\(0: is there twice, in line 2 and line 3: keep one\)"),
        ("names: [a]\n", "names no split"),
        ("val: {a: b}\n", "val: is .* not a folder, a file or a list of these$"),
        ("val: []\n", "val: is .* not a folder, a file or a list of these$"),
        ("val: [2023, 1.50]\n", r'val: is \[2023, 1.5\], not a folder.*\n.* in quotes: "1.50"'),
        ("path: [a]\nval: b\n", "path is .* not the name of a folder"),
        ("val: a\nnc: 3\nnames: [a, b]\n", "nc is 3, but names has 2"),
        ("val: a\nnc: two\n", "nc is 'two'"),
        ("val: a\nnames: {0: a, 2: b}\n", r"names must number the classes 0\.\.1"),
        ("val: a\nnames: {cat: 0}\n", "class number that is none"),
        ("val: a\nnames: 7\n", "names is 7"),
        ("val: a\ndownload: [{url: 'https://x/a.zip', into: ../b}]\n", "would leave the data set's folder"),
    ],
)
def test_a_bad_yaml_is_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(DataError, match=message) as error:
        read_definition(path)
    assert "\n" not in error.value.message


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_yaml_that_is_not_utf_8_is_reported_how_to_become_it(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "set.yaml"
    path.write_bytes("val: a\nnames: [é]\n".encode(encoding))
    with pytest.raises(DataError, match="is not UTF-8 text") as error:
        read_definition(path)
    assert error.value.hint == "save it as UTF-8"


def test_mistyped_entries_are_reported_and_those_of_the_user_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").touch()
    path = write(tmp_path, "trian: a\nval: a\nnotes: fine\nauthor: me\nname: [x]\ntested: yes\ntest: a\n")
    assert read_definition(path).mistyped == (
        f"{path}: name: means nothing; did you mean names:?",
        f"{path}: trian: means nothing; did you mean train:?",
    )
    with caplog.at_level(logging.WARNING), pytest.raises(DataError):
        open_dataset(path, "val", registry=Closed())
    assert "did you mean train:?" in caplog.text
    with pytest.raises(DataError, match="has no split 'train'") as error:
        find_split(path, "train")
    assert "did you mean train:?" in error.value.hint
    with pytest.raises(DataError, match="names no split") as error:
        read_definition(write(tmp_path, "vall: a\n", "b.yaml"))
    assert "did you mean val:?" in error.value.hint


class Closed:
    """Knows no format."""

    def dataset_format_for(self, path: Path) -> DatasetFormatSpec:
        raise DataError(f"{path}: no format")


def test_a_folder_as_coco_writes_it_is_its_json(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations").mkdir()
    val = write(tmp_path / "annotations", '{"images": [], "annotations": []}', "instances_val.json")
    write(tmp_path / "annotations", '{"images": [], "annotations": []}', "captions_val.json")
    write(tmp_path, '{"some": "settings"}', "meta.json")
    assert locate(tmp_path) == val
    other = write(tmp_path / "annotations", '{"images": [], "annotations": []}', "instances_2.json")
    with pytest.raises(DataError, match="holds 2 COCO JSONs") as error:
        locate(tmp_path)
    assert error.value.hint == f"data={other}, data={val}"
    (tmp_path / "labels").mkdir()
    assert locate(tmp_path) == tmp_path  # YOLO labels; the JSONs are something else


@pytest.mark.parametrize("what", ["set", "set/set.yaml", "set/images", "set/list.txt"])
def test_what_may_not_be_read_is_named_with_a_fix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    path = write(tmp_path / "set", "train: images\nval: list.txt\n")
    (tmp_path / "set" / "images").mkdir()
    write(tmp_path / "set" / "images", "", "1.png")
    write(tmp_path / "set", "images/1.png", "list.txt")
    closed = tmp_path / what
    for name in ("open", "iterdir", "read_text"):
        original = getattr(Path, name)

        def guarded(self: Path, *args: Any, original: Any = original, **kwargs: Any) -> Any:
            if self == closed:
                raise PermissionError(13, "Permission denied", str(self))
            return original(self, *args, **kwargs)

        monkeypatch.setattr(Path, name, guarded)
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda self: guarded(self) if self == closed else exists(self))
    named = path.parent if what == "set" else path
    with pytest.raises(DataError, match="Permission denied") as error:
        open_dataset(named, "val" if what.endswith("txt") else "train", registry=Closed())
    assert str(closed) in error.value.message
    assert "chmod" in error.value.hint


def test_what_is_neither_file_nor_folder_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        find_reader((tmp_path / "pipe.json",), Closed())


def test_a_split_that_is_not_there_is_reported_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no split 'test'; it has train, val"):
        find_split(write(tmp_path, "train: a\nval: b\n"), "test")


@pytest.mark.parametrize("name", ["yes", "off", "True", "007", "2.50", "1:30", "1_000", "0x1F", "2024-01-02", "1e3"])
def test_names_are_what_was_typed(tmp_path: Path, name: str) -> None:
    for names in (f"[{name}, b]", f"{{0: {name}, 1: b}}"):
        definition = read_definition(write(tmp_path, f"val: a\nnames: {names}\n"))
        assert definition.names == {0: name, 1: "b"}


def test_names_from_nc_alone(tmp_path: Path) -> None:
    assert read_definition(write(tmp_path, "val: a\nnc: 2\n")).names == {0: "class0", 1: "class1"}
    assert read_definition(write(tmp_path, "val: a\n", "b.yaml")).names is None


def test_unknown_names_suggest_the_shipped_ones() -> None:
    assert shipped_names() == ("coco", "coco128-seg", "coco8-seg")
    with pytest.raises(DataError, match="did you mean 'coco8-seg'") as error:
        locate("coco8-sag.yaml")
    assert "coco128-seg" in error.value.hint


@pytest.mark.parametrize("name", ["coco", "coco128-seg.yaml", "coco8-seg"])
def test_shipped_definitions_hold_and_live_in_the_cache(name: str, own_cache: Path) -> None:
    definition = read_definition(locate(name))
    assert definition.downloads.shipped
    assert definition.root == own_cache / "datasets" / name.removesuffix(".yaml")
    assert len(definition.names or {}) == 80
    assert {"train", "val"} <= definition.splits.keys()
    assert all(archive.file.url.startswith("http") for archive in definition.downloads.archives)


def test_a_folder_with_one_yaml_is_that_data_set(tmp_path: Path) -> None:
    yaml = write(tmp_path / "set", "val: .\n")
    assert locate(tmp_path / "set") == yaml
    write(tmp_path / "set", "lr0: 0.1\n", "hyp.yaml")
    assert locate(tmp_path / "set") == yaml
    other = write(tmp_path / "set", "val: .\n", "other.yaml")
    with pytest.raises(DataError, match="holds 2 data set YAMLs: name one") as error:
        locate(tmp_path / "set")
    assert f"data={other}" in error.value.hint


LAYOUTS = [("images/train", "images/val"), ("train/images", "valid/images"), ("train", "test")]


@pytest.mark.parametrize("places", LAYOUTS)
def test_a_folder_of_splits_without_a_yaml_keeps_them_apart(tmp_path: Path, places: tuple[str, str]) -> None:
    for place in places:
        (tmp_path / place).mkdir(parents=True)
    second = "test" if "test" in places else "val"
    assert define(tmp_path).splits == {"train": (places[0],), second: (places[1],)}
    assert find_split(tmp_path, second).entries == (tmp_path / places[1],)


def test_a_folder_with_one_place_for_images_has_no_splits(tmp_path: Path) -> None:
    (tmp_path / "images" / "train").mkdir(parents=True)
    assert define(tmp_path).splits == {"data": (".",)}


def test_what_lies_beyond_a_link_is_found_as_it_reads_and_as_it_leads(tmp_path: Path) -> None:
    for folder in ("disk/yamls", "disk/images", "read"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "sets").symlink_to(tmp_path / "disk" / "yamls")
    yaml = write(tmp_path / "sets", "train: ../read\nval: ../images\n")
    assert find_split(yaml, "train").entries == (tmp_path / "read",)
    assert find_split(yaml, "val").entries == (tmp_path / "sets" / ".." / "images",)


def test_code_in_a_yaml_is_never_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    marker = tmp_path / "ran"
    for code in (f"|\n  import pathlib\n  pathlib.Path({str(marker)!r}).touch()", f"bash touch {marker}", "[1]"):
        yaml = write(tmp_path, f"val: gone\ndownload: {code}\n")
        with pytest.raises(DataError, match="is not there"):
            find_split(yaml)
        assert not marker.exists()
    assert "segx runs no code from a YAML" in caplog.text


def archive(files: dict[str, str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name, text in files.items():
            target.writestr(name, text)
    return buffer.getvalue()


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_missing_data_are_downloaded_by_address_and_hash(
    tmp_path: Path, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    content = archive({"tiny/images/a.txt": "a", "tiny/labels/a.txt": "b"})
    (tmp_path / "served" / "tiny.zip").write_bytes(content)
    yaml = write(
        tmp_path / "sets",
        f"path: tiny\nval: images\ndownload:\n  - url: {address}/tiny.zip\n    size: {len(content)}\n"
        f"    sha256: {hashlib.sha256(content).hexdigest()}\n",
    )
    assert find_split(yaml).entries == (tmp_path / "sets" / "tiny" / "images",)
    assert (tmp_path / "sets" / "tiny" / "labels" / "a.txt").read_text() == "b"
    assert "downloading" in caplog.text
    assert not list((tmp_path / "cache").rglob("*.zip"))  # what is unpacked is not kept twice
    assert [path.name for path in (tmp_path / "sets" / "tiny").iterdir()] != []


def test_a_wrong_hash_is_refused_and_leaves_nothing(tmp_path: Path, address: str) -> None:
    (tmp_path / "served" / "tiny.zip").write_bytes(archive({"images/a.txt": "a"}))
    entry = f"{{url: '{address}/tiny.zip', sha256: '{'0' * 64}'}}"
    yaml = write(tmp_path / "sets", f"path: a/tiny\nval: images\ndownload: [{entry}]\n")
    with pytest.raises(DataError, match="SHA-256"):
        find_split(yaml)
    assert [path.name for path in yaml.parent.iterdir()] == ["set.yaml"]


def test_only_what_a_split_needs_is_downloaded(tmp_path: Path, address: str) -> None:
    (tmp_path / "served" / "val.zip").write_bytes(archive({"val/a.txt": "a"}))
    yaml = write(
        tmp_path,
        "path: tiny\ntrain: images/train\nval: images/val\ndownload:\n"
        f"  - {{url: '{address}/train.zip', into: images, splits: [train], provides: images/train}}\n"
        f"  - {{url: '{address}/val.zip', into: images, splits: val, provides: images/val}}\n",
    )
    assert find_split(yaml).entries == (tmp_path / "tiny" / "images" / "val",)
    with pytest.raises(DataError, match="404"):
        find_split(yaml, "train")


WAIT_AND_FIND = """
import logging, os, pathlib, sys, time
from segx.data.splits import define
from segx.data.splits import _source
logging.basicConfig(level=logging.INFO)
yaml, go = map(pathlib.Path, sys.argv[1:])
pathlib.Path(f"{go}-ready-{os.getpid()}").touch()
while not go.exists():
    time.sleep(0.002)
(images,) = _source(define(yaml), "val", None, fetch=True).entries
print(len(list(images.iterdir())), len(list((images.parent / "labels").iterdir())))
"""


def test_processes_that_need_the_same_data_at_once_get_them_whole_and_once(tmp_path: Path, address: str) -> None:
    """Like the ranks of a run under torchrun."""
    count = 800
    files = {f"tiny/{kind}/{number}.txt": "a" for kind in ("images", "labels") for number in range(count)}
    (tmp_path / "served" / "tiny.zip").write_bytes(archive(files))
    yaml = write(tmp_path / "sets", f"path: tiny\nval: images\ndownload: {address}/tiny.zip\n")
    go = tmp_path / "go"
    command = [sys.executable, "-c", WAIT_AND_FIND, str(yaml), str(go)]
    ranks = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("go-ready-*"))) < len(ranks) and time.monotonic() < deadline:
        time.sleep(0.01)
    go.touch()
    ended = [rank.communicate(timeout=60) for rank in ranks]
    assert [out.split() for out, _ in ended] == [[str(count)] * 2] * len(ranks)
    assert "".join(err for _, err in ended).count("is not there; downloading") == 1
    assert sorted(path.name for path in yaml.parent.glob("*/*")) == [data._RECORD, "images", "labels"]


def test_who_waited_for_the_data_of_another_does_not_fetch_them_again(tmp_path: Path, address: str) -> None:
    """The other process holds the lock, unpacks and goes; nothing is served, so asking for it would fail."""
    yaml = write(tmp_path, f"path: tiny\nval: images\ndownload: {address}/nothing.zip\n")
    (archive,) = read_definition(yaml).downloads.archives
    root = tmp_path / "tiny"

    def arrive() -> None:
        time.sleep(0.3)
        (root / "images").mkdir(parents=True)
        (root / "images" / "a.txt").touch()
        data._write_record(root, archive.key, ["images"])
        holding.close()

    holding = ExitStack()
    holding.enter_context(only_one(root))
    other = threading.Thread(target=arrive)
    other.start()
    assert [path.name for path in find_split(yaml).entries[0].iterdir()] == ["a.txt"]
    other.join()


def test_what_of_a_data_set_is_still_to_come_is_waited_for(tmp_path: Path, address: str) -> None:
    """Of two archives for one split the second has not come when another process looks."""
    (tmp_path / "served" / "labels.zip").write_bytes(archive({"labels/a.txt": "a"}))
    yaml = write(tmp_path, f"path: tiny\nval: images\ndownload: ['{address}/nothing.zip', '{address}/labels.zip']\n")
    root = tmp_path / "tiny"
    (root / "images").mkdir(parents=True)
    data._write_record(root, read_definition(yaml).downloads.archives[0].key, ["images"])
    find_split(yaml)
    assert (root / "labels" / "a.txt").exists()


def test_archives_of_one_name_from_two_addresses_are_kept_apart(tmp_path: Path, address: str) -> None:
    for name in ("one", "two"):
        (tmp_path / "served" / name).mkdir()
    (tmp_path / "served" / "one" / "val.zip").write_bytes(archive({"../a": ""}))
    (tmp_path / "served" / "two" / "val.zip").write_bytes(archive({"images/b.txt": ""}))
    with pytest.raises(DataError, match="would leave its folder"):
        find_split(write(tmp_path / "1", f"path: tiny\nval: images\ndownload: {address}/one/val.zip\n"))
    yaml = write(tmp_path / "2", f"path: tiny\nval: images\ndownload: {address}/two/val.zip\n")
    assert find_split(yaml).entries[0].is_dir()


def test_an_unpacking_that_was_cut_short_is_done_again(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "served" / "one.zip").write_bytes(archive({"images/0.txt": "a"}))
    (tmp_path / "served" / "two.zip").write_bytes(archive({f"images/{number}.txt": "b" for number in range(1, 4)}))
    yaml = write(tmp_path, f"path: tiny\nval: images\ndownload: ['{address}/one.zip', '{address}/two.zip']\n")
    images, move = tmp_path / "tiny" / "images", data._merge

    def killed(source: Path, target: Path) -> None:
        move(source / "1.txt", target / "1.txt")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(data, "_merge", killed)
        with pytest.raises(KeyboardInterrupt):
            find_split(yaml)
    assert (images / "1.txt").exists()
    find_split(yaml)
    assert sorted(path.name for path in images.iterdir()) == ["0.txt", "1.txt", "2.txt", "3.txt"]
    assert not list(tmp_path.glob(".unpacking-*"))


@pytest.mark.parametrize("written", [None, ".", "~", "..", "../sets", "{tmp}/home", "home/link", ".hidden", "a/.b/c"])
def test_a_download_goes_into_no_folder_of_the_user(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch, written: str | None
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / ".bashrc").write_text("mine")
    monkeypatch.setenv("HOME", str(home))
    (tmp_path / "served" / "evil.zip").write_bytes(archive({".bashrc": "theirs", ".ssh/authorized_keys": "theirs"}))
    sets = tmp_path / "sets"
    (sets / "home").mkdir(parents=True)
    (sets / "home" / "link").symlink_to(home)
    path = "" if written is None else f"path: '{written.format(tmp=tmp_path)}'\n"
    yaml = write(sets, f"{path}val: images\ndownload: {address}/evil.zip\n")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="download") as caught:
        find_split(yaml)
    assert "\n" not in caught.value.message
    assert sorted(tmp_path.rglob("*")) == before
    assert (home / ".bashrc").read_text() == "mine"


def test_a_folder_that_segx_did_not_make_is_left_as_it_is(tmp_path: Path, address: str) -> None:
    (tmp_path / "served" / "tiny.zip").write_bytes(archive({"images/a.txt": "theirs"}))
    yaml = write(tmp_path / "sets", f"path: tiny\nval: images\ndownload: {address}/tiny.zip\n")
    mine = write(tmp_path / "sets" / "tiny" / "notes", "mine", "a.txt")
    with pytest.raises(DataError, match="was not made by segx"):
        find_split(yaml)
    assert [path.name for path in (tmp_path / "sets" / "tiny").rglob("*")] == ["notes", "a.txt"]
    assert mine.read_text() == "mine"


def test_a_second_archive_replaces_nothing(tmp_path: Path, address: str) -> None:
    (tmp_path / "served" / "one.zip").write_bytes(archive({"images/a.txt": "one"}))
    (tmp_path / "served" / "two.zip").write_bytes(archive({"images/0.txt": "two", "images/a.txt": "two"}))
    yaml = write(tmp_path, f"path: tiny\nval: images\ndownload: ['{address}/one.zip', '{address}/two.zip']\n")
    with pytest.raises(DataError, match=r"a\.txt is there, and another"):
        find_split(yaml)
    assert [path.read_text() for path in (tmp_path / "tiny" / "images").iterdir()] == ["one"]


def test_what_was_unpacked_elsewhere_is_reported_and_not_fetched_again(tmp_path: Path, address: str) -> None:
    served = tmp_path / "served" / "tiny.zip"
    served.write_bytes(archive({"other/images/a.txt": "a"}))
    yaml = write(tmp_path / "sets", f"path: tiny\nval: images\ndownload: {address}/tiny.zip\n")
    with pytest.raises(DataError, match="holds other/"):
        find_split(yaml)
    served.unlink()
    with pytest.raises(DataError, match="holds other/"):
        find_split(yaml)
    write(tmp_path / "sets", f"path: tiny/other\nval: images\ndownload: {address}/tiny.zip\n")
    assert find_split(yaml).entries[0].is_dir()


def flag(content: bytes, bit: int) -> bytes:
    """Set a flag bit in the table of contents of a zip archive."""
    at = content.index(b"PK\1\2") + 8
    return content[:at] + bytes([content[at] | bit]) + content[at + 1 :]


def doubled(name: str) -> bytes:
    content = archive({name: "1", name[:-1] + "?": "2"})
    return content.replace(name[:-1].encode() + b"?", name.encode())


def special(kind: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        member = zipfile.ZipInfo("link")
        member.external_attr = kind << 16
        target.writestr(member, "/etc")
    return buffer.getvalue()


def bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target, target.open("zeros", "w") as member:
        for _ in range(3):
            member.write(bytes(1 << 20))
    return buffer.getvalue()


FINE = {"fine.txt": "a" * 100}
BAD_ARCHIVES = {
    **{f"leaves {name}": (lambda name=name: archive({**FINE, name: "b"}), "would leave its folder")
       for name in ("../outside.txt", "/absolute.txt", "a/../../outside.txt", "..\\outside.txt", "C:\\x.txt")},
    "link": (lambda: special(0o120777), "neither a file nor a folder"),
    "device": (lambda: special(0o060666), "neither a file nor a folder"),
    "fifo": (lambda: special(0o010666), "neither a file nor a folder"),
    "encrypted": (lambda: flag(archive(FINE), 1), "encrypted"),
    "name twice": (lambda: doubled("a.txt"), "twice"),
    "two archives": (lambda: archive(FINE) + archive({"b.txt": "b"}), "several archives in one file"),
    "no archive": (lambda: b"no archive", "no zip archive"),
    "cut": (lambda: archive(FINE)[:-30], "no zip archive"),
    "damaged": (lambda: archive(FINE).replace(b"aaa", b"aba"), "no zip archive"),
    "bomb": (bomb, "are allowed"),
    "file and folder": (lambda: archive({"a": "", "a/b": ""}), "cannot be unpacked"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ARCHIVES)
def test_a_bad_archive_is_one_line_and_leaves_nothing(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("segx.io.archives.SMALL", 1 << 20)
    make, reason = BAD_ARCHIVES[name]
    content = make()
    path = tmp_path / "evil.zip"
    path.write_bytes(content)
    (tmp_path / "target").mkdir()
    with pytest.raises(DataError, match=reason) as caught:
        unpack(path, tmp_path / "target")
    assert "\n" not in caught.value.message
    assert not (tmp_path / "target").exists()

    (tmp_path / "served" / "evil.zip").write_bytes(content)
    yaml = write(tmp_path / "sets", f"path: a/tiny\nval: images\ndownload: {address}/evil.zip\n")
    with pytest.raises(DataError):
        find_split(yaml)
    assert [path.name for path in yaml.parent.iterdir()] == ["set.yaml"]
    assert not list((tmp_path / "cache" / "downloads").iterdir())


class Formats:
    """Two formats that know a file by its suffix."""

    def dataset_format_for(self, path: Path) -> DatasetFormatSpec:
        if path.suffix not in {".one", ".two"}:
            raise DataError(f"{path}: no installed dataset format recognises it")
        return DatasetFormatSpec(name=path.suffix[1:], summary="", load=lambda: None, detects=lambda _: True)  # type: ignore[arg-type, return-value]

    @property
    def dataset_formats(self) -> Any:
        return self

    def load(self, spec: DatasetFormatSpec) -> Any:
        return spec.name


def test_one_split_is_of_one_format(tmp_path: Path) -> None:
    assert find_reader([tmp_path / "a.one", tmp_path / "b.one"], Formats()) == "one"
    with pytest.raises(DataError, match="one split cannot mix formats"):
        find_reader([tmp_path / "a.one", tmp_path / "b.two"], Formats())
    with pytest.raises(DataError, match="recognises"):
        find_reader([tmp_path / "a.three"], Formats())


def test_images_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder"):
        find_split(write(tmp_path, "{}", "a.json"), images=tmp_path / "gone")


ODD = [
    *("null", "true", "''", "x", "[]", "[[]]", "{}", "{a: 1}", "-1", "1.5", "0", ".inf", ".nan", "1" + "0" * 30),
    *("'a\\0b'", '"a\\0b"', "~nobody-of-this-name", "[null]", "[1, [2]]", "{.inf: a}", "{x: a}", "{0: [a]}", "[true]"),
    *("2024-13-45", "!!bool x", "!!timestamp x", "!!int ''", "1" * 5000, "&a [*a]", "http://[", "[http://x/, 5]"),
    *("{url: 'http://x/a', size: x}", "{url: 'http://x/a', sha256: 5}", "{url: 'http://x/a', splits: 5}"),
    *("{url: 'http://x/a', into: 5}", "{url: 'http://x/a', provides: [a]}", "{url: 5}", "1000000000"),
]


@pytest.mark.parametrize("key", ["path", "val", "names", "nc", "download", "extra"])
@pytest.mark.parametrize("value", ODD)
def test_no_value_whatever_breaks_out_of_a_yaml(
    tmp_path: Path, key: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGX_OFFLINE", "1")
    (tmp_path / "images").mkdir()
    lines = {"val": "images", "names": "[a, b]", key: value}
    path = write(tmp_path, "".join(f"{name}: {text}\n" for name, text in lines.items()))
    problem = ""
    try:
        found = find_split(path)
    except DataError as error:
        problem = error.message
        assert str(path) in problem or "is not here and SEGX_OFFLINE" in problem
    else:
        assert found.names is None or list(found.names) == list(range(len(found.names)))
        assert all(isinstance(name, str) for name in (found.names or {}).values())
    assert len(problem.splitlines()) <= 1
    assert len(problem) < len(str(path)) + 200


def test_what_a_download_says_of_itself_is_checked(tmp_path: Path) -> None:
    for entry, message in {
        "size: -5": "size -5 is not a number of bytes",
        "sha256: abc": "sha256 'abc' is not 64 hexadecimal digits",
        "splits: [trian]": r"splits \['trian'\] are not some of train, val, test",
        "into: ../x": "into '../x' would leave",
        "provides: /etc": "provides '/etc' would leave",
    }.items():
        with pytest.raises(DataError, match=message):
            find_split(write(tmp_path, f"val: images\ndownload: [{{url: 'http://x/a.zip', {entry}}}]\n"))


def coco_json(path: Path, name: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": [{"id": 1, "name": name}]}))


def test_jsons_named_after_splits_are_the_splits(tmp_path: Path) -> None:
    """COCO's own folder: captions and keypoints of the same images lie beside."""
    for name in ("instances_train2017", "instances_val2017", "captions_train2017", "person_keypoints_val2017"):
        coco_json(tmp_path / "annotations" / f"{name}.json", "cat")
    found = define(tmp_path)
    assert dict(found.splits) == {
        "train": ("annotations/instances_train2017.json",),
        "val": ("annotations/instances_val2017.json",),
    }
    assert find_split(tmp_path, "val").entries == (tmp_path / "annotations" / "instances_val2017.json",)


@pytest.mark.parametrize("names", [("one", "two"), ("train", "other"), ("train_val", "test")])
def test_jsons_that_name_no_split_are_listed(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        coco_json(tmp_path / f"{name}.json", "cat")
    with pytest.raises(DataError, match="holds 2 COCO JSONs: name one"):
        define(tmp_path)


def test_folders_that_are_called_like_a_number_or_a_date_need_no_quotes(tmp_path: Path) -> None:
    for name in ("2024", "007", "no", "2024-01-01"):
        (tmp_path / "2025" / name).mkdir(parents=True)
    path = write(tmp_path, "path: 2025\ntrain: [2024, 007]\nval: no\ntest: 2024-01-01\nnames: [a]\nnc: 1\n")
    found = define(path)
    assert found.root == tmp_path / "2025"
    assert found.splits == {"train": ("2024", "007"), "val": ("no",), "test": ("2024-01-01",)}
    assert present(found, "train") == ([found.root / "2024", found.root / "007"], [])
