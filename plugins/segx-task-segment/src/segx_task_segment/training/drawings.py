"""Images of a training run: batches as they are trained on, the spread of the labels, curves over the epochs."""

from __future__ import annotations

import contextlib
import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from segx.errors import MissingPluginError
from segx.io.files import write_bytes
from segx.io.plotting import load_matplotlib
from segx.ops.images import fit, sheet
from segx.structures.boxes import Boxes
from segx.structures.masks import Masks
from segx.words import counted
from segx_task_segment.charts import number_whole, tint
from segx_task_segment.panels import BATCH, encode
from segx_task_segment.results import SegmentResults

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from segx.structures.annotations import Sample
    from segx.structures.batch import TrainBatch
    from segx.structures.types import Image

_SHEET = 1920
"""Longest side of a sheet of images."""
_LEGIBLE = 480
"""Smaller images are enlarged to about this, so that labels find room."""
_NAMED = 40
"""Up to this many classes are named; with more they are numbered."""
_LETTERS = {"B": "box", "M": "mask"}
_SMOOTH_FROM = 10


@dataclass(frozen=True, kw_only=True)
class SegmentDrawings:
    """Draws what a training run sees and how it goes.

    Attributes:
        names: Class number to class name, as they are trained.
        classes: The classes of the data set that are trained on, or all when None.
        single_class: Every object is of class 0.
    """

    names: Mapping[int, str]
    classes: tuple[int, ...] | None = None
    single_class: bool = False

    def batch(self, batch: TrainBatch, path: Path) -> Path:
        """Draw up to sixteen images as they are trained on: moved, cut and coloured, with boxes and masks."""
        count = min(len(batch.images), BATCH)
        columns = int(np.ceil(np.sqrt(count)))
        longest = max(batch.images.shape[2:])
        gain = max(_LEGIBLE // longest, 1)
        side = min(_SHEET // columns, longest * gain)
        tiles = [fit(self._drawn(batch, index, gain), side, side) for index in range(count)]
        return write_bytes(path, encode(sheet(tiles, columns)))

    def labels(self, samples: Iterable[Sample], path: Path) -> Path:
        """Draw how often each class is there, and where and how large the objects are.

        Raises:
            MissingPluginError: matplotlib is not installed.
        """
        rows, per_image = self._rows(samples)
        figure, axes = _grid(2, 2, (12, 9))
        self._draw_counts(axes[0], rows[:, 0].astype(np.int64))
        _draw_objects_per_image(axes[1], per_image)
        _draw_density(axes[2], rows[:, 1:3], names=("x", "y"), title="centres, as fractions of the image")
        axes[2].invert_yaxis()
        _draw_density(axes[3], rows[:, 3:5], names=("width", "height"), title="sizes, as fractions of the image")
        figure.suptitle(f"{counted(len(rows), 'object')} in {counted(len(per_image), 'image')}")
        return write_bytes(path, _png(figure))

    def curves(self, rows: Sequence[Mapping[str, float]], path: Path) -> Path:
        """Draw every loss, and box beside mask figures, over the epochs.

        Raises:
            MissingPluginError: matplotlib is not installed.
        """
        panels = _panels(rows)
        columns = min(4, len(panels))
        lines = -(-len(panels) // columns)
        figure, grid = _grid(lines, columns, (4 * columns, 3.2 * lines))
        for axes, (title, series) in zip(grid, panels.items(), strict=False):
            for label, (epochs, values) in series.items():
                _draw_curve(axes, epochs, values, label)
            axes.set(title=title, xlabel="epoch")
            axes.grid(visible=True, color="0.92")
            number_whole(axes.xaxis)
            axes.set_xlim(*_span(rows))
            if len(series) > 1:
                axes.set_ylim(0, axes.get_ylim()[1] * 1.05)  # room for the highest mark
                axes.legend(frameon=False)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        return write_bytes(path, _png(figure))

    def _drawn(self, batch: TrainBatch, index: int, gain: int) -> Image:
        """Return one image of a batch, enlarged, with its objects drawn in."""
        image = cv2.cvtColor(np.ascontiguousarray(batch.images[index].transpose(1, 2, 0)), cv2.COLOR_RGB2BGR)
        image = cv2.resize(image, None, fx=gain, fy=gain, interpolation=cv2.INTER_LINEAR)
        shape = image.shape[0], image.shape[1]
        mine = np.flatnonzero(batch.batch_idx == index)
        extent = np.array([shape[1], shape[0]], np.float32)
        centres, sides = batch.boxes[mine, :2] * extent, batch.boxes[mine, 2:] * extent
        numbers = np.stack([np.ones(len(mine)), batch.classes[mine]], axis=1)
        data = np.concatenate([centres - sides / 2, centres + sides / 2, numbers], axis=1).astype(np.float32)
        found = SegmentResults(
            orig_img=np.asarray(image, np.uint8),
            path=batch.paths[index],
            names=self.names,
            boxes=Boxes(data.reshape(-1, 6), shape),
            masks=_masks(batch, index, mine, shape),
        )
        return np.asarray(found.plot(conf=False))

    def _rows(self, samples: Iterable[Sample]) -> tuple[NDArray[np.float64], list[int]]:
        """Return class, centre x and y, width and height of every object as fractions; and objects per image."""
        rows: list[tuple[float, ...]] = []
        counts = []
        for sample in samples:
            height, width = sample.shape
            before = len(rows)
            for annotation in sample.annotations:
                if annotation.crowd or (self.classes is not None and annotation.category not in self.classes):
                    continue
                x, y, w, h = annotation.box
                category = 0 if self.single_class else annotation.category
                rows.append((category, (x + w / 2) / width, (y + h / 2) / height, w / width, h / height))
            counts.append(len(rows) - before)
        return np.array(rows, np.float64).reshape(-1, 5), counts

    def _draw_counts(self, axes: Any, categories: NDArray[np.int64]) -> None:
        counts = np.bincount(categories, minlength=len(self.names))
        axes.bar(range(len(counts)), counts, color=[tint(number) for number in range(len(counts))])
        axes.set(title="objects of each class", ylabel="objects")
        number_whole(axes.yaxis)
        number_whole(axes.xaxis)
        if len(self.names) <= _NAMED:
            small = 9 if len(self.names) <= 12 else 6
            names = list(self.names.values())
            axes.set_xticks(range(len(names)), names, rotation=90, fontsize=small, parse_math=False)


def _masks(batch: TrainBatch, index: int, mine: NDArray[np.intp], shape: tuple[int, int]) -> Masks:
    """Return the masks of one image's objects as the loss sees them, each pixel as large as it is there."""
    if batch.overlap:
        small = batch.masks[index][None] == np.arange(1, len(mine) + 1)[:, None, None]
    else:
        small = batch.masks[mine] > 0
    bitmaps, corners = [], []
    gain = shape[0] // batch.masks.shape[1]
    for mask in small.view(np.uint8):
        x, y, width, height = cv2.boundingRect(mask)
        cut = mask[y : y + height, x : x + width]
        bitmaps.append(cut.repeat(gain, 0).repeat(gain, 1))
        corners.append((x * gain, y * gain))
    return Masks.from_bitmaps(bitmaps, np.array(corners, np.int32).reshape(-1, 2), shape)


def _draw_objects_per_image(axes: Any, counts: Sequence[int]) -> None:
    most = max(counts, default=0)
    axes.hist(counts, bins=np.arange(-0.5, most + 1.5, max(most // 40, 1)), color="tab:blue")
    axes.set(title="objects in an image", xlabel="objects", ylabel="images")
    number_whole(axes.xaxis)
    number_whole(axes.yaxis)


def _draw_density(axes: Any, points: NDArray[np.float64], *, names: tuple[str, str], title: str) -> None:
    cells = int(np.clip(np.sqrt(len(points)) / 2, 16, 64))
    counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=cells, range=((0, 1), (0, 1)))
    scale = "log" if counts.max(initial=0) > 20 else "linear"
    shown = np.where(counts > 0, counts, np.nan)
    most = max(counts.max(initial=0), 2)
    image = axes.imshow(shown, origin="lower", extent=(0, 1, 0, 1), cmap="viridis", norm=scale, vmin=1, vmax=most)
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.045)
    if scale == "linear":
        number_whole(bar.ax.yaxis)
    axes.set(title=title, xlabel=names[0], ylabel=names[1])


def _panels(
    rows: Sequence[Mapping[str, float]],
) -> dict[str, dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]]:
    """Return for each panel's title its curves: losses one by one, figures of boxes and masks together."""
    names = dict.fromkeys(name for row in rows for name in row)
    panels: dict[str, dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]] = {}
    for name in names:
        kind, _, rest = name.partition("/")
        if kind not in {"train", "val", "metrics"}:
            continue
        title, _, letter = rest.removesuffix(")").partition("(")
        pairs = np.array([(row["epoch"], row[name]) for row in rows if name in row])
        label = _LETTERS.get(letter, letter) if kind == "metrics" else kind
        panels.setdefault(title.replace("_", " "), {})[label] = (pairs[:, 0], pairs[:, 1])
    return panels


def _draw_curve(axes: Any, epochs: NDArray[np.float64], values: NDArray[np.float64], label: str) -> None:
    finite = np.isfinite(values)
    marker = "o" if finite.sum() == 1 else "." if len(values) <= 50 else None
    (line,) = axes.plot(epochs, values, marker=marker, linewidth=1.6, label=label or None)
    if finite.sum() >= _SMOOTH_FROM:
        axes.plot(epochs[finite], _smooth(values[finite]), linestyle=":", linewidth=2, color=line.get_color())


def _span(rows: Sequence[Mapping[str, float]]) -> tuple[float, float]:
    """Return where an axis of epochs begins and ends: a single epoch stands in the middle of three."""
    epochs = [row["epoch"] for row in rows]
    first, last = min(epochs), max(epochs)
    room = 0.03 * (last - first) or 1.0
    return first - room, last + room


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values averaged with a Gaussian over about a twentieth of them."""
    sigma = max(len(values) / 40, 1.0)
    reach = int(3 * sigma)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    padded = np.pad(values, reach, mode="edge")
    smooth: NDArray[np.float64] = np.convolve(padded, weights / weights.sum(), mode="valid")
    return smooth


def _grid(lines: int, columns: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    """Return a figure that no window and no global state knows of, and its axes.

    Raises:
        MissingPluginError: matplotlib is not installed.
    """
    try:
        load_matplotlib()
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPluginError(
            "labels.png and results.png need matplotlib", hint='pip install "segx-task-segment[charts]"'
        ) from error
    figure = Figure(figsize=size, layout="tight")
    FigureCanvasAgg(figure)
    grid = list(figure.subplots(lines, columns, squeeze=False).ravel())
    for axes in grid:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, grid


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    # Not catch_warnings: it is not safe in a thread beside others. A name may be in a script that the font lacks.
    warnings.filterwarnings("ignore", message="Glyph .* missing")
    ours = warnings.filters[0]
    try:
        figure.savefig(out, format="png", dpi=110)
    finally:
        with contextlib.suppress(ValueError):  # another thread has removed it
            warnings.filters.remove(ours)  # type: ignore[attr-defined]
    return out.getvalue()
