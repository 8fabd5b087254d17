"""Match table: one row for each detection above the working score and each missed object."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from segx.errors import optional
from segx.io.files import plain_cell
from segx.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from segx_task_segment.metrics.coco import ImageMatches, IouMatches

Outcome = Literal["TP", "FP", "FN", "ignored"]
COLUMNS = ("image_id", "image", "iou_type", "outcome", "class", "score", "iou", "detection_id", "annotation_id")


@dataclass(frozen=True, kw_only=True)
class Match:
    """One detection, or one object missed.

    Attributes:
        image_id: The image's id in its data set.
        image: The image's file name.
        iou_type: ``"box"`` or ``"mask"``.
        outcome: TP: found its object (IoU 0.5). FP: found none. FN: an object nothing found. ignored: on a crowd.
        category: Class number.
        score: Score of the detection; None for FN.
        iou: Overlap with its object; for FP the largest with any object of its class; None for FN.
        detection_id: Its number in ``predictions.json``, from 1; None for FN.
        annotation_id: The object's id in its data set; None for FP.
    """

    image_id: int | str
    image: str
    iou_type: Literal["box", "mask"]
    outcome: Outcome
    category: int
    score: float | None
    iou: float | None
    detection_id: int | None
    annotation_id: int | None


class MatchTable:
    """The rows of all images."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = names
        self._rows: list[Match] = []

    def __repr__(self) -> str:
        return f"{type(self).__name__}({counted(len(self), 'row')})"

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Match]:
        return iter(self._rows)

    def add(self, matches: ImageMatches, score: float) -> None:
        """Take one image; detections below ``score`` are left out, and objects found only by those are missed."""
        self._rows.extend(_rows(matches, matches.box, "box", score))
        self._rows.extend(_rows(matches, matches.seg, "mask", score))

    def counts(self, iou_type: Literal["box", "mask"]) -> dict[Outcome, int]:
        """Return how many rows there are of each verdict."""
        counted: dict[Outcome, int] = {"TP": 0, "FP": 0, "FN": 0, "ignored": 0}
        for row in self._rows:
            if row.iou_type == iou_type:
                counted[row.outcome] += 1
        return counted

    def to_csv(self) -> str:
        """Return the table as CSV text with a header; text that a spreadsheet would take for a formula gets a ``'``."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([plain_cell(value) for value in row] for row in self._values())
        return out.getvalue()

    def to_df(self) -> Any:
        """Return the table as a pandas ``DataFrame``.

        Raises:
            MissingPluginError: pandas is not installed.
        """
        return optional("pandas", what="to_df").DataFrame(list(self._values()), columns=list(COLUMNS))

    def _values(self) -> Iterator[Sequence[Any]]:
        for row in self._rows:
            yield (
                row.image_id,
                row.image,
                row.iou_type,
                row.outcome,
                self._names[row.category],
                "" if row.score is None else f"{row.score:.5f}",
                "" if row.iou is None else f"{row.iou:.4f}",
                "" if row.detection_id is None else row.detection_id,
                "" if row.annotation_id is None else row.annotation_id,
            )


def outcomes(matches: IouMatches, confident: NDArray[np.int64]) -> list[Outcome]:
    """Return the verdict on each of some detections at IoU 0.5."""
    ignored, hit = matches.ignored[0, confident] & 1, matches.hit[0, confident] & 1
    words: tuple[Outcome, Outcome, Outcome] = ("FP", "TP", "ignored")
    return [words[2] if skip else words[int(right)] for skip, right in zip(ignored.tolist(), hit.tolist(), strict=True)]


def _rows(result: ImageMatches, matches: IouMatches, iou_type: Literal["box", "mask"], score: float) -> Iterator[Match]:
    found, annotations, sample = result.found, result.annotations, result.sample
    confident = np.flatnonzero(found.score >= score)
    partners = matches.partner[confident]
    for detection, partner, word in zip(
        confident.tolist(), partners.tolist(), outcomes(matches, confident), strict=True
    ):
        overlaps = matches.iou[detection]
        overlap = float(overlaps[partner]) if partner >= 0 else float(overlaps.max(initial=0.0))
        yield Match(
            image_id=sample.id,
            image=sample.path.name,
            iou_type=iou_type,
            outcome=word,
            category=int(found.category[detection]),
            score=float(found.score[detection]),
            iou=overlap,
            detection_id=result.first_id + detection,
            annotation_id=int(annotations.id[partner]) if partner >= 0 else None,
        )
    for item in np.setdiff1d(np.flatnonzero(~matches.ignored_objects), partners).tolist():
        yield Match(
            image_id=sample.id,
            image=sample.path.name,
            iou_type=iou_type,
            outcome="FN",
            category=int(annotations.category[item]),
            score=None,
            iou=None,
            detection_id=None,
            annotation_id=int(annotations.id[item]),
        )
