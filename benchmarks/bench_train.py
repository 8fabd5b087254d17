"""Training on a real set: an epoch, the data pipeline alone, what is learned; segx beside the incumbent, in one run.

    python benchmarks/bench_train.py epoch    --data SET.yaml --model yolov8n-seg.pt --peer /path/to/venv/bin/python
    python benchmarks/bench_train.py pipeline --data SET.yaml --model yolov8n-seg.pt --peer ...
    python benchmarks/bench_train.py learn    --data SET.yaml --model yolov8n-seg.pt --peer ... --picture P.png

``epoch`` and ``pipeline`` take ``--runs`` turns and give medians; ``learn`` trains both sides once from the same
n-seg weights with the same settings and draws mask AP over epochs. The incumbent runs in the interpreter given,
through its public functions; the data are copied, because it writes beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

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
    learn = settings["what"] == "learn"
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
    model.train(**common, epochs=settings["epochs"], device="cpu", project=settings["folder"], name="segx", plots=False,
        seed=0, val=learn, **settings["recipe"])
    import csv, pathlib
    rows = list(csv.DictReader(open(pathlib.Path(settings["folder"]) / "segx" / "results.csv")))
    print(json.dumps({"version": version, "rows": rows, "seconds": [marks["end"] - marks["begin"]]}))
"""

PEER = """
import sys, json, time
settings = json.loads(sys.argv[1])
import torch
torch.set_num_threads(settings["threads"])
import ultralytics
from ultralytics import YOLO
version = ultralytics.__version__
learn = settings["what"] == "learn"
model = YOLO("yolov8n-seg.yaml" if learn else settings["model"])
marks = {}
def same_start(trainer):
    state = torch.load(settings["model"] + ".state", weights_only=True)
    trainer.model.load_state_dict(state)
    trainer.ema.ema.load_state_dict(state)
if learn:
    model.add_callback("on_pretrain_routine_end", same_start)
def started(trainer):
    marks["epoch"] = time.perf_counter()
def ended(trainer):
    marks.setdefault("seconds", []).append(time.perf_counter() - marks["epoch"])
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
        epochs=settings["epochs"], device="cpu", project=settings["folder"], name="peer", plots=False, seed=0,
        val=learn, verbose=False, **settings["recipe"])
except Done:
    pass
rows = []
if settings["what"] != "pipeline":
    import csv, pathlib
    rows = list(csv.DictReader(open(pathlib.Path(settings["folder"]) / "peer" / "results.csv")))
print(json.dumps({"version": version, "rows": rows, **{k: v for k, v in marks.items() if k != "epoch"}}))
"""

PREPARE = """
import sys, json
settings = json.loads(sys.argv[1])
import cv2, torch
from pathlib import Path
from segx.data import open_dataset
from segx.registry import get_registry
from segx.options import SessionOptions
from segx.sources import SourceImage
registry = get_registry()
artifact = registry.artifact(settings["model"])
session = registry.load_backend(registry.backend_for("pt")).open(artifact, SessionOptions(device="cpu"))
module = session.module.eval()
sums = {}
def watch(layer, inputs):
    x = inputs[0].detach().double()
    n, one, two = sums.get(layer, (0, 0.0, 0.0))
    count = x.numel() // x.shape[1]
    sums[layer] = (n + count, one + x.sum((0, 2, 3)), two + (x * x).sum((0, 2, 3)))
norms = [layer for layer in module.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
hooks = [layer.register_forward_pre_hook(watch) for layer in norms]
task = registry.load_task("segment")
side = settings["imgsz"]
with torch.inference_mode():
    for path in open_dataset(settings["data"], "train").paths()[:48]:
        batch = task.preprocess([SourceImage(image=cv2.imread(str(path)), path=str(path))], (side, side))
        module(torch.from_numpy(batch.images))
for hook in hooks:
    hook.remove()
with torch.no_grad():
    for layer in norms:
        count, one, two = sums[layer]
        mean = one / count
        var = (two / count - mean * mean).clamp(min=1e-6)
        scale = layer.weight.double() / (layer.running_var.double() + layer.eps).sqrt()
        shift = layer.bias.double() - layer.running_mean.double() * scale
        layer.weight.copy_(scale * (var + layer.eps).sqrt())
        layer.bias.copy_(shift + scale * mean)
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(var)
session.save(Path(settings["start"]))
torch.save(module.state_dict(), settings["start"] + ".state")
print(json.dumps({}))
"""
"""Gives BatchNorm layers true statistics without changing what the model computes: weights rebuilt from folded copies
have none, and training mode, which normalises by each batch, would destroy them."""

