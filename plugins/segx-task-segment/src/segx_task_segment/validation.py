"""One validation: measures each picture as it comes, and writes what was asked for."""

from __future__ import annotations

import importlib.util
import logging
from typing import TYPE_CHECKING

from segx.files import write_bytes, write_text
from segx_task_segment.charts import draw_charts
from segx_task_segment.metrics import SegmentEvaluator
from segx_task_segment.panels import Panels
from segx_task_segment.predictions import PredictionsFile
from segx_task_segment.report import write_report

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from segx.interfaces import Measurement, Sample
    from segx.results import Results
    from segx_task_segment.metrics import SegmentMetrics

logger = logging.getLogger(__name__)


class Validation:
    """Measures what was found against the truth.

    Args:
        measurement: What is measured, and where what is written goes.
    """

    def __init__(self, measurement: Measurement) -> None:
        options = measurement.options
        self._measurement = measurement
        self._folder = measurement.folder
        self._evaluator = SegmentEvaluator(
            measurement.names,
            classes=options.classes,
            single_cls=options.single_cls,
            compat=options.compat,
            fitness=options.fitness,
        )
        self._predictions: PredictionsFile | None = None
        self._panels: Panels | None = None
        if self._folder is not None and options.plots:
            self._panels = Panels(self._evaluator.working_score)
        if self._folder is not None and options.save_json:
            self._predictions = PredictionsFile(self._folder / "predictions.json", measurement.category_ids)

    def update(self, sample: Sample, results: Results) -> None:
        """Take what was found in one picture."""
        verdict = self._evaluator.update(sample, results)
        if self._predictions is not None:
            self._predictions.add(verdict)
        if self._panels is not None:
            self._panels.add(verdict)

    def finish(self, *, speed: Mapping[str, float], problems: Sequence[str]) -> SegmentMetrics:
        """Return the figures, and write tables, charts and the report."""
        metrics = self._evaluator.finish(speed=speed).replace(
            settings=self._measurement.settings, save_dir=self._folder, problems=tuple(problems)
        )
        if self._folder is None:
            return metrics
        files = self._write(self._folder, metrics)
        metrics = metrics.replace(files=tuple(files))
        write_text(self._folder / "metrics.json", metrics.to_json())
        return metrics

    def close(self) -> None:
        """Leave no half of a file behind."""
        if self._predictions is not None:
            self._predictions.discard()

    def _write(self, folder: Path, metrics: SegmentMetrics) -> list[Path]:
        """Write everything and return the files, the report first."""
        files = [folder / "metrics.json", write_text(folder / "matches.csv", metrics.matches.to_csv())]
        if self._predictions is not None:
            files.append(self._predictions.close())
        if self._panels is None:
            return files
        charts, sheets = self._charts(metrics), self._panels.sheets()
        drawn = dict(charts)
        for number, (truth, found) in enumerate(sheets):
            drawn |= {f"val_batch{number}_labels.jpg": truth, f"val_batch{number}_pred.jpg": found}
        files += [write_bytes(folder / name, data) for name, data in drawn.items()]
        report = write_report(metrics, charts=charts, worst=self._panels.worst(), sheets=sheets)
        return [write_text(folder / "report.html", report), *files]

    def _charts(self, metrics: SegmentMetrics) -> Mapping[str, bytes]:
        if importlib.util.find_spec("matplotlib") is None:
            logger.warning('curves are not drawn, they need matplotlib: pip install "segx-task-segment[charts]"')
            return {}
        return draw_charts(metrics)
