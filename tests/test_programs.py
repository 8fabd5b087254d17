# ruff: noqa: E501 - tables
"""Programs as people have them: with the import changed they run, and get the values they get elsewhere.

What is asked of results alone is in ``segx-task-segment``'s ``test_idioms.py``; here whole models, verbs and command
lines are at work, with the small model that comes with segx, on drawn images.
"""

from __future__ import annotations

import copy
import csv
import json
import os
import pickle
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import cv2
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import segx
from segx import YOLO
from segx.errors import SegxError, UsageError
from segx.testing.interpreter import run_fresh
from segx.testing.models import TINY_YOLOV8
from segx_cli import doctor
from segx_cli.main import main
from segx_data_synth.dataset import write_dataset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

QUICK: dict[str, Any] = {"epochs": 2, "imgsz": 64, "batch": 2, "device": "cpu", "plots": False, "workers": 0}
FIND: dict[str, Any] = {"conf": 0.05, "max_det": 7, "imgsz": 160, "verbose": False}
"""Low, so that there is something in every image."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder to work in: a data set, a model as ``.pt`` and ``.onnx``, photos in a folder with a blank in its name."""
    folder = tmp_path_factory.mktemp("programs")
    before = Path.cwd()
    os.chdir(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    write_dataset(folder / "set", images=4, val_images=2, imgsz=160)
    written = yaml.safe_load(next((folder / "set").glob("*.yaml")).read_text())
    (folder / "data.yaml").write_text(yaml.safe_dump(written | {"path": "set"}))
    (folder / "tinyn-seg.yaml").write_text(TINY_YOLOV8)
    YOLO(YOLO("shapes-seg.pt").save("best.pt")).export(format="onnx", imgsz=160, verify=False)
    photos = folder / "my photos"
    photos.mkdir()
    for number, image in enumerate(sorted((folder / "set").rglob("*.jpg"))[:2]):
        cv2.imwrite(str(photos / f"{number}.jpg"), cv2.resize(cv2.imread(str(image)), (160, 160)))
    yield folder
    torch.set_num_threads(threads)
    os.chdir(before)


@pytest.fixture
def model(place: Path) -> YOLO:
    return YOLO("best.pt")


@pytest.fixture
def photo(place: Path) -> str:
    return "my photos/0.jpg"


HANDLES: dict[str, tuple[Callable[[YOLO], Any], Any]] = {
    "model.names[0]": (lambda m: (m.names[0], next(iter(m.names.values())), len(m.names)), ("ball", "ball", 6)),
    "model.task": (lambda m: m.task, "segment"),
    "model.device": (lambda m: (m.device, str(m.device), m.device.type, m.device.index), ("cpu", "cpu", "cpu", None)),
    "model.to('cuda:1').device": (lambda m: (m.to("cuda:1").device.type, m.device.index), ("cuda", 1)),
    "torch.zeros(1, device=model.device)": (lambda m: torch.zeros(1, device=m.device).device.type, "cpu"),
    "model.model.names": (lambda m: m.model.names == dict(m.names), True),
    "model.model.yaml['nc']": (lambda m: (m.model.yaml["nc"], m.model.task), (6, "segment")),
    "model.model.stride.max()": (lambda m: int(max(m.model.stride)), 32),
    "sum(p.numel() for p in model.model.parameters())": (lambda m: sum(p.numel() for p in m.model.parameters()) == m.info().parameters, True),
    "sum(p.numel() for p in model.parameters())": (lambda m: sum(p.numel() for p in m.parameters()) == m.info().parameters, True),
    "len(model.model.state_dict())": (lambda m: len(m.model.state_dict()) == len(m.state_dict()) > 100, True),
    "model.model.nc, args": (lambda m: (m.model.nc, m.model.args == dict(m.metadata.settings) != {}), (6, True)),
    "model.model.eval().float().to('cpu')": (lambda m: isinstance(m.model.eval().float().to("cpu"), torch.nn.Module), True),
    "len(model.model.model)": (lambda m: len(m.model.model) == len(m.model.yaml["backbone"]) + len(m.model.yaml["head"]), True),
    "isinstance(next(model.named_parameters())[1], Tensor)": (lambda m: isinstance(next(m.named_parameters())[1], torch.Tensor), True),
    "model.ckpt_path": (lambda m: (m.ckpt_path, m.model_name, m.overrides["task"], m.overrides["model"]), ("best.pt", "best.pt", "segment", "best.pt")),
    "model.trainer, predictor, metrics": (lambda m: (m.trainer, m.predictor, m.validator, m.metrics), (None, None, None, None)),
    "layers, parameters, gradients, flops = model.info()": (lambda m: [type(value) for value in m.info(detailed=True, verbose=False)], [int, int, int, float]),
    "len(model.info()), model.info()[1]": (lambda m: (len(m.info()), m.info(verbose=False)[1] == m.info().parameters), (4, True)),
    "model.device == torch.device('cpu')": (lambda m: (m.device == torch.device("cpu"), m.device != torch.device("cuda:0"), {m.device}), (True, True, {"cpu"})),
    "model.info().parameters": (lambda m: m.info(verbose=False).gradients < m.info().parameters, True),
    "copy.deepcopy(model)": (lambda m: copy.deepcopy(m).names == m.names, True),
    "pickle.dumps(model)": (lambda m: pickle.loads(pickle.dumps(m)).ckpt_path == str(Path("best.pt").absolute()), True),
    "a copy keeps overrides": (lambda m: (m.overrides.update(conf=0.3), copy.deepcopy(m).overrides["conf"])[1], 0.3),
    "model.fuse().eval()": (lambda m: m.fuse() is m and m.eval() is m and m.float() is m, True),
    "YOLO(path, task='segment')": (lambda _: YOLO("best.pt", task="segment", verbose=False).task, "segment"),
    "YOLO(model='best.pt')": (lambda _: YOLO(model="best.pt").task, "segment"),
    "YOLO(Path('best.pt'))": (lambda _: YOLO(Path("best.pt")).task, "segment"),
    "YOLO('tinyn-seg.yaml').load('best.pt')": (lambda _: YOLO("tinyn-seg.yaml").load("best.pt").task, "segment"),
    "hasattr(model, 'predictor')": (lambda m: (hasattr(m, "predictor"), hasattr(m, "nothing")), (True, False)),
    "an exported model has no module": (lambda _: hasattr(YOLO("best.onnx"), "model"), False),
}  # fmt: skip


@pytest.mark.parametrize("idiom", HANDLES)
def test_handles(model: YOLO, idiom: str) -> None:
    function, expected = HANDLES[idiom]
    assert function(model) == expected


IMAGE = "my photos/0.jpg"


def tensor() -> torch.Tensor:
    return torch.from_numpy(cv2.imread(IMAGE)[..., ::-1].copy()).permute(2, 0, 1)[None]


SOURCES: dict[str, tuple[Callable[[], Any], int]] = {
    "path": (lambda: IMAGE, 1),
    "Path": (lambda: Path(IMAGE), 1),
    "list of paths": (lambda: [IMAGE, "my photos/1.jpg"], 2),
    "folder": (lambda: "my photos", 2),
    "glob": (lambda: "my photos/*.jpg", 2),
    "cv2.imread": (lambda: cv2.imread(IMAGE), 1),
    "float array of 0..255": (lambda: cv2.imread(IMAGE).astype(np.float32), 1),
    "float array of 0..1": (lambda: cv2.imread(IMAGE).astype(np.float32) / 255, 1),
    "list of arrays": (lambda: [cv2.imread(IMAGE)] * 3, 3),
    "Image.open": (lambda: Image.open(IMAGE), 1),
    "np.asarray(Image.open)[..., ::-1]": (lambda: np.asarray(Image.open(IMAGE))[..., ::-1], 1),
    "uint8 tensor BCHW": (tensor, 1),
    "float tensor BCHW of 0..255": (lambda: tensor().float(), 1),
    "float tensor BCHW of 0..1": (lambda: tensor().float() / 255, 1),
    "float tensor CHW": (lambda: (tensor().float() / 255)[0], 1),
}  # fmt: skip


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_of_any_kind_finds_the_same(model: YOLO, place: Path, source: str) -> None:
    make, count = SOURCES[source]
    results = model(make(), **FIND)
    assert len(results) == count
    (reference,) = model(IMAGE, **FIND)
    assert len({*reference.boxes.cls.tolist()}) > 1
    np.testing.assert_allclose(results[0].boxes.data, reference.boxes.data, atol=2e-3)


def test_calls_of_predict(model: YOLO, photo: str) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: model(photo, **FIND),
        lambda: model.predict(photo, **FIND),
        lambda: model.predict(source=photo, **FIND),
        lambda: list(model.predict(photo, True, **FIND)),
        lambda: list(model(photo, stream=True, **FIND)),
        lambda: model(photo, **FIND | {"imgsz": [160, 160]}),
        lambda: model(photo, **FIND | {"imgsz": (160, 160)}),
        lambda: model(photo, device=torch.device("cpu"), **FIND),
        lambda: model(photo, predictor=None, prompts=None, augment=False, visualize=False, embed=None, **FIND),
        lambda: model(photo, half=False, dnn=False, show=False, stream_buffer=False, classes=None, **FIND),
        lambda: model(photo, classes=[0, 1, 2, 3, 4, 5], agnostic_nms=np.bool_(False), iou=np.float32(0.7), **FIND),
    ]
    first = calls[0]()[0].boxes.data
    for call in calls:
        np.testing.assert_allclose(call()[0].boxes.data, first, atol=1e-4)


