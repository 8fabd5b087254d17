"""Writes a data set in another format, and says what that cannot hold; the original stays as it is."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from segx.console import progress
from segx.data.splits import ONLY, open_data, open_splits
from segx.data.tally import notify
from segx.errors import DataError, UsageError
from segx.io.files import new_folder, write_text
from segx.io.names import safe
from segx.io.paths import expanded
from segx.plugin.writing import LOSSES, Losses, WriteJob
from segx.structures.annotations import masks_of
from segx.words import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from segx.options.verbs import DataConvertOptions
    from segx.plugin.interfaces import Dataset, DatasetWriter
    from segx.plugin.registry import Registry
    from segx.structures.annotations import Annotation

logger = logging.getLogger(__name__)

_SAME = 1e-2
"""Pixels that corners may move by rounding: the mask is the same then."""


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """The result of a conversion.

    Attributes:
        yaml: The YAML that names the new one.
        images: Images of each split.
        objects: Objects of each split.
        losses: What the format could not hold as it was, by :data:`LOSSES`.
        worst: Smallest IoU of a mask with its original; 1 where nothing had to be redrawn.
        named: Objects that changed, by name.
    """

    yaml: Path
    images: Mapping[str, int]
    objects: Mapping[str, int]
    losses: Mapping[str, int]
    worst: float
    named: Sequence[str]

    def to_table(self) -> str:
        """Return it for people."""
        lines = [
            f"{split}: {counted(count, 'image')}, {counted(self.objects[split], 'object')}"
            for split, count in self.images.items()
        ]
        lines += [f"{counted(count, LOSSES[kind][0])} {LOSSES[kind][1]}" for kind, count in self.losses.items()]
        if self.worst < 1:
            lines.append(f"smallest overlap of a redrawn mask with its original: {self.worst:.3f}")
        lines += [f"  {line}" for line in self.named[:20]]
        if not self.losses:
            lines.append("nothing is lost: what is written was read back and compared")
        return "\n".join([*lines, str(self.yaml)])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {**vars(self), "yaml": str(self.yaml), "named": list(self.named)}


Written = list[tuple[Path, list[int]]]
"""For each image of a split its new file, and which of its objects were written."""


def convert(options: DataConvertOptions, registry: Registry) -> Conversion:
    """Write all splits of a data set in another format.

    Raises:
        UsageError: No data set or no folder is named.
        DataError: The data set is missing, or the folder is not empty.
    """
    writer = writer_of(options.to, registry) if options.to else None  # a wrong name is refused before anything is read
    found = open_data(options, registry)
    writer = writer or writer_of(
        other_format([entry for one in found.splits.values() for entry in one.source.entries], registry), registry
    )
    for line in (*found.notes, *(f"{error.message}: it is left out" for error in found.missing.values())):
        logger.warning("%s", line)
    opened = {_split_name(split): one.dataset for split, one in found.splits.items()}
    losses = Losses()
    written: dict[str, Written] = {split: [] for split in opened}
    total = 2 * sum(map(len, opened.values()))
    with new_folder(options.output) as folder, progress(total, "convert") as advance:
        for split, dataset in opened.items():
            notify(split, dataset)
            losses.counts["unread"] += len(dataset.problems)
            job = WriteJob(folder=folder, split=split, link=options.image_files == "link", losses=losses)
            for entry in writer.write(dataset, job):
                written[split].append(entry)
                advance(1)
        names = next(iter(opened.values())).names
        places = {split: writer.place(split) for split in opened}
        path = write_yaml(folder / yaml_name(options.output), places, names)
        again = open_splits(path, registry=registry).splits
        for split, dataset in opened.items():
            for _ in _read_back(dataset, again[split].dataset, written[split], losses):
                advance(1)
    return Conversion(
        yaml=expanded(options.output) / yaml_name(options.output),
        images={split: len(dataset) for split, dataset in opened.items()},
        objects={split: sum(len(kept) for _, kept in entries) for split, entries in written.items()},
        losses={kind: losses.counts[kind] for kind in LOSSES if losses.counts[kind]},
        worst=losses.worst,
        named=losses.named,
    )


def writer_of(name: str, registry: Registry) -> DatasetWriter:
    """Return what writes a format.

    Raises:
        UsageError: The format is not known, or nothing writes it.
    """
    spec = registry.dataset_formats.get(name)
    if spec.write is None:
        raise UsageError(f"to={name}: {spec.provider} does not write it", hint=_choice(_written(registry)))
    registry.require(spec)
    return spec.write()


def other_format(entries: Iterable[Path], registry: Registry) -> str:
    """Return the one format that can be written and that the data are not of.

    Raises:
        UsageError: There is not just one.
    """
    own = {registry.dataset_format_for(entry).name for entry in entries}
    others = [name for name in _written(registry) if registry.dataset_formats[name].name not in own]
    if len(others) != 1:
        raise UsageError("to= names the format to write", hint=_choice(_written(registry)))
    return others[0]


def _written(registry: Registry) -> list[str]:
    return [name for name, spec in registry.dataset_formats.items() if spec.write is not None]


def _choice(names: Iterable[str]) -> str:
    return " or ".join(f"to={name}" for name in names) or "no installed format is written"


def yaml_name(folder: Path) -> str:
    """Return what the YAML in a folder of a data set is called: like the folder."""
    name = Path(os.path.abspath(expanded(folder))).name  # noqa: PTH100 - links are not resolved
    return f"{safe(name, otherwise='data')}.yaml"


def write_yaml(path: Path, places: Mapping[str, str], names: Mapping[int, str]) -> Path:
    """Write a data set YAML."""
    content: dict[str, Any] = {"path": ".", **places, "names": dict(names)}
    return write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _split_name(split: str) -> str:
    return "train" if split == ONLY else split


def _read_back(before: Dataset, after: Dataset, written: Written, losses: Losses) -> Iterator[None]:
    """Compare what is read of the new files with the original, object by object; yields once for each image."""
    places = {os.path.normpath(path): index for index, path in enumerate(after.paths())}
    for sample, (path, kept) in zip(before, written, strict=True):
        ours = [sample.annotations[index] for index in kept]
        place = places.get(os.path.normpath(path))
        found = None if place is None else after[place]
        theirs = list(found.annotations) if found is not None and found.shape == sample.shape else []
        named = [before.names[annotation.category] for annotation in ours]
        if named != [after.names[annotation.category] for annotation in theirs]:
            losses.counts["missing"] += max(len(ours) - len(theirs), 1)
            losses.named.append(f"{path.name}: {counted(len(ours), 'object')} written, {len(theirs)} read back")
        else:
            for one, other in zip(ours, theirs, strict=True):
                if one.has_mask and not _same_outline(one, other):
                    first, second = masks_of([one, other], sample.shape)
                    overlap = float(first.iou(second)[0, 0])
                    losses.compare(overlap, f"{sample.path.name}: object {one.id}")
        yield


def _same_outline(one: Annotation, other: Annotation) -> bool:
    """Say quickly whether two objects have the same corners, or the same bits."""
    if one.rle is not None or other.rle is not None:
        return one.rle == other.rle
    return len(one.polygons) == len(other.polygons) and all(
        len(ring) == len(again) and bool((abs(ring - again) <= _SAME).all())
        for ring, again in zip(one.polygons, other.polygons, strict=True)
    )


def relative(path: Path, folder: Path) -> str:
    """Return how a file is named from a folder: as it is reached, for labels are found by that name.

    From a folder that is reached by a link, ``..`` leads elsewhere than it reads: such names stay absolute.

    Raises:
        DataError: Its name is no text.
    """
    if str(path) != str(path).encode(errors="replace").decode():
        raise DataError(f"{str(path)!a}: the name is not UTF-8, no list can hold it", hint="rename it")
    name, here = os.path.abspath(path), os.path.abspath(folder)  # noqa: PTH100 - links are not resolved
    if not os.path.exists(name):  # noqa: PTH110 - ".." after a link, where it leads
        return str(path.absolute()).replace(os.sep, "/")
    if os.path.realpath(here) != here:
        return name.replace(os.sep, "/")
    return os.path.relpath(name, here).replace(os.sep, "/")
