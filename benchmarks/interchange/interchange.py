"""Files of the incumbent in segx, and files of segx in the incumbent: which open, and whether both find the same.

    python benchmarks/interchange/interchange.py --work FOLDER --peer 8.4.190=/path/to/venv/bin/python [--peer ...]

See README.md. What has been made or run before in FOLDER is not made again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from peers import copied  # noqa: E402 - a neighbour

ROOT = HERE.parent.parent
SEGX = "segx"
BOX, MASK = 1.0, 0.98
"""The aims: pixels of a side of a box, and IoU of a mask (its median: outlines differ, see README.md)."""
FILES: dict[str, dict[str, Any]] = {
    "onnx": {"format": "onnx"},
    "onnx half": {"format": "onnx", "half": True},
    "onnx int8": {"format": "onnx", "int8": True, "data": "DATA"},
    "onnx nms": {"format": "onnx", "nms": True},
    "onnx dynamic": {"format": "onnx", "dynamic": True},
    "torchscript": {"format": "torchscript"},
    "torchscript nms": {"format": "torchscript", "nms": True},
    "openvino": {"format": "openvino"},
    "openvino half": {"format": "openvino", "half": True},
    "openvino int8": {"format": "openvino", "int8": True, "data": "DATA"},
    "openvino nms": {"format": "openvino", "nms": True},
    "openvino dynamic": {"format": "openvino", "dynamic": True},
    "ncnn": {"format": "ncnn"},
    "ncnn half": {"format": "ncnn", "half": True},
    "ncnn int8": {"format": "ncnn", "int8": True, "data": "DATA"},
    "ncnn dynamic": {"format": "ncnn", "dynamic": True},
    "saved_model": {"format": "saved_model"},
    "pb": {"format": "pb"},
    "tflite": {"format": "tflite"},
    "tflite half": {"format": "tflite", "half": True},
    "tflite int8": {"format": "tflite", "int8": True, "data": "DATA"},
    "tfjs": {"format": "tfjs"},
    "paddle": {"format": "paddle"},
    "mnn": {"format": "mnn"},
    "coreml": {"format": "coreml"},
}
PREDICT = {"imgsz": 640, "conf": 0.25, "iou": 0.7, "rect": False}
MEASURE = {"imgsz": 640, "rect": False}


@dataclass(frozen=True)
class Side:
    """One of the two programs.

    Attributes:
        name: ``segx``, or the incumbent's version.
        python: Its interpreter.
    """

    name: str
    python: str

    def ask(self, job: dict[str, Any], place: Path) -> dict[str, dict[str, Any]]:
        """Do a job in processes of its own; a process that dies is started again with the models that are left."""
        answers: dict[str, dict[str, Any]] = {}
        program = HERE / ("ours.py" if self.name == SEGX else "theirs.py")
        (place / "job.json").write_text(json.dumps(job))
        environment = {**os.environ, "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
        environment |= {
            "YOLO_CONFIG_DIR": str(place),
            "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        command = [self.python, str(program), str(place / "job.json")]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
                              env=environment, cwd=place)  # fmt: skip
        (place / "said.txt").write_text(done.stdout)
        started = None
        for line in done.stdout.splitlines():
            with contextlib.suppress(ValueError, TypeError):
                said = json.loads(line)
                started = said.get("starts", started)
                if "model" in said:
                    answers[said.pop("model")] = said
        if started not in answers:  # it died, perhaps of what another model had loaded: alone, then
            last = " ".join(done.stdout.split()[-40:])
            alone = job["models"] and list(job["models"]) != [started]
            if alone:
                one = {name: stem for name, stem in job["models"].items() if name == started}
                answers |= self.ask({**job, "models": one}, place)
            else:
                answers[started or ""] = {"failed": f"the process ended with {done.returncode}: {last}"[-500:]}
        if left := {name: stem for name, stem in job["models"].items() if name not in answers}:
            answers |= self.ask({**job, "models": left}, place)
        return answers


def make(side: Side, name: str, weights: Path, data: Path, work: Path) -> dict[str, Any]:
    """Return what a side says of making a file, from the last time if there was one."""
    place = work / "files" / side.name / name.replace(" ", "-")
    answer = place / "answer.json"
    if answer.exists():
        return json.loads(answer.read_text())
    place.mkdir(parents=True, exist_ok=True)
    local = shutil.copy(weights, place / weights.name)
    options = {key: str(data) if value == "DATA" else value for key, value in FILES[name].items()}
    job = {"weights": str(local), "options": {"imgsz": 640, **options}, "models": {}}
    said = side.ask(job, place)[""]
    if "path" in said:
        made = Path(said["path"])
        said["path"] = str(place / made)
        if made == local or not (place / made).exists():
            said = {"failed": f"it wrote nothing at {made}"}
    answer.write_text(json.dumps(said))
    return said


def use(side: Side, paths: dict[str, str], work: Path, job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return what a side says of predicting with files or of measuring them, path by stem; kept under ``work``."""
    folder = work / ("measured" if "data" in job else "found") / side.name
    folder.mkdir(parents=True, exist_ok=True)
    answers = {}
    for path, stem in paths.items():
        with contextlib.suppress(FileNotFoundError):
            answers[path] = json.loads((folder / f"{stem}.json").read_text())
    if left := {path: stem for path, stem in paths.items() if path not in answers}:
        for path, said in side.ask({"models": left, "folder": str(folder), **job}, folder).items():
            (folder / f"{left[path]}.json").write_text(json.dumps(said))
            answers[path] = said
    return answers


