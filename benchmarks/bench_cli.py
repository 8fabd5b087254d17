"""Cold start of the command line: ``segx --help`` and one image through an exported model, beside the incumbent.

    python benchmarks/bench_cli.py [--runs 7] [--peer PYTHON] [--model model.onnx --source photo.jpg] [--json FILE]

``--model`` may be given several times, for files of several formats; the peer gets the first. Beside an ``.onnx`` runs
what no program can leave out: Python, OpenCV, ONNX Runtime, a session, one run. Each command runs in a fresh process,
turn by turn, so that all sides meet the same machine; medians are compared. The peer is the command beside the
interpreter in SEGX_BENCH_PEER, and left out, with that said, where it is absent. ``--realtime`` (Linux, as root)
measures at real-time priority, for a machine that others are using.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

BARE = """
import sys
import cv2
import numpy as np
import onnxruntime
image = cv2.imread(sys.argv[2])
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
given = session.get_inputs()[0]
size = [side if isinstance(side, int) else 640 for side in given.shape[2:]]
square = cv2.resize(image, size[::-1])[:, :, ::-1].transpose(2, 0, 1)[None]
for _ in range(int(sys.argv[3])):
    session.run(None, {given.name: np.ascontiguousarray(square, np.float32) / 255})
"""
"""What no program can leave out that runs an ``.onnx`` file with ONNX Runtime; without and with the run."""


@dataclass
class Side:
    """One command and what its runs cost.

    Attributes:
        name: Who.
        command: What is run.
        wall: Seconds from start to end, one for each run.
        cpu: Seconds of processor time, user and system, one for each run.
    """

    name: str
    command: list[str]
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def run(self, folder: Path) -> None:
        """Run once in a fresh process."""
        environment = os.environ | {"YOLO_CONFIG_DIR": str(folder), "YOLO_OFFLINE": "true", "SEGX_OFFLINE": "1"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # both sides as they are on their second day
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        ended = subprocess.run(self.command, cwd=folder, env=environment, capture_output=True, check=False)
        self.wall.append(time.perf_counter() - started)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        if ended.returncode:
            sys.exit(f"{' '.join(self.command)} ended with {ended.returncode}:\n{ended.stderr.decode()[-2000:]}")

    @property
    def medians(self) -> tuple[float, float]:
        """Wall and CPU seconds."""
        return statistics.median(self.wall), statistics.median(self.cpu)


def compare(title: str, sides: list[Side], runs: int) -> dict[str, object]:
    """Run the sides in turn, once to warm the file cache and then ``runs`` times, and print a table."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(runs + 1):
            for side in sides:
                side.run(Path(folder))
                if number == 0:
                    side.wall.clear()
                    side.cpu.clear()
    print(f"\n{title} (median of {runs})")
    own = sides[0].medians
    for side in sides:
        wall, cpu = side.medians
        ratio = f"   {cpu / own[1]:6.1f} x the CPU time" if side is not sides[0] else ""
        print(f"  {side.name:<32} wall {wall * 1000:7.0f} ms   cpu {cpu * 1000:7.0f} ms{ratio}")
    return {side.name: dict(zip(("wall_s", "cpu_s"), side.medians, strict=True)) for side in sides}


def find_peer(python: str | None) -> str | None:
    """Return the incumbent's command, which lies beside its interpreter, or None."""
    command = Path(python).parent / "yolo" if python else None
    return str(command) if command is not None and command.is_file() else None


def main() -> None:
    """Run what can be run here."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--peer", default=os.environ.get("SEGX_BENCH_PEER"), help="interpreter with ultralytics")
    parser.add_argument("--model", type=Path, action="append", help="a file that both sides can open, or more for segx")
    parser.add_argument("--source", type=Path, help="an image")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--realtime", action="store_true")
    arguments = parser.parse_args()
    if arguments.realtime:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    segx, peer = str(Path(sys.executable).parent / "segx"), find_peer(arguments.peer)
    if peer is None:
        print("only segx is measured: --peer or SEGX_BENCH_PEER would name the incumbent's interpreter")
    figures = {"help": compare("help", [Side("segx", [segx, "--help"]), *_peer(peer, ["help"])], arguments.runs)}
    if arguments.model and arguments.source:
        source = f"source={arguments.source.resolve()}"
        words = [[f"model={model.resolve()}", source] for model in arguments.model]
        sides = [
            Side(model.name, [segx, "segment", "predict", *both, "rect=False"])
            for model, both in zip(arguments.model, words, strict=True)
        ]
        for model in (model for model in arguments.model if model.suffix == ".onnx"):
            paths = [str(model.resolve()), str(arguments.source.resolve())]
            for runs, what in (("0", "opened"), ("1", "run once")):
                sides.append(Side(f"bare: {model.name} {what}", [sys.executable, "-c", BARE, *paths, runs]))
        sides += _peer(peer, ["segment", "predict", *words[0]])
        figures["predict"] = compare("one image", sides, arguments.runs)
    else:
        print("\none image: left out (--model and --source name them)")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2), encoding="utf-8")


def _peer(command: str | None, words: list[str]) -> list[Side]:
    return [] if command is None else [Side("incumbent", [command, *words])]


if __name__ == "__main__":
    main()
