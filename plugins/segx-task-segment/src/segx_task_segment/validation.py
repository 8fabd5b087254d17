"""One validation: measures each picture as it comes, and writes what was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx.files import write_text
from segx_task_segment.metrics import SegmentEvaluator
from segx_task_segment.predictions import PredictionsFile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from segx.interfaces import Measurement, Sample
    from segx.results import Results
    from segx_task_segment.metrics import SegmentMetrics


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
        self._predictions = None
        if self._folder is not None and options.save_json:
            self._predictions = PredictionsFile(self._folder / "predictions.json", measurement.category_ids)

    def update(self, sample: Sample, results: Results) -> None:
        """Take what was found in one picture."""
        verdict = self._evaluator.update(sample, results)
        if self._predictions is not None:
            self._predictions.add(verdict)

    def finish(self, *, speed: Mapping[str, float], problems: Sequence[str]) -> SegmentMetrics:
        """Return the figures, and write tables, charts and the report."""
        metrics = self._evaluator.finish(speed=speed).replace(
            settings=self._measurement.settings, save_dir=self._folder, problems=tuple(problems)
        )
        files: list[Path] = []
        if self._predictions is not None:
            files.append(self._predictions.close())
        if self._folder is not None:
            files.append(write_text(self._folder / "matches.csv", metrics.matches.to_csv()))
            metrics = metrics.replace(files=tuple(files))
            files.append(write_text(self._folder / "metrics.json", metrics.to_json()))
        return metrics.replace(files=tuple(files))
