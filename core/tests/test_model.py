from __future__ import annotations

import copy
import logging
import pickle
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from segx import YOLO
from segx.errors import DataError, ModelError, UsageError
from segx.options.verbs import SessionOptions
from segx.sessions import OneAtATime, Sessions
from segx.testing.interpreter import run_fresh
from segx.testing.models import TINY_YOLOV8
from segx.testing.scenes import ColorSession, draw_scene, noise_images

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("torch")
for plugin in ("segx_torch", "segx_model_yolov8", "segx_task_segment"):
    pytest.importorskip(plugin)

FIND_ALL = {"conf": 0.0, "max_det": 20, "imgsz": 64, "retina_masks": False}


@pytest.fixture(autouse=True)
def one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny(tmp_path) -> Path:
    """A model of the user's own, as YAML."""
    path = tmp_path / "tinyn-seg.yaml"
    path.write_text(TINY_YOLOV8)
    return path


@pytest.fixture
def image(tmp_path) -> Path:
    path = tmp_path / "drawn.png"
    cv2.imwrite(str(path), draw_scene(64, 96).image)
    return path


def boxes(results):
    return [result.boxes.data for result in results]


def raw(model):
    """What the network itself says: results of random weights are too much alike."""
    return model._sessions.model("test").run(noise_images((1, 3, 64, 64)))[1]


def test_a_new_model_predicts_saves_and_comes_back(tiny, image, tmp_path):
    model = YOLO(tiny)
    assert model.path is None
    assert model.task == "segment"
    assert list(model.names) == [0, 1, 2]
    assert model.device == "cpu", "where its weights lie, before it has run"
    found = model(image, **FIND_ALL)
    assert model.device == "cpu"
    assert len(found) == 1
    path = model.save(tmp_path / "saved.pt")
    again = YOLO(str(path))
    assert again.path == path
    np.testing.assert_allclose(boxes(again(image, **FIND_ALL)), boxes(found), atol=1e-3)
    assert again.info().parameters == model.info().parameters


def test_a_loop_writes_into_one_folder_and_over_nothing(tiny, image, tmp_path):
    """What a model object is asked for with the same options stays together; other options have their own folder."""
    model = YOLO(tiny)
    options = {**FIND_ALL, "project": tmp_path / "runs", "save": True, "save_txt": True}
    array = cv2.imread(str(image))
    found = [model(source, **options)[0] for source in (image, image, array, array)]
    (folder,) = {result.save_dir for result in found}
    assert {path.name for path in folder.glob("*.*")} == {"drawn.png", "drawn-2.png", "image0.jpg", "image0-2.jpg"}
    assert len(list((folder / "labels").iterdir())) == 4
    assert next(iter(model(image, stream=True, **options))).save_dir == folder
    assert model(image, **options | {"conf": 0.5})[0].save_dir == YOLO(tiny)(image, **options)[0].save_dir.with_name(
        "predict2"
    )
    mine = options | {"name": "mine", "exist_ok": True}
    assert [model(image, **mine)[0].stem for _ in range(2)] == ["drawn", "drawn"], "as asked, replaced"
    documents = [model(image, **options, save_json=True)[0].save_dir / "predictions.json" for _ in range(2)]
    assert len(set(documents)) == 2, "a document tells of one call"
    assert all(path.is_file() for path in documents)
    shutil.copy(image, folder / "new.png")
    with pytest.raises(UsageError, match="would be written over it"):
        model(folder / "new.png", **options)
    shutil.rmtree(folder)
    assert model(image, **options)[0].stem == "drawn"


def test_handles_that_programs_use_return_the_model(tiny, image):
    model = YOLO(tiny)
    for again in (model.fuse(), model.eval(), model.cpu(), model.to("cpu"), model.float()):
        assert again is model
    assert len(model(image, **FIND_ALL)) == 1
    assert model.device == "cpu"
    with pytest.raises(UsageError, match="device"):
        model.to("cuda:77")(image)
    assert len(model(image, device="cpu", **FIND_ALL)) == 1, "what a call asks for goes first"
    assert np.asarray(model(image, device="cpu", **FIND_ALL)[0].boxes).shape[1] == 6


