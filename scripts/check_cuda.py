"""Does on an NVIDIA GPU what segx promises of PyTorch, ONNX Runtime and training, and prints what was seen.

    python scripts/check_cuda.py PART... model=yolov8n-seg.pt data=SET.yaml images=FOLDER [json=FILE]

Parts: ``predict`` (the same objects and figures as on the CPU, in full and in half precision), ``torchscript``,
``onnx`` (with onnxruntime-gpu), ``train`` (losses beside a CPU's, how busy the GPU is), ``resume`` (killed and gone on
with, to the bit; ``precisions=fp32,amp``), ``memory`` (batch=-1, and too little memory in the first and in a later
epoch), ``processes`` (two on one GPU), ``compile`` (what torch.compile would give). A part that fails is reported, the
others run; exit code 1 then. Not a test: no machine of ours has a GPU for long. What it has shown is in
``benchmarks/README.md``.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segx import YOLO
from segx.errors import SegxError
from segx_task_segment.parity import compare
from segx_task_segment.training import loader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

Found = dict[str, Any]
LOSSES = ("train/box_loss", "train/seg_loss", "train/cls_loss", "train/dfl_loss")


def predict(given: Mapping[str, str]) -> Found:
    """Compare a GPU with the CPU: objects in photographs, and AP."""
    found: Found = {}
    reference = YOLO(given["model"]).predict(given["images"], device="cpu", rect=False, verbose=False)
    for name, how in {"cpu": {"device": "cpu"}, "fp32": {"device": 0}, "half": {"device": 0, "half": True}}.items():
        model = YOLO(given["model"])
        results = model.predict(given["images"], rect=False, verbose=False, **how)
        metrics = model.val(data=given["data"], rect=False, show=False, **how)
        found[name] = {**_parity(reference, results), "box AP": metrics.box.map, "mask AP": metrics.seg.map}
    return found


def torchscript(given: Mapping[str, str]) -> Found:
    """Export on the GPU, and use it there."""
    return _exported(given, "torchscript", ({}, {"half": True}), export={"device": 0})


def onnx(given: Mapping[str, str]) -> Found:
    """Use ONNX files through ONNX Runtime's CUDA."""
    return _exported(given, "onnx", ({}, {"half": True}, {"dynamic": True}), export={})


def _exported(given: Mapping[str, str], kind: str, many: tuple[Found, ...], *, export: Found) -> Found:
    found: Found = {}
    reference = YOLO(given["model"]).predict(given["images"], device="cpu", rect=False, verbose=False)
    with tempfile.TemporaryDirectory() as folder:
        for number, options in enumerate(many):
            made = YOLO(given["model"]).export(kind, output=Path(folder) / f"{number}.{kind}", **options, **export)
            model = YOLO(made.path)
            results = model.predict(given["images"], device=0, rect=False, verbose=False)
            metrics = model.val(data=given["data"], device=0, rect=False, show=False)
            found[str(options)] = {
                "device": str(model.device),
                "proven": None if made.parity is None else made.parity.box,
                **_parity(reference, results),
                "ms": statistics.median(result.speed["inference"] for result in results),
                "box AP": metrics.box.map,
                "mask AP": metrics.seg.map,
            }
    return found


def _parity(reference: list[Any], results: list[Any]) -> Found:
    seen = compare(reference, results)
    return {
        "box px": seen.box,
        "median px": seen.typical_box,
        "mask IoU": seen.mask_iou,
        "IoU p5": seen.typical_mask_iou,
        "matched": seen.matched,
        "objects": seen.objects,
    }


def train(given: Mapping[str, str]) -> Found:
    """Train three epochs on a CPU, on the GPU in float32, and with mixed precision."""
    found: Found = {}
    common = {"data": given["data"], "epochs": 3, "imgsz": 320, "batch": 16, "seed": 0, "plots": False}
    for name, how in {
        "cpu": {"device": "cpu"},
        "fp32": {"device": 0, "amp": False},
        "amp": {"device": 0, "amp": True},
    }.items():
        with tempfile.TemporaryDirectory() as folder, _busy() as share:
            model = YOLO(given["model"])
            begun = time.perf_counter()
            model.train(**common, **how, project=folder, name="run", verbose=False)
            rows = _table(Path(folder) / "run" / "results.csv")
            found[name] = {
                "seconds": round(time.perf_counter() - begun, 1),
                "losses": [[round(float(row[key]), 4) for key in LOSSES] for row in rows],
                "mask AP": [round(float(row["metrics/mAP50-95(M)"]), 4) for row in rows],
                "busy": share(),
            }
    for kind in ("processes", "threads"):  # the real size, and the loader at work
        with tempfile.TemporaryDirectory() as folder, _busy() as share, _prepared_by(kind):
            marks: list[tuple[float, float]] = []
            model = YOLO(given["model"])
            ended = partial(_mark, marks, share)
            model.add_callback("on_train_epoch_end", ended)
            whole = {**common, "imgsz": 640, "epochs": 6}
            model.train(**whole, device=0, workers=8, val=False, project=folder, name="run")
            found[f"busy % and seconds, 640 px, batch 16, 8 {kind}"] = [
                (busy, round(end - begin, 2)) for (_, begin), (busy, end) in pairwise(marks)
            ]
    return found


