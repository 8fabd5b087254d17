"""How close exported models come to their ``.pt`` on real photographs: boxes, scores and masks of every object.

    python benchmarks/parity_real.py [--data FOLDER] [--imgsz 640] [--limit N] [--conf 0.25] [--json FILE]

The checkpoint and the photographs are those of SEGX_TEST_DATA, else of ../shared/data. Both sides get the same square
input (``rect=False``) and form masks at full resolution. Objects are matched one to one by class and overlap.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segx import YOLO
from segx_task_segment.parity import match

if TYPE_CHECKING:
    from segx.structures.results import Results

ROOT = Path(__file__).resolve().parent.parent
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "onnx": ("onnx", {}),
    "onnx opset=17 simplify=False": ("onnx", {"opset": 17, "simplify": False}),
    "onnx dynamic=True": ("onnx", {"dynamic": True}),
    "onnx half=True": ("onnx", {"half": True}),
    "torchscript": ("torchscript", {}),
}
"""What is printed, the format, and its options."""


@dataclass
class Figures:
    """What was measured of one exported model.

    Attributes:
        box: Largest difference of a side of each matched box, in pixels of the photograph.
        score: Difference of each matched score.
        mask_iou: IoU of each pair of masks.
        single: Objects that only one side has found.
        images: Photographs compared.
    """

    box: list[float] = field(default_factory=list)
    score: list[float] = field(default_factory=list)
    mask_iou: list[float] = field(default_factory=list)
    single: int = 0
    images: int = 0

    def add(self, ours: Results, theirs: Results) -> None:
        """Compare what both found in one photograph."""
        first, second = match(ours, theirs)
        self.images += 1
        self.single += len(ours) + len(theirs) - 2 * len(first)
        self.box += np.abs(ours.boxes.xyxy[first] - theirs.boxes.xyxy[second]).max(axis=1).tolist()
        self.score += np.abs(ours.boxes.conf[first] - theirs.boxes.conf[second]).tolist()
        for one, other in zip(first.tolist(), second.tolist(), strict=True):
            mine, yours = ours.masks[one], theirs.masks[other]
            self.mask_iou.append(float(mine.iou(yours)[0, 0]) if mine.area[0] or yours.area[0] else 1.0)

    def summary(self) -> dict[str, float]:
        """Return the figures as one row."""
        if not self.box:
            sys.exit("no object was found by both: nothing to compare")
        return {
            "images": self.images,
            "objects": len(self.box),
            "found by one side only": self.single,
            "box median": float(np.median(self.box)),
            "box largest": max(self.box),
            "score median": float(np.median(self.score)),
            "score largest": max(self.score),
            "mask IoU median": float(np.median(self.mask_iou)),
            "mask IoU smallest": min(self.mask_iou),
        }


def main() -> None:
    """Export each variant, predict with it, and print how far it is from the checkpoint."""
    asked = arguments()
    weights = asked.data / "weights" / "yolov8n-seg.pt"
    photographs = sorted((asked.data / "coco-mini" / "images" / "val2017").glob("*.jpg"))[: asked.limit]
    if not weights.is_file() or not photographs:
        sys.exit(f"{asked.data} holds no weights or no photographs: set SEGX_TEST_DATA or give --data")
    settings = {"imgsz": asked.imgsz, "conf": asked.conf, "rect": False, "device": "cpu", "verbose": False}
    reference = YOLO(weights)
    expected = reference.predict(photographs, **settings)
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for title, (kind, options) in VARIANTS.items():
            started = time.perf_counter()
            output = Path(folder) / title.replace(" ", "-").replace("=", "")
            made = reference.export(kind, imgsz=asked.imgsz, output=suffixed(output, kind), **options)
            seconds = time.perf_counter() - started
            figures = Figures()
            for ours, theirs in zip(expected, YOLO(made).predict(photographs, **settings), strict=True):
                figures.add(ours, theirs)
            rows[title] = figures.summary() | {"MB": made.size / 1e6, "export s": seconds}
            print(f"{title} against .pt")
            print("\n".join(f"  {name:24}{value:.6g}" for name, value in rows[title].items()))
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=2))


def suffixed(path: Path, kind: str) -> Path:
    """Return a path with the suffix of a format."""
    return path.with_name(f"{path.name}.{kind}")


def arguments() -> argparse.Namespace:
    """Return what was typed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("SEGX_TEST_DATA") or ROOT.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(data))
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--conf", type=float, default=0.25)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