def test_results_and_models_are_copied_and_sent_to_other_processes(tiny, image, tmp_path):
    path = YOLO(tiny).save(tmp_path / "saved.pt")
    model = YOLO(path)
    (found,) = model(image, **FIND_ALL)
    for copied in (copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))):
        other = copied(found)
        np.testing.assert_array_equal(other.boxes.data, found.boxes.data)
        np.testing.assert_array_equal(other.masks.data, found.masks.data)
        np.testing.assert_array_equal(other.plot(), found.plot())
        again = copied(model)
        assert repr(again) == repr(model)
        assert again.names == model.names
        np.testing.assert_allclose(boxes(again(image, **FIND_ALL)), boxes([found]), atol=1e-3)


def test_a_model_in_memory_only_refuses_to_be_copied(tiny, tmp_path):
    changed = YOLO(YOLO(tiny).save(tmp_path / "saved.pt")).load(tmp_path / "saved.pt")
    for model in (YOLO(tiny), changed):
        for copied in (copy.deepcopy, pickle.dumps):
            with pytest.raises(UsageError, match="its weights are in memory only") as refusal:
                copied(model)
            assert "model.save" in refusal.value.hint


def test_one_model_in_several_threads_gives_each_its_own(tiny, tmp_path):
    model = YOLO(YOLO(tiny).save(tmp_path / "saved.pt"))
    images = [draw_scene(64, 96, objects=count).image for count in range(8)]
    wanted = [boxes(model(image, **FIND_ALL))[0] for image in images]
    fresh = YOLO(tmp_path / "saved.pt")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda image: boxes(fresh(image, **FIND_ALL))[0], images * 3))
    for got, right in zip(found, wanted * 3, strict=True):
        np.testing.assert_allclose(got, right, atol=1e-3)
    assert len(fresh._sessions._open) == 1


def test_a_runtime_that_takes_one_at_a_time_is_called_so(image):
    class Alone(ColorSession):
        inside = 0

        def run(self, images):
            self.inside += 1
            assert self.inside == 1
            time.sleep(0.01)
            outputs = super().run(images)
            self.inside -= 1
            return outputs

    session = OneAtATime(Alone())
    assert session.device == "cpu"
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(session.run, [noise_images((1, 3, 64, 64), seed=seed) for seed in range(8)]))
    for seed, outputs in enumerate(found):
        np.testing.assert_array_equal(outputs[0], Alone().run(noise_images((1, 3, 64, 64), seed=seed))[0])


def test_each_prediction_has_failures_of_its_own(tiny, image, tmp_path):
    """However many threads predict, and whichever began last."""
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"x")
    model = YOLO(tiny)
    first, second = (model.predict([image, broken], stream=True, **FIND_ALL) for _ in range(2))
    next(second)
    assert [len(list(first)), len(list(second))] == [1, 0]
    assert [failure.path for failure in model.failures] == [str(broken)]


def test_load_moves_weights_and_says_what_it_skipped(tiny, tmp_path, caplog):
    source = YOLO(tiny)
    path = source.save(tmp_path / "source.pt")
    target = YOLO(tiny)
    before = raw(target)
    caplog.set_level(logging.INFO, logger="segx")
    assert target.load(path) is target
    assert "0 skipped" in caplog.text
    assert np.abs(raw(target) - before).max() > 1e-3
    np.testing.assert_allclose(raw(target), raw(source), atol=1e-4)
    other = tmp_path / "widen-seg.yaml"
    other.write_text(TINY_YOLOV8.replace("nc: 3", "nc: 5").replace("[64, 3, 2]] # 0", "[64, 5, 2]] # 0"))
    caplog.clear()
    caplog.set_level(logging.WARNING, logger="segx")  # as for a Python user who has not set up logging
    YOLO(other).load(path)
    assert "1 skipped" in caplog.text
    assert "has shape" in caplog.text
    caplog.clear()
    other.write_text(TINY_YOLOV8.replace("nc: 3", "nc: 5"))
    YOLO(other).load(path)
    assert "known from the weights: class0, class1, class2; begin anew: class3, class4" in caplog.text


