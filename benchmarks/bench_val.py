"""Validating a real set: segx beside the incumbent at the same settings and full-resolution masks, in one run.

    python benchmarks/bench_val.py --data SET.yaml --model yolov8n-seg.pt --peer /path/to/venv/bin/python

Wall time and peak resident memory of a whole process (imports included), medians of ``--runs``, and the figures found.
The incumbent is asked to write JSON, which makes it form masks at full resolution, as segx always does.
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

END = """
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
seconds = time.perf_counter() - begin
print(json.dumps({"version": version, "seconds": seconds, "megabytes": peak, "box": box, "seg": seg}))
"""

SEGX = (
    """
import json, resource, sys, time
begin = time.perf_counter()
settings = json.loads(sys.argv[1])
from segx import YOLO, __version__ as version
found = YOLO(settings["model"]).val(data=settings["data"], imgsz=640, batch=16, device="cpu", save_json=True,
    plots=False, project=settings["folder"])
box, seg = found.box.map, found.seg.map
"""
    + END
)

PEER = (
    """
import json, resource, sys, time
begin = time.perf_counter()
settings = json.loads(sys.argv[1])
from ultralytics import YOLO, __version__ as version
found = YOLO(settings["model"], task="segment").val(data=settings["data"], imgsz=640, batch=16, device="cpu",
    save_json=True, plots=False, project=settings["folder"], verbose=False, workers=2)
box, seg = float(found.box.map), float(found.seg.map)
"""
    + END
)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a YOLO data set YAML")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--peer", default=os.environ.get("SEGX_BENCH_PEER"), help="interpreter with ultralytics")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    given = parser.parse_args()
    sides = {"segx": (sys.executable, SEGX)} | ({"peer": (given.peer, PEER)} if given.peer else {})
    results: dict[str, list[dict]] = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        settings = {"model": str(given.model), "data": str(copied(given.data, folder / "data"))}
        for turn in range(given.runs):
            for name, (python, program) in sides.items():
                results[name].append(run(python, program, {**settings, "folder": str(folder / f"{name}{turn}")}))
    medians = {
        name: {key: statistics.median(result[key] for result in runs) for key in ("seconds", "megabytes", "box", "seg")}
        for name, runs in results.items()
    }
    for name, found in medians.items():
        print(
            f"{name} {results[name][0]['version']}: {found['seconds']:.1f} s, {found['megabytes']:.0f} MB, "
            f"box AP {found['box']:.4f}, mask AP {found['seg']:.4f}"
        )
    if "peer" in medians:
        ours, peer = medians["segx"], medians["peer"]
        time, memory = (ours[key] / peer[key] for key in ("seconds", "megabytes"))
        print(f"segx takes {time:.2f} of the peer's time and {memory:.2f} of its memory")
    if given.json:
        given.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
