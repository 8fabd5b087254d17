"""A folder of images from end to end, masks at full resolution: segx against the incumbent, in one run.

    python benchmarks/bench_folder.py --weights yolov8n-seg.pt --images FOLDER --peer /path/to/venv/bin/python

Each side runs in child processes of its own interpreter, turn by turn so that a busy machine is busy for both; the
figures are medians over the rounds, the ratio that of the medians. The ``.onnx`` is exported by segx from the same
weights, fixed to 640 x 640, and both sides open that file. ``--dense`` also asks each result for its N x H x W array,
which the incumbent has made anyway and segx makes when asked. Without ``--peer`` (or ``SEGX_BENCH_PEER``), an
interpreter that has ``ultralytics`` installed, only segx is measured; the peer is called through its public interface.
On a GPU: ``--device 0 --batch 16 [--half] --kinds pt``; each round then begins with as many images as fill two batches.
``--ours FILE ...`` measures these with segx in the same rounds as the ``.pt``, beside the peer's ``.pt``; ``--times``
measures on a folder that has each image so many times, as runtimes that settle on shapes want it.
``--realtime`` (Linux, root) measures both sides at real-time priority, for a machine that others are using.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

MEASURE = """
import json, os, pathlib, sys, time
model_path, folder, dense = sys.argv[1], sys.argv[2], sys.argv[3] == "dense"
how = json.loads(sys.argv[5])
{prepare}
if sys.argv[4] == "realtime":  # threads that begin from here on inherit it
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
warm = [str(path) for path in sorted(pathlib.Path(folder).iterdir())[: max(4, 2 * how.get("batch", 1))]]
for result in run(warm):
    pass
objects = images = area = 0
begin = time.perf_counter()
cpu = time.process_time()
for result in run(folder):
    images += 1
    objects += len(result)
    if dense and len(result):
        area += int(result.masks.data.shape[-1])
seconds = time.perf_counter() - begin
cpu = time.process_time() - cpu
peak = next(int(row.split()[1]) for row in open("/proc/self/status") if row.startswith("VmHWM:")) / 1024
print(json.dumps({{"seconds": seconds, "cpu": cpu, "images": images, "objects": objects, "peak": peak,
                   "version": version}}))
"""

SEGX = """
from segx import YOLO, __version__ as version
from segx.runtime import take_process
take_process()  # it is a process of its own, as the command line's
model = YOLO(model_path)
def run(source):
    return model.predict(source, stream=True, verbose=False, **how)
"""

PEER = """
from ultralytics import YOLO, __version__ as version
model = YOLO(model_path, task="segment")
def run(source):
    return model.predict(source, retina_masks=True, save=False, stream=True, verbose=False, **how)
"""


def export(weights: Path, folder: Path) -> Path:
    """Return the same model as ONNX, fixed to 640 x 640."""
    from segx import YOLO

    return YOLO(weights).export(format="onnx", output=folder / "model.onnx", verify=False).path


def measure(python: str, prepare: str, model: Path, images: Path, *requests: str) -> dict[str, float]:
    """Run one side once over the folder."""
    command = [python, "-c", MEASURE.format(prepare=prepare), str(model), str(images), *requests]
    environment = {**os.environ, "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=model.parent)
    if done.returncode:
        sys.exit(f"{python} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def repeated(images: Path, times: int, folder: Path) -> Path:
    """Return a folder that holds each image so many times, or the images' own where that is once."""
    if times == 1:
        return images
    folder.mkdir()
    for turn in range(times):
        for image in images.iterdir():
            shutil.copy(image, folder / f"{turn}_{image.name}")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--peer", default=os.environ.get("SEGX_BENCH_PEER"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dense", action="store_true")
    parser.add_argument("--realtime", action="store_true")
    parser.add_argument("--device")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--kinds", default="pt,onnx")
    parser.add_argument("--ours", type=Path, nargs="+", default=[], metavar="FILE")
    parser.add_argument("--times", type=int, default=1)
    arguments = parser.parse_args()
    how = {"device": arguments.device, "batch": arguments.batch, "half": arguments.half or None}
    requests = (
        "dense" if arguments.dense else "packed",
        "realtime" if arguments.realtime else "usual",
        json.dumps({name: value for name, value in how.items() if value is not None}),
    )
    sides = {"segx": (sys.executable, SEGX)}
    if arguments.peer:
        sides["peer"] = (arguments.peer, PEER)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "model.pt"
        weights.write_bytes(arguments.weights.read_bytes())
        images = repeated(arguments.images.resolve(), arguments.times, Path(folder) / "images")
        models = {".pt": weights}
        if "onnx" in arguments.kinds.split(","):
            models[".onnx"] = export(weights, Path(folder))
        for kind, model in models.items():
            turns = [(side, python, prepare, model) for side, (python, prepare) in sides.items()]
            if kind == ".pt":
                turns += [(file.name, sys.executable, SEGX, file.resolve()) for file in arguments.ours]
            runs: dict[str, list[dict[str, float]]] = {side: [] for side, *_ in turns}
            for _ in range(arguments.rounds):
                for side, python, prepare, file in turns:
                    runs[side].append(measure(python, prepare, file, images, *requests))
            report(kind, runs)


def report(kind: str, runs: dict[str, list[dict[str, float]]]) -> None:
    """Print one line for each side, and the ratio."""
    rates: dict[str, float] = {}
    for side, found in runs.items():
        rates[side] = statistics.median(run["images"] / run["seconds"] for run in found)
        cpu = statistics.median(run["cpu"] / run["images"] for run in found)
        peak = statistics.median(run["peak"] for run in found)
        spread = sorted(run["images"] / run["seconds"] for run in found)
        print(
            f"{kind:6} {side:5} {found[0]['version']:8} {rates[side]:7.2f} images/s "
            f"({spread[0]:.2f}..{spread[-1]:.2f}), {cpu * 1e3:6.1f} ms CPU an image, peak {peak:5.0f} MB, "
            f"{found[0]['objects']:.0f} objects"
        )
    for side, rate in rates.items():
        if "peer" in rates and side != "peer":
            print(f"{side} / peer with {kind}: {rate / rates['peer']:.2f}")


if __name__ == "__main__":
    main()
