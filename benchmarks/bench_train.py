"""The speed of training on a real set: an epoch, and the data pipeline alone; segx beside the incumbent, in one run.

    python benchmarks/bench_train.py epoch    --data SET.yaml --model yolov8n-seg.pt --peer /path/to/venv/bin/python
    python benchmarks/bench_train.py pipeline --data SET.yaml --model yolov8n-seg.pt --peer ...

Medians of ``--runs`` turns. An epoch is timed from the last batch of the one before to its own last batch, without
validation, with the mosaic open: three epochs a turn give two times. The incumbent runs in the interpreter given,
through its public functions; the data are copied, because it writes beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from peers import copied, run

SEGX = """
import sys, json, time
settings = json.loads(sys.argv[1])
import torch
torch.set_num_threads(settings["threads"])
from segx import YOLO, __version__ as version
from segx.data.splits import open_dataset
from segx.options.verbs import TrainOptions
common = dict(data=settings["data"], imgsz=settings["imgsz"], batch=settings["batch"], workers=settings["workers"])
if settings["what"] == "pipeline":
    from segx.plugin.registry import get_registry
    data = open_dataset(settings["data"], "train")
    loader = get_registry().tasks.load("segment").train_loader(data, TrainOptions.parse(common), stride=32)
    loader = loader(rank=0, world=1, batch=settings["batch"], processes=settings["processes"])
    def once(number):
        return sum(len(batch.images) for batch in loader.epoch(number))
    once(0)
    begin, cpu = time.perf_counter(), time.process_time()
    count = once(1)
    print(json.dumps({"version": version, "seconds": time.perf_counter() - begin, "cpu": time.process_time() - cpu,
        "images": count}))
    loader.close()
else:
    from segx import hookimpl
    from segx.plugin.registry import get_registry
    from segx.runtime import take_process
    take_process()
    ends = []
    class Listener:
        @hookimpl
        def segx_step_ended(self, run, step):
            if run.mode == "train" and step.kind == "batch" and step.index + 1 == step.total:
                ends.append(time.perf_counter())
    get_registry().manager.register(Listener())
    model = YOLO(settings["model"])
    model.train(**common, **settings["recipe"], device=settings["device"], project=settings["folder"], name="segx")
    print(json.dumps({"version": version, "ends": ends}))
"""

PEER = """
import sys, json, time
settings = json.loads(sys.argv[1])
import torch
torch.set_num_threads(settings["threads"])
import ultralytics
from ultralytics import YOLO
version = ultralytics.__version__
model = YOLO(settings["model"])
marks = {}
def ended(trainer):
    marks.setdefault("ends", []).append(time.perf_counter())
class Done(Exception):
    pass
def pipeline(trainer):
    def once():
        return sum(len(batch["img"]) for batch in trainer.train_loader)
    once()
    begin, cpu = time.perf_counter(), time.process_time()
    count = once()
    marks.update(images=count, seconds=time.perf_counter() - begin, cpu=time.process_time() - cpu)
    raise Done
model.add_callback("on_train_epoch_end", ended)
if settings["what"] == "pipeline":
    model.add_callback("on_train_start", pipeline)
try:
    model.train(data=settings["data"], imgsz=settings["imgsz"], batch=settings["batch"], workers=settings["workers"],
        device=settings["device"], project=settings["folder"], name="peer", verbose=False, **settings["recipe"])
except Done:
    pass
print(json.dumps({"version": version, **marks}))
"""

RECIPE = {"epochs": 3, "close_mosaic": 0, "val": False, "plots": False, "seed": 0}


def main() -> None:
    """Measure and print."""
    given = arguments()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = copied(given.data, folder / "data")
        report = compare(given, data, folder)
    if given.json:
        given.json.write_text(json.dumps(report, indent=2))


def compare(given: argparse.Namespace, data: Path, folder: Path) -> dict[str, object]:
    """Run both sides in turns and say how they stand."""
    settings = {
        "what": given.what, "data": str(data), "model": str(given.model), "imgsz": given.imgsz, "batch": given.batch,
        "workers": given.workers, "threads": given.threads, "device": given.device,
        "processes": given.processes,
        "recipe": {**RECIPE, "epochs": given.epochs, "amp": given.amp},
    }  # fmt: skip
    sides = {"segx": (sys.executable, SEGX)} | ({"peer": (given.peer, PEER)} if given.peer else {})
    results: dict[str, list[dict]] = {name: [] for name in sides}
    for turn in range(given.runs):
        for name, (python, program) in sides.items():
            results[name].append(run(python, program, {**settings, "folder": str(folder / f"{name}{turn}")}))
    notify(given.what, results)
    return dict(results)


def notify(what: str, results: dict[str, list[dict]]) -> None:
    """Print medians and their ratio."""

    def seconds(result: dict) -> list[float]:
        if what == "pipeline":
            return [result["seconds"] / result["images"]]
        return [end - begin for begin, end in pairwise(result["ends"])]

    times = {name: [value for result in runs for value in seconds(result)] for name, runs in results.items()}
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, value in medians.items():
        spread = f"{min(times[name]):.1f} to {max(times[name]):.1f}"
        unit = f"{1 / value:.1f} images a second" if what == "pipeline" else f"{value:.1f} s an epoch ({spread})"
        print(f"{name} {results[name][0]['version']}: {unit}")
    if "peer" in medians:
        print(f"segx takes {medians['segx'] / medians['peer']:.2f} of the peer's time")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["epoch", "pipeline"])
    parser.add_argument("--data", type=Path, required=True, help="a YOLO data set YAML")
    parser.add_argument("--model", type=Path, required=True, help="a checkpoint both sides can read")
    parser.add_argument("--peer", default=os.environ.get("SEGX_BENCH_PEER"), help="interpreter with ultralytics")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--processes", action="store_true", help="pipeline: segx's workers are processes, as on a GPU")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=RECIPE["epochs"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", action="store_true", help="half precision where it is safe, on a GPU")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
