"""The incumbent's side, through its public interface alone. See README.md."""

from __future__ import annotations

import numpy as np
import torch._dynamo  # noqa: F401, TID253 - imported behind TensorFlow, as predicting does, it ends the process
from side import keep, serve
from ultralytics import YOLO, __version__


def make(job: dict) -> dict:
    """Export one file; return where it is."""
    return {"path": str(YOLO(job["weights"]).export(**job["options"])), "version": __version__}


def predict(job: dict, model: str) -> dict:
    """Predict with one file, masks at full resolution."""
    opened, results = YOLO(model, task="segment"), []
    for image in job["images"]:
        [result] = opened.predict(image, retina_masks=True, save=False, verbose=False, device="cpu", **job["options"])
        empty = np.zeros((0, *result.orig_shape))
        results.append((result.boxes.data.numpy(), empty if result.masks is None else result.masks.data.numpy()))
    return {"objects": keep(job, model, results), "version": __version__}


if __name__ == "__main__":
    serve(make, predict)
