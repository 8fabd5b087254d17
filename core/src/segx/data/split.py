"""Divides one split into several, without copying images and without an image ending up on both sides."""

from __future__ import annotations

import hashlib
import random
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segx.data.convert import relative, write_yaml, yaml_name
from segx.data.splits import open_data
from segx.data.tally import tally
from segx.errors import DataError, UsageError
from segx.io.files import new_folder, write_text
from segx.io.paths import expanded
from segx.plugin.interfaces import PartWriter
from segx.words import counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from segx.options.verbs import DataSplitOptions
    from segx.plugin.interfaces import Dataset, DatasetWriter
    from segx.plugin.registry import Registry

NAMES = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class Division:
    """How a split was divided.

    Attributes:
        yaml: The YAML that names the parts.
        images: Images of each part.
        missing: For each part the classes it has no object of, though another part has.
        kept_together: Images that are the same and were therefore kept on one side.
    """

    yaml: Path
    images: Mapping[str, int]
    missing: Mapping[str, Sequence[str]]
    kept_together: int

    def to_table(self) -> str:
        """Return it for people."""
        lines = [f"{name}: {counted(count, 'image')}" for name, count in self.images.items()]
        lines += [f"{name} has no: {', '.join(classes)}" for name, classes in self.missing.items() if classes]
        if self.kept_together:
            again = f"{counted(self.kept_together, 'image')} {'is' if self.kept_together == 1 else 'are'} there twice"
            lines.append(f"{again}; twins were kept on one side")
        return "\n".join([*lines, str(self.yaml)])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {**vars(self), "yaml": str(self.yaml)}


def split(options: DataSplitOptions, registry: Registry) -> Division:
    """Divide a split by shares; the same seed divides the same way.

    Raises:
        UsageError: No data set or no folder is named, or the shares are wrong.
        DataError: The data set is missing, too small, or the folder is not empty.
    """
    shares = options.fractions
    if not 2 <= len(shares) <= len(NAMES) or abs(sum(shares) - 1) > 1e-6:
        raise UsageError(
            f"fractions={','.join(f'{share:g}' for share in shares)}: two or three shares that make 1",
            hint="fractions=0.8,0.2 or fractions=0.7,0.2,0.1",
        )
    (opened,) = open_data(options, registry, only=options.split).splits.values()
    dataset, source = opened.dataset, opened.source
    groups, twins = _groups(dataset)
    if len(groups) < len(shares):
        raise DataError(f"{counted(len(groups), 'image')} cannot be divided into {len(shares)} parts")
    parts = dict(zip(NAMES, _divide(groups, shares, options.seed), strict=False))
    spec = registry.dataset_format_for(source.entries[0])
    writer = spec.write() if spec.write is not None else None
    suffix = source.entries[0].suffix.lower() if isinstance(writer, PartWriter) else ".txt"
    output = expanded(options.output)
    with new_folder(options.output) as folder:
        for name, indices in parts.items():
            _write(dataset, indices, folder / f"{name}{suffix}", output, writer)
        write_yaml(folder / yaml_name(output), {name: f"{name}{suffix}" for name in parts}, dataset.names)
    return Division(
        yaml=output / yaml_name(output),
        images={name: len(indices) for name, indices in parts.items()},
        missing=_missing(dataset, parts),
        kept_together=twins,
    )


def _groups(dataset: Dataset) -> tuple[list[list[int]], int]:
    """Return images with the same content together, and how many have a twin."""
    by_content: defaultdict[str, list[int]] = defaultdict(list)
    for index, path in enumerate(dataset.paths()):
        try:
            with path.open("rb") as file:
                by_content[hashlib.file_digest(file, "blake2b").hexdigest()].append(index)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror or error}") from error
    return list(by_content.values()), sum(len(group) - 1 for group in by_content.values())


def _divide(groups: Sequence[list[int]], shares: Sequence[float], seed: int) -> list[list[int]]:
    """Return the images of each part, in their original order; no part is empty."""
    order = list(groups)
    random.Random(seed).shuffle(order)  # noqa: S311 - no secret
    bounds = [round(sum(shares[: part + 1]) * len(order)) for part in range(len(shares))]
    for part in range(len(bounds)):
        least = part + 1
        most = len(order) - (len(bounds) - 1 - part)
        bounds[part] = min(max(bounds[part], least if part == 0 else bounds[part - 1] + 1), most)
    starts = [0, *bounds[:-1]]
    return [
        sorted(index for group in order[start:stop] for index in group)
        for start, stop in zip(starts, bounds, strict=True)
    ]


def _write(dataset: Dataset, indices: Sequence[int], path: Path, folder: Path, writer: DatasetWriter | None) -> None:
    """Write a part in the format's own way, or as a list of images, named as from the folder it will lie in."""
    if isinstance(writer, PartWriter):
        writer.write_part(path, dataset, indices, lambda image: relative(image, folder))
        return
    paths = dataset.paths()
    write_text(path, "".join(f"{relative(paths[index], folder)}\n" for index in indices))


def _missing(dataset: Dataset, parts: Mapping[str, Sequence[int]]) -> dict[str, list[str]]:
    counts = {name: tally(dataset, indices).classes for name, indices in parts.items()}
    there = {name for classes in counts.values() for name, count in classes.items() if count}
    return {part: sorted(name for name in there if not classes[name]) for part, classes in counts.items()}
