# ruff: noqa: E501 - a table
"""The commonest things that programs do with results: each gives the value that it gives them elsewhere."""

from __future__ import annotations

import copy
import csv
import io
import json
import math
import pickle
from collections import Counter
from pathlib import Path  # noqa: TC003
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from PIL import Image

from segx.errors import UsageError
from segx.structures.arrays import ResultArray
from segx.structures.results import Results
from segx_task_segment.results import SegmentResults

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = {0: "person", 5: "bus"}
BOXES = np.array([[5, 10, 25, 30, 0.9, 0], [30, 20, 70, 54, 0.75, 5]], np.float32)


def masks() -> np.ndarray:
    dense = np.zeros((2, 60, 80), np.uint8)
    dense[0, 10:30, 5:25] = dense[1, 20:54, 30:70] = 1
    return dense


@pytest.fixture
def results() -> SegmentResults:
    image = np.full((60, 80, 3), 90, np.uint8)
    return SegmentResults(orig_img=image, path="a.jpg", names=NAMES, boxes=BOXES, masks=masks())


IDIOMS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "boxes.xyxy.cpu().numpy()": (lambda r: r.boxes.xyxy.cpu().numpy(), BOXES[:, :4]),
    "boxes.xyxy.cpu().numpy().astype(int)": (lambda r: r.boxes.xyxy.cpu().numpy().astype(int), BOXES[:, :4].astype(int)),
    "boxes.xyxy.detach().cpu().numpy()": (lambda r: r.boxes.xyxy.detach().cpu().numpy(), BOXES[:, :4]),
    "boxes.cpu().numpy().xyxy": (lambda r: r.boxes.cpu().numpy().xyxy, BOXES[:, :4]),
    "boxes.xyxy.tolist()": (lambda r: r.boxes.xyxy.tolist(), BOXES[:, :4].tolist()),
    "boxes.xyxy.int().tolist()": (lambda r: r.boxes.xyxy.int().tolist(), [[5, 10, 25, 30], [30, 20, 70, 54]]),
    "x1, y1, x2, y2 = box.xyxy[0]": (lambda r: [[int(v) for v in b.xyxy[0]] for b in r.boxes][1], [30, 20, 70, 54]),
    "map(int, box.xyxy[0])": (lambda r: list(map(int, r.boxes[0].xyxy[0])), [5, 10, 25, 30]),
    "map(int, box.xyxy[0].cpu().numpy())": (lambda r: list(map(int, r.boxes[0].xyxy[0].cpu().numpy())), [5, 10, 25, 30]),
    "box.xywh[0].tolist()": (lambda r: r.boxes[1].xywh[0].tolist(), [50, 37, 40, 34]),
    "box.xyxyn.squeeze()": (lambda r: r.boxes[0].xyxyn.squeeze().tolist(), [5 / 80, 1 / 6, 25 / 80, 0.5]),
    "float(box.conf)": (lambda r: [float(b.conf) for b in r.boxes], [0.9, 0.75]),
    "box.conf.item()": (lambda r: [b.conf.item() for b in r.boxes], [0.9, 0.75]),
    "box.conf[0].cpu().numpy()": (lambda r: r.boxes[0].conf[0].cpu().numpy(), 0.9),
    "'s' * (n > 1)": (lambda r: ["bus" + "es" * ((r.boxes.cls == 5).sum() > n) for n in (0, 1)], ["buses", "bus"]),
    "3 * box.conf[0]": (lambda r: float(3 * r.boxes[0].conf[0]), 2.7),
    "masks.data.expand(-1, -1, -1)": (lambda r: r.masks.data.expand(-1, -1, -1).shape, (2, 60, 80)),
    "masks.data[:1].expand((3, -1, 80))": (lambda r: r.masks.data[:1].expand((3, -1, 80)).shape, (3, 60, 80)),
    "boxes.xyxy.repeat_interleave(2, dim=0)": (lambda r: r.boxes.xyxy.repeat_interleave(2, dim=0), BOXES[[0, 0, 1, 1], :4]),
    "f'{box.conf[0]:.2f}'": (lambda r: [f"{b.conf[0]:.2f}" for b in r.boxes], ["0.90", "0.75"]),
    "f'{box.conf:.2f}' of one": (lambda r: [f"{b.conf:.2f}" for b in r.boxes], ["0.90", "0.75"]),
    "round(box.conf, 1)": (lambda r: round(r.boxes[0].conf, 1), 0.9),
    "math.ceil(box.conf[0] * 100)": (lambda r: math.ceil(r.boxes[1].conf[0] * 100), 75),
    "int(box.cls)": (lambda r: [int(b.cls) for b in r.boxes], [0, 5]),
    "names[int(box.cls[0])]": (lambda r: [r.names[int(b.cls[0])] for b in r.boxes], ["person", "bus"]),
    "names[cls] of numbers": (lambda r: [r.names[c] for c in r.boxes.cls], ["person", "bus"]),
    "names[cls.int()[0]]": (lambda r: r.names[r.boxes.cls.int()[1]], "bus"),
    "names[box.cls.item()]": (lambda r: r.names[r.boxes[1].cls.item()], "bus"),
    "names[cls.astype(int)]": (lambda r: [r.names[c] for c in r.boxes.cls.astype(int)], ["person", "bus"]),
    "names[c] of cls.cpu().numpy()": (lambda r: [r.names[c] for c in r.boxes.cls.cpu().numpy()], ["person", "bus"]),
    "Counter(cls.tolist())": (lambda r: Counter(r.boxes.cls.tolist()), {0.0: 1, 5.0: 1}),
    "cls.unique().numel()": (lambda r: r.boxes.cls.unique().numel(), 2),
    "(cls == 5).sum()": (lambda r: int((r.boxes.cls == 5).sum()), 1),
    "boxes[cls == 5].conf": (lambda r: r.boxes[r.boxes.cls == 5].conf.tolist(), [0.75]),
    "boxes[conf.argmax()]": (lambda r: r.boxes[r.boxes.conf.argmax()].cls.tolist(), [0]),
    "boxes[int(conf.argsort(descending=True)[0])]": (
        lambda r: r.boxes[int(r.boxes.conf.argsort(descending=True)[0])].cls.tolist(),
        [0],
    ),
    "(cls == 5).nonzero().squeeze()": (lambda r: (r.boxes.cls == 5).nonzero().squeeze().tolist(), 1),
    "conf.topk(1)": (lambda r: [part.tolist() for part in r.boxes.conf.topk(1)], [pytest.approx([0.9]), [0]]),
    "xyxy.split(2, dim=1), chunk, unbind, t": (
        lambda r: (*(len(r.boxes.xyxy.split(2, dim=1)[i]) for i in (0, 1)), r.boxes.xyxy.chunk(4, dim=1)[1].tolist(), r.boxes.xyxy.unbind(1)[0].tolist(), r.boxes.xyxy.t().shape),
        (2, 2, [[10], [20]], [5, 30], (4, 2)),
    ),
    "masked_select, index_select, expand": (
        lambda r: (r.boxes.cls.masked_select(r.boxes.cls > 0).tolist(), r.boxes.xyxy.index_select(0, np.array([1])).tolist(), r.boxes.cls.expand(3, 2).shape),
        ([5], [[30, 20, 70, 54]], (3, 2)),
    ),
    "conf.median(), pow(2), norm()": (lambda r: [r.boxes.conf.median(), r.boxes.conf.pow(2).sum(), r.boxes.conf.norm()], [0.75, 1.3725, 1.3725**0.5]),
    "masks.data.sum(dim=[1, 2]), amax, count_nonzero": (
        lambda r: (r.masks.data.sum(dim=[1, 2]).tolist(), r.masks.data.amax(dim=(1, 2)).tolist(), r.masks.data.count_nonzero(dim=(1, 2)).tolist()),
        ([400, 1360], [1, 1], [400, 1360]),
    ),
    "is_cuda, device.type, nelement()": (lambda r: (r.boxes.cls.is_cuda, r.boxes.cls.device.type, r.boxes.cls.nelement(), r.boxes.cls.is_floating_point()), (False, "cpu", 2, True)),
    "zip(xyxy, conf, cls)": (
        lambda r: [(int(b[0]), round(float(s), 2), int(c)) for b, s, c in zip(r.boxes.xyxy, r.boxes.conf, r.boxes.cls, strict=True)],
        [(5, 0.9, 0), (30, 0.75, 5)],
    ),
    "for x1, y1, x2, y2, conf, cls in boxes.data.tolist()": (lambda r: [row[5] for row in r.boxes.data.tolist()], [0, 5]),
    "boxes.data.size(0), shape": (lambda r: (r.boxes.data.size(0), r.boxes.data.size(), r.boxes.shape), (2, (2, 6), (2, 6))),
    "boxes.id is None": (lambda r: (r.boxes.id, r.boxes.is_track), (None, False)),
    "len(boxes), len(result)": (lambda r: (len(r.boxes), len(r), len(r[0])), (2, 2, 1)),
    "masks.data.cpu().numpy()": (lambda r: r.masks.data.cpu().numpy(), masks()),
    "masks.cpu().data.numpy()": (lambda r: r.masks.cpu().data.numpy(), masks()),
    "masks.data[i].numpy() * 255": (lambda r: (r.masks.data[0].numpy() * 255).astype("uint8"), masks()[0] * 255),
    "masks.data.bool(), byte()": (lambda r: (r.masks.data.bool().byte() * 255).max(), 255),
    "masks.data.any(dim=0)": (lambda r: r.masks.data.any(dim=0).int().cpu().numpy(), masks().any(0).astype(int)),
    "masks.data.max(dim=0)": (lambda r: r.masks.data.float().max(dim=0)[0].numpy(), masks().max(0)),
    "masks.data.sum(dim=(1, 2))": (lambda r: r.masks.data.sum(dim=(1, 2)).tolist(), [400, 1360]),
    "masks.data.permute(1, 2, 0)": (lambda r: r.masks.data.permute(1, 2, 0).contiguous().shape, (60, 80, 2)),
    "masks.data.flatten(1).sum(1)": (lambda r: r.masks.data.flatten(1).sum(1).tolist(), [400, 1360]),
    "masks.data.flatten(start_dim=0, end_dim=1)": (lambda r: r.masks.data.flatten(start_dim=0, end_dim=1).shape, (120, 80)),
    "conf.flatten(), flatten('F')": (lambda r: (r.boxes.conf.flatten().shape, r.boxes.xyxy.flatten("F")[:2].tolist()), ((2,), [5, 30])),
    "conf[0].flatten()": (lambda r: r.boxes.conf[0].flatten().shape, (1,)),
    "masks.data.unsqueeze(1).float()": (lambda r: r.masks.data.unsqueeze(1).float().shape, (2, 1, 60, 80)),
    "for mask in masks: mask.data[0]": (lambda r: [int(m.data[0].sum()) for m in r.masks], [400, 1360]),
    "masks.xy for cv2": (lambda r: [cv2.contourArea(ring) for ring in r.masks.xy], [19 * 19, 39 * 33]),
    "np.int32([masks.xy[0]])": (lambda r: np.int32([r.masks.xy[0]]).shape, (1, 4, 2)),
    "masks.xy[0].astype(np.int32).reshape(-1, 1, 2)": (lambda r: r.masks.xy[0].astype(np.int32).reshape(-1, 1, 2).shape, (4, 1, 2)),
    "masks.xyn[0].tolist()": (lambda r: np.max(r.masks.xyn[0].tolist(), axis=0).tolist(), [24 / 80, 29 / 60]),
    "masks.shape": (lambda r: (r.masks.shape, r.masks.orig_shape), ((2, 60, 80), (60, 80))),
    "keypoints, probs, obb": (lambda r: (r.keypoints, r.probs, r.obb), (None, None, None)),
    "result.cpu().numpy()": (lambda r: len(r.to("cuda").cuda().cpu().numpy()), 2),
    "json.loads(result.tojson())": (lambda r: [row["name"] for row in json.loads(r.tojson())], ["person", "bus"]),
    "summary(True)": (lambda r: r.summary(True, 2)[0]["box"], {"x1": 0.06, "y1": 0.17, "x2": 0.31, "y2": 0.5}),
    "to_csv": (lambda r: [row["name"] for row in csv.DictReader(io.StringIO(r.to_csv()))], ["person", "bus"]),
    "to_df": (lambda r: r.to_df()["class"].tolist(), [0, 5]),
    "plot(pil=True)": (lambda r: np.asarray(r.plot(pil=True))[..., ::-1], lambda r: r.plot()),
    "Image.fromarray(plot()[..., ::-1])": (lambda r: Image.fromarray(r.plot()[..., ::-1]).size, (80, 60)),
    "plot as others call it": (
        lambda r: r.plot(True, 2, 14, "Arial.ttf", False, None, None, 5, True, True, True, True, True).shape,
        (60, 80, 3),
    ),
    "copy.deepcopy, pickle": (lambda r: pickle.loads(pickle.dumps(copy.deepcopy(r))).boxes.xyxy, BOXES[:, :4]),
}  # fmt: skip


