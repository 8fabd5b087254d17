"""The figures must be pycocotools', on data made to hit every rule of the protocol and on real images."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as reference_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from segx.structures.annotations import Annotation, Sample, masks_of
from segx.structures.boxes import Boxes
from segx.structures.masks import Masks
from segx_task_segment.metrics.coco import found_in
from segx_task_segment.results import SegmentResults as Results
from segx_task_segment.validation import SegmentEvaluator

NAMES = {0: "ring", 1: "blob", 2: "speck", 3: "absent"}
FIGURES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR_1", "AR_10", "AR_100")
FIGURES += ("AR_small", "AR_medium", "AR_large")

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept:DeprecationWarning"
)  # pycocotools


def star(rng: np.random.Generator, centre: np.ndarray, radius: float) -> np.ndarray:
    """A ring of points about a centre, coordinates to 1/100 as COCO writes them."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(5, 20)))
    lengths = radius * rng.uniform(0.5, 1.0, angles.size)
    return np.round(centre + np.stack([np.cos(angles), np.sin(angles)], axis=1) * lengths[:, None], 2)


def make_annotation(rng: np.random.Generator, shape: tuple[int, int], number: int) -> Annotation:
    """An object: one part, several, a bitmap with a hole, or a crowd."""
    height, width = shape
    radius = float(rng.choice([6, 14, 25, 60, 120]))
    centre = rng.uniform([0, 0], [width, height])
    kind = rng.choice(["part", "parts", "hole", "crowd"], p=[0.5, 0.2, 0.15, 0.15])
    rings = [star(rng, centre, radius)]
    rle = None
    if kind == "parts":
        rings.append(star(rng, np.clip(centre + radius * 1.5, 0, [width - 1, height - 1]), radius / 2))
    if kind in {"hole", "crowd"}:
        y, x = np.mgrid[:height, :width]
        distance = np.hypot(x - centre[0], y - centre[1])
        dense = (distance < radius) & (distance > radius / 3 if kind == "hole" else True)
        rle = reference_mask.encode(np.asfortranarray(dense.astype(np.uint8)))
        rings = []
    parts = reference_mask.frPyObjects([ring.ravel().tolist() for ring in rings], height, width) if rings else [rle]
    whole = reference_mask.merge(parts)
    if reference_mask.area(whole) == 0:
        return make_annotation(rng, shape, number)
    return Annotation(
        category=int(rng.integers(0, 3)),
        box=tuple(reference_mask.toBbox(whole).tolist()),
        polygons=tuple(rings),
        rle=rle,
        crowd=kind == "crowd",
        area=float(reference_mask.area(whole)) * float(rng.uniform(0.8, 1.2)),
        id=number,
    )


def make_samples(rng: np.random.Generator, images: int) -> list[Sample]:
    samples, number = [], 1
    for image in range(images):
        shape = (int(rng.integers(120, 300)), int(rng.integers(120, 300)))
        count = int(rng.integers(0, 9))
        annotations = tuple(make_annotation(rng, shape, number + i) for i in range(count))
        number += count
        samples.append(Sample(path=Path(f"{image}.png"), id=1000 - 3 * image, shape=shape, annotations=annotations))
    return samples


def guess(rng: np.random.Generator, sample: Sample, *, per_annotation: int = 3, noise: int = 6) -> Results:
    """Detections as a mediocre model makes them: shifted copies of the labels, wrong classes, inventions, ties."""
    height, width = sample.shape
    dense, classes = [], []
    for annotation in sample.annotations:
        mask = masks_of([annotation], sample.shape, boxes=True).data[0]
        for _ in range(rng.integers(0, per_annotation + 1)):
            shift = rng.integers(-5, 6, 2)
            moved = np.roll(mask, shift.tolist(), (0, 1))
            dense.append(moved if rng.random() < 0.8 else mask)
            classes.append(annotation.category if rng.random() < 0.85 else int(rng.integers(0, 4)))
    for _ in range(rng.integers(0, noise)):
        mask = np.zeros((height, width), np.uint8)
        y, x = rng.integers(0, height - 10), rng.integers(0, width - 10)
        mask[y : y + rng.integers(3, 90), x : x + rng.integers(3, 90)] = 1
        dense.append(mask)
        classes.append(int(rng.integers(0, 4)))
    masks = Masks.from_dense(np.array(dense).reshape(-1, height, width))
    masks = masks if len(masks) else Masks.empty(sample.shape)
    boxes = masks.bounds.astype(np.float32) + rng.uniform(-2, 2, (len(masks), 4)).astype(np.float32)
    scores = np.round(rng.random(len(masks)), int(rng.choice([1, 5])))  # one digit: many equal scores
    data = np.column_stack([boxes, scores, classes]).astype(np.float32).reshape(-1, 6)
    return Results(
        orig_img=np.zeros((height, width, 3), np.uint8),
        path="x.png",
        names=NAMES,
        boxes=Boxes(data, sample.shape),
        masks=masks,
    )