MEASURE = """
import sys, json
settings = json.loads(sys.argv[1])
from segx import YOLO
found = YOLO(settings["model"]).val(data=settings["data"], imgsz=settings["imgsz"], plots=False)
print(json.dumps({"box": found.box.map, "seg": found.seg.map}))
"""

SAME_RECIPE = {"optimizer": "AdamW", "lr0": 0.0005, "momentum": 0.9, "warmup_bias_lr": 0.0, "close_mosaic": 2}
"""For learning: settings that both sides read alike, so that only the code differs."""


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
        "workers": given.workers, "threads": given.threads, "epochs": given.epochs if given.what == "learn" else 1,
        "recipe": SAME_RECIPE if given.what == "learn" else {},
    }  # fmt: skip
    if given.what == "learn":
        start = str(folder / "start.pt")
        run(sys.executable, PREPARE, {**settings, "start": start})
        settings["model"] = start
    sides = {"segx": (sys.executable, SEGX)} | ({"peer": (given.peer, PEER)} if given.peer else {})
    results: dict[str, list[dict]] = {name: [] for name in sides}
    for turn in range(1 if given.what == "learn" else given.runs):
        for name, (python, program) in sides.items():
            results[name].append(run(python, program, {**settings, "folder": str(folder / f"{name}{turn}")}))
    if given.what == "learn":
        tell_curves(results, given.picture)
        for name in sides:  # one measure for both: COCO's, by segx, of the last weights
            last = folder / f"{name}0" / name / "weights" / "last.pt"
            found = run(sys.executable, MEASURE, {**settings, "model": str(last)})
            results[name][0]["coco"] = found
            print(f"{name}: COCO box AP {found['box']:.4f}, mask AP {found['seg']:.4f} after the last epoch")
    else:
        tell_speed(given.what, results)
    return dict(results)


def run(python: str, program: str, settings: dict) -> dict:
    """Run one side in its own interpreter and return what it prints."""
    words = [python, "-c", program, json.dumps(settings)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{python} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def tell_speed(what: str, results: dict[str, list[dict]]) -> None:
    """Print medians and their ratio."""

    def seconds(result: dict) -> float:
        if what == "pipeline":
            return result["seconds"] / result["pictures"]
        return result["seconds"][0]

    medians = {name: statistics.median(seconds(result) for result in runs) for name, runs in results.items()}
    for name, value in medians.items():
        unit = f"{1 / value:.1f} pictures a second" if what == "pipeline" else f"{value:.1f} s an epoch"
        print(f"{name} {results[name][0]['version']}: {unit}")
    if "peer" in medians:
        print(f"segx takes {medians['segx'] / medians['peer']:.2f} of the peer's time")


def tell_curves(results: dict[str, list[dict]], picture: Path | None) -> None:
    """Print mask AP after each epoch, and draw it."""
    column = "metrics/mAP50-95(M)"
    curves = {}
    for name, (result,) in results.items():
        rows = [{key.strip(): value for key, value in row.items()} for row in result["rows"]]
        curves[name] = [float(row[column]) for row in rows]
        print(f"{name} {result['version']}: " + " ".join(f"{value:.4f}" for value in curves[name]))
    if picture is not None:
        import matplotlib as mpl

        mpl.use("Agg")
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
        for name, values in curves.items():
            label = "segx" if name == "segx" else f"ultralytics {results[name][0]['version']}"
            axes.plot(range(1, len(values) + 1), values, marker="o", label=label)
        axes.set(xlabel="epoch", ylabel="mask mAP50-95, each side's own measure", title="Same set, start and settings")
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(picture, dpi=120)


def copied(definition: Path, folder: Path) -> Path:
    """Copy a data set to a folder that may be written to, and return its YAML there."""
    content = yaml.safe_load(definition.read_text())
    shutil.copytree(definition.parent, folder)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    target = folder / definition.name
    target.write_text(yaml.safe_dump({**content, "path": str(folder)}, sort_keys=False))
    return target


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["epoch", "pipeline", "learn"])
    parser.add_argument("--data", type=Path, required=True, help="a YOLO data set YAML")
    parser.add_argument("--model", type=Path, required=True, help="a checkpoint both sides can read")
    parser.add_argument("--peer", default=os.environ.get("SEGX_BENCH_PEER"), help="interpreter with ultralytics")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    return parser.parse_args()


if __name__ == "__main__":
    main()
