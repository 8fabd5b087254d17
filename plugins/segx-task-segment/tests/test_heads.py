"""Three heads of one model are read as the same objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from segx.artifact import ArtifactInfo
from segx.errors import ModelError, UsageError
from segx.ops.nms import nms
from segx.options.verbs import DecodeOptions
from segx_task_segment import decode

if TYPE_CHECKING:
    from segx_task_segment.decode import Detections

SHAPE, NC, NM, BINS, STRIDES = (64, 96), 3, 5, 16, (8, 16, 32)
NAMES = dict(enumerate("abc"))
DECODED = ArtifactInfo(names=NAMES)
RAW = DECODED.replace(
    head="yolov8-seg-raw/1",
    outputs=("boxes", "scores", "coefficients", "prototypes"),
    decoding={"strides": list(STRIDES), "bins": BINS},
)
FINAL = DECODED.replace(
    head="yolov8-seg-final/1",
    outputs=("detections", "prototypes"),
    decoding={"conf": 0.25, "iou": 0.7, "max_det": 20},
)


@pytest.fixture(scope="module")
def raw() -> tuple[np.ndarray, ...]:
    """What a head says of two images, before boxes are made."""
    random = np.random.default_rng(3)
    count = sum((SHAPE[0] // stride) * (SHAPE[1] // stride) for stride in STRIDES)
    return (
        random.normal(0, 3, (2, 4 * BINS, count)).astype(np.float32),
        random.random((2, NC, count), np.float32) ** 2,
        random.normal(size=(2, NM, count)).astype(np.float32),
        random.normal(size=(2, NM, SHAPE[0] // 4, SHAPE[1] // 4)).astype(np.float32),
    )


@pytest.fixture(scope="module")
def decoded(raw: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """The same in boxes: written down cell by cell in float64, as the definition says."""
    boxes, scores, coefficients, prototypes = raw
    rows = np.zeros((2, 4, boxes.shape[2]))
    for image in range(2):
        anchor = 0
        for stride in STRIDES:
            for row in range(SHAPE[0] // stride):
                for column in range(SHAPE[1] // stride):
                    shares = np.exp(boxes[image, :, anchor].astype(np.float64).reshape(4, BINS))
                    left, top, right, bottom = (shares / shares.sum(1, keepdims=True)) @ np.arange(BINS)
                    x1, y1 = column + 0.5 - left, row + 0.5 - top
                    x2, y2 = column + 0.5 + right, row + 0.5 + bottom
                    rows[image, :, anchor] = np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]) * stride
                    anchor += 1
    return np.concatenate([rows.astype(np.float32), scores, coefficients], axis=1), prototypes


@pytest.fixture(scope="module")
def final(decoded: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """The same after suppression at the usual limits, padded with zeros, in no particular order."""
    rows, prototypes = decoded
    found = np.zeros((2, FINAL.decoding["max_det"], 6 + NM), np.float32)
    for image, numbers in enumerate(rows):
        scores, classes = numbers[4 : 4 + NC].max(axis=0), numbers[4 : 4 + NC].argmax(axis=0)
        (anchors,) = np.nonzero(scores > 0.25)
        corners = np.concatenate([numbers[:2] - numbers[2:4] / 2, numbers[:2] + numbers[2:4] / 2]).T[anchors]
        kept = nms(corners, scores[anchors], classes[anchors], iou=0.7, max_det=found.shape[1])
        chosen = anchors[kept]
        found[image, : len(kept)] = np.concatenate(
            [corners[kept], scores[chosen, None], classes[chosen, None], numbers[4 + NC :, chosen].T], axis=1
        )[::-1]
    return found, prototypes


def read(outputs: tuple[np.ndarray, ...], info: ArtifactInfo, **options: object) -> list[Detections]:
    return [found for (found, _), _ in decode.read(outputs, SHAPE, info, DecodeOptions.parse(options))]


def assert_same(ones: list[Detections], others: list[Detections], least: int = 5) -> None:
    for one, other in zip(ones, others, strict=True):
        assert len(one.scores) >= least
        np.testing.assert_array_equal(one.classes, other.classes)
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)
        np.testing.assert_array_equal(one.scores, other.scores)
        np.testing.assert_array_equal(one.coefficients, other.coefficients)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"conf": 0.001, "multi_label": True},
        {"conf": 0.6, "iou": 0.3, "max_det": 7},
        {"classes": (1, 2)},
        {"agnostic_nms": True},
    ],
)
def test_raw_outputs_hold_the_same_objects(raw, decoded, options) -> None:
    assert_same(read(raw, RAW, **options), read(decoded, DECODED, **options))


@pytest.mark.parametrize("options", [{"max_det": 20}, {"conf": 0.6, "max_det": 4}, {"classes": (1,), "max_det": 3}])
def test_final_rows_hold_the_same_objects(final, decoded, options) -> None:
    assert_same(read(final, FINAL, **options), read(decoded, DECODED, **options), least=3)


def test_final_rows_of_other_tools_come_in_either_order(final) -> None:
    foreign = FINAL.replace(outputs=("output0", "output1"), decoding={})
    assert_same(read(final[::-1], foreign), read(final, FINAL))


def test_outputs_of_a_raw_head_are_found_by_their_names(raw) -> None:
    swapped = RAW.replace(outputs=RAW.outputs[::-1])
    assert_same(read(raw[::-1], swapped), read(raw, RAW))


def test_anchors_that_are_not_finite_are_no_objects(raw, final) -> None:
    broken = [output.copy() for output in raw]
    (best,) = np.nonzero(broken[1][0].max(axis=0) > 0.9)
    broken[0][0, 3, best[0]] = np.nan
    broken[2][0, 1, best[1]] = np.inf
    found, all_ = read(tuple(broken), RAW, iou=1, max_det=1000)[0], read(raw, RAW, iou=1, max_det=1000)[0]
    assert len(found.scores) == len(all_.scores) - 2
    rows = final[0].copy()
    rows[0, -1, 0] = np.inf
    assert rows[0, -1, 4] > FINAL.decoding["conf"]
    assert len(read((rows, final[1]), FINAL)[0].scores) == len(read(final, FINAL)[0].scores) - 1


@pytest.mark.parametrize(
    ("info", "change", "message"),
    [
        (RAW, lambda outputs: outputs[:3], "are not those of head 'yolov8-seg-raw/1'"),
        (RAW, lambda outputs: (outputs[0][:, :, 1:], *outputs[1:]), "are not those of head"),
        (RAW, lambda outputs: (outputs[0], outputs[1][:, :2], *outputs[2:]), "with 3 classes"),
        (RAW.replace(decoding={}), lambda outputs: outputs, "read with strides and bins"),
        (RAW.replace(decoding={"strides": [8, 0], "bins": 16}), lambda outputs: outputs, "read with strides and bins"),
        (RAW.replace(decoding={"strides": [8, 16], "bins": 16}), lambda outputs: outputs, "are not those of head"),
        (FINAL, lambda outputs: outputs[2:], "are not those of head 'yolov8-seg-final/1'"),
        (FINAL, lambda outputs: (outputs[2], outputs[3]), "are not those of head 'yolov8-seg-final/1'"),
        (DECODED.replace(head="other/1"), lambda outputs: outputs, "head 'other/1' is not known"),
    ],
)
def test_what_does_not_fit_its_head_is_refused(raw, info, change, message) -> None:
    with pytest.raises(ModelError, match=message):
        read(change(raw), info)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iou": 0.5}, r"iou=0\.5: the file suppresses at 0\.7"),
        ({"conf": 0.001}, r"conf=0\.001: the file keeps 0\.25 and more"),
        ({"max_det": 300}, "max_det=300: the file keeps 20 at most"),
        ({"max_det": 20, "agnostic_nms": True}, "agnostic_nms=True: the file suppresses within classes"),
        ({"max_det": 20, "multi_label": True}, "multi_label=True: the file keeps the best class"),
    ],
)
def test_what_a_finished_graph_has_settled_is_refused(options, message) -> None:
    chosen = DecodeOptions.parse(options)
    with pytest.raises(UsageError, match=message):
        decode.check(FINAL, chosen)
    decode.check(FINAL, decode.limits(FINAL, chosen))
    for info in (DECODED, RAW):
        decode.check(info, chosen)
        assert decode.limits(info, chosen) == chosen


def test_a_file_that_does_not_say_how_it_suppresses_refuses_another_overlap() -> None:
    foreign = FINAL.replace(decoding={})
    decode.check(foreign, DecodeOptions(conf=0.1))
    with pytest.raises(UsageError, match="the file suppresses by itself"):
        decode.check(foreign, DecodeOptions(iou=0.5))