def compare(ours: Path, theirs: Path, images: list[Path]) -> dict[str, Any]:
    """Return how far two sides' objects are apart, matched one to one by class and overlap."""
    boxes: list[float] = []
    overlaps: list[float] = []
    single = 0
    with np.load(ours) as left, np.load(theirs) as right:
        for index, image in enumerate(images):
            height, width = cv2.imread(str(image)).shape[:2]
            a, b = left[f"boxes{index}"], right[f"boxes{index}"]
            masks = [
                np.unpackbits(side[f"bits{index}"], axis=-1, count=width).astype(bool).reshape(-1, height, width)
                for side in (left, right)
            ]
            pairs = matched(a, b)
            # what one side alone has at the very edge of the threshold is rounding, not another answer
            single += sum(a[i, 4] > PREDICT["conf"] + 0.01 for i in set(range(len(a))) - {i for i, _ in pairs})
            single += sum(b[j, 4] > PREDICT["conf"] + 0.01 for j in set(range(len(b))) - {j for _, j in pairs})
            for i, j in pairs:
                boxes.append(float(np.abs(a[i, :4] - b[j, :4]).max()))
                union = int((masks[0][i] | masks[1][j]).sum())
                overlaps.append(int((masks[0][i] & masks[1][j]).sum()) / union if union else 1.0)
    if not boxes:
        return {"objects": 0, "single": single}
    return {
        "objects": len(boxes),
        "single": single,
        "box": max(boxes),
        "typical": float(np.median(boxes)),
        "mask": float(np.median(overlaps)),
        "low": float(np.percentile(overlaps, 5)),
    }


def matched(a: np.ndarray, b: np.ndarray) -> list[tuple[int, int]]:
    """Return pairs of objects of one class, those that overlap most first, with an IoU of a half at least."""
    from segx.ops.boxes import iou

    if not len(a) or not len(b):
        return []
    overlap = iou(a[:, :4], b[:, :4]) * (a[:, None, 5] == b[None, :, 5])
    pairs: list[tuple[int, int]] = []
    for flat in np.argsort(-overlap, axis=None, kind="stable"):
        i, j = divmod(int(flat), len(b))
        if overlap[i, j] < 0.5:
            break
        if i not in {i for i, _ in pairs} and j not in {j for _, j in pairs}:
            pairs.append((i, j))
    return pairs