def coco_annotation(samples: list[Sample], names: dict[int, str]) -> COCO:
    annotations = [
        {
            "id": annotation.id,
            "image_id": sample.id,
            "category_id": annotation.category + 1,
            "bbox": list(annotation.box),
            "area": annotation.area,
            "iscrowd": int(annotation.crowd),
            "segmentation": annotation.rle or [ring.ravel().tolist() for ring in annotation.polygons],
        }
        for sample in samples
        for annotation in sample.annotations
    ]
    api = COCO()
    api.dataset = {
        "images": [{"id": s.id, "height": s.shape[0], "width": s.shape[1]} for s in samples],
        "annotations": annotations,
        "categories": [{"id": number + 1, "name": name} for number, name in names.items()],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        api.createIndex()
    return api


def reference(annotation: COCO, results: dict[int, Results], names: dict[int, str], kind: str) -> COCOeval:
    """pycocotools on the same detections; results for masks carry no bbox, or it would take areas from there."""
    rows = []
    for image, result in results.items():
        found = found_in(result, names)
        for i in range(len(found)):
            row = {"image_id": image, "category_id": int(found.category[i]) + 1, "score": float(found.score[i])}
            rows.append(
                row
                | ({"bbox": found.box[i].tolist()} if kind == "bbox" else {"segmentation": dict(found.masks.rle[i])})
            )
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCOeval(annotation, annotation.loadRes(rows), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge


@pytest.mark.parametrize("seed", range(6))
def test_every_figure_is_that_of_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    samples = make_samples(rng, 14)
    results = {sample.id: guess(rng, sample) for sample in samples}
    evaluator = SegmentEvaluator(NAMES)
    for sample in rng.permutation(np.array(samples, object)):  # the order of images must not matter
        evaluator.update(sample, results[sample.id])
    metrics = evaluator.finish()

    annotation = coco_annotation(samples, NAMES)
    assert any(t.crowd for s in samples for t in s.annotations)
    for kind, ours in (("bbox", metrics.box), ("segm", metrics.seg)):
        judge = reference(annotation, results, NAMES, kind)
        theirs = np.where(judge.stats == -1, np.nan, judge.stats)
        np.testing.assert_allclose([ours.coco[name] for name in FIGURES], theirs, atol=1e-12, err_msg=kind)
        precision = judge.eval["precision"].transpose(2, 3, 0, 1, 4)[..., -1]  # classes, areas, thresholds, recalls
        np.testing.assert_allclose(
            ours.averages.precision, np.where(precision == -1, np.nan, precision), atol=1e-12, err_msg=kind
        )


def test_more_than_a_hundred_detections_of_a_class_are_cut_as_coco_cuts_them() -> None:
    rng = np.random.default_rng(0)
    samples = [sample for sample in make_samples(rng, 6) if sample.annotations]
    results = {sample.id: guess(rng, sample, per_annotation=60, noise=200) for sample in samples}
    evaluator = SegmentEvaluator({0: "any"}, single_cls=False)
    one = {
        sample.id: results[sample.id].replace(
            boxes=Boxes(results[sample.id].boxes.data * np.array([1, 1, 1, 1, 1, 0], np.float32), sample.shape)
        )
        for sample in samples
    }
    single = [
        Sample(
            path=s.path,
            id=s.id,
            shape=s.shape,
            annotations=tuple(Annotation(**{**t.__dict__, "category": 0}) for t in s.annotations),
        )
        for s in samples
    ]
    assert max(len(result) for result in one.values()) > 150
    for sample in single:
        evaluator.update(sample, one[sample.id])
    metrics = evaluator.finish()
    annotation = coco_annotation(single, {0: "any"})
    for kind, ours in (("bbox", metrics.box), ("segm", metrics.seg)):
        judge = reference(annotation, one, {0: "any"}, kind)
        np.testing.assert_allclose(
            [ours.coco[name] for name in FIGURES], np.where(judge.stats == -1, np.nan, judge.stats), atol=1e-12
        )
