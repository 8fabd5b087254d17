"""One validation: measures each image as it comes, and writes what was asked for."""

from __future__ import annotations

import importlib.util
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from segx.errors import DataError
from segx.io.files import write_bytes, write_text
from segx_task_segment.charts import draw_charts
from segx_task_segment.metrics import SegmentEvaluator
from segx_task_segment.panels import Panels
from segx_task_segment.predictions import PredictionsFile
from segx_task_segment.report import write_report

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from segx.plugin.jobs import EvalSpec
    from segx.structures.annotations import Sample
    from segx_task_segment.metrics import SegmentMetrics

logger = logging.getLogger(__name__)

_REPORT = "report.html"


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
        verdict = self._evaluator.update(sample, results)
        if self._predictions is not None:
            try:
                self._predictions.add(verdict)
            except DataError as error:
                self._written.failed.append(error.message)
                self._predictions.discard()
                self._predictions = None
        if self._panels is not None:
            self._panels.add(verdict)

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