@pytest.mark.parametrize("idiom", IDIOMS)
def test_idioms(results: SegmentResults, idiom: str) -> None:
    do, expected = IDIOMS[idiom]
    found, expected = do(results), expected(results) if callable(expected) else expected
    if isinstance(found, np.ndarray | float) or (isinstance(found, list) and found and isinstance(found[0], float)):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    else:
        assert found == expected


def test_arrays_of_results_are_numpys_too(results: SegmentResults) -> None:
    """Whatever NumPy does with an array it does with these: kinds, functions, indices, memory."""
    xyxy = results.boxes.xyxy
    assert isinstance(xyxy, np.ndarray)
    assert np.shares_memory(xyxy, results.boxes.data.numpy())
    assert (xyxy.size, xyxy.size + 1, xyxy.size(1)) == (8, 9, 4)
    np.testing.assert_array_equal(np.max(xyxy, axis=0), xyxy.max(0))
    np.testing.assert_array_equal(xyxy.max(axis=0), xyxy.max(dim=0).values)
    np.testing.assert_array_equal(np.sort(xyxy, axis=None), xyxy.view(-1).sort(descending=False).values)
    assert type(xyxy.numpy()) is type(xyxy.astype(int)) is type(np.asarray(xyxy)) is np.ndarray
    assert type(xyxy[0].cpu()) is type(xyxy[0, 0].cpu()) is type(xyxy.to("cuda:0")) is ResultArray
    assert xyxy.view(np.int32).dtype == np.int32
    assert xyxy.transpose(0, 1).T.shape == xyxy.unsqueeze(0).transpose(1, 2).squeeze(0).shape == (4, 2)
    assert np.nonzero(xyxy)[0].tolist() == xyxy.nonzero()[0].tolist()
    assert xyxy.nonzero(as_tuple=False).shape == (8, 2)
    assert [10, 20][(results.boxes.cls == 5).int()[1]] == 20
    with pytest.raises(TypeError, match="unhashable"):
        hash(xyxy)
    with pytest.raises(TypeError):
        [10, 20][results.boxes.conf[0]]
    with pytest.raises(TypeError, match=r"torch|Tensor"):
        pytest.importorskip("torch").cat([xyxy, xyxy])


