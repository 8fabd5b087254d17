"""What is learned: segx and the incumbent from the same weights, with the same settings, under one measure.

    python benchmarks/bench_learn.py --data SET.yaml --start nothing --peer /path/to/venv/bin/python --image P.png
    python benchmarks/bench_learn.py --data SET.yaml --start yolov8n-seg.pt --peer ...

``--start nothing`` begins from random weights; a checkpoint gives its backbone and neck, and the head begins from
random weights unless ``--head kept``. Each seed draws one start, which both sides load, and seeds the training of both.
``--recipe`` gives options to both, as JSON; everything else is each side's default. The weights of every ``--every``
epochs are measured by COCO's protocol, through segx, on the ``val`` split.
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
from peers import copied, run

PREPARE = """
import sys, json
settings = json.loads(sys.argv[1])
import torch
from pathlib import Path
from segx.data.splits import open_dataset
from segx.options.verbs import SessionOptions
from segx.plugin.registry import get_registry
registry = get_registry()
data = open_dataset(settings["data"], "train")
backend = registry.backends.load(registry.backend_for("pt"))
options = SessionOptions(device="cpu")
architecture = registry.architectures.load("yolov8-seg")
config = architecture.read_config("yolov8n-seg")
session, _ = backend.build(config, architecture, options).for_classes(data.names, seed=settings["seed"])
if settings["start"] != "nothing":
    import cv2
    from segx.structures.batch import SourceImage
    from segx_torch.training.statistics import take_statistics, without_statistics
    learned = backend.open(registry.artifact(settings["start"]), options).module.requires_grad_(True)
    task, side = registry.tasks.load("segment"), settings["imgsz"]
    images = [SourceImage(image=cv2.imread(str(path)), path=str(path)) for path in data.paths()[:48]]
    batches = (torch.from_numpy(task.preprocess([image], (side, side)).images) for image in images)
    take_statistics(learned, without_statistics(learned), batches)
    with torch.no_grad():
        own = session.module.state_dict()
        for name, tensor in learned.state_dict().items():
            if settings["head"] == "kept" or not name.startswith("model.22."):
                own[name].copy_(tensor)
session.save(Path(settings["file"]))
torch.save(session.module.state_dict(), settings["file"] + ".state")
print(json.dumps({}))
"""
"""Makes the common start. BatchNorm layers that have no statistics get them here, for both sides: segx would take them
by itself, and the other side would lose what the weights know."""

SEGX = """
import sys, json, time
settings = json.loads(sys.argv[1])
import torch
torch.set_num_threads(settings["threads"])
from segx import YOLO, __version__ as version
begin = time.perf_counter()
YOLO(settings["file"]).train(**settings["train"])
print(json.dumps({"version": version, "seconds": time.perf_counter() - begin}))
"""

PEER = """
import sys, json, time
settings = json.loads(sys.argv[1])
import torch
torch.set_num_threads(settings["threads"])
from ultralytics import YOLO, __version__ as version
def same_start(trainer):
    state = torch.load(settings["file"] + ".state", weights_only=True)
    trainer.model.load_state_dict(state)
    trainer.ema.ema.load_state_dict(state)
