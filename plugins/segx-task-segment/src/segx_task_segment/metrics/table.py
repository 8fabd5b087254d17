"""Every detection above the working score and every object missed, one row each: where a figure comes from."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from segx.console import counted
from segx.errors import MissingPluginError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from segx_task_segment.metrics.picture import PictureMatches, PictureVerdict

Verdict = Literal["TP", "FP", "FN", "ignored"]
COLUMNS = ("image_id", "image", "kind", "verdict", "class", "score", "iou", "detection_id", "truth_id")


@dataclass(frozen=True, kw_only=True)
class MatchRow:
    """One detection, or one object missed.

    Attributes:
        image_id: The picture's id in its data set.
        image: The picture's file name.
        kind: ``"box"`` or ``"mask"``.
        verdict: TP: found its object (IoU 0.5). FP: found none. FN: an object nothing found. ignored: on a crowd.
        category: Class number.
        score: Score of the detection; None for FN.
        iou: Overlap with its object; for FP the largest with any object of its class; None for FN.
        detection_id: Its number in ``predictions.json``, from 1; None for FN.
        truth_id: The object's id in its data set; None for FP.
    """

    image_id: int | str
    image: str
    kind: Literal["box", "mask"]
    verdict: Verdict
    category: int
    score: float | None
    iou: float | None
    detection_id: int | None
    truth_id: int | None


class MatchTable:
    """The rows of all pictures."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self._names = names
        self._rows: list[MatchRow] = []

    def __repr__(self) -> str:
        return f"{type(self).__name__}({counted(len(self), 'row')})"

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[MatchRow]:
        return iter(self._rows)

    def add(self, verdict: PictureVerdict, score: float) -> None:
        """Take one picture; detections below ``score`` are left out, and objects found only by those are missed."""
        self._rows.extend(_rows(verdict, verdict.box, "box", score))
        self._rows.extend(_rows(verdict, verdict.seg, "mask", score))

    def counts(self, kind: Literal["box", "mask"]) -> dict[Verdict, int]:
        """Return how many rows there are of each verdict."""
        counted: dict[Verdict, int] = {"TP": 0, "FP": 0, "FN": 0, "ignored": 0}
        for row in self._rows:
            if row.kind == kind:
                counted[row.verdict] += 1
        return counted

    def to_csv(self) -> str:
        """Return the table as CSV text with a header; text that a spreadsheet would take for a formula gets a ``'``."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows([_as_text(value) for value in row] for row in self._values())
        return out.getvalue()

    def to_df(self) -> Any:
        """Return the table as a pandas ``DataFrame``.

        Raises:
            MissingPluginError: pandas is not installed.
        """
        try:
            import pandas as pd  # type: ignore[import-untyped,unused-ignore]
        except ImportError:
            raise MissingPluginError("to_df needs pandas, found none", hint="pip install pandas") from None
        return pd.DataFrame(list(self._values()), columns=list(COLUMNS))

    def _values(self) -> Iterator[Sequence[Any]]:
        for row in self._rows:
            yield (
                row.image_id,
                row.image,
                row.kind,
                row.verdict,
                self._names[row.category],
                "" if row.score is None else f"{row.score:.5f}",
                "" if row.iou is None else f"{row.iou:.4f}",
                "" if row.detection_id is None else row.detection_id,
                "" if row.truth_id is None else row.truth_id,
            )


def verdicts(matches: PictureMatches, confident: NDArray[np.int64]) -> list[Verdict]:
    """Return the verdict on each of some detections at IoU 0.5."""
    ignored, hit = matches.ignored[0, confident] & 1, matches.hit[0, confident] & 1
    words: tuple[Verdict, Verdict, Verdict] = ("FP", "TP", "ignored")
    return [words[2] if skip else words[int(right)] for skip, right in zip(ignored.tolist(), hit.tolist(), strict=True)]


def _rows(
    verdict: PictureVerdict, matches: PictureMatches, kind: Literal["box", "mask"], score: float
) -> Iterator[MatchRow]:
    found, truth, sample = verdict.found, verdict.truth, verdict.sample
    confident = np.flatnonzero(found.score >= score)
    partners = matches.partner[confident]
    for detection, partner, word in zip(
        confident.tolist(), partners.tolist(), verdicts(matches, confident), strict=True
    ):
        overlaps = matches.iou[detection]
        overlap = float(overlaps[partner]) if partner >= 0 else float(overlaps.max(initial=0.0))
        yield MatchRow(
            image_id=sample.id,
            image=sample.path.name,
            kind=kind,
            verdict=word,
            category=int(found.category[detection]),
            score=float(found.score[detection]),
            iou=overlap,
            detection_id=verdict.first_id + detection,
            truth_id=int(truth.id[partner]) if partner >= 0 else None,
        )
    for item in np.setdiff1d(np.flatnonzero(~matches.neutral), partners).tolist():
        yield MatchRow(
            image_id=sample.id,
            image=sample.path.name,
            kind=kind,
            verdict="FN",
            category=int(truth.category[item]),
            score=None,
            iou=None,
            detection_id=None,
            truth_id=int(truth.id[item]),
        )


def _as_text(value: Any) -> Any:
    """Return what spreadsheets show instead of running it: names of images and classes are other people's words."""
    formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    return f"'{value}" if formula else value
