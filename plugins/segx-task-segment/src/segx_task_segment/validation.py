"""One validation by the COCO protocol: image by image as they come, masks are not kept; then files and figures."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from segx.errors import DataError
from segx.io.files import write_bytes, write_text
from segx_task_segment.charts import draw_charts
from segx_task_segment.metrics.coco import AREAS, Evidence, ImageMatches, annotations_of, found_in, match_image
from segx_task_segment.metrics.confusion import ConfusionMatrix
from segx_task_segment.metrics.metrics import IouTypeMetrics, SegmentMetrics
from segx_task_segment.metrics.table import MatchTable
from segx_task_segment.panels import Panels
from segx_task_segment.predictions import PredictionsFile
from segx_task_segment.report import write_report

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from segx.plugin.jobs import EvalSpec
    from segx.structures.annotations import Sample
    from segx_task_segment.metrics.coco import AnnotationArrays, IouMatches
    from segx_task_segment.results import SegmentResults

logger = logging.getLogger(__name__)

_REPORT = "report.html"

Fitness = Literal["mask", "box", "both"]

WORKING_SCORE = 0.25
"""Score from which a detection counts in the confusion matrix, the match table and the ranking of images."""


@dataclass(kw_only=True, eq=False)
class _IouType:
    """What is gathered of one kind: boxes or masks."""

    name: str
    letter: str
    classes: int
    objects: NDArray[np.int64] = field(init=False)
    ignored_objects: int = 0
    hit: list[NDArray[np.uint16]] = field(default_factory=list)
    ignored: list[NDArray[np.uint16]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.objects = np.zeros((self.classes, len(AREAS)), np.int64)

    def add(self, matches: IouMatches, annotations: AnnotationArrays) -> None:
        """Add the matches of one image."""
        self.hit.append(matches.hit)
        self.ignored.append(matches.ignored)
        self.ignored_objects += int((matches.ignored_objects & ~annotations.crowd).sum())
        counted = np.flatnonzero(~matches.ignored_objects)
        for area, (low, high) in enumerate(AREAS.values()):
            inside = counted[(annotations.area[counted] >= low) & (annotations.area[counted] <= high)]
            np.add.at(self.objects[:, area], annotations.category[inside], 1)


class SegmentEvaluator:
    """Measures boxes and masks by the COCO protocol.

    Args:
        names: Class number to class name of the data set.
        classes: Measure only these class numbers.
        single_cls: Treat all classes as one.
        fitness: What :attr:`SegmentMetrics.fitness` is: the mask AP, the box AP, or their sum.
        working_score: Score from which a detection counts in the confusion matrix and the match table.
    """

    def __init__(
        self,
        names: Mapping[int, str],
        *,
        classes: Sequence[int] | None = None,
        single_cls: bool = False,
        fitness: Fitness = "mask",
        working_score: float = WORKING_SCORE,
    ) -> None:
        self.names = {0: "object"} if single_cls else dict(names)
        self._data_names = dict(names)
        self._classes, self._single, self._fitness = classes, single_cls, fitness
        self.working_score = working_score
        self.box = _IouType(name="box", letter="B", classes=len(self.names))
        self.seg = _IouType(name="mask", letter="M", classes=len(self.names))
        self.confusion = ConfusionMatrix.empty(self.names, score=working_score)
        self.table = MatchTable(self.names)
        self._images: list[tuple[int, int | str]] = []
        self._per_class = np.zeros(len(self.names), np.int64)
        self._category: list[NDArray[np.int64]] = []
        self._score: list[NDArray[np.float64]] = []
        self._rank: list[NDArray[np.int64]] = []
        self._count = self._crowds = 0

    def update(self, sample: Sample, results: SegmentResults) -> ImageMatches:
        """Add the results of one image.

        Returns:
            What became of it, for whoever writes or draws it.

        Raises:
            UsageError: The masks are not at the image's resolution.
        """
        found = found_in(results, self._data_names, classes=self._classes, single=self._single)
        annotations = annotations_of(sample, classes=self._classes, single=self._single)
        box = match_image(found, annotations, "box")
        seg = match_image(found, annotations, "mask", seen_from=self.working_score)
        self.box.add(box, annotations)
        self.seg.add(seg, annotations)
        self._crowds += int(annotations.crowd.sum())
        self._per_class[np.unique(annotations.category[~annotations.crowd])] += 1
        self._images.append((len(found), sample.id))
        self._category.append(found.category)
        self._score.append(found.score)
        self._rank.append(found.rank)
        matches = ImageMatches(
            sample=sample, found=found, annotations=annotations, box=box, seg=seg, first_id=self._count + 1
        )
        self._count += len(found)
        self.confusion.add(matches)
        self.table.add(matches, self.working_score)
        return matches

    def finish(self, *, speed: Mapping[str, float] | None = None) -> SegmentMetrics:
        """Return the figures of all images taken so far."""
        order = self._order()
        iou_types = {iou_type.name: self._figures(iou_type, order) for iou_type in (self.box, self.seg)}
        return SegmentMetrics(
            box=iou_types["box"],
            seg=iou_types["mask"],
            names=self.names,
            images=len(self._images),
            images_per_class=self._per_class.copy(),
            detections=self._count,
            crowds=self._crowds,
            confusion_matrix=self.confusion,
            matches=self.table,
            speed=dict(speed or {}),
            fitness_of=self._fitness,
        )

    def _order(self) -> NDArray[np.int64]:
        """Return all detections, images by id as COCO takes them, whatever order they came in."""
        ids = [number for _, number in self._images]
        by_id = sorted(range(len(ids)), key=lambda i: (isinstance(ids[i], str), ids[i]))
        sizes = np.array([size for size, _ in self._images], np.int64)
        starts = np.cumsum(sizes) - sizes
        pieces = [np.arange(starts[i], starts[i] + sizes[i]) for i in by_id]
        return np.concatenate(pieces) if pieces else np.zeros(0, np.int64)

    def _figures(self, iou_type: _IouType, order: NDArray[np.int64]) -> IouTypeMetrics:
        def gathered(parts: list[NDArray[np.uint16]]) -> NDArray[np.uint16]:
            return np.concatenate(parts, axis=-1)[..., order] if parts else np.zeros((len(AREAS), 0), np.uint16)

        category = np.concatenate([*self._category, np.zeros(0, np.int64)])[order].astype(np.int32)
        score = np.concatenate([*self._score, np.zeros(0)])[order]
        evidence = Evidence(
            category=category,
            score=score,
            rank=np.concatenate([*self._rank, np.zeros(0, np.int64)])[order].astype(np.int32),
            hit=gathered(iou_type.hit),
            ignored=gathered(iou_type.ignored),
            objects=iou_type.objects,
        )
        return IouTypeMetrics.of(
            evidence,
            names=self.names,
            name=iou_type.name,
            letter=iou_type.letter,
            ignored_objects=iou_type.ignored_objects,
        )


class SegmentValidation:
    """Measures what was found against the ground truth.

    Args:
        spec: Request of an evaluation: classes, options and output folder.
    """

    def __init__(self, spec: EvalSpec) -> None:
        options = spec.options
        self._spec = spec
        self._folder = spec.folder
        self._evaluator = SegmentEvaluator(
            spec.names,
            classes=cast("tuple[int, ...] | None", options.classes),  # names are numbers by now
            single_cls=options.single_cls,
            fitness=options.fitness,
        )
        self._predictions: PredictionsFile | None = None
        self._panels: Panels | None = None
        if self._folder is not None and options.plots:
            self._panels = Panels(self._evaluator.working_score)
        self._written = _Written()
        if self._folder is not None and options.save_json:
            self._predictions = PredictionsFile(self._folder / "predictions.json", spec.category_ids, spec.file_names)

    def update(self, sample: Sample, results: Any) -> None:
        """Add the results of one image."""
        matches = self._evaluator.update(sample, results)
        if self._predictions is not None:
            try:
                self._predictions.add(matches)
            except DataError as error:
                self._written.failed.append(error.message)
                self._predictions.discard()
                self._predictions = None
        if self._panels is not None:
            self._panels.add(matches)

    def finish(self, *, speed: Mapping[str, float], problems: Sequence[str]) -> SegmentMetrics:
        """Return the figures, and write tables, charts and the report.

        What cannot be written, on a full disk for instance, is logged in one line and costs no figure.
        """
        metrics = self._evaluator.finish(speed=speed).replace(
            settings=self._spec.settings, save_dir=self._folder, problems=tuple(problems)
        )
        return metrics if self._folder is None else self._write(self._folder, metrics)

    def close(self) -> None:
        """Leave no half of a file behind."""
        if self._predictions is not None:
            self._predictions.discard()

    def _write(self, folder: Path, metrics: SegmentMetrics) -> SegmentMetrics:
        """Write everything, the figures first; return the metrics with what was written, the report first.

        A table that could not be written is one of the problems; an image is not.
        """
        written, figures = self._written, folder / "metrics.json"
        whole = written.attempt(lambda: write_text(figures, metrics.to_json()))
        written.attempt(lambda: write_text(folder / "matches.csv", metrics.matches.to_csv()))
        if self._predictions is not None:
            written.attempt(self._predictions.close)
        metrics = metrics.replace(problems=(*metrics.problems, *written.failed))
        if self._panels is not None:
            self._draw(folder, metrics, self._panels)
        metrics = metrics.replace(files=tuple(sorted(written.files, key=lambda path: path.name != _REPORT)))
        if whole:
            written.attempt(lambda: write_text(figures, metrics.to_json()), again=True)  # it names all files
        written.log_problems()
        return metrics

    def _draw(self, folder: Path, metrics: SegmentMetrics, panels: Panels) -> None:
        """Write images and the report."""
        charts, sheets = self._charts(metrics), panels.sheets()
        drawn = dict(charts)
        for number, (annotation, found) in enumerate(sheets):
            drawn |= {f"val_batch{number}_labels.jpg": annotation, f"val_batch{number}_pred.jpg": found}
        for name, data in drawn.items():
            self._written.attempt(partial(write_bytes, folder / name, data))
        if _is_there("jinja2", "the report is not written, it needs"):
            report = write_report(metrics, charts=charts, worst=panels.worst(), sheets=sheets)
            self._written.attempt(lambda: write_text(folder / _REPORT, report))

    def _charts(self, metrics: SegmentMetrics) -> Mapping[str, bytes]:
        return draw_charts(metrics) if _is_there("matplotlib", "curves are not drawn, they need") else {}


def _is_there(library: str, otherwise: str) -> bool:
    """Say whether a library is installed; what is missing without it is logged."""
    if importlib.util.find_spec(library) is not None:
        return True
    logger.warning('%s %s: pip install "segx-task-segment[charts]"', otherwise, library)
    return False


class _Written:
    """The files of one validation: each that cannot be written is noted, and the next one tried."""

    def __init__(self) -> None:
        self.files: list[Path] = []
        self.failed: list[str] = []

    def attempt(self, write: Callable[[], Path], *, again: bool = False) -> bool:
        """Write a file and say whether it is there; ``again``: it was before."""
        try:
            path = write()
        except DataError as error:
            self.failed.append(error.message)
            return False
        if not again:
            self.files.append(path)
        return True

    def log_problems(self) -> None:
        """Report all that is missing in one line."""
        if self.failed:
            more = f", nor can {len(self.failed) - 1} other files" if len(self.failed) > 1 else ""
            logger.warning("%s%s; no figure is lost", self.failed[0], more)
