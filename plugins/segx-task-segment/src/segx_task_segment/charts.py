"""Curves and confusion matrices as PNG."""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from segx.io.plotting import load_matplotlib
from segx_task_segment.palette import color

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from segx_task_segment.metrics import IouTypeMetrics, SegmentMetrics
    from segx_task_segment.metrics.confusion import ConfusionMatrix
    from segx_task_segment.metrics.metrics import Curve

_NAMED = 20
"""Up to this many classes each curve is named; with more only the mean is."""
_NUMBERED = 30
"""Up to this many classes the cells of a confusion matrix hold their number."""
_LABELLED = 100
"""Up to this many classes rows and columns of a confusion matrix are labelled."""
_CONFUSIONS = 30
"""With more classes than are numbered, so many of the largest confusions are named beside the matrix."""

_MEAN = "0.1"
"""Colour of the mean of all classes: that of none of them."""
_NOTHING_FOUND = "nothing found:\nno detection matches an object at IoU 0.5"
_NOTHING_THERE = "nothing to find:\nno class has objects"

_FILES = ("PR_curve", "F1_curve", "P_curve", "R_curve")


def draw_charts(metrics: SegmentMetrics) -> dict[str, bytes]:
    """Return PNG images by file name: four curves of boxes, four of masks, two confusion matrices.

    Raises:
        ImportError: matplotlib is not installed.
    """
    images: dict[str, bytes] = {}
    with _style():
        for kind, title in ((metrics.box, "Box"), (metrics.seg, "Mask")):
            for stem, curve in zip(_FILES, kind.curves_results, strict=True):
                images[f"{title}{stem}.png"] = _curve(kind, curve, title, with_area=stem == "PR_curve")
    matrix = metrics.confusion_matrix
    images["confusion_matrix.png"] = matrix_chart(matrix, normalized=False)
    images["confusion_matrix_normalized.png"] = matrix_chart(matrix, normalized=True)
    return images


@contextlib.contextmanager
def _style() -> Iterator[None]:
    mpl = load_matplotlib()
    # Names are text: a dollar in one begins no formula.
    style: dict[Any, Any] = {"text.parse_math": False, "font.size": 10, "axes.spines.top": False}
    with warnings.catch_warnings(), mpl.rc_context(style):
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a name in a script the font lacks
        yield


def tint(category: int) -> tuple[float, ...]:
    """Return the colour that a class has in images, as matplotlib takes it."""
    return tuple(channel / 255 for channel in reversed(color(category)))


def _curve(kind: IouTypeMetrics, curve: Curve, title: str, *, with_area: bool) -> bytes:
    x, classes, x_name, y_name = curve
    figure, axes = _axes((8, 5.5))
    few = len(classes) <= _NAMED
    for row, category in zip(classes, kind.ap_class_index.tolist(), strict=True):
        label = _label(kind.names, category, kind.ap50, kind.ap_class_index.tolist(), with_area=with_area)
        axes.plot(x, row, linewidth=1.2, label=label if few else None, color=tint(category) if few else "0.75")
    if not classes.any():
        _say(axes, _NOTHING_FOUND if len(classes) else _NOTHING_THERE)
    if len(classes):
        mean = classes.mean(axis=0)
        if with_area:
            note = f"all classes: mAP50 {kind.map50:.3f}"
        else:
            best = int(mean.argmax())
            note = f"all classes: {mean[best]:.2f} at {x[best]:.3f}"
        axes.plot(x, mean, linewidth=2.6, color=_MEAN, label=note)
    axes.set(
        xlabel=x_name, ylabel=y_name, xlim=(0, 1), ylim=(0, 1.02), title=f"{title}: {y_name} over {x_name}, IoU 0.5"
    )
    axes.grid(visible=True, color="0.92")
    if len(classes):
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=8)
    return _png(figure)


def _label(names: Mapping[int, str], category: int, ap50: Any, present: list[int], *, with_area: bool) -> str:
    name = f" {names[category]}" if names[category].startswith("_") else names[category]  # else it would be hidden
    return f"{name} {ap50[present.index(category)]:.3f}" if with_area else name


@_style()
def matrix_chart(confusion: ConfusionMatrix, *, normalized: bool) -> bytes:
    """Return a confusion matrix as PNG.

    Raises:
        ImportError: matplotlib is not installed.
    """
    present = confusion.present
    values = (confusion.normalized if normalized else confusion.matrix.astype(np.float64))[np.ix_(present, present)]
    labels = [confusion.labels[number] for number in present.tolist()]
    side = float(np.clip(2.5 + 0.38 * len(labels), 5, 15))
    figure, axes = _axes((side * 1.1, side))
    image = axes.imshow(np.where(values > 0, values, np.nan), cmap="Blues", vmin=0, vmax=None if values.any() else 1)
    scale = figure.colorbar(image, ax=axes, fraction=0.045)
    if not normalized:
        number_whole(scale.ax.yaxis)
    small = 9 if len(labels) <= _NUMBERED else 5
    places = range(len(labels)) if len(labels) <= _LABELLED else []
    axes.set_xticks(places, labels[: len(places)], rotation=90, fontsize=small)
    axes.set_yticks(places, labels[: len(places)], fontsize=small)
    axes.set(xlabel="ground truth", ylabel="found as")
    at = f"score {confusion.score:g}, mask IoU {confusion.iou:g}"
    axes.set_title(f"confusion matrix, {'share of each ground truth' if normalized else 'counts'} ({at})")
    if not values.any():
        _say(axes, _NOTHING_THERE)
    if len(labels) <= _NUMBERED:
        middle = np.nanmax(values, initial=0) / 2
        for row, column in np.argwhere(values > 0).tolist():
            text = f"{values[row, column]:.2f}" if normalized else f"{int(values[row, column])}"
            ink = "white" if values[row, column] > middle else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=ink)
    elif confusions := confusion.largest(_CONFUSIONS):
        lines = [f"{count}  {there} as {found}" for there, found, count in confusions]
        text = "\n".join(["most often taken for another:", *lines])
        axes.text(1.2, 1, text, va="top", fontsize=9, transform=axes.transAxes)
    return _png(figure)


def number_whole(axis: Any) -> None:
    """Number an axis of things that are counted: 0, 1, 2; never 0.25."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))


def _say(axes: Any, text: str) -> None:
    """Write into the middle of an empty image why it is empty."""
    axes.text(0.5, 0.5, text, ha="center", va="center", color="0.35", fontsize=12, transform=axes.transAxes)


def _axes(size: tuple[float, float]) -> tuple[Any, Any]:
    """Return a figure that no window and no global state knows of."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="tight")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110, bbox_inches="tight")
    figure.clear()  # its parts hold one another, and several of them at once take a hundred megabytes
    return out.getvalue()
