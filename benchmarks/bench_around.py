"""What an image costs around the network: predict and val with a network that answers at once what it answered before.

    python benchmarks/bench_around.py --model yolov8n-seg.onnx --data coco-mini-seg.yaml --images FOLDER [--realtime]

Both verbs run as they are, threads, files and masks at full resolution included; only the network's answers are kept
from a first pass. Then the network alone, as many times. Printed is CPU time an image, least of the rounds, which load
by others disturbs least, and the share of the network that is left if nothing else ran: the most that can be reached.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--backend")
    parser.add_argument("--realtime", action="store_true")
    given = parser.parse_args()
    if given.realtime:  # threads that begin from here on inherit it
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))

    from segx import YOLO
    from segx.options.verbs import PredictOptions
    from segx.runtime import take_process

    take_process()  # as the command line does
    model: Any = YOLO(given.model)
    session, _ = model._sessions.with_streams(PredictOptions().session(), given.backend)  # noqa: SLF001 - it stands in for it
    real, answers, given_last = session.run, {}, []

    def answer(images: Any) -> Any:
        key = images[..., ::37, ::41].tobytes()
        if key not in answers:
            answers[key] = real(images)
            given_last[:] = [images]
        return answers[key]

    session.run = answer
    how = {"verbose": False, "rect": False, "backend": given.backend}
    found: dict[str, float] = {}
    for name, verb in {
        "predict": lambda: sum(1 for _ in model.predict(given.images, stream=True, **how)),
        "val": lambda: model.val(data=given.data, plots=False, show=False, **how).matches and 0,
    }.items():
        verb()
        count = sum(1 for _ in given.images.iterdir())
        found[name] = min(cpu_ms(verb) for _ in range(given.rounds)) / count
    images = given_last[0]
    found["network"] = min(cpu_ms(lambda: real(images)) for _ in range(10 * given.rounds)) / len(images)
    for name in ("predict", "val"):
        found[f"{name}_most"] = found["network"] / (found["network"] + found[name])
    print(json.dumps({name: round(value, 3) for name, value in found.items()}))


def cpu_ms(work: Callable[[], object]) -> float:
    """Return the CPU time of all threads, in milliseconds."""
    begin = time.process_time()
    work()
    return (time.process_time() - begin) * 1e3


if __name__ == "__main__":
    main()
