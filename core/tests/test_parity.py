"""A proof holds for the same model, and fails for each way in which two can differ."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from segx.artifact import ArtifactInfo
from segx.flows.parity import MEANINGFUL_SCORE, choose_threshold, describe, prove
from segx.plugin.calibration import synthetic_images
from segx.plugin.registry import get_registry
from segx.plugin.specs import Tolerance
from segx.testing.scenes import NAMES, ColorSession, draw_scene

if TYPE_CHECKING:
    from collections.abc import Callable

pytest.importorskip("segx_task_segment")

STRICT = Tolerance(box=0.1, score=0.001, mask_iou=0.99, matched=0.97, raw=0.001)
OPEN = frozenset({"batch", "height", "width"})
STATIC = ArtifactInfo(names=NAMES, imgsz=(320, 320))


class Changed(ColorSession):
    """The seeing model with its outputs changed in one way."""

    def __init__(self, change: Callable | None = None, info: ArtifactInfo = STATIC) -> None:
        super().__init__(info)
        self.change = change
        self.shapes: list[tuple[int, ...]] = []

    def run(self, images):
        self.shapes.append(images.shape)
        outputs = super().run(images)
        return self.change(*outputs) if self.change else outputs


def proof(other: ColorSession, **kwargs):
    scenes = [draw_scene(240, 320, objects=6).source, draw_scene(300, 300, objects=4).source]
    return prove(
        ColorSession(), other, task=get_registry().tasks.load("segment"), tolerance=STRICT, images=scenes, **kwargs
    )


def test_the_same_model_is_proven_exactly():
    found = proof(Changed())
    parity = found.parity
    assert found.holds
    assert found.has_detections
    assert parity.images == 6
    assert parity.objects >= 10
    assert (parity.box, parity.score, parity.mask_iou, parity.matched) == (0, 0, 1, 1)
    assert parity.raw == {"output0": 0, "output1": 0}
    assert "6 images" in describe(parity)


def shifted(rows, prototypes):
    rows = rows.copy()
    rows[:, 0] += 3
    return rows, prototypes


def less_sure(rows, prototypes):
    rows = rows.copy()
    rows[:, 4:7] *= 0.98
    return rows, prototypes


def blind_to_blue(rows, prototypes):
    rows = rows.copy()
    rows[:, 6] = 0
    return rows, prototypes


def blind_to_green(rows, prototypes):
    rows = rows.copy()
    rows[:, 5] = 0
    return rows, prototypes


def thinner(rows, prototypes):
    return rows, np.where(prototypes < 7, -8, prototypes).astype(np.float32)


def no_numbers(rows, prototypes):
    prototypes = prototypes.copy()
    prototypes[0, 0, 0, 0] = np.nan
    return rows, prototypes


@pytest.mark.parametrize(
    ("change", "reported"),
    [
        (shifted, "boxes differ by 3"),
        (less_sure, "scores differ by"),
        (blind_to_blue, "of the objects are found by both"),
        (thinner, "a mask's IoU is"),
        (no_numbers, "no numbers"),
    ],
)
def test_every_difference_is_reported(change, reported):
    found = proof(Changed(change))
    assert not found.holds
    assert any(reported in problem for problem in found.problems), found.problems


def test_another_shape_is_reported():
    found = proof(Changed(lambda rows, prototypes: (rows[:, :, :400], prototypes)))
    assert "output0 has another shape than the source's" in found.problems


def test_raw_outputs_count_where_nothing_is_found():
    """An untrained model finds nothing that means something; a wrong output is told all the same."""

    def unsure(rows, prototypes):
        rows = rows.copy()
        rows[:, 4:7] *= 1e-4
        return rows, prototypes

    task = get_registry().tasks.load("segment")
    same = prove(Changed(unsure), Changed(unsure), task=task, tolerance=STRICT)
    assert same.holds
    assert not same.has_detections
    assert same.parity.objects > 0
    wrong = prove(Changed(unsure), Changed(lambda *o: shifted(*unsure(*o))), task=task, tolerance=STRICT)
    assert [problem.partition(" ")[0] for problem in wrong.problems] == ["output0"]


def test_an_image_of_nothing_it_knows_does_not_decide():
    """Where others hold objects enough: what scores a few hundredths is coarse in any file of 8 bits."""

    def seeing(*, apart: float) -> Changed:
        def change(rows, prototypes):
            if len(session.shapes) <= 4:  # the drawn images come first
                rows = rows.copy()
                rows[:, 4:7] *= 0.05
                rows[:, 0] += apart
            return rows, prototypes

        session = Changed(change)
        return session

    scenes = [draw_scene(240, 320, objects=6).source, draw_scene(300, 300, objects=6).source]
    coarse = Tolerance(raw=np.inf)
    settings = {"task": get_registry().tasks.load("segment"), "tolerance": coarse}
    enough = prove(seeing(apart=0), seeing(apart=3), images=scenes, **settings)
    assert enough.holds
    assert enough.parity.objects >= 8
    few = prove(seeing(apart=0), seeing(apart=3), images=scenes[:1], **settings)
    assert any("boxes differ by 3" in problem for problem in few.problems)


def test_outputs_of_another_head_are_judged_by_what_they_mean():
    other = Changed(info=STATIC.replace(outputs=("first", "second")))
    other.info = other.info.replace(head="yolov8-seg/1")
    parity = proof(other).parity
    assert parity.raw == {}
    assert describe(parity).endswith("raw outputs are of other kinds")


def with_neighbour(gap: float) -> Callable:
    """Give each object a second box, eight pixels aside, of almost the same score; a gap says which one is kept."""

    def change(rows, prototypes):
        rows = rows.copy()
        for number in range(len(rows)):
            found = np.flatnonzero(rows[number, 4:7].max(axis=0) > 0)
            beside = 200 + found
            rows[number, :, beside] = rows[number, :, found]
            rows[number, 0, beside] += 8
            rows[number, 4:7, beside] *= 1 + gap
        return rows, prototypes

    return change


def test_ties_are_no_damage():
    """Of two boxes of an object the last digit decides which is kept: the other side has both all the same."""
    task, scenes = get_registry().tasks.load("segment"), [draw_scene(300, 300, objects=3).source]
    loose = Tolerance(box=0.1, score=0.001, mask_iou=0.99, matched=0.97, raw=0.01)
    first, second = Changed(with_neighbour(1e-5)), Changed(with_neighbour(-1e-5))
    found = prove(first, second, task=task, tolerance=loose, images=scenes)
    assert found.holds, found.problems
    assert found.ties
    assert found.parity.box < 0.1
    assert not proof(Changed()).ties


def test_damage_beside_ties_is_reported():
    """One object in the wrong place by more than is allowed has no counterpart, kept or suppressed."""

    def moved(rows, prototypes):
        rows, prototypes = with_neighbour(-1e-5)(rows, prototypes)
        rows[:, 0, [0, 200]] += 2
        return rows, prototypes

    task, scenes = get_registry().tasks.load("segment"), [draw_scene(300, 300, objects=3).source]
    loose = Tolerance(box=0.1, score=0.001, mask_iou=0.9, matched=0.97, raw=0.5)
    found = prove(Changed(with_neighbour(1e-5)), Changed(moved), task=task, tolerance=loose, images=scenes)
    assert not found.holds
    assert any("boxes differ by" in problem for problem in found.problems)


def test_typical_figures_judge_where_extremes_are_left_open():
    task = get_registry().tasks.load("segment")
    open_ = Tolerance(box=np.inf, score=1, mask_iou=0, matched=0, raw=np.inf)
    typical = Tolerance(box=np.inf, score=1, mask_iou=0, matched=0, raw=np.inf, typical_box=1.0, typical_mask_iou=0.9)
    scenes = [draw_scene(240, 320, objects=6).source]
    for change, reported in ((shifted, "median box differs by 3"), (thinner, "every 20th mask's IoU is below")):
        sessions = ColorSession(), Changed(change)
        assert prove(*sessions, task=task, tolerance=open_, images=scenes).holds
        found = prove(*sessions, task=task, tolerance=typical, images=scenes)
        assert any(reported in problem for problem in found.problems), found.problems


EIGHT_BITS = Tolerance(box=np.inf, score=1, mask_iou=0, matched=0, raw=np.inf, quality=0.8)


def test_what_is_missed_weighs_as_much_as_a_mask_that_matches_nothing():
    task = get_registry().tasks.load("segment")
    scenes = [draw_scene(240 + 8 * number, 320, objects=6).source for number in range(8)]

    def judged(change: Callable | None):
        return prove(ColorSession(), Changed(change), task=task, tolerance=EIGHT_BITS, images=scenes)

    same, missing, thin = (
        judged(None),
        judged(lambda *outputs: blind_to_blue(*blind_to_green(*outputs))),
        judged(thinner),
    )
    assert same.holds
    assert same.parity.quality == 1
    assert missing.parity.mask_iou > 0.99, "what is found of it is right"
    found_by_both = missing.parity.objects
    assert missing.parity.quality == pytest.approx(2 * found_by_both / (found_by_both + same.parity.objects), abs=0.02)
    assert missing.problems[0].startswith(f"masks match by {missing.parity.quality:.3f}")
    assert thin.parity.matched == 1
    assert thin.parity.mask_iou < thin.parity.quality < 1


def test_a_score_that_falls_below_the_threshold_is_no_miss_and_one_that_falls_to_nothing_is():
    task = get_registry().tasks.load("segment")
    scenes = [draw_scene(240 + 8 * number, 320, objects=6).source for number in range(8)]

    def green(score: float) -> Changed:
        def change(rows, prototypes):
            rows = rows.copy()
            rows[:, 5] = np.where(rows[:, 5] > 0, score, 0)
            rows[:, 6] = np.where(rows[:, 6] > 0, 0.1, 0)  # below what is compared: the threshold is 0.2
            return rows, prototypes

        return Changed(change)

    near, far = (
        prove(green(0.3), green(score), task=task, tolerance=EIGHT_BITS, images=scenes).parity for score in (0.18, 0.05)
    )
    assert near.matched == far.matched < 0.9
    assert near.quality == 1
    assert far.quality < 0.9


def test_a_few_objects_prove_nothing_about_a_mean():
    task = get_registry().tasks.load("segment")

    def seeing(change: Callable | None) -> Changed:
        def only_scenes(rows, prototypes):
            drawn = len(session.shapes) <= 4  # they come first
            rows, prototypes = change(rows, prototypes) if change else (rows, prototypes)
            return (np.zeros_like(rows) if drawn else rows), prototypes

        session = Changed(only_scenes)
        return session

    def judged(change: Callable | None, count: int):
        scenes = [draw_scene(300, 300 + 8 * number, objects=1).source for number in range(count)]
        return prove(seeing(None), seeing(change), task=task, tolerance=EIGHT_BITS, images=scenes)

    few = judged(None, 2)
    assert (few.problems, few.holds) == ((), False)
    assert "2 objects are too few to say that masks match by 0.8" in few.doubt
    assert judged(None, 12).holds
    assert judged(lambda rows, prototypes: (np.zeros_like(rows), prototypes), 12).problems


def test_nothing_comparable_proves_nothing():
    """Another head, or other outputs, and nothing found on either side: no figure says anything."""

    def blind(rows, prototypes):
        return np.zeros_like(rows), prototypes

    task = get_registry().tasks.load("segment")
    for info in (STATIC.replace(head="other/1"), STATIC.replace(outputs=("output0", "second"))):
        found = prove(Changed(blind), Changed(blind, info), task=task, tolerance=STRICT)
        assert "nothing could be compared" in found.doubt
        assert not found.holds
    assert prove(Changed(blind), Changed(blind), task=task, tolerance=STRICT).holds


def as_raw(rows, prototypes):
    """The same boxes, as another head says them: each in the nearest cell whose bins reach its sides."""
    cells = [(320 // stride, stride) for stride in (8, 16, 32)]
    points = np.concatenate([(np.mgrid[:n, :n].reshape(2, -1)[::-1].T + 0.5) for n, _ in cells])
    pixels = np.concatenate([np.full(n * n, stride) for n, stride in cells])
    boxes = np.zeros((1, 4, BINS, len(points)), np.float32)
    scores, coefficients = np.zeros_like(rows[:, 4:7]), np.zeros_like(rows[:, 7:])
    for number in np.flatnonzero(rows[0, 4:7].any(axis=0)).tolist():
        centre, half = rows[0, 0:2, number], rows[0, 2:4, number] / 2
        sides = np.concatenate(
            [points - (centre - half) / pixels[:, None], (centre + half) / pixels[:, None] - points], 1
        )
        reached = (sides >= 0).all(axis=1) & (sides < BINS - 1).all(axis=1) & (scores[0].max(axis=0) == 0)
        anchor = int(np.where(reached, np.abs(points * pixels[:, None] - centre).sum(axis=1), np.inf).argmin())
        assert reached[anchor]
        for side, distance in enumerate(sides[anchor]):
            below, share = int(distance), distance - int(distance)
            boxes[0, side, :, anchor] = -80
            boxes[0, side, below : below + 2, anchor] = np.log(np.maximum([1 - share, share], 1e-30))
        scores[0, :, anchor], coefficients[0, :, anchor] = rows[0, 4:7, number], rows[0, 7:, number]
    return boxes.reshape(1, 4 * BINS, -1), scores, coefficients, prototypes


BINS = 16
RAW = STATIC.replace(
    head="yolov8-seg-raw/1",
    outputs=("boxes", "scores", "coefficients", "prototypes"),
    decoding={"strides": [8, 16, 32], "bins": BINS},
)


def as_final(rows, prototypes):
    """The same objects, as a graph gives them that suppresses by itself."""
    centre, half = rows[:, 0:2], rows[:, 2:4] / 2
    scores = rows[:, 4:7].max(axis=1, keepdims=True)
    classes = rows[:, 4:7].argmax(axis=1, keepdims=True)
    found = np.concatenate([centre - half, centre + half, scores, classes, rows[:, 7:]], axis=1)
    return np.where(scores > 0, found, 0).transpose(0, 2, 1)[:, :300].astype(np.float32), prototypes


FINAL = STATIC.replace(
    head="yolov8-seg-final/1",
    outputs=("detections", "prototypes"),
    decoding={"conf": 0.25, "iou": 0.7, "max_det": 300},
)
SILENT = FINAL.replace(decoding={})
"""Other tools do not say from which score on they keep what they find."""
OTHER_HEADS = pytest.mark.parametrize(
    ("change", "info"), [(as_raw, RAW), (as_final, FINAL), (as_final, SILENT)], ids=["raw", "final", "silent"]
)


@OTHER_HEADS
def test_another_head_of_the_same_model_holds(change, info):
    task = get_registry().tasks.load("segment")
    scenes = [draw_scene(240, 320, objects=6).source]
    found = prove(ColorSession(), Changed(change, info), task=task, tolerance=STRICT, images=scenes)
    assert found.holds
    assert found.has_detections
    assert found.parity.objects >= 6
    assert found.parity.box < 1e-3
    assert found.parity.raw == {}


@OTHER_HEADS
def test_another_head_that_finds_nothing_is_reported(change, info):
    task = get_registry().tasks.load("segment")
    other = Changed(lambda *outputs: tuple(np.zeros_like(output) for output in change(*outputs)), info)
    scenes = [draw_scene(240, 320, objects=6).source]
    found = prove(ColorSession(), other, task=task, tolerance=STRICT, images=scenes)
    assert not found.doubt
    assert any("only 0.0% of the objects" in problem for problem in found.problems)


def test_what_a_graph_drops_that_does_not_say_so_is_not_compared():
    """In the drawn images there may be nothing that scores enough: that proves nothing, and is no fault."""

    def unsure(rows, prototypes):
        rows = rows.copy()
        rows[:, 4:7] *= 0.05
        return rows, prototypes

    def usual(rows, prototypes):
        detections, prototypes = as_final(rows, prototypes)
        return np.where(detections[..., 4:5] > 0.25, detections, 0), prototypes

    task = get_registry().tasks.load("segment")
    found = prove(Changed(unsure), Changed(lambda *o: usual(*unsure(*o)), SILENT), task=task, tolerance=STRICT)
    assert not found.problems
    assert found.doubt
    scenes = [draw_scene(240, 320, objects=6).source]
    assert prove(Changed(), Changed(usual, SILENT), task=task, tolerance=STRICT, images=scenes).holds


def test_open_axes_are_run_at_another_size_and_batch():
    session = Changed(info=STATIC.replace(dynamic=OPEN))
    assert proof(session).holds
    assert session.shapes[0] == (1, 3, 320, 320)
    assert session.shapes[-1] == (2, 3, 160, 352)


def test_a_fixed_batch_is_filled():
    session = Changed(info=STATIC.replace(batch=4))
    found = proof(session)
    assert {shape[0] for shape in session.shapes} == {4}
    assert found.parity.images == 8


def test_drawn_images_are_the_same_every_time():
    first, second = synthetic_images((320, 640)), synthetic_images((320, 640))
    assert [image.image.shape[:2] for image in first] == [(320, 640), (240, 640), (320, 400), (160, 320)]
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        assert one.image.std() > 10
    assert all(image.image.shape[0] >= 32 for image in synthetic_images((32, 32)))


def test_threshold_lies_in_the_widest_gap():
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.45, 0.44, 0.43, 0.42, 0.30, 0.26, 0.2, 0.1], np.float32)
    assert 0.1 < choose_threshold(scores) < 0.2


def test_threshold_goes_down_to_where_objects_are_but_not_into_noise():
    low = np.array([0.05, 0.04, 0.03, 1e-5, 9e-6, 8e-6, 7e-6, 6e-6, 5e-6, 4e-6, 3e-6], np.float32)
    assert 1e-5 < choose_threshold(low) < 0.03
    noise = np.linspace(1e-6, 2e-6, 400, dtype=np.float32)
    assert (noise > choose_threshold(noise)).sum() >= 5
    assert noise.max() < MEANINGFUL_SCORE


@pytest.mark.parametrize("scores", [[], [0.9], [0.5, 0.5, 0.5], [0.9] * 50])
def test_threshold_of_few_or_equal_scores_keeps_them_all(scores):
    assert choose_threshold(np.array(scores, np.float32)) < min(scores, default=1)


def test_a_threshold_is_above_what_a_graph_keeps_by_itself():
    scores = np.array([0.9, 0.8, 0.7, 0.5, 0.31, 0.3, 0.2, 0.1, 0.05], np.float32)
    usual = choose_threshold(scores)
    assert usual < 0.25
    assert choose_threshold(scores, floor=0.01) == usual, "a floor below changes nothing"
    assert choose_threshold(scores, floor=0.25) == pytest.approx(0.6), "the widest gap of the lowest ones kept"
    assert choose_threshold(scores, floor=0.95) == pytest.approx(0.95)
    assert choose_threshold(np.zeros(0, np.float32), floor=0.25) == 0.25
