from __future__ import annotations

import csv
import gc
import json
import logging
import os
import threading
import time
import weakref
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from segx.artifact import ArtifactInfo
from segx.data import open_dataset
from segx.errors import DataError, ModelError, UsageError
from segx.flows.predict import predict
from segx.io.files import GrowingFile
from segx.io.sources import open_source
from segx.options.verbs import PredictOptions
from segx.plugin.registry import get_registry
from segx.structures.masks import Masks
from segx.structures.results import Results
from segx.testing.interpreter import run_fresh
from segx.testing.scenes import HEAD, NAMES, ColorSession, draw_scene

pytest.importorskip("segx_task_segment")

FREE = frozenset({"batch", "height", "width"})


class Watched(ColorSession):
    """A session that remembers what it was given."""

    def __init__(self, *, imgsz=(320, 320), batch=1, dynamic=FREE, seconds=0.0, fails=None):
        super().__init__(ArtifactInfo(names=NAMES, imgsz=imgsz, batch=batch, dynamic=dynamic))
        self.shapes, self.seconds, self.fails = [], seconds, fails

    def run(self, images):
        self.shapes.append(images.shape)
        time.sleep(self.seconds)
        if self.fails is not None:
            raise self.fails
        return super().run(images)


class Listener:
    """Records the events that listeners get."""

    def __init__(self):
        self.events = []

    def __call__(self, event, **facts):
        self.events.append((event, facts))

    @property
    def names(self):
        return [event for event, _ in self.events]


def start(source, session=None, reported=None, failures=None, streams=1, **options):
    chosen = PredictOptions.parse(options)
    return predict(
        session or Watched(),
        source if hasattr(source, "loaders") else open_source(source, vid_stride=chosen.vid_stride),
        chosen,
        task=get_registry().tasks.load("segment"),
        notify=reported or Listener(),
        failures=failures,
        streams=streams,
    )


