"""The chart of a benchmark: a row for each format, a panel for each question."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from segx.io.plotting import load_matplotlib

if TYPE_CHECKING:
    from collections.abc import Callable

    from segx.flows.benchmark_rows import Benchmark, BenchmarkRow

_COLOURS = {"fp32": "#4269d0", "fp16": "#3ca951", "int8": "#efb118"}
_OTHER = "#97bbf5"
_STYLE = {"text.parse_math": False, "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
_LETTERS = 150
"""Of a reason, that are shown."""
_PANELS: tuple[tuple[str, Callable[[BenchmarkRow], float], str], ...] = (
    ("fitness: higher is better", lambda row: row.fitness, "{:.3f}"),
    ("ms an image: lower", lambda row: row.latency, "{:.0f}"),
    ("images a second: higher", lambda row: row.throughput, "{:.1f}"),
    ("MB: lower", lambda row: row.bytes / 1e6, "{:.1f}"),
)


def draw(result: Benchmark, *, title: str) -> bytes:
    """Return a PNG with bars for accuracy, latency, throughput and size, and the reason where there is no figure.

    Raises:
        ImportError: matplotlib is not installed.
    """
    mpl = load_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = result.rows
    places = range(len(rows))
    with mpl.rc_context(
        {"text.parse_math": False, "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    ):
        figure = Figure(figsize=(13, 1.6 + 0.34 * len(rows)), layout="constrained")
        FigureCanvasAgg(figure)
        shown = _PANELS if any(row.metrics for row in rows) else _PANELS[1:]
        panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axes, (heading, value, form) in zip(panels, shown, strict=True):
            values = [value(row) if row.state == "ok" else 0.0 for row in rows]
            axes.barh(places, values, color=[_COLOURS.get(row.precision, _OTHER) for row in rows], height=0.7)
            axes.set_title(heading, fontsize=9, loc="left")
            axes.set_xlim(0, max([*values, 1e-9]) * 1.18)
            axes.tick_params(axis="y", length=0)
            axes.patch.set_visible(False)
            for place, row, number in zip(places, rows, values, strict=True):
                if row.state == "ok":
                    axes.text(number, place, " " + form.format(number), va="center", fontsize=8)
        panels[0].set_yticks(places, [row.name for row in rows])
        panels[0].invert_yaxis()
        for place, row in zip(places, rows, strict=True):
            if row.state != "ok":
                said = row.reason if len(row.reason) <= _LETTERS else row.reason[:_LETTERS] + " ..."
                note = panels[0].text(
                    0, place, f" {row.state}: {said}", va="center", fontsize=8, color="0.45", zorder=9
                )
                note.set_in_layout(False)  # it may run on over the empty panels
        figure.suptitle(title, fontsize=11, x=0.01, ha="left")
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=110)
        return out.getvalue()
