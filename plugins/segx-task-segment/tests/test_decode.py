"""Outputs in any layout are the same outputs; what is not this head's is refused by its shapes."""

from __future__ import annotations

import numpy as np
import pytest

from segx.artifact import ArtifactInfo
from segx.errors import ModelError
from segx.options.verbs import DecodeOptions
from segx.structures.batch import Batch, SourceImage, letterbox
from segx_task_segment.decode import detect, read_outputs
from segx_task_segment.task import SegmentTask

NC, NM, ANCHORS = 3, 32, 126


def outputs(batch: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    predictions = rng.random((batch, 4 + NC + NM, ANCHORS), np.float32)
    predictions[:, :4] *= 128
    return predictions, rng.normal(size=(batch, NM, 16, 24)).astype(np.float32)


@pytest.mark.parametrize("nc", [NC, 0])
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("anchors_first", [False, True])
def test_any_layout(nc: int, swap: bool, last: bool, anchors_first: bool) -> None:
    predictions, prototypes = outputs()
    given = [
        predictions.transpose(0, 2, 1) if anchors_first else predictions,
        prototypes.transpose(0, 2, 3, 1) if last else prototypes,
    ]
    raw = read_outputs(given[::-1] if swap else given, nc)
    assert raw.nc == NC
    np.testing.assert_array_equal(raw.predictions, predictions)
    np.testing.assert_array_equal(raw.prototypes, prototypes)


def test_channels_come_first_where_shapes_do_not_say() -> None:
    """Prototypes of 32 x 32 x 32: the head's own order is taken."""
    prototypes = np.random.default_rng(0).normal(size=(1, 32, 32, 32)).astype(np.float32)
    raw = read_outputs([np.zeros((1, 4 + NC + NM, 336), np.float32), prototypes], NC)
    np.testing.assert_array_equal(raw.prototypes, prototypes)


def test_half_precision_outputs() -> None:
    raw = read_outputs([output.astype(np.float16) for output in outputs()], NC)
    assert raw.predictions.dtype == raw.prototypes.dtype == np.float32


@pytest.mark.parametrize(
    "shapes",
    [
        [(1, 39, 126)],
        [(1, 39, 126), (1, 39, 126)],
        [(1, 40, 126), (1, 32, 16, 24)],
        [(2, 39, 126), (1, 32, 16, 24)],
        [(1, 39, 126), (1, 32, 16, 24), (1, 2)],
    ],
)
def test_shapes_of_other_heads_are_refused(shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(ModelError, match="are not those of a yolov8-seg head with 3 classes"):
        read_outputs([np.zeros(shape, np.float32) for shape in shapes], NC)


@pytest.mark.parametrize("nc", [2, 0])
@pytest.mark.parametrize("rows", [100, 300, 1000])
@pytest.mark.parametrize("side", [32, 40, 80, 160])
def test_what_is_left_after_suppression_is_never_read_as_anchors(nc: int, rows: int, side: int) -> None:
    """300 rows of box, score, class and 32 coefficients look like two classes."""
    shapes = (1, rows, 4 + 2 + 32), (1, 32, side, side)
    with pytest.raises(ModelError, match="are not those of a yolov8-seg head"):
        read_outputs([np.zeros(shape, np.float32) for shape in shapes], nc)


@pytest.mark.parametrize("anchors", [96, 24, 6, 126, 120 + 384, 384 + 96 + 24 + 6])
def test_heads_of_other_levels_are_read(anchors: int) -> None:
    """One level or several, of strides 4 to 32 in an input of 64 x 96."""
    given = np.zeros((1, 4 + NC + NM, anchors), np.float32), np.zeros((1, NM, 16, 24), np.float32)
    assert read_outputs(given, NC).nc == NC


def test_score_must_be_above_conf() -> None:
    predictions = np.zeros((4 + NC + NM, ANCHORS), np.float32)
    predictions[2:4] = 10
    predictions[4, 0], predictions[5, 1] = 0.5, np.nextafter(np.float32(0.5), np.float32(1))
    predictions[0, 1] = 100
    found = detect(predictions, NC, DecodeOptions(conf=0.5))
    assert found.classes.tolist() == [1]


def test_several_labels_for_one_box() -> None:
    predictions = np.zeros((4 + NC + NM, ANCHORS), np.float32)
    predictions[:4, 5] = [50, 50, 20, 10]
    predictions[4 : 4 + NC, 5] = [0.3, 0.6, 0.1]
    one = detect(predictions, NC, DecodeOptions(conf=0.2))
    several = detect(predictions, NC, DecodeOptions(conf=0.2, multi_label=True))
    assert one.classes.tolist() == [1]
    assert several.classes.tolist() == [1, 0]
    np.testing.assert_array_equal(several.boxes, [[40, 45, 60, 55]] * 2)
    only = detect(predictions, NC, DecodeOptions(conf=0.2, multi_label=True, classes=(0, 2)))
    assert only.classes.tolist() == [0]
    assert detect(predictions, NC, DecodeOptions(conf=0.2, classes=(0,))).classes.size == 0


def test_unknown_head_and_missing_names() -> None:
    source = SourceImage(image=np.zeros((64, 90, 3), np.uint8), path="a.png")
    images, geometry = letterbox([source.image], (64, 96))
    batch = Batch(sources=(source,), geometry=tuple(geometry), images=images)
    task = SegmentTask()
    with pytest.raises(ModelError, match="head 'other/1' is not known"):
        task.decode(outputs(1), batch, ArtifactInfo(head="other/1"), DecodeOptions())
    results = task.decode(outputs(1), batch, ArtifactInfo(), DecodeOptions(conf=0.9))[0]
    assert len(results) > 0
    assert dict(results.names) == {0: "class0", 1: "class1", 2: "class2"}


@pytest.mark.parametrize("retina", [True, False])
def test_masks_are_at_the_resolution_asked_for(retina: bool) -> None:
    source = SourceImage(image=np.zeros((32, 48, 3), np.uint8), path="a.png")
    images, geometry = letterbox([source.image], (64, 96))
    batch = Batch(sources=(source,), geometry=tuple(geometry), images=images)
    options = DecodeOptions(conf=0.9, retina_masks=retina)
    results = SegmentTask().decode(outputs(1), batch, ArtifactInfo(), options)[0]
    assert results.masks.frame == ((32, 48) if retina else (64, 96))
    assert results.masks.orig_shape == (32, 48)
    assert results.gain == (2.0, 2.0)
    assert len(results.masks) == len(results.boxes) > 0
    for ring in results.masks.xy:
        assert (ring >= 0).all()
        assert (ring <= [48, 32]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e10, -1e10])
@pytest.mark.parametrize("anchors", [ANCHORS, 600])
def test_one_that_is_not_finite_is_left_out_of_few_and_of_many(value: float, anchors: int) -> None:
    predictions = np.random.default_rng(0).random((4 + NC + NM, anchors), np.float32)
    predictions[:4] *= 128
    options = DecodeOptions(conf=0.001, iou=1.0, max_det=anchors)
    assert len(detect(predictions, NC, options).boxes) == anchors
    predictions[-1, 7] = value
    assert len(detect(predictions, NC, options).boxes) == anchors - 1
