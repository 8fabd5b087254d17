"""How close segx comes to the incumbent on real photographs, same checkpoint: boxes, scores and masks of every object.

    python benchmarks/parity_incumbent.py --peer /path/to/venv/bin/python [--limit 20] [--rect both] [--json FILE]

The checkpoint and the photographs are those of SEGX_TEST_DATA, else of ../shared/data. The peer is an interpreter that
has ``ultralytics`` installed (``--peer`` or SEGX_BENCH_PEER); it is called through its public interface, in a process
of its own, with masks at full resolution. Objects are matched one to one by class and overlap. What differs by more
than the aims (1 px, mask IoU 0.98) is listed object by object; the exit code is 1 if there is any. ``edge`` in that
list is the share of the differing pixels that touch the outline of the segx mask.

Why masks are not all equal to the pixel: where the padding is no whole number of prototype pixels, or the image was
resized, the incumbent (8.4.190) doubles the logits once or twice, cuts the padding off, and resizes again, which moves
the outline by a fraction of a pixel. segx interpolates once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from segx import YOLO
from segx.ops.boxes import iou

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from segx.structures.results import Results

ROOT = Path(__file__).resolve().parent.parent
BOX_AIM, IOU_AIM = 1.0, 0.98
"""Pixels of a box's side, and mask IoU."""

PEER = """
import pathlib, sys
import numpy as np
from ultralytics import YOLO
weights, photographs, folder, imgsz, conf, iou, rect = sys.argv[1:]
model = YOLO(weights)
for path in pathlib.Path(photographs).read_text().split("\\n"):
    [result] = model.predict(path, retina_masks=True, conf=float(conf), iou=float(iou), imgsz=int(imgsz),
                             rect=rect == "True", save=False, verbose=False, device="cpu")
    boxes = result.boxes.data.cpu().numpy()
    dense = np.zeros((0, *result.orig_shape)) if result.masks is None else result.masks.data.cpu().numpy()
    bits = np.packbits(dense > 0.5, axis=-1)
    np.savez(pathlib.Path(folder) / (pathlib.Path(path).stem + ".npz"), boxes=boxes, bits=bits)
"""


@dataclass(frozen=True)
class Pair:
    """One object that both sides have found.

    Attributes:
        where: The photograph, the object's name and score.
        box: Largest difference of a side of the box, in pixels of the photograph.
        score: Difference of the scores.
        iou: IoU of the masks.
        area: Pixels of the peer's mask.
        edge: Share of the differing pixels within one pixel of the outline of the segx mask.
    """

    where: str
    box: float
    score: float
    iou: float
    area: int
    edge: float


def main() -> None:
    """Compare with each asked setting of ``rect`` and print the figures."""
    asked = arguments()
    weights = asked.data / "weights" / "yolov8n-seg.pt"
    photographs = sorted((asked.data / "coco-mini" / "images" / "val2017").glob("*.jpg"))[: asked.limit]
    if not weights.is_file() or not photographs:
        sys.exit(f"{asked.data} holds no weights or no photographs: set SEGX_TEST_DATA or give --data")
    rows, far = {}, 0
    for rect in {"both": (True, False), "true": (True,), "false": (False,)}[asked.rect]:
        pairs, single = compare(weights, photographs, asked, rect=rect)
        outside = [pair for pair in pairs if pair.box > BOX_AIM or pair.iou < IOU_AIM]
        far += len(outside) + len(single)
        rows[f"rect={rect}"] = row = figures(pairs, len(photographs), len(single))
        print(f"segx against the incumbent, rect={rect}, imgsz={asked.imgsz}, conf={asked.conf}, iou={asked.iou}")
        print("\n".join(f"  {name:24}{value:.6g}" for name, value in row.items()))
        for pair in sorted(outside, key=lambda pair: pair.iou):
            print(f"  far    {pair.where}: box {pair.box:.2f} px, score {pair.score:.4f}, mask IoU {pair.iou:.4f}, "
                  f"{pair.area} px, edge {pair.edge:.2f}")  # fmt: skip
        for where in single:
            print(f"  single {where}")
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=2))
    sys.exit(1 if far else 0)


