"""What both sides do alike: a job is read from a file, and answered with a line of JSON for each model."""

from __future__ import annotations

import json
import pathlib
import sys
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable


def serve(make: Callable[[dict], dict], use: Callable[[dict, str], dict]) -> None:
    """Do what a job asks for: make one file, or use one after the other."""
    job = json.loads(pathlib.Path(sys.argv[1]).read_text())
    for model in job["models"] or [""]:
        print(json.dumps({"starts": model}), flush=True)
        try:
            said = use(job, model) if model else make(job)
        except Exception as error:  # noqa: BLE001 - whatever it says is the result
            said = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]}
        print(json.dumps({"model": model, **said}), flush=True)


def keep(job: dict, model: str, results: list) -> int:
    """Write boxes and packed masks, (boxes, dense masks) of each image; return how many objects there are."""
    found = {}
    for index, (boxes, dense) in enumerate(results):
        found[f"boxes{index}"] = boxes
        found[f"bits{index}"] = np.packbits(dense > 0.5, axis=-1)
    np.savez_compressed(pathlib.Path(job["folder"]) / f"{job['models'][model]}.npz", **found)
    return sum(len(boxes) for boxes, _ in results)
