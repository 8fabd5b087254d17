"""What core hands a writer of a data set format: where to write, what may be lost, and masks of what is written."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from segx.errors import DataError
from segx.io.files import copy_new
from segx.records import Record

if TYPE_CHECKING:
    from pathlib import Path


CLOSE = 0.95
"""IoU with the original below which a joined outline is reported by name."""

LOSSES = {
    "unread": ("line", "of the original left out: segx data check tells why"),
    "crowds": ("crowd", "left out: the format has none"),
    "joined": ("object", "of several parts or with holes written as one outline with cuts"),
    "traced": ("bitmap", "(RLE) traced to outlines"),
    "lost": ("object", "left out: nothing of the mask is left as an outline"),
    "missing": ("object", "not there when what is written was read back"),
    "changed": ("outline", f"whose mask overlaps the original less than {CLOSE:g}"),
    "boxes": ("object", "without a mask written without one"),
}
"""What is counted, and what became of it."""


@dataclass(kw_only=True)
class Losses:
    """Counts of what a format cannot hold, by :data:`LOSSES`, and the objects that are listed by name."""

    counts: Counter[str] = field(default_factory=Counter)
    worst: float = 1.0
    named: list[str] = field(default_factory=list)

    def compare(self, overlap: float, what: str) -> None:
        """Take the IoU of an object with its original."""
        self.worst = min(self.worst, overlap)
        if overlap < CLOSE:
            self.counts["changed"] += 1
            self.named.append(f"{what} overlaps its original {overlap:.3f}")


class WriteJob(Record):
    """Request to write one split of a data set.

    Attributes:
        folder: The data set's new folder, the same for all splits.
        split: The name of the split.
        link: Images are linked to where links can be made; else they are copied.
        losses: What the format cannot hold is counted here.
    """

    folder: Path
    split: str
    link: bool
    losses: Losses


def place_image(source: Path, target: Path, *, link: bool) -> None:
    """Link to an image, or copy it, to where nothing is yet; where links cannot be made it is copied.

    Raises:
        DataError: It cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if link:
            try:
                target.symlink_to(source.absolute())
            except FileExistsError:
                raise
            except (OSError, NotImplementedError):
                pass
            else:
                return
        copy_new(source, target)
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error.strerror or error}") from error