def segx_threads():
    """Return the threads of runs; a plugin that hangs, as some do in other tests, leaves one of its own behind."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith("segx") and name != "segx-plugin"]


@pytest.fixture(autouse=True)
def no_thread_stays():
    yield
    gc.collect()
    deadline = time.monotonic() + 5
    while segx_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert segx_threads() == []


@pytest.fixture
def folder(tmp_path):
    """Nine drawn images of three shapes, in changing order, with one to six objects."""
    shapes = [
        (240, 320),
        (240, 320),
        (320, 240),
        (200, 200),
        (200, 200),
        (200, 200),
        (240, 320),
        (320, 240),
        (240, 320),
    ]
    images = tmp_path / "photos"
    images.mkdir()
    for number, shape in enumerate(shapes):
        scene = draw_scene(*shape, objects=1 + number % 6)
        cv2.imwrite(str(images / f"{number}.png"), scene.image)
    return images


def assert_same(one, other):
    assert [result.path for result in one] == [result.path for result in other]
    for first, second in zip(one, other, strict=True):
        np.testing.assert_array_equal(first.boxes.data, second.boxes.data)
        assert len(first.masks) == len(second.masks) == len(first)
        np.testing.assert_array_equal(first.masks.data, second.masks.data)


def test_what_is_drawn_is_found_in_order(folder):
    results = list(start(folder))
    assert [result.path.rpartition("/")[2] for result in results] == [f"{number}.png" for number in range(9)]
    assert [len(result) for result in results] == [1 + number % 6 for number in range(9)]
    scene = draw_scene(240, 320, objects=2)
    for drawn, box, mask in zip(scene.objects, results[1].boxes.xyxy, results[1].masks.data, strict=True):
        assert np.abs(box - drawn.box).max() < 4
        assert (mask.astype(bool) & drawn.mask).sum() / (mask.astype(bool) | drawn.mask).sum() > 0.9


@pytest.mark.parametrize("batch", [2, 3, 16])
def test_results_do_not_depend_on_the_batch(folder, batch):
    session = Watched()
    assert_same(list(start(folder, session, batch=batch)), list(start(folder)))
    assert sum(shape[0] for shape in session.shapes) == 9
    assert max(shape[0] for shape in session.shapes) == min(batch, 3)


def test_images_of_one_shape_share_a_batch_and_a_change_ends_it(folder):
    session = Watched()
    list(start(folder, session, batch=16))
    assert session.shapes == [
        (2, 3, 256, 320),
        (1, 3, 320, 256),
        (3, 3, 320, 320),
        (1, 3, 256, 320),
        (1, 3, 320, 256),
        (1, 3, 256, 320),
    ]


def test_without_rect_all_are_square(folder):
    session = Watched()
    list(start(folder, session, batch=4, rect=False))
    assert [shape[0] for shape in session.shapes] == [4, 4, 1]
    assert {shape[2:] for shape in session.shapes} == {(320, 320)}


@pytest.mark.parametrize(("device", "cores", "most"), [("cpu", 2, 1), ("cpu", 16, 2), ("cuda:0", 2, 16)])
def test_a_cpu_takes_no_more_images_at_once_than_fill_it(folder, monkeypatch, device, cores, most):
    monkeypatch.setattr("segx.flows.runner.cores", lambda: cores)
    session = Watched(imgsz=(640, 640))
    session.device = device
    list(start(folder, session, batch=16))
    assert max(shape[0] for shape in session.shapes) == most


def test_a_file_of_a_fixed_batch_is_filled_up(folder):
    fixed = Watched(batch=4, dynamic=frozenset())
    results = list(start(folder, fixed))
    assert fixed.shapes == [(4, 3, 320, 320)] * 3
    assert_same(results, list(start(folder, rect=False)))


def test_a_gpu_gets_one_shape(folder):
    """A new shape takes it longer than all the padding; who asks for rect has it."""
    on_gpu = Watched()
    on_gpu.device = "cuda:0"
    results = list(start(folder, on_gpu, batch=4))
    assert on_gpu.shapes == [(4, 3, 320, 320)] * 3
    assert_same(results, list(start(folder, rect=False)))
    on_gpu.shapes.clear()
    assert_same(list(start(folder, on_gpu, batch=4, rect=True)), list(start(folder)))
    assert {shape[2:] for shape in on_gpu.shapes} == {(256, 320), (320, 256), (320, 320)}
    assert {shape[0] for shape in on_gpu.shapes} == {4}


def test_a_fixed_file_says_which_shape_it_uses(folder, caplog):
    caplog.set_level(logging.INFO, logger="segx")
    list(start(folder, Watched(dynamic=frozenset({"batch"}))))
    notes = [record.getMessage() for record in caplog.records if record.getMessage().startswith("input")]
    assert notes == ["input 320x320: the only one the file takes; rect is off, a .pt would pad this image to 256x320"]


def test_every_input_shape_is_reported_once(folder, caplog):
    caplog.set_level(logging.INFO, logger="segx")
    list(start(folder))
    notes = [record.getMessage().split(":")[0] for record in caplog.records if "(rect)" in record.getMessage()]
    assert notes == ["input 256x320", "input 320x256", "input 320x320"]


@pytest.mark.parametrize("imgsz", [640, (320, 352), 300])
def test_another_size_than_the_file_takes_is_its_own(folder, imgsz, caplog):
    """As everywhere in the field; it is said, and what else to do."""
    session = Watched(dynamic=frozenset({"batch"}))
    assert len(list(start(folder, session, imgsz=imgsz))) == 9
    assert {shape[2:] for shape in session.shapes} == {(320, 320)}
    (told,) = (record.getMessage() for record in caplog.records if record.getMessage().startswith("imgsz="))
    assert ("is rounded up to 320x320" if imgsz == 300 else "becomes 320x320: model takes that only; export") in told


def test_metadata_of_another_model_are_told_with_file_and_cure(folder):
    session = Watched()
    session.info = session.info.replace(names={number: str(number) for number in range(80)})
    with pytest.raises(ModelError) as caught:
        list(start(folder, session))
    said = caught.value.message
    assert said.startswith("model: outputs of shape (1, ")
    assert said.endswith("are not those of a yolov8-seg head with 80 classes, but of one with 3")
    assert "(N, 84 + k, anchors) and (N, k, h, w)" in caught.value.hint
    assert "export it again" in caught.value.hint


def test_one_axis_may_be_free(folder):
    session = Watched(dynamic=frozenset({"width"}))
    list(start(folder, session, imgsz=(320, 640)))
    assert set(session.shapes) == {(1, 3, 320, 640)}
    list(start(folder, session, imgsz=640))
    assert set(session.shapes) == {(1, 3, 320, 640)}, "the other is the file's own"


def test_a_size_that_is_no_multiple_is_rounded_up_and_reported(folder, caplog):
    session = Watched()
    list(start(folder, session, imgsz=330, rect=False))
    assert {shape[2:] for shape in session.shapes} == {(352, 352)}
    assert "330x330 is rounded up to 352x352" in caplog.text


def test_tensors_go_in_as_they_are():
    torch = pytest.importorskip("torch")
    scene = draw_scene(96, 128, objects=3)
    tensor = torch.from_numpy(scene.image[..., ::-1].transpose(2, 0, 1).copy()).float() / 255
    session = Watched()
    (result,) = start(tensor, session)
    assert session.shapes == [(1, 3, 96, 128)]
    assert np.abs(result.boxes.xyxy - [drawn.box for drawn in scene.objects]).max() < 1.5
    with pytest.raises(UsageError, match="multiples of 32"):
        list(start(tensor[:, :90], session))
    with pytest.raises(UsageError, match="320x320 only"):
        list(start(tensor, Watched(dynamic=frozenset())))


def test_speed_of_every_stage(folder):
    for result in start(folder, batch=2):
        assert set(result.speed) == {"preprocess", "inference", "postprocess"}
        assert all(value > 0 for value in result.speed.values())


@pytest.mark.parametrize("save", [False, True])
def test_each_result_is_built_once(folder, tmp_path, monkeypatch, save):
    built, empty = [], []
    finish, nothing = Results.__post_init__, Masks.empty.__func__
    monkeypatch.setattr(Results, "__post_init__", lambda self: built.append(self) or finish(self))
    monkeypatch.setattr(Masks, "empty", classmethod(lambda cls, shape: empty.append(shape) or nothing(cls, shape)))
    results = list(start(folder, batch=2, save=save, project=tmp_path / "runs"))
    assert {id(result) for result in built} == {id(result) for result in results}
    assert len(built) == len(results) == 9
    assert not empty


def test_what_cannot_be_read_is_reported_and_the_run_goes_on(folder, caplog):
    (folder / "4.png").write_bytes(b"broken")
    (folder / "20.jpg").write_bytes(b"")
    failures = []
    results = list(start(folder, failures=failures, batch=3))
    assert len(results) == 8
    assert [failure.path.rpartition("/")[2] for failure in failures] == ["4.png", "20.jpg"]
    assert "passed over" in caplog.text
    assert "4.png: it is damaged" in caplog.text


def test_a_source_of_which_nothing_can_be_read_is_an_error(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(b"broken")
    reported = Listener()
    with pytest.raises(DataError, match=r"nothing of the source could be read: .*a\.jpg: .*\(and 1 more\)"):
        list(start(tmp_path, reported=reported))
    assert reported.names == ["run_started", "run_failed"]


def test_an_empty_iterator_has_no_results():
    assert list(start(iter([]))) == []


def test_plugins_are_reported(folder):
    reported = Listener()
    list(start(folder, reported=reported, batch=3, rect=False))
    assert reported.names == ["run_started", *["step_ended"] * 3, "run_ended"]
    run = reported.events[0][1]["run"]
    assert (run.mode, run.folder, run.options["batch"]) == ("predict", None, 3)
    assert [facts["step"].index for name, facts in reported.events if name == "step_ended"] == [0, 1, 2]
    assert reported.events[-1][1]["metrics"]["images"] == 9
    assert reported.events[-1][1]["metrics"]["objects"] == sum(1 + number % 6 for number in range(9))


def test_a_line_for_each_image(folder, caplog):
    caplog.set_level(logging.INFO, logger="segx")
    list(start(folder))
    lines = [record.getMessage() for record in caplog.records]
    line = next(line for line in lines if "/5.png" in line)
    assert line.startswith("6/9 ")
    assert "200x200: 2 reds, 2 greens, 2 blues, " in line
    assert line.endswith(" ms")
    caplog.clear()
    list(start(folder, verbose=False))
    assert not any("/5.png" in record.getMessage() for record in caplog.records)


# Threads


def test_only_what_is_asked_for_is_done(folder):
    session = Watched()
    results = start(folder, session)
    assert session.shapes == []
    next(results)
    assert len(session.shapes) <= 3
    results.close()
    assert segx_threads() == []
    assert len(session.shapes) <= 3


def test_who_stops_early_ends_the_run_well(folder):
    reported = Listener()
    source = open_source(folder)
    closed = []
    source.close = lambda: closed.append(True)
    results = start(source, reported=reported)
    next(results)
    results.close()
    assert reported.names[-1] == "run_ended"
    assert closed


def test_a_forgotten_run_ends(folder):
    results = start(folder)
    next(results)
    del results
    gc.collect()
    assert segx_threads() == []


def test_a_run_that_is_left_open_ends_before_the_program_does(folder):
    """Later its threads would be stopped within C++, which aborts the process, and plugins told by threads no more."""
    code = """
        import json, sys, threading
        from segx.artifact import ArtifactInfo
        from segx.flows.predict import predict
        from segx.io.sources import open_source
        from segx.options.verbs import PredictOptions
        from segx.plugin.registry import get_registry
        from segx.testing.scenes import NAMES, ColorSession

        def notify(event, **_):
            if event == "run_ended":
                left = [thread.name for thread in threading.enumerate() if "ahead" in thread.name]
                print(json.dumps({"late": sys.is_finalizing(), "left": left}))

        session = ColorSession(ArtifactInfo(names=NAMES, imgsz=(320, 320), batch=1))
        task = get_registry().tasks.load("segment")
        results = predict(session, open_source(sys.argv[1]), PredictOptions(), task=task, notify=notify)
        next(results)
    """
    assert run_fresh(code, str(folder)) == {"late": False, "left": []}


@pytest.mark.parametrize("streams", [1, 3])
@pytest.mark.parametrize("error", [RuntimeError("network"), KeyboardInterrupt(), MemoryError()])
def test_a_failure_of_the_network_ends_all_threads(folder, error, streams):
    reported = Listener()
    with pytest.raises(type(error)):
        list(start(folder, Watched(fails=error), reported, streams=streams))
    assert segx_threads() == []
    assert reported.names[-1] == "run_failed"
    assert reported.events[-1][1]["error"] is error


@pytest.mark.parametrize("batch", [1, 2])
def test_images_go_side_by_side_through_a_network_that_allows_it(folder, tmp_path, batch):
    class Crowded(Watched):
        inside = most = 0
        door = threading.Lock()

        def run(self, images):
            with self.door:
                self.inside += 1
                self.most = max(self.most, self.inside)
            time.sleep(0.02 * (1 + len(self.shapes) % 3))  # so that later ones would overtake earlier ones
            outputs = super().run(images)
            with self.door:
                self.inside -= 1
            return outputs

    session = Crowded()
    requests = {"save_json": True, "project": tmp_path / "runs", "batch": batch}
    results = list(start(folder, session, streams=3, **requests))
    assert session.most == 3
    assert_same(results, list(start(folder)))
    rows = json.loads((tmp_path / "runs/predict/predictions.json").read_text())
    assert [row["image_id"] for row in rows] == sorted(row["image_id"] for row in rows)


class Stumbling:
    """A task that fails at one step for one image."""

    name = "segment"
    heads = (HEAD,)

    def __init__(self, step, at):
        self._task, self._step, self._at, self.count = get_registry().tasks.load("segment"), step, at, 0

    def __getattr__(self, name):
        def call(*arguments, **options):
            if name == self._step:
                self.count += 1
                if self.count == self._at:
                    raise ZeroDivisionError(name)
            return getattr(self._task, name)(*arguments, **options)

        return call


@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("step", ["input_shape", "preprocess", "decode"])
def test_a_failure_beside_the_network_is_raised_in_its_place(folder, step, streams):
    reported, got = Listener(), []
    task = Stumbling(step, at=4)
    results = predict(Watched(), open_source(folder), PredictOptions(), task=task, notify=reported, streams=streams)
    with pytest.raises(ZeroDivisionError):
        got.extend(results)
    assert len(got) <= 2 + streams  # streams may overtake each other before they are put in order
    assert reported.names[-1] == "run_failed"
    assert segx_threads() == []


@pytest.mark.parametrize(("ours", "threads"), [(True, 1), (False, 3)])
def test_opencv_keeps_its_threads_where_a_program_may_want_them(folder, monkeypatch, ours, threads):
    monkeypatch.setattr("segx.flows.runner.process_taken", lambda: ours)
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        seen = {cv2.getNumThreads() for _ in start(open_source(folder), Watched())}
        assert (seen, cv2.getNumThreads()) == ({threads}, 3)
    finally:
        cv2.setNumThreads(before)


def test_the_stages_work_side_by_side():
    pause, count = 0.06, 8

    def slowly():
        for _ in range(count):
            time.sleep(pause)
            yield draw_scene(64, 64, objects=1).image

    class SlowTask(Stumbling):
        def decode(self, *arguments):
            time.sleep(pause)
            return self._task.decode(*arguments)

    began = time.perf_counter()
    session = Watched(imgsz=(64, 64), seconds=pause)
    task = SlowTask("none", at=0)
    assert len(list(predict(session, open_source(slowly()), PredictOptions(), task=task, notify=Listener()))) == count
    taken = time.perf_counter() - began
    assert taken < 0.75 * 3 * count * pause


class Kept(np.ndarray):
    """An array whose copies' end can be heard of: they are what segx holds."""

    ended = ()

    def copy(self, order="C"):
        copied = super().copy(order)
        weakref.finalize(copied, self.ended.append, 1)
        return copied