model = YOLO("yolov8n-seg.yaml")
model.add_callback("on_pretrain_routine_end", same_start)
begin = time.perf_counter()
model.train(**settings["train"], verbose=False)
print(json.dumps({"version": version, "seconds": time.perf_counter() - begin}))
"""

MEASURE = """
import sys, json
settings = json.loads(sys.argv[1])
from segx import YOLO
found = [YOLO(path).val(data=settings["data"], imgsz=settings["imgsz"], plots=False) for path in settings["files"]]
print(json.dumps({"box": [each.box.map for each in found], "seg": [each.seg.map for each in found]}))
"""


def main() -> None:
    """Train both sides for every seed, measure, and print."""
    given = arguments()
    sides = {"segx": (sys.executable, SEGX)} | ({"peer": (given.peer, PEER)} if given.peer else {})
    results: dict[str, list[dict]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = copied(given.data, folder / "data")
        for seed in range(given.first_seed, given.first_seed + given.seeds):
            start = folder / f"start{seed}.pt"
            common = {"data": str(data), "imgsz": given.imgsz, "seed": seed, "threads": given.threads}
            run(sys.executable, PREPARE, {**common, "start": given.start, "head": given.head, "file": str(start)})
            for name, (python, program) in sides.items():
                results[name].append(learned(python, program, given, {**common, "file": str(start)}, folder / name))
                notify(name, seed, results[name][-1])
                if given.json:
                    given.json.write_text(json.dumps({"settings": vars(given), **results}, indent=2, default=str))
    compare(results)
    if given.image:
        draw(results, given)


def learned(python: str, program: str, given: argparse.Namespace, settings: dict, project: Path) -> dict:
    """Train one side from the common start, and measure the weights it wrote along the way."""
    name = f"seed{settings['seed']}"
    train = {
        "data": settings["data"], "imgsz": given.imgsz, "batch": given.batch, "epochs": given.epochs, "device": "cpu",
        "seed": settings["seed"], "workers": given.workers, "save_period": given.every, "val": False, "plots": False,
        "project": str(project), "name": name, **given.recipe,
    }  # fmt: skip
    result = run(python, program, {**settings, "train": train})
    weights = project / name / "weights"
    first = 0 if project.name == "segx" else 1  # epoch5.pt is written after five epochs here, after the sixth there
    saved = {int(path.stem.removeprefix("epoch")) + first: path for path in weights.glob("epoch*.pt")}
    saved[given.epochs] = weights / "last.pt"
    epochs = sorted(saved)
    found = run(sys.executable, MEASURE, {**settings, "files": [str(saved[epoch]) for epoch in epochs]})
    return {**result, "epochs": epochs, **found}


def notify(name: str, seed: int, result: dict) -> None:
    """Print one side's run."""
    curve = " ".join(f"{value:.4f}" for value in result["seg"])
    print(f"{name} {result['version']}, seed {seed}: {result['seconds']:.0f} s; mask AP {curve}", flush=True)


def compare(results: dict[str, list[dict]]) -> None:
    """Print the mean over seeds of each side's last weights."""
    for name, runs in results.items():
        box, seg = ([result[key][-1] for result in runs] for key in ("box", "seg"))
        print(
            f"{name}: after the last epoch box AP {statistics.mean(box):.4f}, mask AP {statistics.mean(seg):.4f} "
            f"({min(seg):.4f} to {max(seg):.4f} over {len(seg)} seeds)"
        )


def draw(results: dict[str, list[dict]], given: argparse.Namespace) -> None:
    """Draw mask AP over epochs: a thin line a seed, a thick one for the mean."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for color, (name, runs) in zip(("tab:blue", "tab:orange"), results.items(), strict=False):
        label = "segx" if name == "segx" else f"ultralytics {runs[0]['version']}"
        for result in runs:
            axes.plot(result["epochs"], result["seg"], color=color, alpha=0.3, linewidth=1)
        means = [statistics.mean(values) for values in zip(*(result["seg"] for result in runs), strict=True)]
        axes.plot(runs[0]["epochs"], means, color=color, marker="o", label=f"{label}, mean of {len(runs)}")
    head = " with a random head" if given.head == "random" else ""
    start = "random weights" if given.start == "nothing" else f"{Path(given.start).stem}{head}"
    axes.set(xlabel="epoch", ylabel="mask AP (COCO)", title=f"{given.data.stem} at {given.imgsz} px from {start}")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(given.image, dpi=120)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a YOLO data set YAML")
    parser.add_argument("--start", default="nothing", help="'nothing', or a checkpoint")
    parser.add_argument("--head", choices=["random", "kept"], default="random", help="of a checkpoint")
    parser.add_argument("--peer", default=os.environ.get("SEGX_BENCH_PEER"), help="interpreter with ultralytics")
    parser.add_argument("--imgsz", type=int, default=256)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--every", type=int, default=5, help="epochs between two measurements")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--recipe", type=json.loads, default={}, help="options of training for both sides, as JSON")
    parser.add_argument("--image", type=Path)
    parser.add_argument("--json", type=Path, help="also write the figures here, as they come")
    return parser.parse_args()


if __name__ == "__main__":
    main()