def test_a_tensor_of_one_number_is_an_index_of_one_number(results: SegmentResults) -> None:
    """NumPy takes it for the number itself: a mask of one object that is to be left out would pick it."""
    torch = pytest.importorskip("torch")
    assert results.masks.data[torch.tensor([1])].shape == (1, 60, 80)
    assert results.boxes.data[torch.tensor([1]), 5].tolist() == [5]
    assert results[torch.tensor(1)].boxes.cls.tolist() == [5]
    alone = results[:1]
    for keep in (False, True):
        kept = alone[torch.tensor([keep])]
        assert len(kept.boxes) == len(kept.masks) == int(keep)
    assert results.boxes.cls.type(torch.LongTensor).dtype == np.int64
    assert results.boxes.cls.device == torch.device("cpu")


def test_results_are_built_and_changed(results: SegmentResults, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    made = SegmentResults(
        results.orig_img, "a.jpg", list("abcdef"), boxes=torch.from_numpy(BOXES), masks=torch.ones(2, 60, 80)
    )
    assert (made.names[5], made.masks.area.tolist()) == ("f", [4800, 4800])
    made.update(boxes=BOXES[:1], masks=masks()[:1], probs=None)
    assert len(made) == len(made.masks) == len(made.summary()) == 1
    made.masks = None
    assert len(made.masks) == 0
    assert len(made.new()) == 0
    assert len(results.new().masks) == 0
    with pytest.raises(UsageError, match="no 'keypoints'"):
        made.update(keypoints=BOXES)
    text = results.save_txt(tmp_path / "a.txt", True).read_text().split("\n")
    assert text[0].split()[-1] == "0.9"
    drawn = results.plot(save=True, filename=tmp_path / "b.png", txt_color=(0, 0, 255))
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "b.png")), drawn)
    assert (drawn != results.plot()).any()