@pytest.mark.parametrize("streams", [1, 2])
def test_memory_does_not_grow_with_the_source(streams):
    begun, most = [], 0
    ended = Kept.ended = []

    def images():
        for number in range(60):
            image = draw_scene(64, 96, objects=1).image.view(Kept)
            begun.append(number)
            yield image
            del image

    heard_of = lambda event, **facts: None  # noqa: E731 - one that keeps nothing of what it hears
    for _ in start(images(), Watched(imgsz=(64, 96)), heard_of, batch=2, streams=streams):
        most = max(most, len(begun) - len(ended))
    assert len(begun) == 60
    assert 2 <= most <= 12 + 4 * streams


def test_ctrl_c_ends_a_run_at_once(tmp_path):
    """Even while an image is waited for that never comes, and the network is busy."""
    code = """
        import os, signal, sys, threading, time
        from segx.flows.predict import predict
        from segx.io.sources import open_source
        from segx.options.verbs import PredictOptions
        from segx.plugin.registry import get_registry
        from segx.testing.scenes import ColorSession, draw_scene

        def images():
            yield draw_scene(64, 64).image
            threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
            time.sleep(60)

        reported = []
        task = get_registry().tasks.load("segment")
        options = PredictOptions(save_json=True, project=sys.argv[1])
        notify = lambda event, **facts: reported.append(event)
        began = time.monotonic()
        try:
            list(predict(ColorSession(), open_source(images()), options, task=task, notify=notify))
        except KeyboardInterrupt:
            print(f'{{"seconds": {time.monotonic() - began}, "told": "{reported[-1]}"}}')
    """
    began = time.monotonic()
    found = run_fresh(code, str(tmp_path))
    assert found["told"] == "run_failed"
    assert found["seconds"] < 10
    assert time.monotonic() - began < 40


