"""AP by the rules of the incumbent's release 8.1.0, beside COCO's, for the same detections: to compare old figures.

    python benchmarks/ap_incumbent.py MODEL DATA [--split val]

The rules differ from COCO's: pairs are made by overlap before score, crowds are not known, all detections count,
precision 1 at recall 0 is added, and the integral is one of trapezoids.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np

from segx import YOLO
from segx.data.splits import open_data
from segx.options.verbs import DataCheckOptions
from segx.plugin.registry import get_registry
from segx_task_segment.metrics.coco import RECALLS, THRESHOLDS, bits
from segx_task_segment.validation import SegmentEvaluator

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from segx_task_segment.metrics.coco import ImageMatches, IouMatches


def main() -> None:
    """Measure a model on a data set by both rules."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--split", default="val")
    asked = parser.parse_args()
    opened = open_data(DataCheckOptions.parse({"data": asked.data}), get_registry(), only=asked.split)
    dataset, model = opened.splits[asked.split].dataset, YOLO(asked.model)
    evaluator = SegmentEvaluator(dataset.names)
    images = []
    for sample in dataset:
        (results,) = model.predict(sample.path, conf=0.001, max_det=300, verbose=False)
        images.append(evaluator.update(sample, results))
    metrics = evaluator.finish()
    for kind, theirs in ((metrics.box, [each.box for each in images]), (metrics.seg, [each.seg for each in images])):
        ap = average(images, theirs, len(dataset.names))
        print(f"{kind.name}: COCO {kind.map:.4f} (at 0.50 {kind.map50:.4f}), ", end="")
        print(f"incumbent's rules {np.nanmean(ap):.4f} (at 0.50 {np.nanmean(ap[:, 0]):.4f})")


def average(images: list[ImageMatches], matches: list[IouMatches], classes: int) -> NDArray[np.float64]:
    """Return AP (classes, thresholds); NaN for classes without objects.

    The precision envelope between recall 0 and 1, with precision 1 at recall 0 and 0 at recall 1 added, interpolated
    linearly at 101 points and integrated by trapezoids.
    """
    result = np.full((classes, len(THRESHOLDS)), np.nan)
    for number in range(classes):
        hits, scores, objects = [], [], 0
        for image, one in zip(images, matches, strict=True):
            rows = np.flatnonzero(image.found.category == number)
            columns = np.flatnonzero((image.annotations.category == number) & ~one.ignored_objects)
            hits.append(match(one.iou[np.ix_(rows, columns)]))
            scores.append(image.found.score[rows])
            objects += len(columns)
        if not objects:
            continue
        right = bits(np.concatenate(hits)[np.argsort(-np.concatenate(scores), kind="stable")])
        for threshold, row in enumerate(right):
            found = np.cumsum(row)
            recall = np.concatenate([[0.0], found / objects, [1.0]])
            precision = np.concatenate([[1.0], found / np.arange(1, len(row) + 1), [0.0]])
            sampled = np.interp(RECALLS, recall, np.maximum.accumulate(precision[::-1])[::-1])
            result[number, threshold] = (sampled[1:] + sampled[:-1]) @ np.diff(RECALLS) / 2
    return result


def match(iou: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Return uint16 (detections), bit per threshold: each detection keeps the object it overlaps most, then each
    object keeps the first detection that kept it.
    """
    hit = np.zeros(len(iou), np.uint16)
    if not iou.size:
        return hit
    best = iou.argmax(axis=1)
    overlap = iou[np.arange(len(iou)), best]
    for bit, threshold in enumerate(THRESHOLDS):
        enough = np.flatnonzero(overlap >= threshold)
        _, first = np.unique(best[enough], return_index=True)
        hit[enough[first]] |= np.uint16(1 << bit)
    return hit


if __name__ == "__main__":
    main()