def test_loaded_weights_reach_sessions_opened_for_other_requests(tiny, image, tmp_path):
    path = YOLO(tiny).save(tmp_path / "source.pt")
    model = YOLO(tiny).load(path)
    alone = boxes(YOLO(path)(image, **FIND_ALL))
    np.testing.assert_allclose(boxes(model(image, threads=1, device="cpu", **FIND_ALL)), alone, atol=1e-3)


def test_sessions_are_kept(tiny, image, monkeypatch):
    model = YOLO(tiny)
    opened = []
    original = Sessions._start
    monkeypatch.setattr(Sessions, "_start", lambda self, *how: opened.append(how) or original(self, *how))
    for _ in range(3):
        model(image, **FIND_ALL)
    model(image, device="cpu", **FIND_ALL)
    model(image, device="cpu", **FIND_ALL)
    assert len(opened) == 2


@pytest.mark.parametrize(
    "case",
    [(3, {}, (1, None)), (4, {}, (4, 2)), (9, {"threads": 2}, (2, 1)), (9, {"batch": 3}, (1, None))],
)
def test_many_images_share_the_cores(tiny, image, monkeypatch, case):
    images, requests, expected = case
    import segx.flows.predict
    import segx.runtime

    monkeypatch.setattr(segx.runtime, "cores", lambda: 8)
    seen = []
    original = segx.flows.predict.predict
    monkeypatch.setattr(
        segx.flows.predict,
        "predict",
        lambda *a, streams, **k: seen.append(streams) or original(*a, streams=streams, **k),
    )
    model = YOLO(tiny)
    assert len(model([image] * images, **FIND_ALL, **requests)) == images
    ((how, _),) = model._sessions._open
    assert (seen[0], how.threads) == expected
    assert how.streams == seen[0], "a runtime is told how many threads will call it"


def test_a_gpu_is_fed_while_it_computes(tiny, monkeypatch):
    sessions = YOLO(tiny)._sessions
    begin = sessions._start

    def start(how, backend):
        session = begin(how, backend)
        session.device = "cuda:0"
        return session

    monkeypatch.setattr(sessions, "_start", start)
    session, streams = sessions.with_streams(SessionOptions())
    assert streams == 2
    assert sessions.with_streams(SessionOptions()) == (session, 2)
    assert sessions.get(SessionOptions()) is session


def test_a_list_or_an_iterator(tiny, image):
    model = YOLO(tiny)
    assert isinstance(model.predict([image, image], **FIND_ALL), list)
    results = model.predict([image, image], stream=True, **FIND_ALL)
    assert next(results).path == str(image)
    results.close()


def test_what_is_missing_is_reported_when_it_is_asked_for(tiny, tmp_path):
    model = YOLO(tiny)
    with pytest.raises(DataError, match="does not exist"):
        model(tmp_path / "missing.jpg", stream=True)
    with pytest.raises(UsageError, match="did you mean 'conf'"):
        model(tmp_path, cnf=0.5)


def test_errors_are_what_programs_catch(tiny, tmp_path, caplog):
    """Each is segx's own, with its line and its exit code, and also Python's for the same thing."""
    model = YOLO(tiny)
    for error, own, attempt in (
        (FileNotFoundError, DataError, lambda: model(tmp_path / "missing.jpg")),
        (FileNotFoundError, DataError, lambda: model.val(data=tmp_path / "missing.yaml")),
        (FileNotFoundError, DataError, lambda: model.val(data="missing.yaml")),
        (FileNotFoundError, ModelError, lambda: YOLO(tmp_path / "missing.onnx")),
        (FileNotFoundError, ModelError, lambda: YOLO("missing.pt")),
        (FileNotFoundError, ModelError, lambda: YOLO("missing.yaml")),
        (ValueError, UsageError, lambda: model(tmp_path, conf=2)),
        (ValueError, UsageError, lambda: model(tmp_path, imgsz="wide")),
        (ValueError, UsageError, lambda: model(tmp_path, augment=True)),
        (TypeError, UsageError, lambda: model(tmp_path, cnf=0.5)),
        (TypeError, UsageError, lambda: model(object())),
        (TypeError, UsageError, lambda: YOLO(3)),
    ):
        with pytest.raises(error) as caught:
            attempt()
        assert isinstance(caught.value, own)
        assert str(caught.value).startswith(caught.value.message)
    with caplog.at_level("INFO", logger="segx"):
        YOLO(tiny, verbose=False)
        assert "parameters" not in caplog.text
        YOLO(tiny, verbose=True)
    assert "parameters" in caplog.text