# Live


def test_a_live_stream_is_predicted_and_written(camera, tmp_path):
    camera.sessions, camera.pause = [40], 0.03
    reported, session = Listener(), Watched(imgsz=(64, 64), seconds=0.02)
    results = start(camera.address, session, reported, streams=4, save=True, save_txt=True, project=tmp_path)
    seen = [next(results) for _ in range(5)]
    results.close()
    assert [result.frame for result in seen] == sorted({result.frame for result in seen})
    assert session.shapes == [(1, 3, 64, 64)] * len(session.shapes)
    assert len(session.shapes) == 5  # nothing is done ahead of a stream that does not wait
    assert files(tmp_path / "predict")[-1] == "live.mp4"
    assert len(read_video(tmp_path / "predict" / "live.mp4")[0]) == 5
    assert reported.names[-1] == "run_ended"


def test_the_streams_of_a_file_side_by_side(camera, tmp_path):
    camera.sessions = [60, 60]
    (tmp_path / "all.streams").write_text(f"{camera.address}\n{camera.address}?second\n")
    results = start(tmp_path / "all.streams", Watched(imgsz=(64, 64)), batch=2)
    paths = [next(results).path for _ in range(8)]
    results.close()
    assert set(paths) == {camera.address, f"{camera.address}?second"}