def _mark(marks: list[tuple[float, float]], share: Callable[[], float], _: object) -> None:
    marks.append((share(), time.perf_counter()))


@contextlib.contextmanager
def _prepared_by(kind: str) -> Iterator[None]:
    """Have images prepared by what is not the default on a GPU, to compare."""
    make = loader.make_loader

    def other(*words: Any, processes: bool = False, **options: Any) -> Any:
        return make(*words, processes=processes and kind == "processes", **options)

    loader.make_loader = other
    try:
        yield
    finally:
        loader.make_loader = make


class _busy:  # noqa: N801 - read as a word
    """How large a share of the time since it was last asked the GPU was at work, in percent."""

    def __enter__(self) -> Callable[[], float]:
        self._seen: list[int] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self._share

    def _share(self) -> float:
        seen, self._seen = self._seen, []
        return round(statistics.fmean(seen or [0]), 1)

    def _watch(self) -> None:
        words = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            while not self._ended.is_set() and (line := process.stdout.readline()):
                self._seen.append(int(line))
            process.terminate()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(5)


def resume(given: Mapping[str, str]) -> Found:
    """Kill a training after its second epoch, go on, and compare the weights with those of one that was left alone."""
    import torch

    found: Found = {}
    chosen = given.get("precisions", "fp32,amp").split(",")
    for name, more in [("fp32", ["amp=false"]), ("amp", ["amp=true"])]:
        if name not in chosen:
            continue
        with tempfile.TemporaryDirectory() as folder:
            line = [sys.executable, "-m", "segx_cli", "segment", "train", f"model={given['model']}",
                    f"data={given['data']}", "epochs=4", "imgsz=320", "batch=16", "device=0", "deterministic=true",
                    "plots=false", "seed=0", f"project={folder}", *more]  # fmt: skip
            for run in ("whole", "again"):
                _call([*line, f"name={run}"])
            _killed([*line, "name=killed"], Path(folder) / "killed" / "results.csv", rows=2)
            _call([*line[:5], f"resume={folder}/killed/weights/last.pt"])
            weights = {run: YOLO(Path(folder) / run / "weights" / "last.pt").model.state_dict()
                       for run in ("whole", "again", "killed")}  # fmt: skip

            def equal(one: str, other: str, weights: dict[str, Any] = weights) -> bool:
                return all(torch.equal(weights[one][key], weights[other][key]) for key in weights[one])

            found[name] = {"twice the same": equal("whole", "again"), "killed and resumed": equal("whole", "killed")}
    return found


def _killed(line: list[str], table: Path, *, rows: int) -> None:
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        if table.exists() and len(table.read_text().splitlines()) > rows:
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(0.02)
    process.wait()


def _call(line: list[str], *, within: float = 150) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=within)
    if done.returncode:
        raise RuntimeError(f"{' '.join(line[2:])}: {done.returncode}: {done.stderr[-1500:]}")
    return done


def memory(given: Mapping[str, str]) -> Found:
    """See what becomes of a batch that is found, one that does not fit, and memory that is gone later on."""
    import torch

    found: Found = {}
    common = {"data": given["data"], "imgsz": 640, "device": 0, "plots": False, "val": False, "verbose": False}
    with tempfile.TemporaryDirectory() as folder:
        model = YOLO(given["model"])
        torch.cuda.set_per_process_memory_fraction(0.2)  # else the whole set fits
        taken: list[torch.Tensor] = []
        try:
            model.train(**common, epochs=1, batch=-1, project=folder, name="found")
            found["batch=-1"] = {"peak GB": torch.cuda.max_memory_allocated() / 1e9}
        except SegxError as error:
            found["batch=-1"] = str(error)
        found["too large"] = _message(lambda: model.train(**common, epochs=1, batch=200, project=folder, name="large"))

        def take(_: object) -> None:
            torch.cuda.empty_cache()
            free = torch.cuda.get_device_properties(0).total_memory * 0.2 - torch.cuda.memory_reserved()
            taken.append(torch.empty(max(int(free) - (64 << 20), 0), dtype=torch.uint8, device="cuda"))

        later = YOLO(given["model"])
        epochs: list[int] = []
        later.add_callback("on_train_epoch_end", lambda trainer: epochs.append(trainer.epoch) or take(trainer))
        found["later"] = _message(lambda: later.train(**common, epochs=3, batch=32, project=folder, name="later"))
        taken.clear()
        torch.cuda.empty_cache()
        kept = Path(folder) / "later" / "weights" / "last.pt"
        found["later: epochs, last.pt"] = [len(epochs), kept.exists()]
        if kept.exists():
            found["later, gone on with"] = _message(lambda: YOLO(kept).train(resume=True))
    torch.cuda.set_per_process_memory_fraction(1.0)
    return found


