"""The speed of training on a real set: an epoch, and the data pipeline alone; segx beside the incumbent, in one run.

    python benchmarks/bench_train.py epoch    --data SET.yaml --model yolov8n-seg.pt --peer /path/to/venv/bin/python
    python benchmarks/bench_train.py pipeline --data SET.yaml --model yolov8n-seg.pt --peer ...

Medians of ``--runs`` turns. The incumbent runs in the interpreter given, through its public functions; the data are
copied, because it writes beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from sides import copied, run

SEGX = """
import sys, json, time
settings = json.loads(sys.argv[1])
import torch
torch.set_num_threads(settings["threads"])
from segx import YOLO, __version__ as version
from segx.data import open_dataset
from segx.options import TrainOptions
common = dict(data=settings["data"], imgsz=settings["imgsz"], batch=settings["batch"], workers=settings["workers"])
if settings["what"] == "pipeline":
    from segx.registry import get_registry
    data = open_dataset(settings["data"], "train")
    loader = get_registry().load_task("segment").train_loader(data, TrainOptions.parse(common), stride=32)
    loader = loader(rank=0, world=1, batch=settings["batch"])
    def once(number):
        return sum(len(batch.images) for batch in loader.epoch(number))
    once(0)
    begin, cpu = time.perf_counter(), time.process_time()
    count = once(1)
    print(json.dumps({"version": version, "seconds": time.perf_counter() - begin, "cpu": time.process_time() - cpu,
        "pictures": count}))
else:
    from segx import hookimpl
    from segx.registry import get_registry
    marks = {}
    class Listener:
        @hookimpl
        def segx_run_started(self, run):
            if run.mode == "train":
                marks["begin"] = time.perf_counter()
        @hookimpl
        def segx_step_ended(self, run, step):
            if run.mode == "train" and step.kind == "batch":
                marks["end"] = time.perf_counter()
    get_registry().manager.register(Listener())
    model = YOLO(settings["model"])
    model.train(**common, epochs=1, device="cpu", project=settings["folder"], name="segx", plots=False, seed=0,
        val=False)
    print(json.dumps({"version": version, "seconds": marks["end"] - marks["begin"]}))
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
def started(trainer):
    marks["epoch"] = time.perf_counter()
def ended(trainer):
    marks["seconds"] = time.perf_counter() - marks["epoch"]
class Done(Exception):
    pass
def pipeline(trainer):
    def once():
        return sum(len(batch["img"]) for batch in trainer.train_loader)
    once()
    begin, cpu = time.perf_counter(), time.process_time()
    count = once()
    marks.update(pictures=count, seconds=time.perf_counter() - begin, cpu=time.process_time() - cpu)
    raise Done
model.add_callback("on_train_epoch_start", started)
model.add_callback("on_train_epoch_end", ended)
if settings["what"] == "pipeline":
    model.add_callback("on_train_start", pipeline)
try:
    model.train(data=settings["data"], imgsz=settings["imgsz"], batch=settings["batch"], workers=settings["workers"],
        epochs=1, device="cpu", project=settings["folder"], name="peer", plots=False, seed=0, val=False, verbose=False)
except Done:
    pass
print(json.dumps({"version": version, **marks}))
"""


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
        "workers": given.workers, "threads": given.threads,
    }  # fmt: skip
    sides = {"segx": (sys.executable, SEGX)} | ({"peer": (given.peer, PEER)} if given.peer else {})
    results: dict[str, list[dict]] = {name: [] for name in sides}
    for turn in range(given.runs):
        for name, (python, program) in sides.items():
            results[name].append(run(python, program, {**settings, "folder": str(folder / f"{name}{turn}")}))
    tell(given.what, results)
    return dict(results)


def tell(what: str, results: dict[str, list[dict]]) -> None:
    """Print medians and their ratio."""

    def seconds(result: dict) -> float:
        if what == "pipeline":
            return result["seconds"] / result["pictures"]
        return result["seconds"]

    medians = {name: statistics.median(seconds(result) for result in runs) for name, runs in results.items()}
    for name, value in medians.items():
        unit = f"{1 / value:.1f} pictures a second" if what == "pipeline" else f"{value:.1f} s an epoch"
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
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
