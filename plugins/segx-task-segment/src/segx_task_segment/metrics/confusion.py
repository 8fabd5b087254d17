"""What was taken for what, at one working point."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segx.errors import MissingPluginError, optional
from segx.io.files import write_bytes
from segx.words import counted, csv_text
from segx_task_segment.charts import matrix_chart

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from segx_task_segment.metrics.coco import ImageMatches

logger = logging.getLogger(__name__)

BACKGROUND = "background"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ConfusionMatrix:
    """Counts of what was found as what, by masks.

    Right detections are those of the COCO matching at IoU 0.5. What is left over on both sides is then paired by
    overlap whatever its class; what still is left over is background. Crowds take no part.

    Attributes:
        matrix: int64 (classes + 1, classes + 1): row is what was found, column is the ground truth, last is background.
        names: Class number to class name.
        score: Score from which a detection counts.
        iou: Overlap from which two are a pair.
    """

    matrix: NDArray[np.int64]
    names: Mapping[int, str]
    score: float
    iou: float = 0.5

    def __repr__(self) -> str:
        return f"{type(self).__name__}({counted(len(self.names), 'class')}, score {self.score:g}, IoU {self.iou:g})"

    @classmethod
    def empty(cls, names: Mapping[int, str], *, score: float) -> ConfusionMatrix:
        """Return a matrix of nothing."""
        size = len(names) + 1
        return cls(matrix=np.zeros((size, size), np.int64), names=names, score=score)

    def add(self, matches: ImageMatches) -> None:
        """Count one image."""
        found, annotations, seg = matches.found, matches.annotations, matches.seg
        background = len(self.names)
        confident = np.flatnonzero((found.score >= self.score) & (seg.ignored[0] & 1 == 0))
        right = confident[seg.hit[0, confident] & 1 == 1]
        left = np.setdiff1d(confident, right)
        missed = np.setdiff1d(np.flatnonzero(~seg.ignored_objects), seg.partner[right])
        np.add.at(self.matrix, (found.category[right], annotations.category[seg.partner[right]]), 1)
        for detection, item in self._pairs(matches, left, missed):
            self.matrix[found.category[detection], annotations.category[item]] += 1
            left, missed = left[left != detection], missed[missed != item]
        np.add.at(self.matrix, (found.category[left], background), 1)
        np.add.at(self.matrix, (background, annotations.category[missed]), 1)

    def _pairs(
        self, matches: ImageMatches, left: NDArray[np.int64], missed: NDArray[np.int64]
    ) -> list[tuple[int, int]]:
        """Return pairs of wrong class, the largest overlap first, each side used once."""
        overlaps = matches.found.masks[left].iou(matches.annotations.masks[missed], least=self.iou)
        rows, columns = np.nonzero(overlaps >= self.iou)
        pairs: list[tuple[int, int]] = []
        used_left, used_missed = set(), set()
        for place in np.argsort(-overlaps[rows, columns], kind="stable").tolist():
            row, column = int(rows[place]), int(columns[place])
            if row not in used_left and column not in used_missed:
                used_left.add(row)
                used_missed.add(column)
                pairs.append((int(left[row]), int(missed[column])))
        return pairs

    @property
    def labels(self) -> list[str]:
        """Names of rows and columns."""
        return [*self.names.values(), BACKGROUND]

    @property
    def normalized(self) -> NDArray[np.float64]:
        """Each column divided by its sum: what became of the objects of each class."""
        return np.asarray(self.matrix / np.maximum(self.matrix.sum(axis=0, keepdims=True), 1))

    @property
    def present(self) -> NDArray[np.int64]:
        """The rows, also columns, of classes that occur, found or there; background last."""
        occurs = (self.matrix.sum(axis=0) + self.matrix.sum(axis=1)) > 0
        occurs[-1] = True
        return np.flatnonzero(occurs)

    def largest(self, count: int) -> list[tuple[str, str, int]]:
        """Return the most frequent confusions: what was there, what it was found as, how often; background aside."""
        wrong = self.matrix[:-1, :-1].copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:count]
        labels = self.labels
        found, there = np.unravel_index(order, wrong.shape)
        return [
            (labels[column], labels[row], int(wrong[row, column]))
            for row, column in zip(found.tolist(), there.tolist(), strict=True)
            if wrong[row, column]
        ]

    @property
    def nc(self) -> int:
        """The number of classes, background aside."""
        return len(self.names)

    def tp_fp(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return for each class how often it was found rightly, and how often wrongly."""
        right = self.matrix.diagonal()[:-1]
        return right, self.matrix.sum(axis=1)[:-1] - right

    def summary(self, normalize: bool = False, decimals: int = 5) -> list[dict[str, Any]]:  # noqa: FBT001, FBT002
        """Return one dictionary for each row: what was found, and how often of each ground truth.

        Args:
            normalize: Shares of each ground truth instead of counts.
            decimals: Digits after the point.
        """
        values = np.round(self.normalized, decimals) if normalize else self.matrix
        return [
            {"Predicted": found, **dict(zip(self.labels, row, strict=True))}
            for found, row in zip(self.labels, values.tolist(), strict=True)
        ]

    def to_json(self, normalize: bool = False, decimals: int = 5) -> str:  # noqa: FBT001, FBT002
        """Return :meth:`summary` as JSON."""
        return json.dumps(self.summary(normalize, decimals))

    def to_csv(self, normalize: bool = False, decimals: int = 5) -> str:  # noqa: FBT001, FBT002
        """Return :meth:`summary` as CSV."""
        return csv_text(["Predicted", *self.labels], self.summary(normalize, decimals))

    def print(self) -> None:
        """Log a line for each row."""
        for row in self.to_csv().splitlines():
            logger.info("%s", row)

    def plot(
        self,
        normalize: bool = True,  # noqa: FBT001, FBT002
        save_dir: str | Path = "",
        names: Any = (),  # noqa: ARG002 - it has them
    ) -> Path:
        """Write the matrix as ``confusion_matrix.png``, or ``confusion_matrix_normalized.png``, and return the path.

        Args:
            normalize: Shares of each ground truth instead of counts.
            save_dir: Folder to write into; default: the working folder.
            names: Changes nothing.

        Raises:
            MissingPluginError: matplotlib is not installed.
            DataError: The file cannot be written.
        """
        stem = "confusion_matrix_normalized" if normalize else "confusion_matrix"
        try:
            chart = matrix_chart(self, normalized=normalize)
        except ImportError as error:
            raise MissingPluginError("plot needs matplotlib, found none", hint="pip install matplotlib") from error
        return write_bytes(Path(save_dir) / f"{stem}.png", chart)

    def to_df(self) -> Any:
        """Return the matrix as a pandas ``DataFrame``: rows found, columns ground truth.

        Raises:
            MissingPluginError: pandas is not installed.
        """
        return optional("pandas", what="to_df").DataFrame(self.matrix, index=self.labels, columns=self.labels)
