"""OpenVINO alone against segx on top of it: one run of the network, a folder from end to end, a data set validated.

    python benchmarks/bench_openvino.py --model yolov8n-seg_openvino_model --images FOLDER [--data SET.yaml]

``run``: milliseconds of ``Session.run`` against ``InferRequest.infer`` of a model that is compiled with the same
settings; the target is 3 % more at most. ``folder``: images a second of ``predict`` over the folder, reading,
decoding and masks at full resolution included, against those of OpenVINO's own ``AsyncInferQueue`` that is fed ready
input; the target is 0.9 of it. ``val``: seconds of a whole validation of the data set, annotations, masks at full
resolution and figures included, against those of the queue for as many images; the target is 1.25 times. Both sides
take turns, so that a busy machine is busy for both; the figures are medians over the rounds, the ratios medians of
each round's. ``--realtime`` (Linux, root) measures at real-time priority, for a machine that others are using.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--runs", type=int, default=20, help="of the network in each round")
    parser.add_argument("--realtime", action="store_true")
    given = parser.parse_args()
    if given.realtime:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))

    from segx import YOLO
    from segx.plugin.registry import get_registry
    from segx.runtime import take_process

    take_process()  # as the command line does
    registry = get_registry()
    registry.prepare()
    artifact = registry.artifact(given.model)
    backend = registry.backends.load(registry.backend_for(artifact.format, name="openvino"))
    info = backend.read_info(artifact)
    images = np.random.default_rng(0).random((info.batch, 3, *info.imgsz), dtype=np.float32)
    rows = [
        measure("run, ms", lambda: session_ms(backend, artifact, images, given.runs), given.rounds, lower=True),
        measure("folder, images/s", lambda: folder_rate(YOLO, given.model, given.images), given.rounds, lower=False),
    ]
    if given.data:
        rows.append(measure("val, s", lambda: val_seconds(YOLO, given.model, given.data), given.rounds, lower=True))
    print(json.dumps({"model": given.model.name, "precision": info.precision, "rows": rows}, indent=2))
    good = rows[0]["ratio"] <= 1.03 and rows[1]["ratio"] >= 0.9 and all(row["ratio"] <= 1.25 for row in rows[2:])
    print("within the targets" if good else "NOT within the targets: 1.03 at most, 0.9 at least, 1.25 at most")
    sys.exit(not good)


def measure(name: str, once: Any, rounds: int, *, lower: bool) -> dict[str, Any]:
    """Return medians of both sides and of their ratio; the first round warms up."""
    found = [once() for _ in range(rounds + 1)][1:]
    bare, ours = (statistics.median(pair[index] for pair in found) for index in (0, 1))
    ratio = statistics.median(pair[1] / pair[0] for pair in found)
    return {"what": name, "bare": round(bare, 3), "segx": round(ours, 3), "ratio": round(ratio, 4), "lower": lower}


_OPEN: dict[str, Any] = {}


def compiled(backend: Any, artifact: Any, **options: Any) -> tuple[Any, Any]:
    """Return OpenVINO's compiled model and segx's session, of the same settings."""
    from segx.options.verbs import SessionOptions
    from segx_backend_openvino import ir, session

    how = SessionOptions(device="cpu", **options)
    path = artifact.path if artifact.path.suffix == ".onnx" else ir.graph_file(artifact.path)
    info = backend.read_info(artifact)
    core = session.ov.Core()
    bare = core.compile_model(core.read_model(str(path)), "CPU", session.settings("CPU", info.precision, how))
    return bare, backend.open(artifact, how)


def session_ms(backend: Any, artifact: Any, images: np.ndarray, runs: int) -> tuple[float, float]:
    """Return milliseconds of OpenVINO's request and of segx's session, run in turn."""
    if "run" not in _OPEN:
        bare, session = compiled(backend, artifact)
        _OPEN["run"] = bare.create_infer_request(), session
        _OPEN["bare"] = compiled(backend, artifact, streams=2, threads=1)[0]
    request, session = _OPEN["run"]
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(runs):
        for index, run in enumerate(
            (lambda: request.infer({0: images}, share_inputs=True), lambda: session.run(images))
        ):
            start = time.perf_counter()
            run()
            times[index].append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[0]), statistics.median(times[1])


def folder_rate(open_model: Any, path: Path, folder: Path) -> tuple[float, float]:
    """Return images a second of OpenVINO's own queue on ready input, and of predict over a folder."""
    if "model" not in _OPEN:
        _OPEN["model"] = open_model(path)
    count = sum(1 for file in folder.iterdir() if file.suffix == ".jpg")
    bare = queue_seconds(count)
    start = time.perf_counter()
    found = sum(1 for _ in _OPEN["model"].predict(folder, stream=True, verbose=False, rect=False))
    return count / bare, found / (time.perf_counter() - start)


def val_seconds(open_model: Any, path: Path, data: Path) -> tuple[float, float]:
    """Return seconds of OpenVINO's own queue for the images of a validation split, and of validating it."""
    if "val" not in _OPEN:
        _OPEN["val"] = open_model(path)
    start = time.perf_counter()
    metrics = _OPEN["val"].val(data=data, plots=False, rect=False, verbose=False)
    taken = time.perf_counter() - start
    return queue_seconds(metrics.images), taken


def queue_seconds(count: int) -> float:
    """Return seconds in which OpenVINO's own queue runs so many images, in whole batches."""
    import openvino as ov

    bare = _OPEN["bare"]
    fixed = [
        length.get_length() if length.is_static else side
        for length, side in zip(bare.input(0).get_partial_shape(), (1, 3, 640, 640), strict=True)
    ]
    ready = [np.random.default_rng(index).random(fixed, dtype=np.float32) for index in range(8)]
    queue = ov.AsyncInferQueue(bare)
    start = time.perf_counter()
    for index in range(-(-count // fixed[0])):
        queue.start_async({0: ready[index % len(ready)]}, share_inputs=True)
    queue.wait_all()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
