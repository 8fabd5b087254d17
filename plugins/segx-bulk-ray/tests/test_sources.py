"""Sources divided into shards, and the process that decodes; nothing here starts Ray."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from segx import YOLO
from segx.errors import DataError, SegxError, UsageError
from segx.io.images import read_image
from segx_bulk_ray import bulk, cluster, read, worker, write
from segx_bulk_ray import decoder as decoder_module
from segx_bulk_ray import output as files
from segx_bulk_ray.decoder import Decoder
from segx_bulk_ray.sources import Shard, divide, fingerprint
from segx_cli.main import main

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def contents(shards: list[Shard]) -> dict[str, bytes]:
    """Return what shards yield, each name once."""
    pairs = [pair for shard in shards for pair in shard]
    assert len(dict(pairs)) == len(pairs)
    return {name: data for name, data in pairs if isinstance(data, bytes)}


def stills(few: Path) -> list[Path]:
    return sorted(path for path in few.iterdir() if path.stem.isdecimal())


def test_folder_glob_and_list_name_the_same(few: Path, tmp_path: Path) -> None:
    folder = divide(str(few), size=5)
    assert [shard.images for shard in folder] == [5, 5, 4]
    assert fingerprint(divide(f"{few}/*", size=5)) == fingerprint(folder)
    (tmp_path / "list.txt").write_text("# images\n" + "".join(f"{path}\n" for path in sorted(few.iterdir())))
    assert fingerprint(divide(str(tmp_path / "list.txt"), size=5)) == fingerprint(folder)
    assert fingerprint(divide(sorted(map(str, few.iterdir())), size=5)) == fingerprint(folder)
    assert fingerprint(divide(str(few), size=4)) != fingerprint(folder)
    assert contents(divide(f"{few}/*.jpg", size=5)) == {
        str(p): p.read_bytes() for p in stills(few) if p.suffix == ".jpg"
    }


def test_tar_files_are_shards(few: Path, tmp_path: Path) -> None:
    for number in range(2):
        with tarfile.open(tmp_path / f"{number}.tar", "w") as archive:
            for path in stills(few)[number::2]:
                archive.add(path, arcname=f"in/{path.name}")
            archive.addfile(tarfile.TarInfo("in/note.json"), io.BytesIO())
    shards = divide(str(tmp_path), size=5)
    assert [shard.kind for shard in shards] == ["tar", "tar"]
    found = contents(shards)
    assert sorted(found.values()) == sorted(path.read_bytes() for path in stills(few))
    assert f"{tmp_path}/0.tar/in/0000.jpg" in found
    whole = (tmp_path / "1.tar").read_bytes()
    (tmp_path / "1.tar").write_bytes(whole[: len(whole) // 2])
    (*_, last) = divide(str(tmp_path / "1.tar"), size=5)[0]
    assert isinstance(last[1], DataError)
    assert "cannot be read on" in last[1].message


@pytest.mark.parametrize("form", ["bytes", "names", "hub"])
def test_row_groups_of_parquet_files_are_shards(form: str, few: Path, tmp_path: Path) -> None:
    paths = stills(few)
    data, names = [path.read_bytes() for path in paths], list(map(str, paths))
    tables = {
        "bytes": {"name": names, "jpeg": data},
        "names": {"url": names},
        "hub": {"image": [{"bytes": content, "path": name} for content, name in zip(data, names, strict=True)]},
    }
    pq.write_table(pa.table(tables[form]), tmp_path / "images.parquet", row_group_size=5)
    shards = divide(str(tmp_path / "images.parquet"), size=100)
    assert [shard.images for shard in shards] == [5, 5, 2]
    assert contents(shards) == dict(zip(names, data, strict=True))


@pytest.mark.parametrize(
    ("source", "said"),
    [("nowhere", "no such file"), ("empty", "holds no images"), ("mixed", "mixes"), ("numbers.parquet", "no column")],
)
def test_what_is_no_source_is_told(source: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "a.tar").touch()
    (tmp_path / "mixed" / "b.png").touch()
    pq.write_table(pa.table({"number": [1]}), tmp_path / "numbers.parquet")
    with pytest.raises(SegxError, match=said):
        divide(str(tmp_path / source), size=5)


def test_a_shard_is_predicted_and_read_back(
    model: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a worker does, without Ray; a second time over it, as after a lost machine, changes nothing."""
    plan = bulk._Plan.make(model, str(few), shard=100, settings={"conf": 0.0001, "max_det": 20}, workers=1)
    assert plan.settings["backend"] == plan.about["settings"]["backend"] == "onnxruntime"  # the same on every machine
    out = str(tmp_path / "out")
    assert bulk._begun(out, plan, resume=False) is None
    bulk._note(out, plan)
    work = worker.Work(str(model), None, plan.about["sha256"], plan.settings, out, plan.about)
    monkeypatch.setattr(worker, "_decoder", Decoder())
    with worker._decoder:
        for _ in range(2):
            done = worker.do_shard(0, plan.shards[0], work)
            assert (done.images, done.unreadable) == (12, 2)  # what kills elsewhere is merely no image here
    names = [str(path) for path in stills(few)]
    expected = YOLO(model).predict(names, conf=0.0001, max_det=20, verbose=False)
    for one, other in zip(read(out), expected, strict=True):
        assert np.array_equal(one.boxes.data, other.boxes.data)
        assert one.masks.rle == other.masks.rle
    assert bulk._begun(out, plan, resume=True) == {0}
    assert [path.name for path in Path(out).rglob(".part*")] == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "resume=true goes on"),
        ({"resume": True, "conf": 0.5, "max_det": 9}, r"begun with conf=0.25 \(now 0.5\), max_det=300 \(now 9\)\n"),
        ({"resume": True, "shard": 3}, "another source"),
        ({"format": "csv"}, "not one of"),
        ({"conf": 2}, "conf"),
        ({"save": True}, "no option 'save'"),
        ({"workers": 0}, "less than 1"),
    ],
)
def test_what_cannot_be_is_refused_before_ray_starts(
    change: dict[str, object], said: str, model: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "start", lambda *_, **__: pytest.fail("Ray was started"))
    out = str(tmp_path / "out")
    bulk._note(out, bulk._Plan.make(model, str(few), shard=256, settings={}, workers=None))
    with pytest.raises(SegxError, match=said):
        write(model, str(few), out, **change)  # type: ignore[arg-type]


