"""A folder from end to end against its network alone, for `.pt` and `.onnx`: what is left of a runtime's rate.

    python benchmarks/bench_bare.py --model yolov8n-seg.pt --images FOLDER [--rounds 5] [--times 4]

The network alone runs in as many threads as there are cores, each with one thread of its own, on images that lie ready:
for `.pt` once as torch runs the fused model by itself, and once as segx prepares it (images with channels last, oneDNN
for every convolution), launched layer by layer; for `.onnx` as ONNX Runtime runs the file. ``segx`` is ``predict``:
reading, decoding and masks at full resolution included, square input, in a process that is its own, as the command line
is. All take turns; the figures are medians of images a second over the rounds, and of each round's ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from bench_folder import repeated

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = 640


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--times", type=int, default=4, help="that the folder holds each image")
    given = parser.parse_args()

    from segx import YOLO
    from segx.runtime import take_process

    take_process()
    model = YOLO(given.model)
    with tempfile.TemporaryDirectory() as aside:
        folder = repeated(given.images, given.times, Path(aside) / "images")
        count = sum(1 for _ in folder.iterdir())
        how = {"stream": True, "verbose": False, "rect": False}
        if given.model.suffix == ".onnx":
            how["backend"] = "onnxruntime"
        sides = of_torch(model) if given.model.suffix == ".pt" else of_onnxruntime(given.model)
        work = {name: lambda run=run: in_threads(run, count) for name, run in sides.items()}
        work["segx"] = lambda: sum(1 for _ in model.predict(folder, **how))
        rates: dict[str, list[float]] = {name: [] for name in work}
        for turn in range(given.rounds + 1):
            for name, once in work.items():
                begin = time.perf_counter()
                once()
                if turn:  # the first warms up
                    rates[name].append(count / (time.perf_counter() - begin))
    found: dict[str, object] = {name: round(statistics.median(values), 2) for name, values in rates.items()}
    for name in sides:
        found[f"segx / {name}"] = round(
            statistics.median(ours / bare for ours, bare in zip(rates["segx"], rates[name], strict=True)), 3
        )
    print(json.dumps({"model": given.model.name, "images": count, **found}, indent=1))


def in_threads(run: Callable[[int], object], count: int) -> None:
    """Call a function for each number below ``count``, in as many threads as there are cores."""
    numbers, lock = iter(range(count)), threading.Lock()

    def loop() -> None:
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            run(number)

    threads = [threading.Thread(target=loop) for _ in os.sched_getaffinity(0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def of_torch(model: Any) -> dict[str, Callable[[int], object]]:
    """Return runs of the fused model as torch computes it, and as segx has prepared it."""
    import torch

    from segx_torch.running import prepare

    session = model._sessions.with_streams(_options(), None)[0]  # noqa: SLF001 - to measure what it stands on
    plain = session.architecture.fuse(session.module).eval()
    prepared = prepare(session.architecture.fuse(session.module), torch.device("cpu"), torch.float32)
    ready = [torch.rand(1, 3, SIZE, SIZE) for _ in range(8)]
    turned = [images.contiguous(memory_format=torch.channels_last) for images in ready]

    def runs(network: Any, given: list[Any]) -> Callable[[int], object]:
        def run(number: int) -> object:
            torch.set_num_threads(1)
            with torch.inference_mode():
                return network(given[number % len(given)])

        return run

    return {"torch": runs(plain, ready), "torch, prepared": runs(prepared, turned)}


def of_onnxruntime(path: Path) -> dict[str, Callable[[int], object]]:
    """Return runs of a file by ONNX Runtime, one thread each."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    ready = [np.random.default_rng(number).random((1, 3, SIZE, SIZE), np.float32) for number in range(8)]
    return {"ONNX Runtime": lambda number: session.run(None, {name: ready[number % len(ready)]})}


def _options() -> Any:
    from segx.options.verbs import PredictOptions

    return PredictOptions().session()


if __name__ == "__main__":
    main()
