"""The figures of a validation: ``metrics.box``, ``metrics.seg`` and what they are when written down."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from segx.errors import optional
from segx.words import counted, csv_text
from segx_task_segment.metrics.coco import (
    AREAS,
    MAX_DETS,
    RECALLS,
    THRESHOLDS,
    Averages,
    Evidence,
    average,
    bits,
    by_score,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from segx_task_segment.metrics.confusion import ConfusionMatrix
    from segx_task_segment.metrics.table import MatchTable

CONFIDENCES = np.linspace(0.0, 1.0, 1000)
"""Scores at which precision, recall and F1 are drawn."""

Curve = tuple["NDArray[np.float64]", "NDArray[np.float64]", str, str]
"""x, y (classes, points), name of x, name of y."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class IouTypeMetrics:
    """Figures of one kind of overlap: boxes, or masks. NaN where there was nothing to measure.

    Attributes:
        name: ``"box"`` or ``"mask"``.
        letter: ``"B"`` or ``"M"``, in the keys of ``results_dict``.
        names: Class number to class name.
        averages: COCO's precision and recall.
        objects: int64 (classes, areas), objects that count.
        ignored_objects: Objects without a ground truth of this kind (box-only labels), neither right nor wrong.
        precision_curve: (classes with objects, 1000), precision at IoU 0.5 over :data:`CONFIDENCES`; 0 where nothing
            is detected.
        recall_curve: The same of recall.
    """

    name: str
    letter: str
    names: Mapping[int, str]
    averages: Averages
    objects: NDArray[np.int64]
    ignored_objects: int
    precision_curve: NDArray[np.float64]
    recall_curve: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        evidence: Evidence,
        *,
        names: Mapping[int, str],
        name: str,
        letter: str,
        ignored_objects: int = 0,
    ) -> Self:
        """Return the figures of what became of all detections."""
        present = np.flatnonzero(evidence.objects[:, 0]).tolist()
        curves = [_score_curves(evidence, category) for category in present]
        shape = (len(present), len(CONFIDENCES))
        return cls(
            name=name,
            letter=letter,
            names=names,
            averages=average(evidence),
            objects=evidence.objects,
            ignored_objects=ignored_objects,
            precision_curve=np.array([precision for precision, _ in curves]).reshape(shape),
            recall_curve=np.array([recall for _, recall in curves]).reshape(shape),
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_first_figures(self)})"

    # Classes

    @cached_property
    def ap_class_index(self) -> NDArray[np.int64]:
        """int64 (K,): the classes that have objects; the order of ``p r f1 ap50 ap all_ap``."""
        return np.flatnonzero(self.objects[:, 0])

    @property
    def p_curve(self) -> NDArray[np.float64]:
        """:attr:`precision_curve`, by its other name."""
        return self.precision_curve

    @property
    def r_curve(self) -> NDArray[np.float64]:
        """:attr:`recall_curve`, by its other name."""
        return self.recall_curve

    @property
    def px(self) -> NDArray[np.float64]:
        """The scores, 1000, that the curves are drawn over."""
        return CONFIDENCES

    @property
    def prec_values(self) -> NDArray[np.float64]:
        """(K, 1000): precision at IoU 0.5 of each class over recall, at the values of :attr:`px`."""
        rows = self.averages.precision[self.ap_class_index, 0, 0]
        return np.array([np.interp(CONFIDENCES, RECALLS, row) for row in rows]).reshape(len(rows), len(CONFIDENCES))

    @property
    def nc(self) -> int:
        """The number of classes."""
        return len(self.names)

    def fitness(self) -> float:
        """Return 0.1 of :attr:`map50` and 0.9 of :attr:`map`: one number to compare models by."""
        return 0.1 * self.map50 + 0.9 * self.map

    @cached_property
    def all_ap(self) -> NDArray[np.float64]:
        """(K, 10): AP of each class at IoU 0.50, 0.55, ... 0.95."""
        return np.asarray(self.averages.precision[self.ap_class_index, 0].mean(axis=-1))

    @property
    def ap(self) -> NDArray[np.float64]:
        """(K,): AP .50:.95 of each class."""
        return np.asarray(self.all_ap.mean(axis=1))

    @property
    def ap50(self) -> NDArray[np.float64]:
        """(K,): AP at IoU 0.5 of each class."""
        return self.all_ap[:, 0]

    @cached_property
    def f1_curve(self) -> NDArray[np.float64]:
        """(K, 1000): F1 at IoU 0.5 over :data:`CONFIDENCES`."""
        total = self.precision_curve + self.recall_curve
        return np.divide(2 * self.precision_curve * self.recall_curve, total, out=np.zeros_like(total), where=total > 0)

    @cached_property
    def best(self) -> int:
        """Where in :data:`CONFIDENCES` the mean F1, smoothed over a tenth of the range, is highest."""
        if not len(self.f1_curve):
            return 0
        mean = self.f1_curve.mean(axis=0)
        half = len(mean) // 20
        padded = np.pad(mean, half, mode="edge")
        return int(np.convolve(padded, np.full(2 * half + 1, 1 / (2 * half + 1)), mode="valid").argmax())

    @property
    def p(self) -> NDArray[np.float64]:
        """(K,): precision of each class at the score where the mean F1 is highest, IoU 0.5; 0 without detections."""
        return self.precision_curve[:, self.best]

    @property
    def r(self) -> NDArray[np.float64]:
        """(K,): recall of each class at that score."""
        return self.recall_curve[:, self.best]

    @property
    def f1(self) -> NDArray[np.float64]:
        """(K,): F1 of each class at that score."""
        return self.f1_curve[:, self.best]

    # The whole

    @property
    def map(self) -> float:
        """COCO's AP: mean over classes and IoU .50:.95."""
        return _mean(self.ap)

    @property
    def map50(self) -> float:
        """COCO's AP at IoU 0.50."""
        return _mean(self.ap50)

    @property
    def map75(self) -> float:
        """COCO's AP at IoU 0.75."""
        return _mean(self.all_ap[:, 5])

    @property
    def maps(self) -> NDArray[np.float64]:
        """(classes,): AP .50:.95 of every class; :attr:`map` for those that have no objects."""
        every = np.full(len(self.names), self.map)
        every[self.ap_class_index] = self.ap
        return every

    @property
    def mp(self) -> float:
        """Mean precision."""
        return _mean(self.p)

    @property
    def mr(self) -> float:
        """Mean recall."""
        return _mean(self.r)

    @cached_property
    def coco(self) -> dict[str, float]:
        """COCO's twelve figures by name, NaN where COCO prints -1."""
        precision, recall = self.averages.precision, self.averages.recall
        figures = {"AP": self.map, "AP50": self.map50, "AP75": self.map75}
        for number, area in list(enumerate(AREAS))[1:]:
            figures[f"AP_{area}"] = _mean(precision[:, number].ravel())
        for number, limit in enumerate(MAX_DETS):
            figures[f"AR_{limit}"] = _mean(self.averages.recall_at[:, number])
        for number, area in list(enumerate(AREAS))[1:]:
            figures[f"AR_{area}"] = _mean(recall[:, number].ravel())
        return figures

    def mean_results(self) -> list[float]:
        """Return mean precision, mean recall, AP at 0.50 and AP .50:.95."""
        return [self.mp, self.mr, self.map50, self.map]

    def class_result(self, index: int) -> tuple[float, float, float, float]:
        """Return precision, recall, AP at 0.50 and AP .50:.95 of the ``index``-th class that has objects."""
        return float(self.p[index]), float(self.r[index]), float(self.ap50[index]), float(self.ap[index])

    @property
    def curves(self) -> list[str]:
        """Names of :attr:`curves_results`."""
        kinds = ("Precision-Recall", "F1-Confidence", "Precision-Confidence", "Recall-Confidence")
        return [f"{kind}({self.letter})" for kind in kinds]

    @property
    def curves_results(self) -> list[Curve]:
        """x, y of each class that has objects, name of x, name of y; all at IoU 0.5."""
        return [
            (RECALLS, self.averages.precision[self.ap_class_index, 0, 0], "Recall", "Precision"),
            (CONFIDENCES, self.f1_curve, "Confidence", "F1"),
            (CONFIDENCES, self.precision_curve, "Confidence", "Precision"),
            (CONFIDENCES, self.recall_curve, "Confidence", "Recall"),
        ]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SegmentMetrics:
    """The metrics of a validation.

    Attributes:
        box: Figures of boxes.
        seg: Figures of masks.
        names: Class number to class name.
        images: Images measured.
        images_per_class: int64 (classes), images that hold an object of the class.
        detections: Detections measured.
        crowds: Objects that were neither right nor wrong, being crowds.
        confusion_matrix: What was taken for what.
        matches: One row for each detection above the working score and each object missed.
        speed: Milliseconds an image for ``preprocess``, ``inference`` and ``postprocess``.
        fitness_of: What :attr:`fitness` is made of.
        settings: Settings the predictions were made with.
        save_dir: The run's folder, when there is one.
        files: What was written.
        problems: Images and labels that were left out, and tables that could not be written.
    """

    box: IouTypeMetrics
    seg: IouTypeMetrics
    names: Mapping[int, str]
    images: int
    images_per_class: NDArray[np.int64]
    detections: int
    crowds: int
    confusion_matrix: ConfusionMatrix
    matches: MatchTable
    speed: Mapping[str, float] = field(default_factory=dict)
    fitness_of: Literal["mask", "box", "both"] = "mask"
    settings: Mapping[str, Any] = field(default_factory=dict)
    save_dir: Path | None = None
    files: tuple[Path, ...] = ()
    problems: tuple[str, ...] = ()

    task: ClassVar[str] = "segment"

    def __repr__(self) -> str:
        counts = f"{counted(len(self.names), 'class')}, {counted(self.images, 'image')}"
        folder = "" if self.save_dir is None else f"; {self.save_dir}"
        return f"{type(self).__name__}({counts}; {_first_figures(self.box)}; {_first_figures(self.seg)}{folder})"

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some attributes changed."""
        return dataclasses.replace(self, **changes)

    @property
    def fitness(self) -> float:
        """The one number that models are ranked by: mask AP .50:.95 unless ``fitness=`` chose box or both (the sum).

        Where no object has a mask it is the box AP.
        """
        if self.fitness_of == "box" or math.isnan(self.seg.map):
            return self.box.map
        return self.seg.map if self.fitness_of == "mask" else self.seg.map + self.box.map

    @property
    def results_dict(self) -> dict[str, float]:
        """Every figure under one flat name: ``metrics/mAP50-95(M)``, ``coco/AP_small(B)``, ``fitness``."""
        figures: dict[str, float] = {}
        for kind in (self.box, self.seg):
            names = ("precision", "recall", "mAP50", "mAP50-95")
            values = dict(zip(names, kind.mean_results(), strict=True))
            figures |= {f"metrics/{name}({kind.letter})": value for name, value in values.items()}
        figures["fitness"] = self.fitness
        for kind in (self.box, self.seg):
            figures |= {f"coco/{name}({kind.letter})": value for name, value in kind.coco.items()}
        return figures

    @property
    def keys(self) -> list[str]:
        """The first names of :attr:`results_dict`: precision, recall, AP at 0.50 and AP of boxes and masks."""
        return [name for name in self.results_dict if name.startswith("metrics/")]

    @property
    def maps(self) -> NDArray[np.float64]:
        """(classes,): sum of box AP and mask AP of every class."""
        return self.box.maps + self.seg.maps

    @property
    def ap_class_index(self) -> NDArray[np.int64]:
        """int64 (K,): the classes that have objects; the order of ``p r f1`` and :meth:`class_result`."""
        return self.box.ap_class_index

    @property
    def p(self) -> NDArray[np.float64]:
        """(K,): precision of the masks of each class, as in :attr:`seg`; NaN where only boxes are known."""
        return self._of_masks(self.seg.p)

    @property
    def r(self) -> NDArray[np.float64]:
        """(K,): recall of the masks of each class, as in :attr:`seg`; NaN where only boxes are known."""
        return self._of_masks(self.seg.r)

    @property
    def f1(self) -> NDArray[np.float64]:
        """(K,): F1 of the masks of each class, as in :attr:`seg`; NaN where only boxes are known."""
        return self._of_masks(self.seg.f1)

    @property
    def nt_per_class(self) -> NDArray[np.int64]:
        """int64 (classes,): objects of each class that count."""
        return self.box.objects[:, 0]

    @property
    def nt_per_image(self) -> NDArray[np.int64]:
        """:attr:`images_per_class`, by its other name."""
        return self.images_per_class

    def _of_masks(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return values of the classes that have masks in the order of all classes that have objects."""
        every = np.full(len(self.ap_class_index), math.nan)
        every[np.searchsorted(self.ap_class_index, self.seg.ap_class_index)] = values
        return every

    @property
    def curves(self) -> list[str]:
        """Names of :attr:`curves_results`."""
        return [*self.box.curves, *self.seg.curves]

    @property
    def curves_results(self) -> list[Curve]:
        """Curves of boxes, then of masks."""
        return [*self.box.curves_results, *self.seg.curves_results]

    def mean_results(self) -> list[float]:
        """Return precision, recall, AP at 0.50 and AP of boxes, then of masks."""
        return [*self.box.mean_results(), *self.seg.mean_results()]

    def class_result(self, index: int) -> tuple[float, ...]:
        """Return the same of the ``index``-th class that has objects."""
        return tuple(self.summary_row(int(self.ap_class_index[index])))

    def summary_row(self, category: int) -> list[float]:
        """Return precision, recall, AP at 0.50 and AP of boxes, then of masks, of one class; NaN without objects."""
        values: list[float] = []
        for kind in (self.box, self.seg):
            place = np.flatnonzero(kind.ap_class_index == category)
            values += kind.class_result(int(place[0])) if place.size else [math.nan] * 4
        return values

    @property
    def protocol(self) -> str:
        """What the figures mean, in one line."""
        thresholds = f"{THRESHOLDS[0]:.2f}:{THRESHOLDS[1] - THRESHOLDS[0]:.2f}:{THRESHOLDS[-1]:.2f}"
        words = [
            f"COCO protocol: AP over IoU {thresholds}, 101 points of recall, at most {MAX_DETS[-1]} detections a class",
            "boxes and masks in pixels of the original images",
        ]
        if self.crowds:
            words.append(f"{self.crowds} crowds neither right nor wrong")
        if self.seg.ignored_objects:
            words.append(f"{self.seg.ignored_objects} objects without a mask left out of the mask figures")
        words.append(f"P and R at IoU 0.50 where the mean F1 is highest; fitness: {_FITNESS[self.fitness_of]}")
        if self.settings:
            words.append(", ".join(f"{name}={value}" for name, value in self.settings.items()))
        return "; ".join(words)

    def summary(self, *, decimals: int | None = 5) -> list[dict[str, Any]]:
        """Return one dictionary for each class that has objects; figures as they are where ``decimals`` is None."""
        rows = []
        for category in self.ap_class_index.tolist():
            row: dict[str, Any] = {
                "Class": self.names[category],
                "Images": int(self.images_per_class[category]),
                "Instances": int(self.box.objects[category, 0]),
            }
            columns = [f"{side}-{name}" for side in ("Box", "Mask") for name in ("P", "R", "mAP50", "mAP50-95")]
            figures = self.summary_row(category)
            if decimals is not None:
                figures = [round(value, decimals) for value in figures]
            row |= zip(columns, figures, strict=True)
            rows.append(row)
        return rows

    def to_dict(self, *, decimals: int = 5) -> dict[str, Any]:
        """Return everything as plain values, None where there was nothing to measure."""
        return {
            "results": {name: _plain(value, decimals) for name, value in self.results_dict.items()},
            "classes": [
                {name: _plain(value, decimals) if isinstance(value, float) else value for name, value in row.items()}
                for row in self.summary(decimals=decimals)
            ],
            "images": self.images,
            "instances": int(self.box.objects[:, 0].sum()),
            "speed": {name: round(value, 3) for name, value in self.speed.items()},
            "protocol": self.protocol,
            "files": [str(path) for path in self.files],
        }

    def to_json(self, *, decimals: int = 5, indent: int | None = 2) -> str:
        """Return :meth:`to_dict` as JSON."""
        return json.dumps(self.to_dict(decimals=decimals), indent=indent)

    def to_csv(self, *, decimals: int = 5) -> str:
        """Return :meth:`summary` as CSV, one row for each class."""
        rows = self.summary(decimals=decimals)
        return csv_text(list(rows[0]) if rows else [], rows)

    def to_df(self, *, decimals: int = 5) -> Any:
        """Return :meth:`summary` as a pandas ``DataFrame``, one row for each class.

        Raises:
            MissingPluginError: pandas is not installed.
        """
        return optional("pandas", what="to_df").DataFrame(self.summary(decimals=decimals))

    def to_table(self, *, verbose: bool = True) -> str:
        """Return the table for people: one row for all, one for each class, the protocol, the speed."""
        width = max([5, *(len(name) for name in self.names.values())]) + 2
        head = f"{'Class':>{width}}{'Images':>8}{'Objects':>9}"
        head += "".join(f"  {side + '(P':>8}{'R':>7}{'mAP50':>8}{'mAP50-95)':>11}" for side in ("Box", "Mask"))
        total = int(self.box.objects[:, 0].sum())
        lines = [head, _row("all", self.images, total, self.mean_results(), width)]
        if verbose and len(self.ap_class_index) > 1:
            lines += [
                _row(
                    self.names[category],
                    int(self.images_per_class[category]),
                    int(self.box.objects[category, 0]),
                    self.summary_row(category),
                    width,
                )
                for category in self.ap_class_index.tolist()
            ]
        lines += [_coco_row(kind) for kind in (self.box, self.seg)]
        lines.append(self.protocol)
        if self.speed:
            lines.append("ms an image: " + ", ".join(f"{name} {value:.1f}" for name, value in self.speed.items()))
        return "\n".join(lines)