def test_tracks_have_a_place(results: SegmentResults, tmp_path: Path) -> None:
    tracked = results.replace(boxes=np.insert(BOXES, 4, [7, 9], axis=1))
    assert tracked.boxes.id.int().tolist() == [7, 9]
    assert tracked.boxes.is_track
    assert tracked[1].boxes.id.tolist() == [9]
    np.testing.assert_array_equal(tracked.boxes.conf, results.boxes.conf)
    np.testing.assert_array_equal(tracked.plot(), results.plot())
    assert [row["track_id"] for row in tracked.summary()] == [7, 9]
    assert tracked.to_coco(1) == results.to_coco(1)
    assert tracked.save_txt(tmp_path / "a.txt").read_text().splitlines()[0].split()[-1] == "7"


def test_results_need_a_shape_only(results: SegmentResults, tmp_path: Path) -> None:
    """Whoever measures keeps no image; what needs one says so in its own name."""
    bare = results.replace(orig_img=None, shape=(60, 80))
    assert bare.orig_shape == (60, 80)
    assert bare.summary() == results.summary()
    np.testing.assert_array_equal(bare.plot(img=results.orig_img), results.plot())
    for name, use in (("plot", bare.plot), ("save_crop", lambda: bare.save_crop(tmp_path, mode="box"))):
        with pytest.raises(UsageError, match=f"{name} needs the image"):
            use()
    with pytest.raises(UsageError, match="need their image, or its shape"):
        SegmentResults(path="a.jpg")