def _message(call: Callable[[], object]) -> str:
    try:
        call()
    except SegxError as error:
        return f"{type(error).__name__}: {error} | {error.hint}"
    except Exception as error:  # noqa: BLE001 - it is what is looked for
        return f"NOT ONE LINE: {type(error).__name__}: {str(error)[:600]}"
    return "went through"


def processes(given: Mapping[str, str]) -> Found:
    """Train in two processes on one GPU, as a user would ask for it."""
    found: Found = {}
    with tempfile.TemporaryDirectory() as folder:
        words = ["segment", "train", f"model={given['model']}", f"data={given['data']}", "epochs=1", "imgsz=320",
                 "batch=16", "plots=false", f"project={folder}"]  # fmt: skip
        lines = {
            "device=0,0": [sys.executable, "-m", "segx_cli", *words, "device=0,0"],
            "device=0,1": [sys.executable, "-m", "segx_cli", *words, "device=0,1"],
            "torchrun": [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "segx_cli",
                         *words, "device=0"],
        }  # fmt: skip
        for name, line in lines.items():
            try:
                done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
            except subprocess.TimeoutExpired as error:
                found[name] = f"STILL RUNNING after 60 s: {(error.stderr or b'')[-300:]!r}"
                continue
            found[name] = [done.returncode, done.stderr.strip()[-500:]]
    return found


def compile(given: Mapping[str, str]) -> Found:  # noqa: A001 - the part's name
    """Time the network alone: as it runs, in half precision, and as torch.compile makes it."""
    import torch

    found: Found = {}
    for batch in (1, 16):
        for name, dtype in (("fp32", torch.float32), ("half", torch.float16)):
            images = torch.rand(batch, 3, 640, 640, device="cuda", dtype=dtype)
            own = YOLO(given["model"]).model.cuda().eval().to(dtype)
            with torch.inference_mode():
                found[f"{name} x{batch}"] = _milliseconds(lambda own=own, images=images: own(images))
                begun = time.perf_counter()
                made = torch.compile(own, mode="reduce-overhead")
                made(images)
                found[f"{name} x{batch}, compiled"] = _milliseconds(lambda made=made, images=images: made(images))
                found[f"{name} x{batch}, seconds to compile"] = round(time.perf_counter() - begun, 1)
    return found


def _milliseconds(call: Callable[[], object]) -> float:
    import torch

    spent = []
    for _ in range(60):
        begun = time.perf_counter()
        call()
        torch.cuda.synchronize()
        spent.append(time.perf_counter() - begun)
    return round(statistics.median(spent[10:]) * 1e3, 3)


def _table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


PARTS = {part.__name__: part for part in (predict, torchscript, onnx, train, resume, memory, processes, compile)}


def main(words: list[str]) -> int:
    """Run the parts; return the exit code."""
    given = dict(word.split("=", 1) for word in words if "=" in word)
    parts = [word for word in words if "=" not in word]
    if not parts or not PARTS.keys() >= set(parts) or not {"model", "data", "images"} <= given.keys():
        print(__doc__)
        return 2
    seen: Found = {}
    for part in parts:
        begun = time.perf_counter()
        try:
            seen[part] = PARTS[part](given)
        except Exception as error:  # noqa: BLE001 - the others are to run
            seen[part] = {"FAILED": f"{type(error).__name__}: {error}"}
            traceback.print_exc()
        print(
            part, f"{time.perf_counter() - begun:.0f} s", json.dumps(seen[part], indent=1, default=_plain), flush=True
        )
        if "json" in given:
            Path(given["json"]).write_text(json.dumps(seen, indent=1, default=_plain))
    return int(any("FAILED" in found for found in seen.values()))


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