_FITNESS = {"mask": "mask mAP50-95", "box": "box mAP50-95", "both": "box mAP50-95 + mask mAP50-95"}


def _row(name: str, images: int, objects: int, values: Sequence[float], width: int) -> str:
    line = f"{name:>{width}}{images:>8}{objects:>9}"
    for start in (0, 4):
        p, r, half, whole = values[start : start + 4]
        line += f"  {_number(p):>8}{_number(r):>7}{_number(half):>8}{_number(whole):>11}"
    return line


def _first_figures(kind: IouTypeMetrics) -> str:
    return f"{kind.name} mAP50-95 {_number(kind.map)}, mAP50 {_number(kind.map50)}"


def _coco_row(kind: IouTypeMetrics) -> str:
    return f"COCO {kind.name}: " + "  ".join(f"{name} {_number(value)}" for name, value in kind.coco.items())


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _plain(value: float, decimals: int) -> float | None:
    return None if math.isnan(value) else round(value, decimals)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def _score_curves(evidence: Evidence, category: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return precision and recall of a class at IoU 0.5 over :data:`CONFIDENCES`.

    Above the best score nothing is detected; precision, 0 / 0 there, is 0, so that finding nothing is never rewarded.
    """
    order = by_score(evidence, category)
    order = order[~bits(evidence.ignored[0, order])[0]]
    right = bits(evidence.hit[0, order])[0]
    hits = np.cumsum(right)
    if not right.size:
        return np.zeros(len(CONFIDENCES)), np.zeros(len(CONFIDENCES))
    precision, recall = hits / np.arange(1, right.size + 1), hits / evidence.objects[category, 0]
    falling = -evidence.score[order]
    return (
        np.interp(-CONFIDENCES, falling, precision, left=0.0),
        np.interp(-CONFIDENCES, falling, recall, left=0.0),
    )