def test_options_for_every_call(model: YOLO, photo: str) -> None:
    """``model.overrides`` are options from now on, as many published models are told to be used."""
    model.overrides["conf"] = 0.0
    model.overrides["max_det"] = 3
    assert len(model.predict(photo, imgsz=160, verbose=False)[0]) == 3
    assert len(model.predict(photo, imgsz=160, max_det=2, verbose=False)[0]) == 2, "what a call is given goes before"
    assert model.val(data="data.yaml", imgsz=64, plots=False, verbose=False).images == 2, "what is for others is not"
    model.overrides["max_dets"] = 3
    with pytest.raises(UsageError, match="did you mean 'max_det'"):
        model.predict(photo, verbose=False)
    with pytest.raises(UsageError, match=r"overrides\['conf'\] = 0.2"):
        model.conf = 0.2


def test_options_of_a_file(model: YOLO, photo: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("task: segment\nmode: predict\nmodel: other.pt\nconf: 0.0\nmax-det: 2\nmosaic: 0.5\nimgsz: 160\n")
    assert len(model.predict(photo, cfg=file, verbose=False)[0]) == 2
    assert len(model.predict(photo, cfg=str(file), max_det=1, verbose=False)[0]) == 1
    with pytest.raises(UsageError, match="absent"):
        model.predict(photo, cfg="absent.yaml")


def test_a_loop_as_people_write_it(model: YOLO, photo: str, tmp_path: Path) -> None:
    seen = []
    found = len(model(photo, **FIND)[0])
    for result in model(photo, save=True, project=str(tmp_path), name="x", exist_ok=True, **FIND):
        boxes = result.boxes
        for i, box in enumerate(boxes):
            x1, y1, x2, y2 = box.xyxy[0].tolist()
            label = f"{result.names[int(box.cls)]} {float(box.conf):.2f}"
            mask = result.masks.data[i].cpu().numpy()
            polygon = result.masks.xy[i].astype(np.int32)
            seen.append((label, x2 > x1, y2 > y1, mask.shape == result.orig_shape, polygon.shape[1:]))
        assert len(result.boxes[0]) == len(result[0]) == 1
        assert set(result.speed) == {"preprocess", "inference", "postprocess"}
        assert Path(result.path).name == "0.jpg"
        assert Path(result.save_dir) == tmp_path / "x"
        assert result.verbose().count(",") >= 1
        assert len(json.loads(result.tojson())) == len(result) == len(result.to_df())
        assert result.plot(line_width=1, labels=False).shape == result.orig_img.shape
        assert len(Path(result.save(str(tmp_path / "drawn.jpg"))).read_bytes()) > 100
        result.save_txt(str(tmp_path / "labels.txt"), True)
        assert len((tmp_path / "labels.txt").read_text().splitlines()) <= len(result)
    assert len(seen) == found > 1
    assert all(one[1:] == (True, True, True, (2,)) for one in seen)
    assert (tmp_path / "x" / "0.jpg").is_file()


def test_training_tells_its_callbacks(place: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int]] = []
    epochs: list[dict[str, Any]] = []
    ended: list[Any] = []
    model = YOLO("tinyn-seg.yaml")
    for event in ("on_train_start", "on_train_epoch_start", "on_train_epoch_end", "on_fit_epoch_end", "on_model_save"):
        model.add_callback(event, lambda trainer, event=event: told.append((event, trainer.epoch)))
    model.add_callback("on_train_end", ended.append)
    validations: list[Any] = []
    model.add_callback("on_val_end", lambda validator: validations.append(validator.metrics))

    def fit(trainer: Any) -> None:
        assert trainer.last.is_file()
        assert trainer.csv.is_file()
        epochs.append({**trainer.metrics, **trainer.label_loss_items(trainer.tloss, prefix="train")})

    model.add_callback("on_fit_epoch_end", fit)
    metrics = model.train(data="data.yaml", project=str(tmp_path), name="run", optimizer="sgd", trainer=None, **QUICK)
    each = ["on_train_epoch_start", "on_train_epoch_end", "on_model_save", "on_fit_epoch_end"]
    assert told == [("on_train_start", 0), *((event, epoch) for epoch in (0, 1) for event in each)]
    with (tmp_path / "run" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    for ours, row in zip(epochs, rows, strict=True):
        assert ours.keys() < row.keys()
        for name, value in ours.items():
            np.testing.assert_allclose(value, float(row[name]), rtol=1e-4, err_msg=name)
    (trainer,) = ended
    assert trainer is model.trainer
    assert (trainer.save_dir, trainer.epochs) == (tmp_path / "run", 2)
    assert (trainer.best, trainer.wdir) == (tmp_path / "run/weights/best.pt", tmp_path / "run/weights")
    assert (trainer.args.lr0, trainer.args.optimizer, vars(trainer.args)["imgsz"]) == (0.01, "SGD", 64)
    assert trainer.metrics == metrics.results_dict
    assert validations == [metrics] == [model.metrics]
    assert metrics.save_dir == tmp_path / "run"
    with pytest.raises(AttributeError, match="trainer has no 'optimizer' here"):
        _ = trainer.optimizer
    assert trainer.loss_names == ("box_loss", "seg_loss", "cls_loss", "dfl_loss")
    assert trainer.tloss.cpu().tolist() == [epochs[-1][f"train/{name}"] for name in trainer.loss_names]


def test_a_callback_that_stops_ends_the_training_as_if_it_were_over(place: Path, tmp_path: Path) -> None:
    told: list[str] = []
    model = YOLO("tinyn-seg.yaml")
    model.add_callback("on_fit_epoch_end", lambda trainer: setattr(trainer, "stop", trainer.epoch == 1))
    for event in ("on_train_end", "teardown"):
        model.add_callback(event, lambda _, event=event: told.append(event))
    metrics = model.train(data="data.yaml", project=tmp_path, **QUICK | {"epochs": 5})
    assert told == ["on_train_end", "teardown"]
    assert model.trained is not None
    assert [row["epoch"] for row in model.trained.history] == [1, 2]
    assert model.trained.best is not None
    assert model.metrics is metrics
    model = YOLO(tmp_path / "train" / "weights" / "last.pt")
    model.train(resume=True, epochs=3)
    assert model.trained is not None
    assert len(model.trained.history) == 3, "who wants more goes on"


def test_a_callback_that_raises_ends_the_training(place: Path, tmp_path: Path) -> None:
    """As searches for parameters stop a trial that is no good; the last checkpoint is there."""

    class PrunedError(Exception):
        pass

    def judge(trainer: Any) -> None:
        if trainer.epoch == 1:
            raise PrunedError(trainer.metrics["metrics/mAP50-95(M)"])

    model = YOLO("tinyn-seg.yaml")
    model.add_callback("on_fit_epoch_end", judge)
    with pytest.raises(PrunedError):
        model.train(data="data.yaml", project=tmp_path, **QUICK | {"epochs": 5})
    assert (tmp_path / "train" / "weights" / "last.pt").is_file()
    assert model.trainer is not None
    assert model.trainer.epoch == 1


def test_callbacks_of_predict(model: YOLO, photo: str, tmp_path: Path) -> None:
    told: list[Any] = []

    def with_frame(predictor: Any) -> None:
        _, images, _, _ = predictor.batch
        images = images if isinstance(images, list) else [images]
        sizes = [predictor.dataset.bs for _ in images]
        assert sizes == [len(images)] * len(images)
        predictor.results = zip(predictor.results, images, strict=True)

    model.add_callback("on_predict_start", lambda predictor: told.append(("start", predictor.args.max_det)))
    model.add_callback("on_predict_postprocess_end", lambda predictor: told.append(len(predictor.results)))
    model.add_callback("on_predict_batch_end", with_frame)
    model.add_callback("on_predict_end", lambda predictor: told.append(("end", predictor.seen)))
    pairs = model.predict([photo, "my photos/1.jpg"], project=tmp_path, save=True, **FIND)
    assert [frame.shape for _, frame in pairs] == [(160, 160, 3)] * 2
    assert all(result.orig_img is frame and len(result) for result, frame in pairs)
    assert (told[0], sum(told[1:-1]), told[-1]) == (("start", 7), 2, ("end", 2))
    assert model.predictor is not None
    assert model.predictor.save_dir == tmp_path / "predict"
    assert YOLO("best.pt")(photo, **FIND)[0] is not None, "another model's callbacks are not called"
    assert told[-1] == ("end", 2)
    model.clear_callback("on_predict_batch_end")
    assert len(model(photo, **FIND)[0]) == len(pairs[0][0])
    model.add_callback("on_predict_batch_end", lambda predictor: setattr(predictor, "results", []))
    with pytest.raises(UsageError, match="0 items for 1 images"):
        model(photo, **FIND)
    model.reset_callbacks()
    before = len(told)
    model(photo, **FIND)
    assert len(told) == before


def test_events_that_are_not_there(model: YOLO) -> None:
    with pytest.raises(UsageError, match="did you mean 'on_train_end'"):
        model.add_callback("on_train_ends", print)
    with pytest.raises(UsageError, match="only ends are reported"):
        model.add_callback("on_train_batch_start", print)
    with pytest.raises(TypeError, match="a function that takes one argument"):
        model.add_callback("on_train_end", "print")  # type: ignore[arg-type]
    assert model.callbacks["on_train_end"] == []


def test_val_as_people_call_it(model: YOLO, place: Path) -> None:
    ended: list[Any] = []
    model.add_callback("on_val_start", lambda validator: ended.append(validator.args.split))
    model.add_callback("on_val_end", ended.append)
    metrics = model.val(
        data="data.yaml", imgsz=64, batch=1, workers=0, conf=0.001, iou=0.6, half=False, dnn=False, plots=False,
        split="val", rect=True, save_json=False, save_hybrid=False, validator=None, augment=False, device="cpu",
    )  # fmt: skip
    assert ended == ["val", model.validator]
    assert model.validator is not None
    assert model.validator.metrics is metrics is model.metrics
    for kind in (metrics.box, metrics.seg):
        assert [getattr(kind, name) for name in ("map", "map50", "map75", "mp", "mr")] == pytest.approx(
            [getattr(kind, name) for name in ("map", "map50", "map75", "mp", "mr")]
        )
        assert len(kind.maps) == 6
        assert kind.p.shape == kind.r.shape == kind.f1.shape == kind.ap.shape == kind.ap50.shape
        assert kind.ap_class_index.tolist() == metrics.ap_class_index.tolist()
        assert kind.mean_results() == [kind.mp, kind.mr, kind.map50, kind.map]
    assert metrics.keys == [
        f"metrics/{name}({letter})" for letter in "BM" for name in ("precision", "recall", "mAP50", "mAP50-95")
    ]
    assert metrics.mean_results() == [metrics.results_dict[name] for name in metrics.keys]
    assert metrics.fitness == metrics.results_dict["fitness"]
    assert len(metrics.class_result(0)) == 8
    assert metrics.confusion_matrix.matrix.shape == (7, 7)
    assert (metrics.names[0], metrics.save_dir) == ("ball", None)
    assert metrics.speed["inference"] > 0
    assert f"{metrics.box.map:.3f}" == f"{metrics.results_dict['metrics/mAP50-95(B)']:.3f}"


def test_export_as_people_call_it(model: YOLO, photo: str) -> None:
    told: list[Any] = []
    model.add_callback("on_export_start", lambda exporter: told.append(exporter.args.format))
    model.add_callback("on_export_end", lambda exporter: told.append(exporter.file))
    path = model.export(
        format="onnx", imgsz=[160, 160], output="open.onnx", dynamic=True, batch=2, simplify=True, opset=17, half=False, int8=False,
        nms=False, workspace=4, optimize=False, keras=False, device="cpu",
    )  # fmt: skip
    assert isinstance(path, str)
    assert path.endswith("open.onnx")
    assert told == ["onnx", Path(path)]
    exported = YOLO(path, task="segment")
    assert "batch" in exported.metadata.dynamic
    sizes: list[int] = []
    exported.add_callback("on_predict_batch_end", lambda predictor: sizes.append(len(predictor.results)))
    for count, batch, each in ((1, 1, [1]), (3, 3, [3]), (3, None, [2, 1]), (3, 1, [1, 1, 1])):
        sizes.clear()
        found = exported([photo] * count, batch=batch, **FIND)
        assert [len(result) for result in found] == [len(model(photo, **FIND)[0])] * count
        assert sizes == each, "the batch it was made for is that of every call that asks for none"


def test_a_fixed_file_called_with_another_size_says_so(
    place: Path, photo: str, caplog: pytest.LogCaptureFixture
) -> None:
    YOLO("best.pt").export(format="onnx", imgsz=160, output="fixed.onnx", verify=False)
    (found,) = YOLO("fixed.onnx").predict(photo, **FIND | {"imgsz": 128})
    assert len(found) == len(YOLO("best.pt").predict(photo, **FIND)[0])
    assert "imgsz=128x128 becomes 160x160: fixed.onnx takes that only" in caplog.text


def test_names_are_importable_as_elsewhere(model: YOLO, photo: str) -> None:
    from segx.engine.results import Boxes, Masks, Results

    (found,) = model(photo, **FIND)
    assert type(found) is Results
    assert (type(found.boxes), type(found.masks)) == (Boxes, Masks)
    dense = torch.from_numpy(np.asarray(found.masks.data))
    for again in (Masks(dense, found.orig_shape), Masks(dense, orig_shape=found.orig_shape), Masks(dense)):
        np.testing.assert_array_equal(again.data, found.masks.data)
    assert len(Masks(dense[0], found.orig_shape)) == 1
    assert Boxes(torch.tensor([1, 2, 3, 4, 7, 0.9, 0]), found.orig_shape).id.tolist() == [7]
    for wrong in ({}, {"data": dense, "frame": (1, 1)}, {"orig_shape": (1, 1)}):
        with pytest.raises(TypeError, match="masks are made of an array"):
            Masks(**wrong)
    built = Results(
        orig_img=found.orig_img, path=photo, names=model.names, boxes=found.boxes.data, masks=found.masks.data
    )
    assert len(built) > 1
    assert built.summary() == found.summary()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("from segx.utils.plotting import Annotator", "result.plot"),
        ("from segx.utils import LOGGER", "segx has no utils.LOGGER: beside ops"),
        ("import segx.utils.torch_utils", "segx has no utils.torch_utils: beside ops"),
        ("from segx import solutions", "supervision has zones"),
        ("from segx.solutions import ObjectCounter", "supervision has zones"),
        ("from segx.nn.tasks import SegmentationModel", "model.model is the network"),
        ("from segx.cfg import get_cfg", "cfg=FILE"),
        ("from segx.trackers import BYTETracker", "trackers.ByteTrackTracker"),
        ("from segx.data.augment import LetterBox", "plugins read data sets"),
        ("from segx.engine.trainer import BaseTrainer", "add_callback"),
        ("from segx.engine.model import Model", "from segx import YOLO"),
        ("from segx.models import SAM", "other families"),
        ("from segx.utils.ops import non_max_suppression", "scale_masks"),
        ("from segx.models.yolo.segment import SegmentationTrainer", "add_callback"),
        ("from segx import SAM", "other families"),
        ("from segx import settings", "run and cache folders"),
        ("import segx; segx.checks()", "segx doctor"),
        ("from segx.engine.results import Keypoints", "another task"),
        ("from segx.engine.results import BaseTensor", "ResultArray"),
        ("from segx import Explorer", "segx data check"),
        ("from segx.data.split_dota import split_test", "segx data"),
    ],
)
def test_what_is_not_there_says_what_is(line: str, message: str) -> None:
    with pytest.raises(ImportError, match=message):
        exec(line, {})