def test_failures_are_kept(tiny, image, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"x")
    model = YOLO(tiny)
    model([image, broken], **FIND_ALL)
    assert [failure.path for failure in model.failures] == [str(broken)]
    model(image, **FIND_ALL)
    assert model.failures == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.pt", "not a file here"),
        ("folder/missing.pt", "not there"),
        ("missing.onnx", "not there"),
        ("yolov8n-sge.yaml", "did you mean 'yolov8n-seg.yaml'"),
        ("yolov8n-sge", "did you mean 'yolov8n-seg.pt'"),
    ],
)
def test_a_model_that_is_not_there(name, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=reason):
        YOLO(name)


def test_a_file_of_no_known_format(tmp_path):
    (tmp_path / "model.xyz").write_bytes(b"x")
    with pytest.raises(ModelError, match="no known model format"):
        YOLO(tmp_path / "model.xyz")
    (tmp_path / "model.yaml").write_text("- 1")
    with pytest.raises(ModelError, match="not a model"):
        YOLO(tmp_path / "model.yaml")


@pytest.mark.parametrize("name", [None, 3, ""])
def test_what_names_no_model(name):
    with pytest.raises(UsageError, match="named by"):
        YOLO(name)


def test_a_known_name_without_suffix_is_the_checkpoint_here(tiny, tmp_path, monkeypatch):
    YOLO(tiny).save(tmp_path / "yolov8n-seg.pt")
    monkeypatch.chdir(tmp_path)
    assert YOLO("yolov8n-seg").path.name == "yolov8n-seg.pt"


def test_the_task_has_to_be_the_models(tiny):
    with pytest.raises(UsageError, match="'segment'"):
        YOLO(tiny, task="pose")


def test_an_exported_model_predicts_and_cannot_be_changed(tiny, image, tmp_path):
    pytest.importorskip("segx_export_onnx")
    pytest.importorskip("segx_backend_onnxruntime")
    model = YOLO(tiny)
    path = model.export(format="onnx", imgsz=64, output=tmp_path / "tiny.onnx", verify=False)
    exported = YOLO(path)
    assert exported.names == model.names
    every = {**FIND_ALL, "iou": 1.0}  # with random weights many are alike: NMS would keep now one, now another
    (expected,), (found,) = model(image, rect=False, **every), exported(image, **every)
    assert len(found) == 20
    np.testing.assert_allclose(found.boxes.conf, expected.boxes.conf, atol=1e-4)
    (same,) = exported(image, **every | {"imgsz": 96})
    np.testing.assert_array_equal(same.boxes.data, found.boxes.data)
    for attempt in (exported.info, lambda: exported.load(path), lambda: exported.save(tmp_path / "x.pt")):
        with pytest.raises(UsageError, match="is 'onnx'"):
            attempt()


def test_importing_it_imports_nothing_heavy():
    heavy = run_fresh(
        """
        import json, sys
        from segx import YOLO
        print(json.dumps(sorted({"torch", "numpy", "cv2", "PIL", "onnxruntime"} & set(sys.modules))))
        """
    )
    assert heavy == []


@pytest.mark.real
def test_real_photographs(real_data, tmp_path):
    model = YOLO(real_data / "weights" / "yolov8n-seg.pt")
    photos = real_data / "coco-mini" / "images" / "val2017"
    street, grey = model([photos / "000000566282.jpg", photos / "000000485895.jpg"], save=True, project=tmp_path)
    assert {street.names[number] for number in street.boxes.cls.astype(int).tolist()} >= {"person", "car", "tie"}
    assert grey.verbose() == "2 giraffes, "
    assert all(area > 100 for area in grey.masks.area)
    assert sorted(path.name for path in (tmp_path / "predict").iterdir()) == ["000000485895.jpg", "000000566282.jpg"]
