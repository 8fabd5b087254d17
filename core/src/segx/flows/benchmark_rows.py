"""The rows of a benchmark: what was measured of each format, as a table, as CSV, and which to take."""

from __future__ import annotations

import csv
import dataclasses
import io
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

from segx.words import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from segx.artifact import Parity
    from segx.plugin.fastest import Choice

ACCURATE = 0.01
"""How much of the source's fitness a format may lose and still be recommended."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkRow:
    """One format in one precision.

    Attributes:
        format: Name of the format.
        precision: What its numbers are.
        state: ``"ok"``; ``"blocked"``: it cannot be had here; ``"failed"``: it was tried.
        reason: Why it is not ok, and what to do about it; of one that is ok, what it has not of the format.
        backend: What ran it.
        path: The file or folder.
        bytes: Its size on disk.
        export_seconds: How long making and proving it took; 0 for the model itself.
        metrics: Every figure of its validation by its flat name: ``"metrics/mAP50-95(M)"``, ``"fitness"``.
        latency: Median milliseconds of one image, from pixels to results.
        network: Milliseconds of that in the network.
        throughput: Images a second of predict, from files to results.
        cold: Seconds of a first prediction in a new process, imports included; None: not measured.
        parity: How close it is to what it was made from; None for the model itself.
        choice: What each runtime that is installed makes of the file; None where there is one only.
    """

    format: str
    precision: str = "fp32"
    state: Literal["ok", "blocked", "failed"] = "ok"
    reason: str = ""
    backend: str = ""
    path: Path | None = None
    bytes: int = 0
    export_seconds: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    latency: float = 0.0
    network: float = 0.0
    throughput: float = 0.0
    cold: float | None = None
    parity: Parity | None = None
    choice: Choice | None = None

    @property
    def name(self) -> str:
        """Format and precision: ``"openvino int8"``."""
        return f"{self.format} {self.precision}"

    @property
    def fitness(self) -> float:
        """The figure of its validation that weights are chosen by; 0 where it was not validated."""
        return self.metrics.get("fitness", 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {**dataclasses.asdict(self), "path": None if self.path is None else self.path.name}


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The measured formats of one model.

    Attributes:
        rows: The model itself first, then each format.
        settings: What the figures are made with.
        folder: Where the models, the table and the chart are.
    """

    rows: tuple[BenchmarkRow, ...]
    settings: Mapping[str, Any]
    folder: Path

    @property
    def measured(self) -> tuple[BenchmarkRow, ...]:
        """The rows that are ok."""
        return tuple(row for row in self.rows if row.state == "ok")

    @property
    def shown_metrics(self) -> tuple[str, ...]:
        """The figures of a validation that the table shows: those that average over all overlaps."""
        names = dict.fromkeys(chain.from_iterable(row.metrics for row in self.measured))
        return tuple(name for name in names if "mAP50-95" in name)

    def advice(self) -> list[str]:
        """Return which to take, a line for each purpose; of those that keep the accuracy of the first measured row.

        What stands in for a format that could not be made whole is none of them.
        """
        if not self.measured:
            return ["nothing could be measured"]
        least = self.measured[0].fitness - ACCURATE
        lost = [row.name for row in self.measured if row.fitness < least]
        accurate = [row for row in self.measured if row.name not in lost and not row.reason] or [self.measured[0]]
        fastest = min(accurate, key=lambda row: row.latency)
        busiest = max(accurate, key=lambda row: row.throughput)
        smallest = min(accurate, key=lambda row: row.bytes)
        lines = [
            f"shortest wait for one image: {fastest.name} ({fastest.latency:.0f} ms)",
            f"most images a second: {busiest.name} ({busiest.throughput:.1f})",
            f"smallest: {smallest.name} ({smallest.bytes / 1e6:.1f} MB)",
        ]
        if cold := [row for row in accurate if row.cold is not None]:
            quickest = min(cold, key=lambda row: row.cold or 0.0)
            lines.append(f"first result soonest: {quickest.name} ({quickest.cold:.1f} s)")
        lines += [f"{row.name}: {row.choice.describe()}" for row in self.measured if row.choice is not None]
        return [*lines, *([f"lose more than {ACCURATE} of the fitness: {', '.join(lost)}"] if lost else [])]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        rows = [row.to_dict() for row in self.rows]
        return {"settings": dict(self.settings), "rows": rows, "advice": self.advice()}

    def columns(self) -> tuple[tuple[str, Callable[[BenchmarkRow], str]], ...]:
        """Return heading and cell of each column of the table."""
        return (
            ("format", lambda row: row.name),
            ("MB", lambda row: f"{row.bytes / 1e6:.1f}"),
            *((name.removeprefix("metrics/"), _metric(name)) for name in self.shown_metrics),
            ("box px", lambda row: "" if row.parity is None else f"{row.parity.box:.2g}"),
            ("mask IoU", lambda row: "" if row.parity is None else f"{row.parity.mask_iou:.4f}"),
            ("ms", lambda row: f"{row.latency:.0f}"),
            ("images/s", lambda row: f"{row.throughput:.1f}"),
            ("cold s", lambda row: "" if row.cold is None else f"{row.cold:.1f}"),
            ("backend", lambda row: row.backend),
        )

    def to_table(self) -> str:
        """Return the table for people: what was measured, then what could not be, then which to take."""
        columns = self.columns()
        cells = [[heading for heading, _ in columns]]
        cells += [[cell(row) for _, cell in columns] for row in self.measured]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
        ]
        others = [row for row in self.rows if row.reason]
        lines += [f"{row.name}: {row.state}: {visible(row.reason, lines=False)}" for row in others]
        return "\n".join([*lines, "", *self.advice()])

    def to_csv(self) -> str:
        """Return the rows as CSV, with everything that was measured."""
        names = dict.fromkeys(chain.from_iterable(row.metrics for row in self.rows))
        plain = [
            item.name for item in dataclasses.fields(BenchmarkRow) if item.name not in {"metrics", "parity", "choice"}
        ]
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow([*plain, *names, "parity_box", "parity_score", "parity_mask_iou", "parity_matched"])
        for row in self.rows:
            about = row.to_dict()
            close = row.parity
            proven = ("",) * 4 if close is None else (close.box, close.score, close.mask_iou, close.matched)
            writer.writerow([*(about[name] for name in plain), *(row.metrics.get(name, "") for name in names), *proven])
        return text.getvalue()


def _metric(name: str) -> Callable[[BenchmarkRow], str]:
    return lambda row: f"{row.metrics[name]:.4f}" if name in row.metrics else ""
