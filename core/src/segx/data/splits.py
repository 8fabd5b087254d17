"""Opens the splits of a data set, all together and in one place, so that a class has the same number in each.

Which format holds a split is found for each split, so that one YAML may train on polygons and validate on JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from segx.data.definition import FEW, ONLY, define, present, readable
from segx.data.download import fetch_missing, lacking, unpacked
from segx.errors import DataError, SegxError, UsageError
from segx.structures.annotations import DatasetSource

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from segx.data.definition import DatasetDefinition
    from segx.plugin.interfaces import Dataset, DatasetReader
    from segx.plugin.registry import Registry

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class OpenSplit:
    """One split of a data set, opened.

    Attributes:
        dataset: Its images and their annotations.
        reader: Who read it.
        source: From where.
    """

    dataset: Dataset
    reader: DatasetReader
    source: DatasetSource


@dataclass(frozen=True, kw_only=True)
class OpenSplits:
    """Splits of a data set, opened together: a class has the same number in each.

    Attributes:
        splits: Those that were asked for and are there.
        missing: Split to why it is not there, of those that were not asked for by name.
        notes: A line for each way in which the splits did not agree as they are written.
        mistyped: A line for each entry of the definition that is probably mistyped.
    """

    splits: Mapping[str, OpenSplit]
    missing: Mapping[str, DataError]
    notes: Sequence[str]
    mistyped: Sequence[str]


def open_dataset(
    data: str | Path,
    split: str = "val",
    *,
    images: str | Path | None = None,
    registry: Registry | None = None,
    fetch: bool = True,
) -> Dataset:
    """Return one split of a data set; its classes are numbered as in all of its splits.

    Args:
        data: A data set YAML or its shipped name, a COCO JSON, or a folder.
        split: Which part of it.
        images: Folder of the images, when a COCO JSON's cannot be found beside it.
        registry: Where formats are looked up; default: the installed plugins.
        fetch: Download what is not there; False where nobody named the data set.

    Raises:
        DataError: It is missing (every path tried is listed), or of another shape.
    """
    return open_splits(data, (split,), images=images, registry=registry, fetch=fetch).splits[split].dataset


def open_splits(
    data: str | Path,
    wanted: Sequence[str] | None = None,
    *,
    images: str | Path | None = None,
    registry: Registry | None = None,
    fetch: bool = True,
    crowds: bool = False,
) -> OpenSplits:
    """Return splits of a data set; where the definition does not name the classes, those of all splits hold, by name.

    Args:
        data: A data set YAML or its shipped name, a COCO JSON, or a folder.
        wanted: The splits to open; default: all that there are.
        images: Folder of the images, when a COCO JSON's cannot be found beside it.
        registry: Where formats are looked up; default: the installed plugins.
        fetch: Download what is not there; False where nobody named the data set.
        crowds: Take crowds (COCO's iscrowd: 1) as objects like others.

    Raises:
        DataError: What is asked for is missing (every path tried is listed), or of another shape.
    """
    definition = define(data)
    for line in definition.mistyped:
        _warn_once(line)
    folder = _images_folder(images)
    sources: dict[str, DatasetSource] = {}
    missing: dict[str, DataError] = {}
    for split in definition.splits if wanted is None else wanted:
        try:
            sources[split] = _source(definition, split, folder, fetch=fetch, alone=wanted is None or len(wanted) == 1)
        except DataError as error:
            if wanted is not None:
                raise
            missing[split] = error
    if not sources:
        raise next(iter(missing.values()))
    opened = {split: _opened(source, registry) for split, source in sources.items()}
    names, notes = _classes_together(definition, opened, folder, registry)
    for split, one in opened.items():
        if names is not None and dict(one.dataset.names) != names:
            source = dataclasses.replace(one.source, names=names)
            opened[split] = OpenSplit(dataset=one.reader.read(source), reader=one.reader, source=source)
    if crowds:
        opened = {split: _without_crowds(one) for split, one in opened.items()}
    return OpenSplits(splits=opened, missing=missing, notes=notes, mistyped=definition.mistyped)


def shared_images(first: Dataset, second: Dataset) -> list[Path]:
    """Return the images of the second split that are files of the first one too, whatever links lead to them."""
    known = {_file_of(path) for path in first.paths()} - {None}
    return [path for path in second.paths() if _file_of(path) in known]


def _file_of(path: Path) -> tuple[int, int] | None:
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino


def _images_folder(images: str | Path | None) -> Path | None:
    folder = None if images is None else Path(images)
    if folder is not None:
        with readable(folder):
            there = folder.is_dir()
        if not there:
            raise DataError(f"images={folder}: there is no such folder")
    return folder


def _source(
    definition: DatasetDefinition, split: str, images: Path | None, *, fetch: bool, alone: bool = True
) -> DatasetSource:
    """Return where one split lies; ``alone``: whoever asks could ask for another one instead."""
    if set(definition.splits) == {ONLY}:
        entries: tuple[Path, ...] = (definition.file,)
    else:
        entries = _entries(definition, split, fetch=fetch, alone=alone)
    return DatasetSource(origin=definition.file, split=split, entries=entries, names=definition.names, images=images)


def _opened(source: DatasetSource, registry: Registry | None) -> OpenSplit:
    reader = find_reader(source.entries, registry)
    return OpenSplit(dataset=reader.read(source), reader=reader, source=source)


def _without_crowds(one: OpenSplit) -> OpenSplit:
    """Return a split whose crowds are objects like others."""
    from segx.structures.annotations import TableDataset

    if not isinstance(one.dataset, TableDataset):
        raise DataError(f"{one.source.origin}: its format cannot take crowds as objects", hint="leave crowds= out")
    table = one.dataset.table
    plain = dataclasses.replace(table, crowd=table.crowd & False)
    return dataclasses.replace(one, dataset=dataclasses.replace(one.dataset, table=plain))


def _classes_together(
    definition: DatasetDefinition, opened: Mapping[str, OpenSplit], images: Path | None, registry: Registry | None
) -> tuple[dict[int, str] | None, list[str]]:
    """Return the classes of all splits that are there, by name, in the order of the first; and what did not agree.

    None where the definition names them, which holds for all splits.

    Raises:
        DataError: The splits are of several formats, whose numbers nothing brings together.
    """
    if definition.names is not None or len(definition.splits) < 2:
        return None, []
    every: dict[str, OpenSplit] = {}
    for split in definition.splits:
        if split in opened:
            every[split] = opened[split]
            continue
        with contextlib.suppress(SegxError):  # a split that nobody asked for harms nobody
            every[split] = _opened(_source(definition, split, images, fetch=False), registry)
    names = {split: dict(one.dataset.names) for split, one in every.items()}
    first = next(iter(names.values()))
    if all(own == first for own in names.values()):
        return first, []
    if len({type(one.reader) for one in every.values()}) > 1:
        hint = "write names: into the YAML, in the order of the class numbers"
        raise DataError(f"{definition.file}: its splits are of several formats and name other classes", hint=hint)
    found: list[str] = []
    for own in names.values():
        more = Counter(own.values()) - Counter(found)
        for name in own.values():
            if more[name]:
                found.append(name)
                more[name] -= 1
    together = dict(enumerate(found))
    reported = [
        f"{split} numbers its classes {_few(own.values())}; all splits together have {_few(found)}: paired by name"
        for split, own in names.items()
        if own != together
    ]
    return together, reported


def _few(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every[:FEW]) + (", ..." if len(every) > FEW else "")


def find_reader(entries: Sequence[Path], registry: Registry | None = None) -> DatasetReader:
    """Return the reader of the format that holds these folders and files.

    Raises:
        DataError: No installed format knows them, or they are of several formats.
    """
    from segx.plugin.registry import get_registry

    registry = registry or get_registry()
    for entry in entries:
        with readable(entry):
            _look_at(entry)
    specs = [registry.dataset_format_for(entry) for entry in entries]
    if len({spec.name for spec in specs}) > 1:
        mixed = ", ".join(f"{entry} is {spec.name}" for entry, spec in zip(entries, specs, strict=True))
        raise DataError(f"one split cannot mix formats: {mixed}")
    return registry.dataset_formats.load(specs[0])


def _look_at(entry: Path) -> None:
    """Refuse what is neither a file nor a folder with something in it; raise OSError for what cannot be read."""
    if entry.is_dir():
        if not any(entry.iterdir()):
            raise DataError(f"{entry} is an empty folder: it holds no images")
    elif entry.is_file():
        with entry.open("rb"):
            pass
    elif entry.exists():
        raise DataError(f"{entry} is neither a file nor a folder")


@functools.cache
def _warn_once(line: str) -> None:
    logger.warning("%s", line)


def _entries(definition: DatasetDefinition, split: str, *, fetch: bool, alone: bool) -> tuple[Path, ...]:
    """Return the folders and files of a split, fetched if they can be and may be."""
    if split not in definition.splits:
        there = ", ".join(definition.splits)
        fix = f"try split={there}" if alone else f"segx data split data={definition.file} output=FOLDER makes one"
        raise DataError(
            f"{definition.file} has no split {split!r}; it has {there}",
            hint="; ".join([fix, *definition.mistyped]),
        )
    found, tried = present(definition, split)
    if needed := lacking(definition, split, tried):
        if not fetch:
            name = definition.file.name if definition.shipped else definition.file
            msg = f"the model remembers data={name}, which is not here, and is not downloaded unasked"
            raise DataError(msg, hint=f"to download it: data={name}")
        fetch_missing(definition, split, needed)
        found, tried = present(definition, split)
    if tried:
        raise DataError(
            f"{split} of {definition.file} is not there{unpacked(definition)}",
            hint="tried:\n    " + "\n    ".join(str(path) for path in tried),
        )
    return tuple(found)


def open_data(options: DataOptions, registry: Registry, *, only: str | None = None) -> OpenSplits:
    """Return all splits of a data set that are there, or one.

    Raises:
        UsageError: No data set is named.
        DataError: It is missing, or the split that is asked for is.
    """
    if not options.data:
        raise UsageError("no data set is named", hint="data=coco8-seg.yaml")
    wanted = None if only is None else (only,)
    crowds = options.crowds == "objects"
    return open_splits(options.data, wanted, images=options.images, registry=registry, crowds=crowds)


class DataOptions(Protocol):
    """Options that say which data set is meant, and how it is taken."""

    @property
    def data(self) -> str:
        """The data set, as it is named."""
        ...

    @property
    def images(self) -> Path | None:
        """Folder of the images, when it has to be said."""
        ...

    @property
    def crowds(self) -> str:
        """Whether crowds are objects."""
        ...
