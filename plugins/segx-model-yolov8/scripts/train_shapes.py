"""Trains the model that comes with segx, ``shapes-seg.pt``, from nothing: draws the data, trains, measures, halves.

    python plugins/segx-model-yolov8/scripts/train_shapes.py --device 0

The images are drawn by segx-data-synth, so there is nothing to download. On one core of 2026 it takes about half an
hour.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from dataclasses import replace
from pathlib import Path

from segx import YOLO
from segx_data_synth.dataset import write_dataset
from segx_torch.checkpoint import read_checkpoint, write_checkpoint

SEED = 8
RECIPE = {
    "imgsz": 192,
    "batch": 16,
    "nbs": 16,
    "optimizer": "AdamW",
    "lr0": 0.002,
    "momentum": 0.9,
    "warmup_bias_lr": 0.0,
    "close_mosaic": 5,
}
TARGET = Path(__file__).parents[1] / "src" / "segx_model_yolov8" / "embedded" / "shapes-seg.pt"


def main() -> None:
    """Train and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default=None)
    parser.add_argument("--images", type=int, default=1600)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--folder", type=Path, default=Path("runs/shapes"))
    parser.add_argument("--output", type=Path, default=TARGET)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cores = os.cpu_count() or 1
    data = given.folder / "shapes" / "shapes.yaml"
    if not data.exists():
        write_dataset(data.parent, images=given.images, val_images=200, imgsz=256, seed=SEED, workers=cores)
    model = YOLO("yolov8p-seg.yaml")
    model.train(
        data=str(data),
        epochs=given.epochs,
        device=given.device,
        workers=0,
        seed=SEED,
        project=given.folder,
        cache=True,
        **RECIPE,
    )
    trained = model.trained
    if trained is None or trained.best is None:
        raise SystemExit("nothing was written")
    checkpoint = read_checkpoint(trained.best)
    settings = {"recipe": {**RECIPE, "epochs": given.epochs, "images": given.images, "seed": SEED}}
    info = checkpoint.info.replace(settings=settings, variant="yolov8p-seg")
    given.output.parent.mkdir(parents=True, exist_ok=True)
    write_checkpoint(given.output, replace(checkpoint, info=info, training=None), half=True)
    best = max(trained.history, key=lambda row: row.get("fitness", -1.0))
    given.output.with_suffix(".json").write_text(json.dumps({**settings, "figures": dict(best)}, indent=2) + "\n")


if __name__ == "__main__":
    main()