# What is written


def options_for(tmp_path, **more):
    return {"project": tmp_path / "runs", **more}


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_nothing_is_written_unless_asked(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert {result.save_dir for result in start(folder)} == {None}
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_images_keep_their_suffix_and_namesakes_their_own_file(tmp_path):
    scene = draw_scene(64, 96).image
    sources = []
    for name in ("a/x.jpg", "b/x.jpg", "b/x.png", "X.webp", "größe 写真.tif", "c/x-2.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(cv2.imencode(path.suffix, scene)[1].tobytes())
        sources.append(path)
    sources.append(scene)
    results = list(start(sources, **options_for(tmp_path, save=True, save_txt=True)))
    saved = tmp_path / "runs" / "predict"
    assert {result.save_dir for result in results} == {saved}
    assert files(saved) == sorted(
        ["x.jpg", "x-2.jpg", "x-3.png", "X-4.webp", "größe 写真.tif", "x-2-2.jpg", "image0.jpg"]
        + [f"labels/{stem}.txt" for stem in ("x", "x-2", "x-3", "X-4", "größe 写真", "x-2-2", "image0")]
    )
    drawn = cv2.imdecode(np.fromfile(saved / "größe 写真.tif", np.uint8), cv2.IMREAD_COLOR)
    assert drawn.shape == scene.shape
    assert (drawn != scene).any()


def test_no_two_files_of_a_run_share_a_name(tmp_path):
    """Namesakes, what looks like a frame or a further object, names that are one on another system, escapes."""
    scene = draw_scene(64, 96, objects=3).image
    names = ("x/a.png", "y/a.png", "a-2.png", "clip_1.png", "1.png", "01.png", "001.png", "A.webp", "pill#1.png")
    sources = []
    for name in (*names, "scan.001", "b\udcff.png", "e\u0301.png", "é.png", "a\\..\\b.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(cv2.imencode(path.suffix if path.suffix != ".001" else ".png", scene)[1].tobytes())
        sources.append(path)
    sources.append(write_video(tmp_path / "clip.avi", frames=3))
    requests = options_for(tmp_path, save=True, save_txt=True, save_crop=True, save_json=True)
    results = list(start(sources, Watched(imgsz=(64, 96)), **requests))
    saved = tmp_path / "runs" / "predict"
    written = files(saved)
    assert len(written) == len({name.casefold() for name in written})
    assert len([name for name in written if "/" not in name]) == len(sources) + 1
    assert len([name for name in written if name.startswith("labels/")]) == len(results) == len(sources) + 2
    assert len([name for name in written if name.startswith("crops/")]) == sum(len(result) for result in results)
    rows = json.loads((saved / "predictions.json").read_text())
    assert len({str(row["image_id"]) for row in rows}) == len(results)
    assert {result.stem for result in results} >= {"a", "a-2", "a-2-2", "clip_1", "clip-2_1", "pill#1", "scan.001"}
    for result in results:
        assert result.save(labels=False).parent == saved
    assert len(files(saved)) == len(written) + 3, "only frames are new: images were saved under the same name"


def test_a_source_is_never_drawn_over(folder, tmp_path):
    before = (folder / "0.png").read_bytes()
    with pytest.raises(UsageError, match="lies in the folder of the run"):
        list(start(folder, save=True, project=tmp_path, name=folder.name, exist_ok=True))
    assert (folder / "0.png").read_bytes() == before


def test_run_folders_are_numbered(folder, tmp_path):
    image = folder / "0.png"
    for expected in ("predict", "predict2", "predict3"):
        (result,) = start(image, **options_for(tmp_path, save_txt=True))
        assert result.save_dir.name == expected
    (result,) = start(image, **options_for(tmp_path, save_txt=True, name="mine"))
    assert result.save_dir.name == "mine"
    (result,) = start(image, **options_for(tmp_path, save_txt=True, name="mine", exist_ok=True))
    assert result.save_dir.name == "mine"
    assert len((result.save_dir / "labels" / "0.txt").read_text().splitlines()) == 1


@pytest.mark.parametrize("name", ["../up", "/up", "a/../../up", "."])
def test_a_run_stays_in_its_project(folder, tmp_path, name):
    with pytest.raises(UsageError, match="lies in its project's"):
        list(start(folder, save_txt=True, project=tmp_path / "runs", name=name))
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    (result, *_) = start(folder, save_txt=True, project=tmp_path / "runs", name="a/b")
    assert result.save_dir == tmp_path / "runs" / "a" / "b"


def test_a_folder_that_cannot_be_made_is_reported(folder, tmp_path):
    (tmp_path / "runs").write_text("in the way")
    with pytest.raises(DataError, match=r"run folder .* cannot be made"):
        list(start(folder, **options_for(tmp_path, save=True)))


def test_coco_json_is_whole_and_holds_all(folder, tmp_path):
    results = list(start(folder, **options_for(tmp_path, save_json=True, batch=3)))
    saved = tmp_path / "runs" / "predict"
    assert files(saved) == ["predictions.json"]
    rows = json.loads((saved / "predictions.json").read_text())
    assert len(rows) == sum(len(result) for result in results)
    assert [row["image_id"] for row in rows] == sorted(row["image_id"] for row in rows)
    assert rows[0]["segmentation"]["size"] == [240, 320]
    assert rows[0]["file_name"].endswith("0.png")


def test_coco_json_of_nothing_is_an_empty_list(tmp_path):
    blank = np.full((64, 64, 3), 96, np.uint8)
    list(start(blank, **options_for(tmp_path, save_json=True)))
    assert json.loads((tmp_path / "runs/predict/predictions.json").read_text()) == []


def test_coco_json_of_a_run_that_failed_is_not_left(folder, tmp_path):
    task = Stumbling("decode", at=4)
    options = PredictOptions.parse(options_for(tmp_path, save_json=True))
    with pytest.raises(ZeroDivisionError):
        list(predict(Watched(), open_source(folder), options, task=task, notify=Listener()))
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize("mode", [True, "mask", "box"])
def test_crops(folder, tmp_path, mode):
    list(start(folder / "2.png", **options_for(tmp_path, save_crop=mode)))
    crops = tmp_path / "runs" / "predict" / "crops"
    assert files(crops) == ["blue/2.png", "green/2.png", "red/2.png"]
    channels = cv2.imread(str(crops / "red" / "2.png"), cv2.IMREAD_UNCHANGED).shape[2]
    assert channels == (3 if mode == "box" else 4)


def test_requests_that_contradict_each_other_are_refused_at_once(folder, monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    for requests, reason in (
        ({"save_crop": True, "retina_masks": False}, "save_crop"),
        ({"save_conf": True}, "save_txt"),
        ({"show": True}, "display"),
    ):
        with pytest.raises(UsageError, match=reason):
            start(folder, **requests)


def write_video(path, frames=8, size=(96, 64), fps=12.0):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, size)
    for _ in range(frames):
        writer.write(draw_scene(size[1], size[0], objects=3).image)
    writer.release()
    return path


def read_video(path):
    capture = cv2.VideoCapture(str(path))
    frames = []
    while True:
        there, frame = capture.read()
        if not there:
            return frames, capture.get(cv2.CAP_PROP_FPS)
        frames.append(frame)


@pytest.mark.parametrize("stride", [1, 3])
def test_videos_are_written_playable(tmp_path, stride):
    clip = write_video(tmp_path / "clip.avi")
    requests = options_for(tmp_path, save=True, save_txt=True, vid_stride=stride)
    results = list(start(clip, Watched(imgsz=(64, 96)), **requests))
    expected = list(range(0, 8, stride))
    assert [result.frame for result in results] == expected
    saved = tmp_path / "runs" / "predict"
    assert files(saved) == ["clip.mp4", *[f"labels/clip_{number}.txt" for number in expected]]
    frames, fps = read_video(saved / "clip.mp4")
    assert len(frames) == len(expected)
    assert frames[0].shape == (64, 96, 3)
    assert fps == pytest.approx(12.0 / stride, rel=1e-3)
    outline = frames[0].astype(int) - draw_scene(64, 96, objects=3).image
    assert np.abs(outline).max() > 60


@pytest.mark.parametrize("lost", [0, 3])
def test_a_video_that_is_not_whole_on_the_disk_is_not_left(tmp_path, monkeypatch, lost):
    """OpenCV says nothing of a disk that is full."""
    writers = []

    class Full:
        def __init__(self, path, _, code, rate, size):
            self.path, self.frames, self.inner = path, 0, VideoWriter(path, cv2.CAP_FFMPEG, code, rate, size)
            writers.append(self)

        def isOpened(self):  # noqa: N802 - OpenCV's name
            return self.inner.isOpened()

        def write(self, frame):
            self.frames += 1
            if self.frames > lost:
                self.inner.write(frame)

        def release(self):
            self.inner.release()
            if self.frames and not lost:
                os.truncate(self.path, 200)

    clip, VideoWriter = write_video(tmp_path / "clip.avi"), cv2.VideoWriter  # noqa: N806 - a class
    Full.fourcc = VideoWriter.fourcc
    monkeypatch.setattr(cv2, "VideoWriter", Full)
    with pytest.raises(DataError, match=rf"clip\.mp4: cannot be written: {8 - lost if lost else 0} of 8 frames"):
        list(start(clip, Watched(imgsz=(64, 96)), **options_for(tmp_path, save=True)))
    assert writers[-1].frames == 8
    assert not files(tmp_path / "runs")


def test_a_full_disk_leaves_no_part_of_a_json(folder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    write, left = GrowingFile.write, [2]

    def guarded(self, text):
        left[0] -= 1
        if left[0] == 0:
            monkeypatch.setattr(self, "_file", SimpleNamespace(write=full, close=lambda: None))
        write(self, text)

    monkeypatch.setattr(GrowingFile, "write", guarded)
    with pytest.raises(DataError, match=r"predictions\.json: cannot be written \(No space left on device\)"):
        list(start(folder, **options_for(tmp_path, save_json=True)))
    assert not files(tmp_path / "runs")


def test_a_video_broken_off_can_be_played(tmp_path):
    clip = write_video(tmp_path / "clip.avi", frames=30)
    results = start(clip, Watched(imgsz=(64, 96)), **options_for(tmp_path, save=True))
    for _ in range(5):
        next(results)
    results.close()
    assert files(tmp_path / "runs" / "predict") == ["clip.mp4"]
    assert 5 <= len(read_video(tmp_path / "runs/predict/clip.mp4")[0]) <= 8


@pytest.mark.parametrize(("ending", "kept"), [(KeyboardInterrupt, True), (RuntimeError, False)])
def test_a_run_that_is_stopped_leaves_a_whole_json(tmp_path, ending, kept):
    clip = write_video(tmp_path / "clip.avi", frames=30)
    results = start(clip, Watched(imgsz=(64, 96)), **options_for(tmp_path, save=True, save_json=True))
    for _ in range(5):
        next(results)
    with pytest.raises(ending):
        results.throw(ending)
    folder = tmp_path / "runs" / "predict"
    assert files(folder) == ["clip.mp4", *(["predictions.json"] if kept else [])]
    assert len(read_video(folder / "clip.mp4")[0]) >= 5
    if kept:
        assert len({row["image_id"] for row in json.loads((folder / "predictions.json").read_text())}) >= 5


def test_videos_and_images_side_by_side(tmp_path):
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    write_video(mixed / "a.avi", frames=3)
    write_video(mixed / "b.avi", frames=2, size=(64, 64))
    cv2.imwrite(str(mixed / "a.png"), draw_scene(64, 96).image)
    list(start([mixed, mixed / "a.avi"], Watched(imgsz=(96, 96)), **options_for(tmp_path, save=True, batch=4)))
    saved = tmp_path / "runs" / "predict"
    assert files(saved) == ["a-2.png", "a-3.mp4", "a.mp4", "b.mp4"]
    assert [len(read_video(saved / name)[0]) for name in ("a.mp4", "b.mp4", "a-3.mp4")] == [3, 2, 3]


def test_classes_the_model_does_not_have_are_refused(folder):
    last = max(NAMES)
    assert len(list(start(folder, classes=[0, last]))) == 9
    with pytest.raises(UsageError, match=rf"classes=\[{last + 1}\]: model has 0\.\.{last}"):
        start(folder, classes=[0, last + 1])


def test_a_batch_that_has_no_effect_is_reported(folder, caplog):
    list(start(folder, Watched(dynamic=frozenset()), batch=4))
    assert "takes 1 image a run: batch=4 has no effect" in caplog.text


def test_a_model_that_ends_in_another_head_is_refused_by_name_before_anything_runs(folder):
    session = Watched()
    session.info = session.info.replace(head="yolov8-seg-end2end/1")
    task = get_registry().tasks.load("segment")
    with pytest.raises(ModelError, match=r"nms\.onnx: ends in head 'yolov8-seg-end2end/1'") as caught:
        predict(session, open_source(folder), PredictOptions(), task=task, notify=Listener(), model="nms.onnx")
    assert "it suppresses (NMS) by itself" in caught.value.hint
    assert session.shapes == []


def test_an_answer_of_another_kind_ends_in_one_line(folder):
    class Answering(Watched):
        def run(self, images):
            return super().run(images)[:1]

    task = get_registry().tasks.load("segment")
    with pytest.raises(ModelError, match="gave 1 outputs; its metadata name 2: output0, output1"):
        list(predict(Answering(), open_source(folder), PredictOptions(), task=task, notify=Listener()))


def test_predictions_are_a_data_set_that_is_read_again(folder, tmp_path):
    """Images without objects included: what was found is corrected in an annotation tool, and trained on."""
    results = list(start(folder, **options_for(tmp_path, save_json="dataset")))
    (path,) = tmp_path.rglob("predictions.json")
    dataset = open_dataset(path, "data")
    assert [str(sample.path) for sample in dataset] == [str(Path(each.path).absolute()) for each in results]
    assert [len(sample.annotations) for sample in dataset] == [len(each) for each in results]
    assert sum(map(len, results))
    assert not dataset.problems
    assert set(dataset.names.values()) == set(results[0].names.values())


def test_predictions_are_a_table_without_formulas(folder, tmp_path):
    session = Watched()
    session.info = session.info.replace(names=dict.fromkeys(session.info.names, "=1+1"))
    results = list(start(folder, session, **options_for(tmp_path, save_csv=True)))
    (path,) = tmp_path.rglob("predictions.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(map(len, results)) > 0
    assert {row["name"] for row in rows} == {"'=1+1"}
    assert {row["image"] for row in rows} <= {each.path for each in results}
    assert all(float(row["x2"]) > float(row["x1"]) and float(row["area"]) > 0 for row in rows)