def compare(
    weights: Path, photographs: list[Path], asked: argparse.Namespace, *, rect: bool
) -> tuple[list[Pair], list[str]]:
    """Return the objects that both sides have found in the photographs, and those of one side only."""
    settings = {"imgsz": asked.imgsz, "conf": asked.conf, "iou": asked.iou, "rect": rect}
    pairs: list[Pair] = []
    single: list[str] = []
    with tempfile.TemporaryDirectory(prefix="segx-parity-") as name:
        folder = Path(name)
        local = folder / weights.name
        local.symlink_to(weights.resolve())  # the peer may write beside it
        ask_peer(asked.peer, local, photographs, folder, [str(value) for value in settings.values()])
        for result in YOLO(weights).predict(photographs, **settings, device="cpu", verbose=False, stream=True):
            with np.load(folder / f"{Path(result.path).stem}.npz") as theirs:
                met, alone = match(result, theirs["boxes"], theirs["bits"])
            pairs += met
            single += alone
    return pairs, single


def ask_peer(python: str, weights: Path, photographs: list[Path], folder: Path, settings: list[str]) -> None:
    """Let the peer predict; it leaves one ``.npz`` for each photograph in the folder."""
    names = folder / "photographs"
    names.write_text("\n".join(str(path.resolve()) for path in photographs))
    environment = {**os.environ, "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    command = [python, "-c", PEER, str(weights), str(names), str(folder), *settings]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)
    if done.returncode:
        sys.exit(f"{python} failed:\n{done.stderr[-3000:]}")


def match(ours: Results, boxes: NDArray[np.float32], bits: NDArray[np.uint8]) -> tuple[list[Pair], list[str]]:
    """Pair objects of one class, those that overlap most first; what overlaps by less than half stays alone."""
    overlap = iou(ours.boxes.xyxy, boxes[:, :4]) * (ours.boxes.cls[:, None] == boxes[:, 5])
    left, right = set(range(len(ours))), set(range(len(boxes)))
    pairs = []
    for flat in np.argsort(-overlap, axis=None, kind="stable"):
        i, j = divmod(int(flat), len(boxes))
        if overlap[i, j] < 0.5:
            break
        if i in left and j in right:
            left.remove(i)
            right.remove(j)
            theirs = np.unpackbits(bits[j], axis=-1, count=ours.orig_shape[1]).astype(bool)
            pairs.append(pair(ours, i, boxes[j], theirs))
    return pairs, [*alone(ours, ours.boxes.data, left, "segx"), *alone(ours, boxes, right, "incumbent")]


def pair(ours: Results, index: int, box: NDArray[np.float32], theirs: NDArray[np.bool_]) -> Pair:
    """Measure one object."""
    mine = ours.masks.data[index].astype(bool)
    union = int((mine | theirs).sum())
    differs = mine ^ theirs
    outline = cv2.morphologyEx(mine.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)).astype(bool)
    score = float(ours.boxes.conf[index])
    return Pair(
        where=f"{Path(ours.path).name} {ours.names[int(box[5])]} {score:.3f}",
        box=float(np.abs(ours.boxes.xyxy[index] - box[:4]).max()),
        score=abs(score - float(box[4])),
        iou=float((mine & theirs).sum()) / union if union else 1.0,
        area=int(theirs.sum()),
        edge=float((differs & outline).sum() / max(differs.sum(), 1)),
    )


def alone(ours: Results, boxes: NDArray[np.float32], indices: set[int], side: str) -> Iterator[str]:
    """Describe the objects that only one side has found."""
    for i in sorted(indices):
        x1, y1, x2, y2, score, number = boxes[i]
        name = ours.names[int(number)]
        yield f"{Path(ours.path).name} {side}: {name} {score:.4f} at {x1:.0f} {y1:.0f} {x2:.0f} {y2:.0f}"


def figures(pairs: list[Pair], images: int, single: int) -> dict[str, float]:
    """Return what was measured as one row."""
    if not pairs:
        sys.exit("no object was found by both: nothing to compare")
    boxes, scores, ious = (np.array([getattr(pair, name) for pair in pairs]) for name in ("box", "score", "iou"))
    return {
        "images": images,
        "objects": len(pairs),
        "found by one side only": single,
        "box median": float(np.median(boxes)),
        "box largest": float(boxes.max()),
        "score median": float(np.median(scores)),
        "score largest": float(scores.max()),
        "mask IoU median": float(np.median(ious)),
        "mask IoU smallest": float(ious.min()),
        "mask IoU below 0.98": int((ious < IOU_AIM).sum()),
    }


def arguments() -> argparse.Namespace:
    """Return what was typed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("SEGX_TEST_DATA") or ROOT.parent / "shared" / "data"
    peer = os.environ.get("SEGX_BENCH_PEER")
    parser.add_argument("--data", type=Path, default=Path(data))
    parser.add_argument("--peer", default=peer, required=peer is None)
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--conf", type=float, default=0.25)
    parser.add_argument("--iou", type=float, default=0.7)
    parser.add_argument("--rect", choices=("both", "true", "false"), default="both")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
