"""Memory must not grow with instances times pixels: what is kept of an image is a few bytes for each detection."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
from pathlib import Path

import numpy as np

from segx.structures.annotations import Annotation
from segx.structures.boxes import Boxes
from segx.structures.masks import Masks
from segx_task_segment.results import SegmentResults as Results
from segx.structures.annotations import Sample
from segx_task_segment.validation import SegmentEvaluator

def peak():  # MiB; getrusage would also count the process that started this one
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(row.split()[1]) for row in status if row.startswith("VmHWM:")) / 1024

HEIGHT, WIDTH, FOUND, IMAGES = 3000, 4000, 300, 12
names = {0: "a", 1: "b", 2: "c"}
rng = np.random.default_rng(0)
evaluator = SegmentEvaluator(names)
image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
peaks = []
for number in range(IMAGES):
    sides = rng.integers(40, 900, (FOUND, 2))
    corners = (rng.random((FOUND, 2)) * ([WIDTH, HEIGHT] - sides)).astype(int)
    bitmaps = [np.ones((h, w), bool) for w, h in sides]
    masks = Masks.from_bitmaps(bitmaps, corners, (HEIGHT, WIDTH))
    classes, scores = rng.integers(0, 3, FOUND), rng.random(FOUND)
    data = np.column_stack([corners, corners + sides, scores, classes]).astype(np.float32)
    results = Results(
        orig_img=image, path="", names=names, boxes=Boxes(data, (HEIGHT, WIDTH)), masks=masks
    )
    annotations = tuple(
        Annotation(
            category=int(classes[i]),
            box=tuple(map(float, (*corners[i], *sides[i]))),
            polygons=(corners[i] + 3.0 + np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * sides[i],),
            id=i,
        )
        for i in range(100)
    )
    sample = Sample(path=Path(f"{number}.jpg"), id=number, shape=(HEIGHT, WIDTH), annotations=annotations)
    evaluator.update(sample, results)
    peaks.append(peak())
    del results, masks, bitmaps
metrics = evaluator.finish()
assert metrics.detections == FOUND * IMAGES
assert metrics.seg.map > 0.2
print(round(peaks[2]), round(peak()))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read the way Linux tells it")
def test_three_hundred_detections_on_images_of_twelve_megapixels() -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    early, peak = map(int, ran.stdout.split())
    assert peak < 1024  # MiB; one dense float mask a detection would be 14 GB an image
    assert peak - early < 100  # nothing is kept that grows with pixels
