"""Bulk prediction beside as many local processes, where its CPU time goes, and its memory over many images.

    python benchmarks/bench_bulk.py MODEL FOLDER [--rounds 6] [--turns 3] [--workers 1,2,3,4] [--picture bulk.png]
    python benchmarks/bench_bulk.py MODEL FOLDER --memory 10000 --imgsz 128

Both sides open the model before their clock starts to count: of the bulk run the time between its first shards and its
last is taken, of each local process that of its prediction, on one thread and on decoded-ahead images as ``segx
predict`` reads them. ``--rounds`` repeats the folder, so that the first shards do not weigh; ``--turns`` takes both
sides so often in turn, and the median. The CPU time of an image tells the two apart on a machine that others use too.
``--memory`` predicts so many copies of the first image and prints the memory of the largest worker at each tenth.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

import segx_bulk_ray
from segx import YOLO

SHARDS = 8
"""For each worker, all of one size: one that is left over would keep a single worker busy."""
ROLES = {
    "workers": "ray::",
    "decoders": "segx_bulk_ray.decoder",
    "raylet": "/raylet/raylet",
    "gcs": "gcs_server",
    "agents": "/dashboard/",
    "log monitor": "log_monitor",
    "runtime env": "runtime_env",
    "workers, starting": "default_worker",
}
TICKS = os.sysconf("SC_CLK_TCK")


def local(model: str, files: list[str], start: multiprocessing.Barrier, taken: multiprocessing.Queue) -> None:
    opened = YOLO(model)
    opened.predict(files[0], verbose=False, threads=1)
    start.wait()
    begun, used = time.perf_counter(), time.process_time()
    for results in opened.predict(files, stream=True, verbose=False, threads=1):
        _ = results.masks.rle
    taken.put((time.perf_counter() - begun, time.process_time() - used))


def local_rate(model: str, files: list[str], workers: int) -> tuple[float, dict[str, float]]:
    """Return images a second of so many processes, and the CPU time of an image in ms."""
    context = multiprocessing.get_context("spawn")
    start, taken = context.Barrier(workers), context.Queue()
    shares = [files[number::workers] for number in range(workers)]
    processes = [context.Process(target=local, args=(model, share, start, taken)) for share in shares]
    for process in processes:
        process.start()
    seconds, used = zip(*(taken.get() for _ in processes), strict=True)
    for process in processes:
        process.join()
    return len(files) / max(seconds), {"processes": sum(used) / len(files) * 1e3}


def bulk_rate(model: str, files: list[str], workers: int) -> tuple[float, dict[str, float]]:
    """Return images a second after the first shard of each worker, and the CPU time of an image in ms, by process."""
    looks: list[tuple[float, Counter[str]]] = []
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "out")
        ended = threading.Event()

        def watch() -> None:
            pause = 1.0
            while not ended.wait(pause):
                if len(list((output / "images").glob("part-*.parquet"))) >= workers:
                    looks.append((time.time(), used()))
                    pause *= 1.5  # to look takes time too

        watcher = threading.Thread(target=watch)
        watcher.start()
        shard = -(-len(files) // (SHARDS * workers))
        segx_bulk_ray.write(model, files, str(output), workers=workers, shard=shard)
        ended.set()
        watcher.join()
        parts = (output / "images").iterdir()
        ends = sorted((part.stat().st_mtime, pq.read_metadata(part).num_rows) for part in parts)
    rate = sum(rows for _, rows in ends[workers:]) / (ends[-1][0] - ends[workers - 1][0])
    # Of the looks at the processes, those between the first shards and the last.
    (begun, before), *_, (end, after) = (look for look in looks if look[0] < ends[-1][0])
    images = rate * (end - begun)
    return rate, {role: (after[role] - before[role]) / images * 1e3 for role in after}


def used() -> Counter[str]:
    """Return the CPU seconds of this process and those that it has begun, by what they are."""
    parents, lines, seconds = {}, {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            lines[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        parents[int(entry.name)], seconds[int(entry.name)] = int(fields[1]), (int(fields[11]) + int(fields[12])) / TICKS
    total: Counter[str] = Counter()
    for number, value in seconds.items():
        above = number
        while above in parents and above != os.getpid():
            above = parents[above]
        if above == os.getpid():
            own = "driver" if number == above else "other"
            total[next((role for role, word in ROLES.items() if word in lines.get(number, "")), own)] += value
    return total


def largest_worker() -> float:
    """Return the private memory of the largest worker in MB."""
    most = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cmdline").read_bytes().startswith(b"ray::"):
                text = (entry / "smaps_rollup").read_text()
                most = max(most, sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_")))
        except OSError:
            continue
    return most / 1024


def memory(model: str, image: str, count: int, imgsz: int | None) -> list[tuple[int, float]]:
    seen: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        images, output = Path(folder, "images"), Path(folder, "out")
        images.mkdir()
        data = Path(image).read_bytes()
        for number in range(count):
            (images / f"{number:06}{Path(image).suffix}").write_bytes(data)
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.5):
                done = len(list((output / "images").glob("part-*"))) * 100
                if done >= (len(seen) + 1) * count / 10 and (most := largest_worker()):
                    seen.append((done, most))

        watcher = threading.Thread(target=watch)
        watcher.start()
        segx_bulk_ray.write(model, str(images), str(output), workers=2, shard=100, imgsz=imgsz)
        ended.set()
        watcher.join()
    return seen


def measure(model: str, files: list[str], workers: int, turns: int) -> dict[str, dict[str, object]]:
    """Return rates of both sides, taken in turn, their median, and the CPU time of an image: medians too."""
    looks: dict[str, list[tuple[float, dict[str, float]]]] = {"local": [], "bulk": []}
    for _ in range(turns):
        looks["local"].append(local_rate(model, files, workers))
        looks["bulk"].append(bulk_rate(model, files, workers))
    row: dict[str, dict[str, object]] = {}
    for name, side in looks.items():
        rates = [rate for rate, _ in side]
        roles = {role: round(statistics.median(cpu.get(role, 0.0) for _, cpu in side), 2) for role in side[0][1]}
        row[name] = {
            "images/s": round(statistics.median(rates), 2),
            "turns": [round(rate, 2) for rate in rates],
            "CPU ms an image": roles | {"all": round(statistics.median(sum(cpu.values()) for _, cpu in side), 2)},
        }
    ratios = [bulk / local for (local, _), (bulk, _) in zip(looks["local"], looks["bulk"], strict=True)]
    row["bulk"]["of local"] = round(statistics.median(ratios), 3)
    return row


def draw(rows: dict[int, dict[str, dict[str, Any]]], picture: Path, title: str) -> None:
    """Draw images a second over workers, of both sides: the median of the turns, and how far they lie apart."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    numbers = sorted(rows)
    sides = (("local", "segx predict, a process each", "0.45", 8), ("bulk", "segx bulk predict", "tab:blue", -15))
    for name, label, color, above in sides:
        values = [rows[number][name]["images/s"] for number in numbers]
        axes.plot(numbers, values, color=color, marker="o", label=label)
        for number, value in zip(numbers, values, strict=True):
            turns = rows[number][name]["turns"]
            axes.plot([number, number], [min(turns), max(turns)], color=color, linewidth=4, alpha=0.3)
            axes.annotate(
                f"{value:.1f}", (number, value), (0, above), textcoords="offset points", ha="center", color=color
            )
    cores = len(os.sched_getaffinity(0))
    axes.axvline(cores, color="0.8", linestyle=":", zorder=0)
    axes.annotate(f"{cores} cores", (cores, 0), (4, 4), textcoords="offset points", color="0.45")
    axes.set(xlabel="workers, or processes, of one thread each", ylabel="images a second", title=title)
    axes.set_ylim(0, 1.15 * max(max(side["turns"]) for row in rows.values() for side in row.values()))
    axes.set_xticks(numbers)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(picture, dpi=120)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3, help="times that the folder is repeated")
    parser.add_argument("--turns", type=int, default=1, help="times that both sides are measured in turn")
    parser.add_argument("--workers", default="2", help="numbers of workers, as 1,2,3,4")
    parser.add_argument("--picture", type=Path, help="a PNG of the rates over workers")
    parser.add_argument("--memory", type=int, default=0, help="images to predict for the memory of a worker, alone")
    parser.add_argument("--imgsz", type=int)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    os.environ["OMP_NUM_THREADS"] = "1"
    photos = sorted(str(path) for path in given.folder.iterdir() if path.is_file())
    if given.memory:
        seen = memory(given.model, photos[0], given.memory, given.imgsz)
        print(json.dumps({"images done, MB of the largest worker": seen}))
        return
    files = photos * given.rounds
    rows: dict[int, dict[str, dict[str, Any]]] = {}
    for number in map(int, given.workers.split(",")):
        rows[number] = measure(given.model, files, number, given.turns)
        print(json.dumps({"images": len(files), "workers": number, **rows[number]}), flush=True)
    if given.picture:
        draw(rows, given.picture, f"{Path(given.model).name}, {len(files)} images, median of {given.turns}")


if __name__ == "__main__":
    main()
