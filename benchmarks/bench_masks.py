"""Forming the masks of 300 objects: segx against the incumbent's full-resolution path, in one run.

    python benchmarks/bench_masks.py --peer /path/to/venv/bin/python

Each side runs in child processes of its own interpreter on the same arrays; the figures are medians of time and the
growth of resident memory at its peak (Linux). Without ``--peer`` (or ``SEGX_BENCH_PEER``), an interpreter that has
``ultralytics`` installed, only segx is measured. The peer is called through its public function and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = {"640 px (480 x 640)": (480, 640), "12 megapixels (3000 x 4000)": (3000, 4000)}
COMPARED = 40

MEASURE = """
import json, pathlib, statistics, sys, time
import numpy as np
data = dict(np.load(sys.argv[1]))
repeats = int(sys.argv[2])
height, width = (int(side) for side in data["shape"])
{prepare}
def status(key):  # kilobytes to megabytes
    return next(int(row.split()[1]) for row in open("/proc/self/status") if row.startswith(key)) / 1024
result = form(8, 64, 64)  # a first call loads what is loaded once
pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
before = status("VmRSS:")
times = []
for _ in range(repeats):
    result = None
    begin = time.perf_counter()
    result = form(len(data["boxes"]), height, width)
    times.append(time.perf_counter() - begin)
after = status("VmHWM:")
np.savez(sys.argv[3], masks=dense(result))
print(json.dumps({{"seconds": statistics.median(times), "megabytes": after - before, "version": version}}))
"""

SEGX = """
from segx_task_segment import mask_assembly
from segx.structures.batch import place
from segx import __version__ as version
def form(n, height, width):
    geometry = place((height, width), (640, 640))
    return mask_assembly.image_masks(data["prototypes"], data["coefficients"][:n], data["boxes"][:n], geometry)
def dense(masks):
    return np.packbits(masks[:40].data, axis=-1)
"""

PEER = """
import torch
from ultralytics import __version__ as version
from ultralytics.utils import ops
prototypes, coefficients, boxes = (torch.from_numpy(data[key]) for key in ("prototypes", "coefficients", "boxes"))
def form(n, height, width):
    with torch.inference_mode():
        return ops.process_mask_native(prototypes, coefficients[:n], boxes[:n], (height, width))
def dense(masks):
    return np.packbits(masks[:40].numpy() > 0, axis=-1)
"""


def scene(shape: tuple[int, int], objects: int) -> dict[str, np.ndarray]:
    """Smooth random prototypes and boxes from 3 % to 30 % of the image's sides."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(32, 160, 160)).astype(np.float32)
    prototypes = np.stack([cv2.GaussianBlur(plane, (0, 0), 3) * 8 for plane in noise])
    height, width = shape
    sides = rng.uniform(0.03, 0.3, (objects, 2)) * [width, height]
    corners = rng.random((objects, 2)) * ([width, height] - sides)
    return {
        "prototypes": prototypes,
        "coefficients": rng.normal(size=(objects, 32)).astype(np.float32),
        "boxes": np.concatenate([corners, corners + sides], axis=1).astype(np.float32),
        "shape": np.array(shape),
    }


def measure(python: str, prepare: str, folder: Path, repeats: int, runs: int) -> tuple[dict, np.ndarray]:
    """Run one side in ``runs`` child processes; return the medians of what they print, and its masks."""
    figures = []
    for _ in range(runs):
        command = [
            python,
            "-c",
            MEASURE.format(prepare=prepare),
            folder / "scene.npz",
            str(repeats),
            folder / "out.npz",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{python} failed:\n{done.stderr[-2000:]}")
        figures.append(json.loads(done.stdout.splitlines()[-1]))
    medians = {key: float(np.median([figure[key] for figure in figures])) for key in ("seconds", "megabytes")}
    return {**medians, "version": figures[0]["version"]}, np.load(folder / "out.npz")["masks"]


def bounds(scene: dict[str, np.ndarray]) -> str:
    """Return what the same masks cost in other ways: every pixel in C, one pass over the ends of runs, the writing."""
    from segx.structures.batch import place
    from segx_task_segment.mask_assembly import image_masks

    shape = tuple(int(side) for side in scene["shape"])
    masks = image_masks(scene["prototypes"], scene["coefficients"], scene["boxes"], place(shape, (640, 640)))
    sizes = [(max(x1 - x0, 1), max(y1 - y0, 1)) for x0, y0, x1, y1 in masks.rects.tolist()]
    patch = np.ascontiguousarray(scene["prototypes"][0, :26, :26])
    ends = sum(
        int(np.count_nonzero(np.diff(masks.bitmap(i).view(np.int8), axis=1, prepend=0, append=0)))
        for i in range(len(masks))
    )
    numbers = np.random.default_rng(0).random(ends)
    ways = {
        f"interpolating {sum(w * h for w, h in sizes) / 1e6:.0f} million pixels in C (cv2.resize)": lambda: [
            cv2.resize(patch, size, interpolation=cv2.INTER_LINEAR) for size in sizes
        ],
        f"one division for each of {ends:,} ends of runs": lambda: 1.0 / numbers,
        "filling as many words": lambda: [np.full(words.shape, 1, np.uint64) for words in masks.words],
    }
    return "; ".join(f"{name} {best_ms(work):.2f} ms" for name, work in ways.items())


def best_ms(work: Callable[[], object]) -> float:
    """Return the least milliseconds of seven runs."""
    times = []
    for _ in range(7):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times) * 1e3


def agreement(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the mean IoU of the first objects' masks."""
    shared = np.bitwise_count(ours & theirs).sum(axis=(1, 2), dtype=np.int64)
    union = np.bitwise_count(ours | theirs).sum(axis=(1, 2), dtype=np.int64)
    return float(np.mean(shared[union > 0] / union[union > 0]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", default=os.environ.get("SEGX_BENCH_PEER"), help="interpreter with ultralytics")
    parser.add_argument("--objects", type=int, default=300)
    parser.add_argument("--runs", type=int, default=3, help="child processes a side")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    report = {}
    for name, shape in SIZES.items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            np.savez(folder / "scene.npz", **scene(shape, arguments.objects))
            ours, our_masks = measure(sys.executable, SEGX, folder, 7, arguments.runs)
            line = (
                f"{name}, {arguments.objects} objects: segx {ours['seconds'] * 1e3:.1f} ms, {ours['megabytes']:.0f} MB"
            )
            report[name] = {"segx": ours}
            if arguments.peer:
                peer, peer_masks = measure(arguments.peer, PEER, folder, 1 if shape[0] > 2000 else 3, arguments.runs)
                report[name] |= {"peer": peer, "iou": agreement(our_masks, peer_masks)}
                faster = peer["seconds"] / ours["seconds"]
                leaner = peer["megabytes"] / max(ours["megabytes"], 0.1)
                line += f"; ultralytics {peer['version']} {peer['seconds'] * 1e3:.0f} ms, {peer['megabytes']:.0f} MB; "
                line += f"{faster:.0f} times faster, {leaner:.0f} times leaner, mean IoU {report[name]['iou']:.4f}"
        print(line, flush=True)
        print(f"  at least: {bounds(scene(shape, arguments.objects))}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
