"""Draws README's image: drawn shapes, and what the model that comes with segx finds: ``scripts/generate_image.py``."""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np
from PIL import Image  # noqa: TID253 - a script

from segx import YOLO
from segx_data_synth.dataset import write_dataset

TARGET = Path(__file__).resolve().parent.parent / "docs" / "shapes.png"
SIDE = 256
COLOURS = 128


def main() -> None:
    """Write the image: as drawn on the left, with masks on the right, for two of them."""
    model = YOLO("shapes-seg.pt")
    with tempfile.TemporaryDirectory() as scratch:
        data = write_dataset(Path(scratch) / "shapes", images=1, val_images=24, imgsz=SIDE, seed=4)
        results = model.predict(data.parent / "images" / "val", conf=0.6, save=False, verbose=False)
    best = sorted(results, key=lambda result: float(result.boxes.conf.sum()))[-2:]
    sides = [side for result in best for side in (result.orig_img, result.plot(conf=False))]
    low = min(len(side) for side in sides)
    row = np.hstack([side[:low] for side in sides])
    image = Image.fromarray(cv2.cvtColor(row, cv2.COLOR_BGR2RGB))
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(TARGET, optimize=True)
    print(f"wrote {TARGET.name}: {TARGET.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    main()
