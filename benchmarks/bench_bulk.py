"""Bulk prediction beside as many local processes, and its memory over many images.

    python benchmarks/bench_bulk.py MODEL FOLDER [ROUNDS] [IMAGES] [IMGSZ]

Both sides open the model before their clock starts to count: of the bulk run the time between its first and its last
shard is taken, of each local process that of its prediction, on one thread and on decoded-ahead images as ``segx
predict`` reads them. ROUNDS repeats the folder, so that the first shards do not weigh (0: no rates); IMAGES > 0 then
predicts so many copies of the first image, at IMGSZ where that is given and the model can, and prints the memory of the
largest worker at each tenth. The rates with other numbers of workers, up to four, follow where ROUNDS is above 1.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import pyarrow.parquet as pq

import segx_bulk_ray
from segx import YOLO

WORKERS = 2


def local(model: str, files: list[str], start: multiprocessing.Barrier, seconds: multiprocessing.Queue) -> None:
    opened = YOLO(model)
    opened.predict(files[0], verbose=False, threads=1)
    start.wait()
    begun = time.perf_counter()
    for results in opened.predict(files, stream=True, verbose=False, threads=1):
        _ = results.masks.rle
    seconds.put(time.perf_counter() - begun)


def local_rate(model: str, files: list[str]) -> float:
    context = multiprocessing.get_context("spawn")
    start, seconds = context.Barrier(WORKERS), context.Queue()
    shares = [files[number::WORKERS] for number in range(WORKERS)]
    processes = [context.Process(target=local, args=(model, share, start, seconds)) for share in shares]
    for process in processes:
        process.start()
    slowest = max(seconds.get() for _ in processes)
    for process in processes:
        process.join()
    return len(files) / slowest


def bulk_rate(model: str, files: list[str], workers: int = WORKERS) -> float:
    shard = -(-len(files) // (8 * workers))  # as many for each: one that is left over would keep a single worker busy
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "out")
        segx_bulk_ray.write(model, files, str(output), workers=workers, shard=shard)
        parts = (output / "images").iterdir()
        ended = sorted((part.stat().st_mtime, pq.read_metadata(part).num_rows) for part in parts)
    skipped = workers  # the first of each worker opens the model
    return sum(rows for _, rows in ended[skipped:]) / (ended[-1][0] - ended[skipped - 1][0])


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
                if done >= (len(seen) + 1) * count / 10:
                    seen.append((done, largest_worker()))

        watcher = threading.Thread(target=watch)
        watcher.start()
        segx_bulk_ray.write(model, str(images), str(output), workers=WORKERS, shard=100, imgsz=imgsz)
        ended.set()
        watcher.join()
    return seen


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    model, folder, rounds, count, size = (*sys.argv[1:], *("1", "0", "0")[len(sys.argv) - 3 :])[:5]
    photos = sorted(str(path) for path in Path(folder).iterdir() if path.is_file())
    report: dict[str, object] = {"workers": WORKERS}
    if files := photos * int(rounds):
        report["images"] = len(files)
        report["local, images/s"] = round(local_rate(model, files), 2)
        report["bulk, images/s"] = round(bulk_rate(model, files), 2)
        if int(rounds) > 1:
            others = [number for number in (1, 2, 3, 4) if number != WORKERS]
            report["bulk, by workers"] = {number: round(bulk_rate(model, files, number), 2) for number in others}
    if int(count):
        report["images done, MB of the largest worker"] = memory(model, photos[0], int(count), int(size) or None)
    print(json.dumps(report, indent=1))