def test_what_ray_would_wait_for_without_an_end_is_told(
    model: Path, few: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import ray

    def plan(**settings: object) -> bulk._Plan:
        return bulk._Plan.make(model, str(few), shard=256, settings=settings, workers=None)

    machines = [{"Alive": True, "Resources": {"CPU": 1.0}}, {"Alive": False, "Resources": {"CPU": 8.0, "GPU": 1.0}}]
    monkeypatch.setattr(ray, "nodes", lambda: machines)
    plan().seek_room(shared=True)
    assert not caplog.records
    plan(threads=2).seek_room(shared=True)
    assert "no machine of the cluster has 2 CPUs" in caplog.text
    with pytest.raises(UsageError, match=r"device=cuda: Ray finds no GPU on this machine\n  device=cpu"):
        plan(device="cuda").seek_room(shared=False)
    machines[0]["Resources"] = {"CPU": 2.0, "GPU": 1.0}
    plan(device="cuda", threads=2).seek_room(shared=False)


def test_what_is_refused_once_ray_runs_leaves_no_output(
    model: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(cluster, "joined", lambda *_, **__: contextlib.nullcontext(False))
    monkeypatch.setattr(ray, "nodes", list)
    with pytest.raises(UsageError, match="Ray finds no GPU"):
        write(model, str(few), str(tmp_path / "out"), device="cuda")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("words", "batch"), [((), None), (("batch=3",), 3)])
def test_the_batch_is_the_model_s_own_unless_it_is_named(
    words: tuple[str, ...], batch: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, object] = {}

    def note(model: str, source: str, output: str, **settings: object) -> bulk.Report:
        given.update(settings)
        return bulk.Report(output)

    monkeypatch.setattr(bulk, "write", note)
    assert main(["bulk", "predict", "model=m.onnx", "source=s", "output=o", *words]) == 0
    assert given["batch"] == batch


def test_a_file_of_a_fixed_batch_is_filled(
    model: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards go through the network in the batches that its file takes, whatever of them cannot be read."""
    fixed = YOLO(model.with_suffix(".pt")).export(
        "onnx", imgsz=64, batch=3, dynamic=False, verify=False, output=tmp_path / "fixed.onnx"
    )
    plan = bulk._Plan.make(fixed.path, str(few), shard=100, settings={"conf": 0.0001, "max_det": 20}, workers=1)
    given: list[int] = []
    opened = YOLO(fixed.path)
    opened.add_callback("on_predict_batch_end", lambda predictor: given.append(len(predictor.results)))
    work = worker.Work("", None, "fixed", plan.settings)
    monkeypatch.setattr(worker, "_open", {("fixed", ""): opened})
    with Decoder() as decoder:
        monkeypatch.setattr(worker, "_decoder", decoder)
        rows = worker.predicted(pa.Table.from_pylist([plan.shards[0].row(0)]), work=work).to_pylist()
    assert given == [3, 3, 3, 3]
    assert [row["image"] for row in rows] == sorted(map(str, few.iterdir()))  # those that cannot be read in their place
    assert [row["unreadable"] is None for row in rows].count(False) == 2


def test_a_ray_that_does_not_start_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with much to do: it gives its own processes half a minute."""

    def late(**_: object) -> None:
        raise Exception("The current node timed out during startup")  # noqa: TRY002 - as Ray does

    monkeypatch.setattr(cluster, "load", lambda: SimpleNamespace(init=late, shutdown=lambda: None))
    monkeypatch.setattr(cluster, "_own_folder", lambda: tmp_path / "ray")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "of the test")
    (tmp_path / "ray").mkdir()
    with pytest.raises(SegxError, match="Ray has not started: The current node timed out") as told:
        cluster.start(None, cpus=1)
    assert "less busy" in str(told.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_another_run_takes_while_ray_starts_is_left_to_it(
    model: Path, few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = str(tmp_path / "out")

    def joined(*_: object, **__: object) -> contextlib.AbstractContextManager[bool]:
        bulk._note(out, bulk._Plan.make(model, str(few), shard=256, settings={"conf": 0.5}, workers=1))
        return contextlib.nullcontext(False)

    monkeypatch.setattr(cluster, "joined", joined)
    monkeypatch.setattr(bulk._Plan, "seek_room", lambda *_, **__: None)
    with pytest.raises(DataError, match="holds a run already"):
        write(model, str(few), out)
    assert (files.read_record(out) or {})["settings"]["conf"] == 0.5


def test_ctrl_c_while_a_cluster_is_joined_leaves_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    left: list[bool] = []
    monkeypatch.setattr(ray, "init", lambda **_: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr(ray, "shutdown", lambda: left.append(True))
    with pytest.raises(KeyboardInterrupt), cluster.joined("10.0.0.1:6379", cpus=1):
        pass
    assert left == [True]


def test_a_record_whose_settings_are_none_is_damaged(tmp_path: Path) -> None:
    (tmp_path / files.RECORD).write_text(json.dumps({"layout": files.LAYOUT, "settings": None}))
    with pytest.raises(DataError, match="is damaged"):
        files.read_record(str(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_ends_a_run_waits_until_ray_has_started(number: signal.Signals) -> None:
    told, block = [], []
    before = signal.signal(number, lambda *_: told.append(len(block)))
    try:
        with cluster._signals_held():
            signal.raise_signal(number)
            block.append("held")
        assert told == [1]
        with cluster._signals_held():
            signal.raise_signal(number)
            signal.raise_signal(number)  # somebody does not want to wait
            block.append("not held")
        assert told == [1, 1, 2]
        with cluster._signals_held():
            signal.signal(number, signal.SIG_IGN)  # as Ray puts its own there
        signal.raise_signal(number)
        assert told == [1, 1, 2, 2]
        with contextlib.suppress(ConnectionError), cluster._signals_held():
            signal.raise_signal(number)
            raise ConnectionError
        assert told == [1, 1, 2, 2, 2]  # not forgotten, though Ray has not started
    finally:
        signal.signal(number, before)


def test_what_a_shard_raises_is_told_in_its_own_words(tmp_path: Path) -> None:
    """Ray raises an error of two classes, whose words are the worker's whole traceback."""
    from ray.exceptions import RayTaskError

    own = DataError(f"{tmp_path}/images: cannot be written", hint="name another output=")
    raised = RayTaskError("do_shard", "Traceback (most recent call last) ...", own).as_instanceof_cause()
    assert isinstance(raised, DataError)
    assert cluster.words_of(raised) is own
    raised = RayTaskError("do_shard", "Traceback ...", ZeroDivisionError("by nothing")).as_instanceof_cause()
    assert str(cluster.words_of(raised)).startswith("the workers have failed: by nothing")


def test_a_folder_that_holds_something_else_is_left_alone(model: Path, few: Path) -> None:
    with pytest.raises(DataError, match="holds something already"):
        write(model, str(few), str(few))
    with pytest.raises(DataError, match="no results of segx bulk"):
        next(read(str(few)))


def test_the_process_that_decodes_gives_the_image(few: Path) -> None:
    with Decoder() as decoder:
        for path in stills(few)[:3]:
            assert np.array_equal(decoder.decode(path.read_bytes()), read_image(path))
        with pytest.raises(DataError):
            decoder.decode(b"")
        assert np.array_equal(decoder.decode(stills(few)[0].read_bytes()), read_image(stills(few)[0]))


@pytest.mark.parametrize("pixels", [64, 5000])
def test_small_and_large_images_are_given_whole(pixels: int) -> None:
    """The largest go through the pipe: what both processes see would keep their size."""
    image = np.random.default_rng(0).integers(0, 255, (pixels, 4000, 3), np.uint8)
    assert (image.nbytes > decoder_module._LARGEST) == (pixels == 5000)
    data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 0])[1].tobytes()
    with Decoder() as decoder:
        first = decoder.decode(data)
        second = decoder.decode(cv2.imencode(".png", image[:8])[1].tobytes())
        assert np.array_equal(first, image)  # a copy, which the next one does not change
        assert np.array_equal(second, image[:8])


HURTING = """
import sys
if any("segx_bulk_ray.decoder" in word for word in sys.orig_argv):
    import os, time
    from segx.io import images
    whole = images.decode_image
    def decode(data):
        if data == b"kill":
            os.abort()
        if data == b"sleep":
            time.sleep(100)
        return whole(data)
    images.decode_image = decode
"""


def test_what_kills_or_stops_it_is_told_and_the_next_is_decoded(
    few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(HURTING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    image = stills(few)[0]
    with Decoder(seconds=4) as decoder:
        with pytest.raises(DataError, match="SIGABRT" if sys.platform == "linux" else "kills"):
            decoder.decode(b"kill")
        assert np.array_equal(decoder.decode(image.read_bytes()), read_image(image))
        with pytest.raises(DataError, match="no end after 4 s"):
            decoder.decode(b"sleep")
        assert np.array_equal(decoder.decode(image.read_bytes()), read_image(image))


@pytest.mark.parametrize(("images", "skipped", "code"), [(0, 0, 3), (1, 0, 0), (0, 1, 0)])
def test_a_run_that_could_read_nothing_says_so_by_its_exit_code(
    images: int, skipped: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = bulk.Report(output="out", images=images, objects=0, unreadable=2, skipped=skipped)
    monkeypatch.setattr(bulk, "write", lambda *_args, **_settings: done)
    assert main(["bulk", "predict", "model=m.onnx", "source=photos", "output=out"]) == code