def test_other_modules_are_not_found_as_ever() -> None:
    from segx.models import YOLO as SAME

    assert SAME is YOLO
    with pytest.raises(ModuleNotFoundError, match=r"No module named .segx\.nothing."):
        exec("import segx.nothing", {})
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        exec("from segx import nothing", {})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.track("a.mp4"), AttributeError, "supervision"),
        (lambda m: m.embed("a.jpg"), AttributeError, "feature vectors"),
        (lambda m: m.tune(data="x"), AttributeError, "hyper-parameters"),
        (lambda m: m.benchmark(data="x"), FileNotFoundError, "is not there"),
        (lambda m: m.predicts("a.jpg"), AttributeError, "did you mean 'predict'"),
        (lambda m: m(IMAGE, augment=True), ValueError, "test-time augmentation"),
        (lambda m: m(IMAGE, visualize=True), ValueError, "feature maps"),
        (lambda m: m(IMAGE, embed=[1]), ValueError, "feature vectors"),
        (lambda m: m(IMAGE, confidence=0.5), TypeError, "confidence.*did you mean 'conf'"),
        (lambda m: m(IMAGE, iou_thres=0.5), TypeError, "iou_thres.*did you mean 'iou'"),
        (lambda m: m.train(data="data.yaml", lr=0.1), TypeError, "did you mean 'lr0'"),
        (lambda m: m(IMAGE, conf=2), ValueError, "outside 0..1"),
        (lambda m: m(), TypeError, "needs a source"),
        (lambda m: m("absent.jpg"), FileNotFoundError, "absent.jpg"),
        (lambda m: m("screen 0 100 100"), FileNotFoundError, "screen is not captured"),
        (lambda m: m.train(data="data.yaml", trainer=object), ValueError, "add_callback"),
        (lambda m: m.train(data="absent.yaml"), FileNotFoundError, "absent.yaml"),
        (lambda _: YOLO("absent.pt"), FileNotFoundError, "absent.pt"),
        (lambda _: YOLO("best.pt", task="detect"), UsageError, "'segment', not for 'detect'"),
        (lambda _: YOLO("best.onnx").train(data="data.yaml"), UsageError, "'onnx'"),
        (lambda _: YOLO("best.onnx").info(), UsageError, "needs a model of format 'pt'"),
        (lambda _: YOLO("best.onnx").model, AttributeError, "needs a model of format 'pt'"),
    ],
)
def test_what_cannot_be_is_refused_in_the_class_that_programs_catch(
    model: YOLO, call: Callable[[YOLO], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        call(model)
    assert isinstance(caught.value, SegxError)


def _zero(m: YOLO) -> None:
    with torch.no_grad():
        for weights in m.model.parameters():
            weights.zero_()


def _zero_data(m: YOLO) -> None:
    for weights in m.parameters():
        weights.data.mul_(0)


def _load_zeros(m: YOLO) -> None:
    m.model.load_state_dict({name: torch.zeros_like(value) for name, value in m.state_dict().items()})


@pytest.mark.parametrize("change", [_zero, _zero_data, _load_zeros])
def test_what_is_changed_in_the_module_counts_for_every_verb(
    model: YOLO, photo: str, tmp_path: Path, change: Callable[[YOLO], None]
) -> None:
    before = model(photo, **FIND)[0].boxes.conf
    assert model.model is model.model
    assert model.model.eval().names == dict(model.names)
    np.testing.assert_array_equal(model(photo, **FIND)[0].boxes.conf, before)
    assert model.benchmark is not None
    assert model._sessions.artifact is not None, "who only looks has changed nothing"
    change(model)
    every = dict(FIND, conf=0.0)
    changed = model(photo, **every)[0].boxes.conf
    assert np.ptp(changed) < 1e-6, "with weights of 0 all scores are alike"
    assert len(before)
    assert np.ptp(before) > 0.01
    folder = model([photo] * 8, **every)  # in sessions side by side
    np.testing.assert_array_equal(folder[0].boxes.conf, changed)
    again = YOLO(model.save(tmp_path / "zero.pt"))
    np.testing.assert_array_equal(again(photo, **every)[0].boxes.conf, changed)
    with pytest.raises(UsageError, match="in memory only"):
        model.verify("best.pt")
    assert model.val(data="data.yaml", imgsz=160, plots=False, show=False).seg.map == 0


def test_a_changed_model_is_exported_as_it_is(model: YOLO, photo: str, tmp_path: Path) -> None:
    model.model.head.dfl  # noqa: B018 - it is the network itself
    with torch.no_grad():
        for name, weights in model.model.named_parameters():
            if name.endswith("bias"):
                weights.add_(0.1)
    exported = YOLO(model.export(format="onnx", imgsz=160, output=tmp_path / "changed.onnx"))
    mine, theirs = (one(photo, **dict(FIND, rect=False))[0].boxes.data for one in (model, exported))
    np.testing.assert_allclose(mine, theirs, atol=0.05)
    assert abs(mine[:, 4] - YOLO("best.pt")(photo, **dict(FIND, rect=False))[0].boxes.conf[: len(mine)]).max() > 0.001


def test_hooks_of_layers_are_called(model: YOLO, photo: str) -> None:
    class Kept:
        seen: list[tuple[int, ...]] = []  # noqa: RUF012 - of this test

        def keep(self, _layer: Any, _given: Any, out: torch.Tensor) -> None:
            self.seen.append(tuple(out.shape))

        def __deepcopy__(self, _: Any) -> Any:
            pytest.fail("what hooks belong to is copied")

    model(photo, **FIND)
    kept = Kept()
    handle = model.model.model[0].register_forward_hook(kept.keep)
    model(photo, **FIND)
    assert [shape[0] for shape in kept.seen] == [1]
    model([photo] * 8, **FIND)
    assert len(kept.seen) > 1
    handle.remove()
    kept.seen.clear()
    model(photo, **FIND)
    assert not kept.seen


def test_filters_that_change_places_count(model: YOLO, photo: str) -> None:
    weights = next(model.model.parameters())
    before = model(photo, **FIND)[0].boxes.data
    view = weights.detach().numpy()  # no tensor that torch keeps count of
    view[:] = view[::-1].copy()
    changed = model(photo, **FIND)[0].boxes.data
    assert changed.shape != before.shape or abs(changed - before).max() > 1e-3
    weights.data.copy_(weights.data.flip(0))
    np.testing.assert_array_equal(model(photo, **FIND)[0].boxes.data, before)


def test_a_model_of_half_numbers_is_trained_in_full_and_one_frozen_by_hand_is_refused(
    model: YOLO, tmp_path: Path
) -> None:
    model.model.half()
    model.train(data="data.yaml", project=tmp_path, **QUICK)
    assert {weights.dtype for weights in model.model.parameters()} == {torch.float32}
    model.model.requires_grad_(False)
    with pytest.raises(UsageError, match=r"frozen: nothing to train"):
        model.train(data="data.yaml", project=tmp_path, **QUICK)


@pytest.mark.parametrize("file", ["best.pt", "best.onnx"])
def test_who_renames_a_class_means_every_verb(place: Path, photo: str, file: str) -> None:
    def found(model: YOLO) -> set[str]:
        (result,) = model(photo, **FIND | {"conf": 1e-4, "max_det": 300})
        return {result.names[int(number)] for number in result.boxes.cls}

    model = YOLO(file)
    first = min(found(model))
    number = next(number for number, name in model.names.items() if name == first)
    cast("dict[int, str]", model.names)[number] = "something else"
    assert "something else" in found(model)
    assert first not in found(model)
    assert "something else" not in YOLO(file).names.values(), "the file is as it was"


def test_a_format_is_a_name(model: YOLO) -> None:
    with pytest.raises(TypeError, match=r"format is None, not the name of one"):
        model.export(format=cast("str", None))


def test_who_renames_a_class_of_the_network_means_every_verb(
    place: Path, photo: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = YOLO("best.pt")
    model(photo, **FIND)
    model.model.names[0] = "sphere"
    assert model.names[0] == "sphere"
    assert model(photo, **FIND)[0].names[0] == "sphere"
    model.model.names = ["a", "b", "c", "d", "e", "f"]
    assert model(photo, **FIND)[0].names == dict(enumerate("abcdef")) == dict(model.names) == model.model.names
    assert dict(YOLO(model.save(tmp_path / "renamed.pt")).names) == dict(enumerate("abcdef"))
    exported = model.export(format="torchscript", imgsz=64, output=tmp_path / "renamed.torchscript")
    assert dict(YOLO(exported).names) == dict(enumerate("abcdef"))
    unopened = YOLO("best.pt")
    cast("dict[int, str]", unopened.names)[0] = "sphere"
    renamed = YOLO(unopened.export(format="torchscript", imgsz=64, output=tmp_path / "second.torchscript"))
    assert renamed.names[0] == "sphere"
    cast("dict[int, str]", renamed.names)[0] = "again"
    with pytest.raises(UsageError), caplog.at_level("WARNING"):
        renamed.export(format="onnx", output=tmp_path / "third.onnx")
    assert "has the class names of the file" in caplog.text
    model.model.names = ["a", "b"]
    with pytest.raises(UsageError, match="2 names for 6 classes"):
        model(photo, **FIND)


def test_settings_of_layers_and_what_is_added_are_refused(model: YOLO, photo: str) -> None:
    network = model.model
    conv = next(layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d))
    model(photo, **FIND)
    conv.dilation = (2, 2)  # a file would not keep it
    with pytest.raises(UsageError, match=r"model.0.conv is Conv2d\(.*dilation=\(2, 2\).*, was Conv2d"):
        model.save("changed.pt")
    conv.dilation = (1, 1)
    network.register_buffer("more", torch.zeros(1))
    with pytest.raises(UsageError, match=r"more is of shape \(1,\), was not there"):
        model(photo, **FIND)
    del network.more
    for layer in network.modules():
        if hasattr(layer, "inplace"):
            layer.inplace = not layer.inplace
    assert len(model(photo, **FIND)[0])


def test_other_layers_are_refused_by_the_next_verb(model: YOLO, photo: str) -> None:
    before, network = model.model.model[0], model.model
    network.model[0] = torch.nn.Identity()
    with pytest.raises(UsageError, match=r"no longer a \S+: model.0 is Identity, was Conv"):
        model(photo, **FIND)
    with pytest.raises(UsageError, match="no longer"):
        model.save("changed.pt")
    network.model[0] = before
    assert len(model(photo, **FIND)[0])


def test_convert_coco(place: Path, tmp_path: Path) -> None:
    from segx.data.converter import convert_coco

    folder = convert_coco(labels_dir=place / "set" / "annotations", save_dir=tmp_path / "out", use_segments=True)
    assert folder == tmp_path / "out"
    files = sorted((folder / "labels").rglob("*.txt"))
    assert len(files) == 6
    content = json.loads((place / "set" / "annotations" / "val.json").read_text())
    rows = [row.split() for file in (folder / "labels" / "val").iterdir() for row in file.read_text().splitlines()]
    assert len(rows) == len(content["annotations"])
    ids = sorted(category["id"] for category in content["categories"])
    assert sorted(int(row[0]) for row in rows) == sorted(ids.index(a["category_id"]) for a in content["annotations"])
    assert min(map(len, rows)) >= 7
    boxes = convert_coco(place / "set" / "annotations", tmp_path / "out")
    assert boxes == tmp_path / "out2", "nothing is written over"
    assert {len(row.split()) for file in boxes.rglob("*.txt") for row in file.read_text().splitlines()} == {5}
    for wrong in ({"use_keypoints": True}, {"cls91to80": False}, {"lvis": True}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            convert_coco(place / "set" / "annotations", tmp_path / "no", **wrong)
    with pytest.raises(FileNotFoundError, match="no JSON file"):
        convert_coco(tmp_path, tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_figures_as_tables(model: YOLO, place: Path) -> None:
    metrics = model.val(data="data.yaml", imgsz=160, plots=False, verbose=False)
    rows = list(csv.DictReader(metrics.to_csv().splitlines()))
    assert [row["Class"] for row in rows] == [row["Class"] for row in metrics.summary()]
    assert float(rows[0]["Mask-mAP50"]) == pytest.approx(metrics.seg.ap50[0], abs=1e-4)
    assert metrics.box.p_curve.shape == metrics.box.r_curve.shape == (len(rows), len(metrics.box.px))
    assert (metrics.box.nc, len(metrics.maps), metrics.task) == (6, 6, "segment")
    assert metrics.nt_per_class.sum() == sum(row["Instances"] for row in metrics.summary())
    assert metrics.nt_per_image.tolist() == metrics.images_per_class.tolist()
    assert metrics.box.prec_values.shape == (len(rows), 1000)
    np.testing.assert_allclose(metrics.box.prec_values.mean(axis=1), metrics.box.ap50, atol=0.01)
    assert metrics.seg.fitness() == pytest.approx(0.1 * metrics.seg.map50 + 0.9 * metrics.seg.map)


def test_what_was_taken_for_what(model: YOLO, place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    confusion = model.val(data="data.yaml", imgsz=160, plots=False, verbose=False).confusion_matrix
    right, wrong = confusion.tp_fp()
    assert (len(right), confusion.nc) == (6, 6)
    assert right.sum() + wrong.sum() == confusion.matrix[:-1].sum() > 0
    rows = confusion.summary()
    assert [list(row.values())[1:] for row in rows] == confusion.matrix.tolist()
    assert [row["Predicted"] for row in rows] == [*model.names.values(), "background"] == list(rows[0])[1:]
    assert max(value for row in confusion.summary(normalize=True) for value in list(row.values())[1:]) <= 1
    assert json.loads(confusion.to_json()) == rows
    assert len(confusion.to_csv().splitlines()) == 8
    with caplog.at_level("INFO"):
        confusion.print()
    assert "Predicted,ball" in caplog.text
    drawn = [confusion.plot(save_dir=str(tmp_path), names=list(model.names.values()), normalize=n) for n in (0, 1)]
    assert [file.name for file in drawn] == ["confusion_matrix.png", "confusion_matrix_normalized.png"]
    assert all(cv2.imread(str(file)) is not None for file in drawn)


def test_helpers_that_libraries_reach_for() -> None:
    """They import the tool and go through its attributes, or import a module below it."""
    from segx.utils import ops
    from segx.utils.ops import scale_masks

    assert segx.utils.ops is ops
    same = np.eye(8, dtype=np.uint8)[None, None]
    np.testing.assert_array_equal(scale_masks(same, (8, 8)), same)
    padded = torch.zeros(1, 1, 16, 16)
    padded[:, :, 4:12] = 1  # an image twice as wide as high, and its border
    assert scale_masks(padded, (20, 40)).shape == (1, 1, 20, 40)
    assert scale_masks(padded, (20, 40)).min() == 1
    assert scale_masks(padded, (16, 32), padding=False).min() == 0
    assert scale_masks(np.zeros((1, 0, 16, 16)), (20, 40)).shape == (1, 0, 20, 40)
    with pytest.raises(ValueError, match="N, C, H, W"):
        scale_masks(same[0], (8, 8))
    assert ops.xyxy2xywh([[1, 2, 5, 10]]).tolist() == [[3, 6, 4, 8]]
    assert ops.xywh2xyxy(torch.tensor([3.0, 6, 4, 8])).tolist() == [1, 2, 5, 10]


def test_importing_costs_nothing_more() -> None:
    """A name that is asked for last imports what it needs, and not before."""
    loaded = run_fresh("import json, sys, segx; print(json.dumps(sorted(sys.modules)))")
    assert not {"numpy", "torch", "cv2", "segx.handles", "segx.callbacks", "segx.engine.results"} & set(loaded)
    assert segx.__version__


LINES = """
segx task=segment mode=predict model=best.pt source="my photos/0.jpg"
segx segment predict model=best.pt source='my photos/0.jpg' imgsz=64
segx predict model=best.pt source="my photos/0.jpg" save=True show_labels=False line_width=2 classes=[0,2]
segx predict task=segment model=best.pt source="my photos/0.jpg" imgsz=64,96 conf=0.25 iou=0.7
segx mode=predict task=segment model="best.pt" source="my photos" save_txt=True save_conf=True
segx segment predict model=best.pt source="my photos/0.jpg" classes='[0, 2, 3]' max_det=10
segx segment predict model=best.pt source="my photos/0.jpg" classes=0
segx segment predict model=best.pt source="my photos/0.jpg" save_crop=True project=p name=n exist_ok=True
segx segment predict model=best.pt source="my photos/0.jpg" device=cpu half=False retina_masks=True
segx segment predict model=best.pt source="my photos/0.jpg" show_boxes=False show_conf=False
segx segment predict model=best.pt source="my photos/0.jpg" visualize=False augment=False agnostic_nms=True
segx segment predict model=best.pt source="my photos/*.jpg" imgsz=64 max_det=3
segx segment predict model=best.pt source="my photos" stream=True verbose=False imgsz=64
segx segment predict model=best.pt source="my photos/0.jpg" show=False stream_buffer=False vid_stride=1
segx segment predict model=best.pt source="my photos/0.jpg" conf=0.25 line_thickness=3
segx segment predict model=best.pt source="my photos/0.jpg" hide_labels=False hide_conf=False boxes=True
segx segment predict model=best.pt source="my photos/0.jpg" line_width=None embed=None
segx segment predict model=best.pt source="my photos/0.jpg" overlap_mask=True mask_ratio=4 device="" name=
segx segment predict model=best.pt source="my photos/0.jpg" epochs=100 plots=False workers=4 single_cls=False
segx --task segment --mode predict --model best.pt --source "my photos/0.jpg"
segx segment predict model=best.pt, source="my photos/0.jpg", conf=0.5
segx segment predict model = best.pt source = "my photos/0.jpg"
segx segment predict --model best.pt --source "my photos/0.jpg" --conf 0.3
segx predict segment model=best.pt source="my photos/0.jpg"
segx segment predict model=best.onnx source="my photos/0.jpg" imgsz=160
segx cfg=predict.yaml max_det=2
segx segment val model=best.pt data=data.yaml imgsz=64 batch=4 plots=False
segx val model=best.pt data=data.yaml imgsz=64 device=cpu plots=False
segx task=segment mode=val model=best.pt data=data.yaml imgsz=64 plots=False split=val save_json=True
segx segment val data=data.yaml model=best.pt imgsz=64 plots=False workers=0 rect=True dnn=False
segx segment val model=best.onnx data=data.yaml imgsz=64 plots=False
segx segment val model=best.pt data=data.yaml plots=False verbose=False save_txt
segx export model=best.pt format=ONNX imgsz=64 verify=False
segx export model=best.pt format=onnx dynamic=True simplify=True imgsz=64 verify=False
segx mode=export model=best.pt format=torchscript imgsz=64 optimize=False verify=False
segx export model=best.pt format=onnx opset=17 imgsz=64,64 verify=False nms=False workspace=4 keras=False
segx segment train data=data.yaml model=tinyn-seg.yaml epochs=1 imgsz=64 plots=False
segx task=segment mode=train model=tinyn-seg.yaml data=data.yaml epochs=1 imgsz=64 batch=2 plots=False
segx segment train data=data.yaml model=tinyn-seg.yaml epochs=1 imgsz=64 pretrained=False optimizer=sgd lr0=0.01 plots=False
segx segment train data=data.yaml model=tinyn-seg.yaml pretrained=best.pt epochs=1 imgsz=[64,64] plots=False
segx segment train data='data.yaml' model='best.pt' epochs=1 imgsz=64 batch=2 patience=0 cache=ram name='my run' plots=False
segx checks
segx version
segx help
segx --help
"""


@pytest.mark.parametrize("line", LINES.strip().splitlines())
def test_command_lines_from_notebooks(
    place: Path, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, looked = doctor._load, {"onnxruntime", "coco"}  # each takes a process; all of them two minutes
    fine = doctor.Check(subject="one of the others", state="ok", message="loads")
    monkeypatch.setattr(
        doctor, "_load", lambda kind, spec, *how: real(kind, spec, *how) if spec.name in looked else fine
    )
    (place / "predict.yaml").write_text(
        "task: segment\nmode: predict\nmodel: best.pt\nsource: my photos\nmosaic: 1.0\n"
    )
    words = shlex.split(line)[1:]
    assert main(words) == 0, capsys.readouterr().err
    if "predict" in line and "stream" not in line:
        assert any((place / "runs" / "segment").glob("predict*/*.jpg"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("settings", "keeps no settings"),
        ("cfg", "cfg=FILE"),
        ("copy-cfg", "cfg=FILE"),
        ("track model=best.pt source=x.mp4", "supervision"),
        ("solutions count source=x.mp4", "supervision has zones"),
        ("hub", "nothing is sent"),
        ("pose train data=coco8-pose.yaml model=other.pt", "task 'pose' is not installed"),
        ("predict model=best.pt source=x.jpg mask_ratio=2", "mask_ratio=2 cannot be: an option of train"),
        ("export model=best.pt format=onnx workspace=8", "only format engine"),
        ("predict model=best.pt source=", "source= has no value"),
        ("tune model=best.pt data=data.yaml", "train"),
        ("task=detect mode=predict model=best.pt source=x.jpg", "'segment', not for 'detect'"),
        ("detect train data=coco8.yaml model=other.pt", "task 'detect' is not installed"),
        ("predict model=yolo11n-seg.pt source=x.jpg", "no architecture that is installed has a model of this number"),
        ("predict model=best.pt source=x.jpg hide_labels=True", "show_labels="),
        ("predict model=best.pt source=x.jpg embed=[10]", "feature vectors"),
        ("predict best.pt source=x.jpg", "meant as model=best.pt"),
        ("predict model=best.pt source=absent.jpg", "absent.jpg"),
        ("cfg=absent.yaml", "absent.yaml"),
        ("cfg=data.yaml", "names no command"),
    ],
)
def test_command_lines_that_cannot_be_say_what_to_type(
    place: Path, line: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(shlex.split(line)) in {2, 3, 4}
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