def test_results_of_no_task_hold_boxes(results: SegmentResults, tmp_path: Path) -> None:
    """The core's own type knows boxes only: rows, labels, crops; each task's own type draws."""
    plain = Results(results.orig_img, "a.jpg", NAMES, boxes=BOXES)
    assert plain.summary() == results.replace(masks=None).summary()
    assert plain.to_coco(1) == results.replace(masks=None).to_coco(1)
    assert plain.save_txt(tmp_path / "a.txt").read_text().splitlines()[1] == "5 0.625 0.616667 0.5 0.566667"
    assert [path.name for path in plain.save_crop(tmp_path)] == ["a.jpg", "a.jpg"]
    with pytest.raises(UsageError, match="mode=mask"):
        plain.save_crop(tmp_path, mode="mask")
    with pytest.raises(UsageError, match="cannot be drawn"):
        plain.plot()


def test_supervision_reads_them(results: SegmentResults) -> None:
    """Its own adapter, written for the incumbent's results, and ours give the same."""
    sv = pytest.importorskip("supervision")
    for found in (results, results.replace(boxes=np.insert(BOXES, 4, [7, 9], axis=1))):
        theirs, ours = sv.Detections.from_ultralytics(found), found.to_supervision()
        for name in ("xyxy", "confidence", "class_id", "tracker_id"):
            np.testing.assert_array_equal(getattr(theirs, name), getattr(ours, name))
        np.testing.assert_array_equal(theirs.mask, ours.mask)
        assert theirs.data["class_name"].tolist() == ["person", "bus"]
    assert len(sv.Detections.from_ultralytics(results.new())) == 0


def test_sahi_reads_them(results: SegmentResults, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own adapter takes a model object; the packages that it looks for are not needed for that."""
    sahi = pytest.importorskip("sahi.models.ultralytics")

    class Model:
        names, task = NAMES, "segment"

        def __call__(self, images: list[Any], **_: Any) -> list[Any]:
            return [results for _ in images]

    monkeypatch.setattr(sahi.UltralyticsDetectionModel, "check_dependencies", lambda *_: None)
    mapping = {str(number): name for number, name in NAMES.items()}
    model = sahi.UltralyticsDetectionModel(
        model=Model(), device="cpu", confidence_threshold=0.1, category_mapping=mapping
    )
    model.perform_inference(results.orig_img)
    model.convert_original_predictions(full_shape=[60, 80])
    found = model.object_prediction_list
    assert [one.category.name for one in found] == ["person", "bus"]
    np.testing.assert_allclose([one.bbox.to_xyxy() for one in found], BOXES[:, :4], atol=1)  # it numbers pixels
    assert [one.score.value for one in found] == pytest.approx([0.9, 0.75])
    for one, mask in zip(found, masks(), strict=True):
        assert np.mean(one.mask.bool_mask == mask) > 0.97, "by its outline, of which the last pixels are off"


def test_fiftyone_reads_them(results: SegmentResults) -> None:
    fiftyone = pytest.importorskip("fiftyone.utils.ultralytics")
    for found in (fiftyone.to_detections(results).detections, fiftyone.to_polylines(results).polylines):
        assert [one.label for one in found] == ["person", "bus"]
        assert [one.confidence for one in found] == pytest.approx([0.9, 0.75])
    np.testing.assert_allclose(fiftyone.to_detections(results).detections[0].bounding_box, [5 / 80, 1 / 6, 0.25, 1 / 3])
