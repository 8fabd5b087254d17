"""A training run on a few drawn images, small enough for tests: it runs, is killed, and goes on."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from segx.options.verbs import SessionOptions, TrainOptions
from segx.plugin.registry import get_registry
from segx.plugin.training import TrainJob
from segx.structures.batch import TrainBatch
from segx.testing.models import TINY_YOLOV8

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from segx.plugin.interfaces import Session
    from segx.plugin.training import Trained
    from segx.runs import Step

SIDE = 64
NAMES = {0: "disc", 1: "square"}


@dataclass(frozen=True)
class DrawnLoader:
    """Batches that depend on seed, epoch and batch alone.

    Attributes:
        seed: Another seed draws other images.
        rank: Number of this process.
        size: Images per batch.
        batches: Batches per epoch.
    """

    seed: int = 0
    rank: int = 0
    size: int = 2
    batches: int = 4

    def __len__(self) -> int:
        return self.batches

    def close(self) -> None:
        """Hold nothing."""

    def epoch(self, number: int, *, start: int = 0, closed: bool = False) -> Iterator[TrainBatch]:
        """Yield the batches of an epoch."""
        for index in range(start, self.batches):
            yield self._draw(np.random.default_rng([self.seed, self.rank, number, index, closed]))

    def _draw(self, rng: np.random.Generator) -> TrainBatch:
        images = rng.integers(60, 90, (self.size, 3, SIDE, SIDE)).astype(np.uint8)
        masks = np.zeros((self.size, SIDE // 4, SIDE // 4), np.uint8)
        classes, boxes = rng.integers(0, 2, self.size), np.empty((self.size, 4), np.float32)
        for number in range(self.size):
            (x, y), half = rng.integers(28, 36, 2), int(rng.integers(16, 28))
            images[number, classes[number], y - half : y + half, x - half : x + half] = 220
            masks[number, (y - half) // 4 : (y + half) // 4, (x - half) // 4 : (x + half) // 4] = 1
            boxes[number] = (x / SIDE, y / SIDE, 2 * half / SIDE, 2 * half / SIDE)
        return TrainBatch(
            images=images,
            batch_idx=np.arange(self.size),
            classes=classes,
            boxes=boxes,
            masks=masks,
            overlap=True,
            has_mask=np.ones(self.size, bool),
            paths=("drawn",) * self.size,
        )


def tiny_session(folder: Path, *, seed: int = 0) -> Any:
    """Return the tiny model for the drawn images, its weights drawn from a seed; its YAML is left in the folder."""
    registry = get_registry()
    architecture = registry.architectures.load("yolov8-seg")
    definition = folder / "yolov8n-tiny.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    definition.write_text(TINY_YOLOV8)
    backend: Any = registry.backends.load(registry.backend_for("pt"))
    config = architecture.read_config(definition, nc=len(NAMES))
    session, _ = backend.build(config, architecture, SessionOptions(device="cpu")).for_classes(NAMES, seed=seed)
    return session


def tiny_run(
    folder: Path,
    *,
    steps: list[Step] | None = None,
    kill: str = "",
    fitness: float | None = None,
    finished: bool = True,
    **options: Any,
) -> Trained:
    """Train the tiny model in a folder, or go on there.

    Args:
        folder: The run's folder.
        steps: Collects what the run tells.
        kill: ``"SIGKILL:5"`` sends the process that signal after five batches.
        fitness: What every validation finds; default: a figure that depends on the weights.
        finished: A run that goes on had been measured at its end.
        options: Options of train.
    """
    registry = get_registry()
    chosen = TrainOptions.parse({"imgsz": SIDE, "batch": 2, "epochs": 3, "device": "cpu", "nbs": 4, **options})
    architecture = registry.architectures.load("yolov8-seg")
    backend: Any = registry.backends.load(registry.backend_for("pt"))
    session = tiny_session(folder.parent, seed=chosen.seed)
    done = 0

    def notify(step: Step) -> None:
        nonlocal done
        if steps is not None:
            steps.append(step)
        done += step.kind == "batch"
        name, _, after = kill.partition(":")
        if kill and step.kind == "batch" and done == int(after):
            os.kill(os.getpid(), getattr(signal, name))

    def loader(*, rank: int, world: int, batch: int, processes: bool = False) -> DrawnLoader:  # noqa: ARG001
        return DrawnLoader(seed=chosen.seed, rank=rank, size=batch, batches=4 // world)

    job = TrainJob(
        options=chosen,
        names=NAMES,
        images=8,
        folder=lambda: folder,
        loader=loader,
        criterion=lambda module: architecture.criterion(module, chosen),
        validate=_validate if fitness is None else lambda _: {"fitness": fitness},
        notify=notify,
        settings={"data": "drawn"},
        finished=finished,
    )
    resume = folder / "weights" / "last.pt" if chosen.resume else None
    trained: Trained = backend.train(session, job, resume=resume)
    return trained


def _validate(session: Session) -> Mapping[str, float]:
    """Return a figure that depends on the weights."""
    return {"fitness": float(np.abs(session.run(np.ones((1, 3, SIDE, SIDE), np.float32))[1]).mean())}
