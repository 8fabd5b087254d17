"""Check a data set for mistakes that spoil training without an error."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segx.console import progress
from segx.data.splits import ONLY, open_data
from segx.data.tally import Tally, tally
from segx.errors import DataError
from segx.io.images import check_whole, read_encoded
from segx.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from segx.data.splits import OpenSplit
    from segx.options.verbs import DataCheckOptions
    from segx.plugin.interfaces import Dataset
    from segx.plugin.registry import Registry
    from segx.structures.annotations import Sample

FINDINGS = {
    "corrupt": "images that cannot be read whole",
    "missing": "splits that are named and not there",
    "lacking": "splits that training needs and nothing names",
    "classes": "splits that number their classes otherwise",
    "names": "names that several classes have",
    "yaml": "entries of the YAML that mean nothing",
    "refused": "what train or val would refuse",
    "crowds": "crowds that leave a visible share of the objects out",
    "dropped": "rows and images that are left out",
    "mended": "rows that are kept, but not as they are written",
    "shared": "label files that several images share",
    "size": "images of another size than their ground truth is stated for",
    "duplicate": "images that are there twice in a split",
    "leaked": "images that are in several splits",
    "outside": "objects that reach out of their image",
    "tiny": "objects too small to learn from",
    "stray": "files of labels that belong to no image",
    "unused": "classes without an object in any split",
    "unlearned": "classes that are validated but not trained on",
    "empty": "splits without objects",
}
"""Kinds of findings, the gravest first."""

_SLACK = 1.0
"""Pixels that an object may reach out of its image, as tools round."""
_AT_ONCE = 64
"""Images read beside each other before their results are taken: the bound on memory."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One problem found.

    Attributes:
        kind: One of :data:`FINDINGS`.
        split: Where, or several.
        what: What and why, in one line.
    """

    kind: str
    split: str
    what: str


@dataclass(frozen=True, kw_only=True)
class DataReport:
    """The report of a data set check.

    Attributes:
        data: What the user named.
        splits: What each split holds.
        findings: What is wrong, the gravest kinds first.
    """

    data: str
    splits: Mapping[str, Tally]
    findings: Sequence[Finding]

    @property
    def counts(self) -> dict[str, int]:
        """How many findings there are of each kind."""
        found = Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in FINDINGS if found[kind]}

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "data": self.data,
            "splits": {name: split.to_dict() for name, split in self.splits.items()},
            "counts": self.counts,
            "findings": [dict(vars(finding)) for finding in self.findings],
        }

    def to_table(self, *, most: int = 20) -> str:
        """Return the report for people, with at most so many lines of each kind."""
        lines = []
        for name, split in self.splits.items():
            parts = [f"{counted(split.images, 'image')} ({split.empty} without objects)"]
            parts += [counted(split.objects, "object")]
            parts += [counted(split.crowds, "crowd")] if split.crowds else []
            parts += [f"{split.boxes_only} without a mask"] if split.boxes_only else []
            lines.append(f"{name}: {', '.join(parts)}; {split.fingerprint}")
            lines += [f"  {split.line()}"] if split.line() else []
        lines.extend(self._class_rows())
        for kind, count in self.counts.items():
            lines.append(f"{kind} ({count:,}): {FINDINGS[kind]}")
            reported = [finding for finding in self.findings if finding.kind == kind]
            lines.extend(f"  {finding.split}: {finding.what}" for finding in reported[:most])
            if count > most:
                lines.append(f"  ... and {count - most} more")
        if not self.findings:
            lines.append("nothing is wrong")
        if "train" not in self.splits and ONLY not in self.splits:
            lines.append("training also needs train: segx data split divides a split")
        return "\n".join(lines)

    def _class_rows(self) -> list[str]:
        names = list(dict.fromkeys(name for split in self.splits.values() for name in split.classes))
        width = max([5, *map(len, names)]) + 2
        head = f"{'class':<{width}}" + "".join(f"{split:>10}" for split in self.splits)
        rows = [
            f"{name:<{width}}" + "".join(f"{split.classes.get(name, 0):>10}" for split in self.splits.values())
            for name in names
            if any(split.classes.get(name) for split in self.splits.values())
        ]
        return [head, *rows] if rows else []


def check(options: DataCheckOptions, registry: Registry) -> DataReport:
    """Look through all splits of a data set; nothing is changed.

    Raises:
        UsageError: No data set is named.
        DataError: It is missing.
    """
    found = open_data(options, registry)
    opened = found.splits
    looking = _Looking(options)
    for split, error in found.missing.items():
        looking.find("missing", split, error.message)
    if "train" in opened and "val" not in {*opened, *found.missing}:
        looking.find("lacking", "val", "training measures itself on it: segx data split divides a split")
    for note in found.notes:
        looking.find("classes", "+".join(opened), note)
    total = sum(len(one.dataset) for one in opened.values())
    with progress(total, "check") as advance:
        for split, one in opened.items():
            looking.look_at_split(split, one)
            for _ in looking.look_at_images(split, one.dataset):
                advance(1)
    summaries = {split: tally(one.dataset) for split, one in opened.items()}
    looking.compare(summaries)
    looking.look_at_names({split: one.dataset.names for split, one in opened.items()})
    for entry in found.mistyped:
        looking.find("yaml", "+".join(opened), entry)
    order = list(FINDINGS)
    findings = sorted(looking.findings, key=lambda finding: order.index(finding.kind))
    return DataReport(data=options.data, splits=summaries, findings=findings)


@dataclass(kw_only=True)
class _Seen:
    """One image, read.

    Attributes:
        shape: (height, width), or None where it cannot be read.
        turned: Whether it is stored the other way round, so that it may be meant either way.
        reason: Why it cannot.
        digest: Hash of the file.
    """

    shape: tuple[int, int] | None
    reason: str
    digest: str
    turned: bool = False


class _Looking:
    """Collector of findings."""

    def __init__(self, options: DataCheckOptions) -> None:
        self.findings: list[Finding] = []
        self._options = options
        self._places: defaultdict[str, list[tuple[str, Path]]] = defaultdict(list)

    def find(self, kind: str, split: str, what: str) -> None:
        """Add a finding."""
        self.findings.append(Finding(kind=kind, split=split, what=what))

    def look_at_split(self, split: str, one: OpenSplit) -> None:
        """Look at what a split's reader has to say, and at the annotations of each image."""
        for problem in one.dataset.problems:
            self.find("dropped", split, problem)
        for kind, line in getattr(one.dataset, "notes", ()):
            self.find(kind if kind in FINDINGS else "mended", split, line)
        if (strays := getattr(one.reader, "strays", None)) is not None:
            for path in strays(one.source):
                self.find("stray", split, f"{path}: no image of this name")
        for sample in one.dataset:
            self.look_at_annotation(split, sample)

    def look_at_annotation(self, split: str, sample: Sample) -> None:
        """Look at the objects of an image."""
        height, width = sample.shape
        for annotation in sample.annotations:
            x, y, w, h = annotation.box
            name = f"{sample.path}: object {annotation.id}"
            over = max(-x, -y, x + w - width, y + h - height)
            if over > _SLACK:
                self.find("outside", split, f"{name} reaches {over:.1f} pixels out of the image")
            if min(w, h) < self._options.tiny:
                self.find("tiny", split, f"{name} is {w:.1f} x {h:.1f} pixels")

    def look_at_images(self, split: str, dataset: Dataset) -> Iterator[None]:
        """Read every image of a split, several beside each other."""
        paths, shapes = dataset.paths(), dataset.shapes().tolist()
        with ThreadPoolExecutor(thread_name_prefix="segx-check") as pool:
            for start in range(0, len(paths), _AT_ONCE):
                group = paths[start : start + _AT_ONCE]
                for path, shape, seen in zip(
                    group,
                    shapes[start:],
                    pool.map(lambda path: _see(path, whole=self._options.decode), group),
                    strict=False,
                ):
                    self._note(split, path, (shape[0], shape[1]), seen)
                    yield

    def _note(self, split: str, path: Path, shape: tuple[int, int], seen: _Seen) -> None:
        if seen.shape is None:
            self.find("corrupt", split, f"{path}: {seen.reason}")
        elif seen.shape != shape and not (seen.turned and seen.shape == shape[::-1]):
            stated, is_now = f"{shape[0]}x{shape[1]}", f"{seen.shape[0]}x{seen.shape[1]}"
            self.find("size", split, f"{path}: is {is_now}, ground truth is for {stated} (height x width)")
        if seen.digest:
            self._places[seen.digest].append((split, path))

    def look_at_names(self, names: Mapping[str, Mapping[int, str]]) -> None:
        """Look for names that several classes have; splits with the same are reported together."""
        found: defaultdict[str, list[str]] = defaultdict(list)
        for split, own in names.items():
            for name, count in Counter(own.values()).items():
                if count > 1:
                    numbers = ", ".join(str(number) for number, other in own.items() if other == name)
                    found[f"{name}: the name of the classes {numbers}"].append(split)
        for what, splits in found.items():
            self.find("names", "+".join(splits), what)

    def compare(self, splits: Mapping[str, Tally]) -> None:
        """Look at all splits together."""
        for places in self._places.values():
            by_split: defaultdict[str, list[Path]] = defaultdict(list)
            for split, path in places:
                by_split[split].append(path)
            for split, paths in by_split.items():
                if len(paths) > 1:
                    self.find("duplicate", split, " = ".join(map(str, paths)))
            if len(by_split) > 1:
                self.find("leaked", "+".join(by_split), " = ".join(str(paths[0]) for paths in by_split.values()))
        self._compare_classes(splits)

    def _compare_classes(self, splits: Mapping[str, Tally]) -> None:
        for split, summary in splits.items():
            if not summary.objects:
                self.find("empty", split, f"{counted(summary.images, 'image')}, no object")
            elif summary.objects == summary.crowds:
                self.find("refused", split, "all objects are crowds: there is none to learn or to measure")
            elif not summary.masked and split in {"train", ONLY}:
                self.find("refused", split, "no object has a mask: there are no masks to learn")
            if summary.visible_crowds:
                self.find("crowds", split, summary.visible_crowds)
        total: Counter[str] = Counter()
        for summary in splits.values():
            total.update(summary.classes)
        for name, count in total.items():
            if not count:
                self.find("unused", "+".join(splits), name)
            elif "train" in splits and not splits["train"].classes.get(name):
                self.find("unlearned", "train", f"{name}: {counted(count, 'object')} in the other splits")


def _see(path: Path, *, whole: bool) -> _Seen:
    """Read an image to its last pixel, or its header, and hash its file."""
    try:
        data, header = read_encoded(path)
    except DataError as error:
        return _Seen(shape=None, reason=error.message, digest="")
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    try:
        if whole:
            check_whole(data, header)
    except DataError as error:
        return _Seen(shape=None, reason=error.message, digest=digest)
    return _Seen(shape=header.shape, reason="", digest=digest, turned=header.orientation in {5, 6, 7, 8})
