"""segx's side. See README.md."""

from __future__ import annotations

from side import keep, serve

from segx import YOLO, __version__


def make(job: dict) -> dict:
    """Export one file; return where it is."""
    return {"path": str(YOLO(job["weights"]).export(**job["options"])), "version": __version__}


def use(job: dict, model: str) -> dict:
    """Predict with one file, or measure its AP on a data set."""
    opened, results = YOLO(model), []
    if "data" in job:
        metrics = opened.val(data=job["data"], device="cpu", plots=False, verbose=False, **job["options"])
        return {"box": metrics.box.map, "mask": metrics.seg.map, "version": __version__}
    for image in job["images"]:
        [result] = opened.predict(image, verbose=False, device="cpu", **job["options"])
        results.append((result.boxes.data, result.masks.data))
    return {"objects": keep(job, model, results), "version": __version__}


if __name__ == "__main__":
    serve(make, use)
