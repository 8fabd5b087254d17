"""Options as they are written: in Python, on a command line, in scripts written for other versions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from segx.errors import UsageError
from segx.options.neutral import NEUTRAL
from segx.options.schema import option
from segx.options.verbs import (
    CalibrationOptions,
    ExportOptions,
    PredictOptions,
    TrainOptions,
    ValOptions,
    known_elsewhere,
)


@pytest.mark.parametrize(
    ("written", "read"), [(True, 0.5), ("true", 0.5), (False, 0.0), ("False", 0.0), ("0.3", 0.3), (0, 0.0)]
)
def test_a_fraction_that_used_to_be_a_switch_takes_both(written: object, read: float) -> None:
    assert TrainOptions.parse({"multi_scale": written}).multi_scale == read


@pytest.mark.parametrize("written", [True, "true", "much"])
def test_any_other_number_is_no_switch(written: object) -> None:
    with pytest.raises(UsageError, match=f"lr0={written} is not a float"):
        TrainOptions.parse({"lr0": written})


def test_names_that_are_no_options_are_reported_together() -> None:
    with pytest.raises(UsageError, match="options 'epoch', 'lr' are not known"):
        TrainOptions.parse({"epoch": 0.0, "epochs": 3, "lr": 12.0})
    with pytest.raises(UsageError, match="option 'epoch' is not known; did you mean 'epochs'"):
        TrainOptions.parse({"epoch": 3})


@pytest.mark.parametrize(
    ("name", "written", "read"),
    [
        ("imgsz", [96], 96),
        ("imgsz", np.int64(96), 96),
        ("imgsz", np.array([96, 128]), (96, 128)),
        ("imgsz", np.array([96.0]), 96),
        ("conf", np.float32(0.5), 0.5),
        ("conf", np.array(0.5), 0.5),
        ("classes", range(3), (0, 1, 2)),
        ("classes", {2, 1}, (1, 2)),
        ("classes", frozenset({1}), (1,)),
        ("classes", np.arange(2), (0, 1)),
        ("classes", [np.int16(1)], (1,)),
        ("save", np.bool_(True), True),
        ("save_crop", np.str_("box"), "box"),
        ("device", [0, 1], "0,1"),
        ("device", np.int64(0), "0"),
    ],
)
def test_what_numpy_gives_is_taken(name: str, written: object, read: object) -> None:
    value = getattr(PredictOptions.parse({name: written}), name)
    assert value == read
    assert type(value) is type(read)


def test_what_torch_gives_is_taken() -> None:
    torch = pytest.importorskip("torch")
    given = {"imgsz": torch.Size([96, 128]), "conf": torch.tensor(0.5), "classes": torch.tensor([1, 2])}
    options = PredictOptions.parse({**given, "device": torch.device("cpu"), "save": torch.tensor(True)})
    assert (options.imgsz, options.conf, options.classes) == ((96, 128), 0.5, (1, 2))
    assert (options.device, options.save) == ("cpu", True)


@pytest.mark.parametrize(
    ("name", "written"), [("save", [1, 2]), ("conf", {}), ("imgsz", [1, 2, 3]), ("conf", np.array([0.1, 0.2]))]
)
def test_several_values_are_not_one(name: str, written: object) -> None:
    with pytest.raises(UsageError, match=f"{name}="):
        PredictOptions.parse({name: written})


def doubled() -> list[object]:
    """Return a list that is 2 ** 60 long when it is written out."""
    value: list[object] = []
    for _ in range(60):
        value = [value, value]
    return value


WRONG = {
    "digits": 10**5000,
    "infinite": float("inf"),
    "nan": float("nan"),
    "nested": [[1]],
    "mapping": {},
    "text": "9" * 10_000,
    "doubled": doubled(),
}


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", ["imgsz", "batch", "conf", "line_width", "max_det", "threads", "save", "save_crop"])
def test_what_is_no_value_is_one_short_line(name: str, kind: str) -> None:
    with pytest.raises(UsageError) as caught:
        PredictOptions.parse({name: WRONG[kind]})
    assert name in caught.value.message
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, item.name) for kind in (PredictOptions, ValOptions, TrainOptions) for item in kind.describe()],
)
def test_every_number_has_an_upper_bound(kind: type[PredictOptions | ValOptions | TrainOptions], name: str) -> None:
    (item,) = (item for item in kind.describe() if item.name == name)
    if item.type_name.split(" ")[0] in {"int", "float"}:
        with pytest.raises(UsageError, match=name):
            kind.parse({name: 10**15})


VERBS = (PredictOptions, ValOptions, TrainOptions, ExportOptions)

ARGS = """
{task: segment, mode: train, model: yolov8n-seg.pt, data: coco8-seg.yaml, epochs: 100, time: null, patience: 100,
batch: 16, imgsz: 640, save: true, save_period: -1, cache: false, device: null, workers: 8, project: null, name: train,
exist_ok: false, pretrained: true, optimizer: auto, verbose: true, seed: 0, deterministic: true, single_cls: false,
rect: false, cos_lr: false, close_mosaic: 10, resume: false, amp: true, fraction: 1.0, profile: false, freeze: null,
multi_scale: false, compile: false, overlap_mask: true, mask_ratio: 4, dropout: 0.0, val: true, split: val,
save_json: false, save_hybrid: false, conf: null, iou: 0.7, max_det: 300, half: false, dnn: false, plots: true,
source: null, vid_stride: 1, stream_buffer: false, visualize: false, augment: false, agnostic_nms: false, classes: null,
retina_masks: false, embed: null, show: false, save_frames: false, save_txt: false, save_conf: false, save_crop: false,
show_labels: true, show_conf: true, show_boxes: true, line_width: null, format: torchscript, keras: false,
optimize: false, int8: false, dynamic: false, simplify: true, opset: null, workspace: null, nms: false, lr0: 0.01,
lrf: 0.01, momentum: 0.937, weight_decay: 0.0005, warmup_epochs: 3.0, warmup_momentum: 0.8, warmup_bias_lr: 0.1,
box: 7.5, cls: 0.5, dfl: 1.5, pose: 12.0, kobj: 1.0, label_smoothing: 0.0, nbs: 64, hsv_h: 0.015, hsv_s: 0.7,
hsv_v: 0.4, degrees: 0.0, translate: 0.1, scale: 0.5, shear: 0.0, perspective: 0.0, flipud: 0.0, fliplr: 0.5, bgr: 0.0,
mosaic: 1.0, mixup: 0.0, cutmix: 0.0, copy_paste: 0.0, copy_paste_mode: flip, auto_augment: randaugment, erasing: 0.4,
crop_fraction: 1.0, cfg: null, tracker: botsort.yaml, save_dir: runs/segment/train}
"""
"""The names and values that a training elsewhere writes down; every one of them is an option there."""


def test_the_settings_of_a_training_elsewhere_are_used_as_they_are() -> None:
    settings = yaml.safe_load(ARGS)
    assert len(settings) == 109
    assert TrainOptions.parse(settings) == TrainOptions.parse({"data": "coco8-seg.yaml", "name": "train"})
    assert TrainOptions.parse(settings | {"lr0": 0.2, "resume": None, "optimizer": "sgd"}).optimizer == "SGD"
    for verb in VERBS:
        assert verb.parse(settings | {"batch": 1, "rect": True, "retina_masks": True, "name": None})


@pytest.mark.parametrize("name", NEUTRAL)
def test_options_of_others_are_refused_where_they_would_change_something(name: str) -> None:
    values, reason = NEUTRAL[name]
    for verb in (PredictOptions, TrainOptions, ValOptions):
        for value in (*values, None, *map(str, values)):
            assert verb.parse({name: value}) == verb.parse({})
        for value in ("other", 77) if values else ():
            with pytest.raises(UsageError) as caught:
                verb.parse({name: value})
            assert caught.value.message == f"{name}={value} cannot be: {reason}"


@pytest.mark.parametrize("verb", VERBS)
def test_options_of_other_verbs_are_told_to_be_theirs(verb: type[ExportOptions]) -> None:
    mine = {item.name for item in verb.describe()}
    others = {name: known for name, known in known_elsewhere().items() if name not in mine | NEUTRAL.keys()}
    assert others
    for name, known in others.items():
        assert (
            verb.parse({name: None})
            == verb.parse({name: known.values[-1] if known.values else "any"})
            == verb.parse({})
        )
        if known.values:
            with pytest.raises(UsageError, match=f"^{name}=12345 cannot be: an option of") as caught:
                verb.parse({name: 12345})
            assert caught.value.hint == f"options: {', '.join(sorted(mine))}"


@pytest.mark.parametrize("value", [[640, 640], (640, 640), "640,640", np.array([640, 640]), 640.0, None])
def test_both_sides_of_a_square_are_its_side(value: object) -> None:
    assert TrainOptions.parse({"imgsz": value}).imgsz == 640


def test_none_is_the_default_and_words_have_no_case() -> None:
    assert PredictOptions.parse({"conf": None, "iou": None, "save": None}) == PredictOptions()
    assert TrainOptions.parse({"optimizer": "adamw"}).optimizer == "AdamW"
    assert ValOptions.parse({"workers": 0}).workers == 0
    for wrong in ({"imgsz": [640, 480]}, {"optimizer": "sgdx"}, {"imgsz": [1, 2, 3]}):
        with pytest.raises(UsageError, match=r"imgsz=|optimizer="):
            TrainOptions.parse(wrong)


def test_a_list_of_one_is_no_number_where_a_list_means_something_else() -> None:
    assert TrainOptions.parse({"freeze": [3]}).freeze == (3,)
    assert TrainOptions.parse({"freeze": (3,)}).replace(epochs=1).freeze == (3,)
    assert TrainOptions.parse({"freeze": "3"}).freeze == 3
    assert TrainOptions.parse({"imgsz": [64]}).imgsz == 64


class Quantised(CalibrationOptions):
    half: bool = option(False, "16-bit numbers")


@pytest.mark.parametrize(
    ("values", "precision"),
    [
        ({"quantize": 8}, "int8"),
        ({"quantize": "16"}, "fp16"),
        ({"quantize": 16, "half": True, "int8": False}, "fp16"),
        ({"quantize": 32}, "fp32"),
        ({"quantize": None, "half": "true"}, "fp16"),
        ({"quantize": False}, "fp32"),
    ],
)
def test_bits_of_another_program_are_the_precision_options(values: dict[str, object], precision: str) -> None:
    assert Quantised.parse(values).precision == precision


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (Quantised, {"quantize": 4}, "quantize=4 cannot be: exports take 8 for int8=true and 16 for half=true"),
        (Quantised, {"quantize": True}, "quantize=True cannot be"),
        (Quantised, {"quantize": 8, "half": True}, "quantize=8 is int8=True here, and half=True says otherwise"),
        (Quantised, {"quantize": 16, "half": "false"}, "quantize=16 is half=True here, and half=False says otherwise"),
        (ExportOptions, {"quantize": 8}, "quantize=8 is int8=True here, which this format does not have"),
        (PredictOptions, {"quantize": 8}, "quantize=8 cannot be"),
    ],
)
def test_bits_that_cannot_be_are_refused(kind: type, values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kind.parse(values)


@pytest.mark.parametrize("value", ["a\0b", Path("a\0b")], ids=["text", "path"])
@pytest.mark.parametrize("name", ["name", "project"])
def test_a_nul_character_is_refused_before_it_reaches_the_system(name: str, value: str | Path) -> None:
    with pytest.raises(UsageError, match=rf"{name}=.* holds a NUL character"):
        PredictOptions.parse({name: value})
