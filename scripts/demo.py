"""``make demo``: the whole way on images drawn here: predict, fine-tune, validate, export with proof, predict again.

Each command is printed as it is run, so that it can be typed again. Nothing is downloaded: the model comes with segx.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

OURS = Path(__file__).resolve().parent.parent / "runs" / "demo"
IMAGE = "shapes/images/val/val_00010.jpg"

STEPS = {
    "draw a small data set": "segx data synth folder=shapes images=128 val_images=32 imgsz=256 seed=1",
    "find objects with the model that comes with segx": (
        f"segx segment predict model=shapes-seg.pt source={IMAGE} project=. name=found"
    ),
    "teach it, in a few epochs, one class of your own: any object": (
        "segx segment train model=shapes-seg.pt data=shapes/shapes.yaml single_cls epochs=6 imgsz=192 nbs=16 project=. "
        "freeze=10 optimizer=AdamW lr0=0.001 warmup_epochs=1"  # so few steps unlearn more than they teach at full rate
    ),
    "measure what came of it, on the data and by the settings it remembers": (
        "segx segment val model=train/weights/best.pt project=. --no-verbose"
    ),
    "export it, and prove the export": "segx export model=train/weights/best.pt format=onnx",
    "find objects with the ONNX file": (
        f"segx segment predict model=train/weights/best.onnx source={IMAGE} project=. name=found-by-onnx"
    ),
}

RESULTS = {
    "image": "found/val_00010.jpg",
    "report": "val/report.html",
    "weights": "train/weights/best.pt",
    "ONNX": "train/weights/best.onnx",
    "image by ONNX": "found-by-onnx/val_00010.jpg",
}


def run(command: str, folder: Path) -> None:
    """Show one command and run it; a failure ends the demonstration with its exit code."""
    print(f"$ {command}", flush=True)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    ended = subprocess.run(shlex.split(command), cwd=folder, env=os.environ | {"PATH": path}, check=False)
    if ended.returncode:
        sys.exit(ended.returncode)


def main(folder: Path) -> None:
    """Run every step in an empty folder, and say where everything is."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        sys.exit(f"demo: {folder} is not empty")
    began = time.monotonic()
    print(f"$ cd {folder}")
    for what, command in STEPS.items():
        print(f"\n# {what}")
        run(command, folder)
    missing = [name for name, path in RESULTS.items() if not (folder / path).is_file()]
    if missing:
        sys.exit(f"demo: {', '.join(missing)} not written")
    print(f"\nAll of it in {time.monotonic() - began:.0f} s:")
    for name, path in RESULTS.items():
        print(f"  {name:16} {folder / path}")


if __name__ == "__main__":
    if sys.argv[1:]:
        main(Path(sys.argv[1]).absolute())
    else:
        shutil.rmtree(OURS, ignore_errors=True)
        main(OURS)