def row(
    name: str,
    *,
    made: dict[str, Any],
    ran: dict[str, dict[str, Any]],
    found: dict[str, Any] | None,
    own: list[str],
    ap: dict[str, Any],
) -> str:
    """Return a line of the table: of a file: what both sides said, how far each is off its ``.pt``, AP."""
    accuracy = ap.get("failed", "")[:160] or (f"{ap['box']:.4f} / {ap['mask']:.4f}" if ap else "")
    if "failed" in made:
        return f"| {name} | not made: {made['failed'][:160]} | | | | | | {accuracy} |"
    failed = [f"{side}: {said['failed'][:200]}" for side, said in ran.items() if "failed" in said]
    if failed or found is None:
        return f"| {name} | {'; '.join(failed)} | | | | | | {accuracy} |"
    if not found["objects"]:
        return f"| {name} | nothing in common | 0 | {found['single']} | | | {' / '.join(own)} | {accuracy} |"
    good = found["box"] <= BOX and found["mask"] >= MASK and not found["single"]
    verdict = "the same" if good else "differs"
    return (f"| {name} | {verdict} | {found['objects']} | {found['single']} | {found['box']:.2g} | "
            f"{found['mask']:.4f} / {found['low']:.4f} | {' / '.join(own)} | {accuracy} |")  # fmt: skip


def main() -> None:
    """Make, predict, compare, print."""
    asked = arguments()
    work: Path = asked.work.resolve()
    weights = asked.data / "weights" / "yolov8n-seg.pt"
    images = sorted((asked.data / "coco-mini" / "images" / "val2017").glob("*.jpg"))[: asked.limit]
    sides = [Side(SEGX, sys.executable), *(Side(*peer.split("=", 1)) for peer in asked.peer)]
    data = work / "coco-mini" / "coco-mini-seg.yaml"
    if not data.exists():
        work.mkdir(parents=True, exist_ok=True)
        copied(asked.data / "coco-mini" / data.name, data.parent)
    names = [name for name in FILES if not asked.only or name in asked.only]
    files: dict[str, dict[str, dict[str, Any]]] = {}
    for side in sides:
        files[side.name] = {"pt": {"path": str(weights)}}
        for name in names:
            files[side.name][name] = said = make(side, name, weights, data, work)
            print(side.name, name, said, file=sys.stderr, flush=True)
    found = {"images": [str(image) for image in images], "options": PREDICT}
    measuring = {"data": str(data), "options": MEASURE}
    for peer in sides[1:]:
        for maker in (peer, sides[0]):
            made = files[maker.name]
            paths = {said["path"]: f"{maker.name}-{name.replace(' ', '-')}" for name, said in made.items()
                     if "path" in said}  # fmt: skip
            measured = use(sides[0], paths, work, measuring) if asked.measure and maker is peer else {}
            ran = {side.name: use(side, paths, work, found) for side in (sides[0], peer)}
            print(f"\n### Files of {maker.name}, by segx and by {peer.name}\n")
            print("| file | segx and the other find | objects | of one side | box px | mask IoU median / p5 "
                  "| median box px off the .pt: both | box / mask AP in segx |\n" + 8 * "|---" + "|")  # fmt: skip
            for name, said in made.items():
                if "failed" in said:
                    print(row(name, made=said, ran={}, found=None, own=[], ap={}))
                    continue
                of_file = {side: answers[said["path"]] for side, answers in ran.items()}
                both = [work / "found" / side / f"{paths[said['path']]}.npz" for side in of_file]
                whole = not any("failed" in answer for answer in of_file.values())
                first = [work / "found" / side / f"{maker.name}-pt.npz" for side in of_file]
                pairs = zip(first, both, strict=True) if whole else ()
                own = [f"{compare(*pair, images).get('typical', math.nan):.2g}" for pair in pairs]
                same = compare(*both, images) if whole else None
                ap = measured.get(said["path"], {})
                print(row(name, made=said, ran=of_file, found=same, own=own, ap=ap), flush=True)


def arguments() -> argparse.Namespace:
    """Return what was typed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = os.environ.get("SEGX_TEST_DATA") or ROOT.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=Path(data))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--peer", action="append", required=True, metavar="VERSION=PYTHON")
    parser.add_argument("--limit", type=int, default=8)
    parser.add_argument("--only", action="append", choices=list(FILES))
    parser.add_argument("--measure", action="store_true", help="AP of the peer's files in segx, on all images")
    return parser.parse_args()


if __name__ == "__main__":
    main()
