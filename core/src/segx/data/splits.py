"""Data sets as users name them: a YAML, a COCO JSON, a folder, or a name that is shipped; and their splits, opened.

A data set YAML says ``path`` (relative to the YAML itself, always), ``train``, ``val``, ``test`` (a folder, a ``.txt``
list of images, a COCO ``.json``, or a list of these, relative to ``path``), ``names``, ``nc`` and ``download``.

Splits are opened together and in one place, so that a class has the same number in each. Which format holds a split is
found for each split, so that one YAML may train on polygons and validate on JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import logging
import os
import re
import reprlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segx.data.download import SPLITS, Downloads
from segx.errors import DataError, MissingDataError, SegxError, UsageError, did_you_mean
from segx.io.files import read_mapping
from segx.io.paths import cache_folder, expanded
from segx.structures.annotations import DatasetSource

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from segx.options.verbs import DataOptions
    from segx.plugin.interfaces import Dataset, DatasetReader
    from segx.plugin.registry import Registry

logger = logging.getLogger(__name__)

ONLY = "data"
"""What the split of a data set is called that has no splits: a COCO JSON, a folder."""

_YAML_SUFFIXES = {".yaml", ".yml"}
_KEYS = frozenset({"path", *SPLITS, "names", "nc", "download"})
_ALIKE = 0.75
"""How alike a key must be to one that is missing to be taken for it mistyped; "notes" and "test" are 0.67."""
_FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
"""What folders of splits are called where no YAML says so."""
_FEW = 5
"""Names that are listed one by one."""
_SHIPPED = Path(__file__).parent / "datasets"
_HEAD = 1 << 16
_MAX_CLASSES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class DatasetDefinition:
    """A data set YAML, checked.

    Attributes:
        file: The YAML.
        root: What the splits are relative to.
        splits: Split to its folders, lists and files, as written.
        names: Class number to class name; None when the YAML leaves it to the data.
        downloads: Where to get what is not there.
        mistyped: A line for each entry that means nothing and is spelt almost like one that does.
    """

    file: Path
    root: Path
    splits: Mapping[str, tuple[str, ...]]
    names: Mapping[int, str] | None
    downloads: Downloads
    mistyped: tuple[str, ...] = ()


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raise a DataError that names what cannot be read and why."""
    try:
        yield
    except OSError as error:
        name = error.filename if isinstance(error.filename, str) else path
        hint = f"give yourself the right to read it: chmod u+rX {name}" if isinstance(error, PermissionError) else ""
        raise DataError(f"{name} cannot be read: {error.strerror or error}", hint=hint) from error


def shipped_names() -> tuple[str, ...]:
    """Return the names of the data sets whose definition comes with segx."""
    return tuple(sorted(path.stem for path in _SHIPPED.glob("*.yaml")))


def locate(data: str | Path) -> Path:
    """Return the YAML, JSON or folder that a user named.

    Raises:
        DataError: There is none; every path tried is listed.
    """
    path = _expanded(data)
    with _readable(path):
        if path.is_dir():
            return _in_folder(path)
        if path.exists():
            return path
    if path.parent == Path() and path.suffix.lower() in {"", *_YAML_SUFFIXES}:
        shipped = _SHIPPED / f"{path.stem}.yaml"
        if shipped.is_file():
            return shipped
    known = shipped_names()
    raise MissingDataError(
        f"data set {str(data)!r} is not there{did_you_mean(path.stem, known)}",
        hint=f"tried: {path.absolute()}; shipped definitions: {', '.join(known)}",
    )


def _in_folder(folder: Path) -> Path:
    """Return the YAML of a folder, or the COCO JSON it keeps its annotations in, or the folder itself.

    Raises:
        DataError: It keeps several.
    """
    yamls = sorted(item for item in folder.iterdir() if item.suffix.lower() in _YAML_SUFFIXES)
    if len(yamls) > 1:  # settings of a training often lie beside the data set's own
        yamls = [item for item in yamls if _names_splits(item)]
    if len(yamls) > 1:
        listed = ", ".join(f"data={item}" for item in yamls[:_FEW])
        raise DataError(f"{folder} holds {len(yamls)} data set YAMLs: name one", hint=listed)
    if yamls:
        return yamls[0]
    return folder if _annotated_splits(folder) else _annotated(folder)


def _names_splits(path: Path) -> bool:
    """Return True if a YAML is a data set's."""
    try:
        content = _read_yaml(path)
    except DataError:
        return False
    return any(content.get(split) is not None for split in SPLITS)


def _annotated(folder: Path) -> Path:
    """Return the one JSON of annotations that a folder without labels keeps, or the folder itself.

    Raises:
        DataError: It keeps several.
    """
    jsons = _jsons(folder)
    if len(jsons) > 1:
        listed = ", ".join(f"data={item}" for item in jsons[:_FEW])
        raise DataError(f"{folder} holds {len(jsons)} COCO JSONs: name one, or write a YAML", hint=listed)
    return jsons[0] if jsons else folder


def _jsons(folder: Path) -> list[Path]:
    """Return the JSONs of annotations that a folder without labels keeps; those of instances, where some are."""
    head, images, tail = f"{folder}{os.sep}".rpartition(f"{os.sep}images{os.sep}")
    beside = Path(head) / "labels" / tail if images else folder / "labels"
    if beside.exists():
        return []
    places = (folder / "annotations", folder)
    jsons = [item for place in places for item in sorted(place.glob("*.json")) if _has_annotations(item)]
    return [item for item in jsons if item.stem.startswith("instances")] or jsons


def _annotated_splits(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return the splits that JSONs beside each other are named after, as COCO's are; none where one names no split."""
    found: dict[str, tuple[str, ...]] = {}
    jsons = _jsons(folder)
    for item in jsons:
        words = set(re.split("[^a-z]+", item.stem.lower()))
        named = [split for split, names in _FOLDERS.items() if words & set(names)]
        if len(named) != 1:
            return {}
        found[named[0]] = (*found.get(named[0], ()), item.relative_to(folder).as_posix())
    return {split: found[split] for split in SPLITS if split in found} if len(found) > 1 else {}


def _has_annotations(path: Path) -> bool:
    """Return True if a JSON begins or ends like a COCO data set's."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        text = file.read(_HEAD)
        file.seek(max(path.stat().st_size - _HEAD, 0))
        text += file.read(_HEAD)
    return any(key in text for key in (b'"annotations"', b'"images"'))


def define(data: str | Path) -> DatasetDefinition:
    """Return what a data set consists of: as its YAML says, or as its folders are called, else of one part.

    Raises:
        DataError: It is missing, or its YAML is wrong.
    """
    path = locate(data)
    if path.suffix.lower() in _YAML_SUFFIXES:
        return read_definition(path)
    with _readable(path):
        splits = (_annotated_splits(path) or _laid_out(path)) if path.is_dir() else {}
    root = path.absolute()
    downloads = Downloads(file=path, root=root, base=root.parent)
    return DatasetDefinition(file=path, root=root, splits=splits or {ONLY: (".",)}, names=None, downloads=downloads)


def _laid_out(folder: Path) -> dict[str, tuple[str, ...]]:
    """Return the splits of a folder that holds one folder for each, two at least."""
    found: dict[str, tuple[str, ...]] = {}
    for split, names in _FOLDERS.items():
        places = [place for name in names for place in (f"images/{name}", f"{name}/images", name)]
        place = next((place for place in places if (folder / place).is_dir()), None)
        if place is not None:
            found[split] = (place,)
    return found if len(found) > 1 else {}


def read_definition(path: Path) -> DatasetDefinition:
    """Return what a data set YAML says.

    Raises:
        DataError: It is no YAML, no mapping, or names and nc disagree.
    """
    content = _read_yaml(path)
    shipped = path.parent == _SHIPPED
    base = cache_folder() / "datasets" if shipped else path.absolute().parent
    written = _named(content.get("path")) or "."
    if not isinstance(written, str) or "\0" in written:
        raise DataError(f"{path}: path is {reprlib.repr(written)}, not the name of a folder")
    root = Path(os.path.normpath(base / _expanded(written)))
    splits = {split: _values(content[split], split, path) for split in SPLITS if content.get(split) is not None}
    mistyped = _mistyped(content, path)
    if not splits:
        hint = "; ".join(["add one of train:, val:, test: with a folder or a list", *mistyped])
        raise DataError(f"{path} names no split", hint=hint)
    return DatasetDefinition(
        file=path,
        root=root,
        splits=splits,
        names=_read_names(content.get("names"), content.get("nc"), path),
        downloads=Downloads.read(content.get("download"), path, root=root, base=base, shipped=shipped),
        mistyped=mistyped,
    )


def _mistyped(content: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Report entries that look like a typing mistake of a missing one; other unknown entries are left alone."""
    missing = [key for key in _KEYS if key not in content]
    found = []
    for key in content.keys() - _KEYS:
        close = difflib.get_close_matches(key.lower(), missing, n=1, cutoff=_ALIKE)
        if close:
            found.append(f"{path}: {key}: means nothing; did you mean {close[0]}:?")
    return tuple(sorted(found))


def _read_yaml(path: Path) -> dict[str, Any]:
    hint = "a data set YAML says path:, train:, val: and names:"
    return read_mapping(path, error=DataError, what="a data set", hint=hint, typed=True)


def _values(value: Any, split: str, path: Path) -> tuple[str, ...]:
    values = [_named(item) for item in (value if isinstance(value, list) else [value])]
    if not values or not all(isinstance(item, str) and item and "\0" not in item for item in values):
        taken = any(not isinstance(item, str | list | dict) and item is not None for item in values)
        hint = 'a name that YAML takes for something else stands in quotes: "1.50"' if taken else ""
        raise DataError(
            f"{path}: {split}: is {reprlib.repr(value)}, not a folder, a file or a list of these", hint=hint
        )
    return tuple(values)


def _named(value: Any) -> Any:
    """Return a number as the name of a folder, 2024; anything else as it is."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _read_names(names: Any, nc: Any, path: Path) -> dict[int, str] | None:
    """Return class number to name from a YAML's ``names`` (a list or a mapping) and ``nc``.

    Raises:
        DataError: They disagree, or the numbers are not 0, 1, 2, ...
    """
    if nc is not None and (not isinstance(nc, int) or isinstance(nc, bool) or not 1 <= nc <= _MAX_CLASSES):
        raise DataError(f"{path}: nc is {reprlib.repr(nc)}, not a number of classes")
    if names is None:
        return None if nc is None else {number: f"class{number}" for number in range(nc)}
    if not isinstance(names, list | dict) or not names:
        raise DataError(f"{path}: names is {reprlib.repr(names)}, not a list or a mapping of class names")
    items = dict(names.items() if isinstance(names, dict) else enumerate(names))
    unnamed = next((name for name in items.values() if name is None or isinstance(name, list | dict | set)), "")
    if unnamed != "":
        raise DataError(f"{path}: names has {reprlib.repr(unnamed)}, not a name", hint="write a name for each class")
    try:
        found = {int(number): str(name) for number, name in items.items()}
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: names has a class number that is none ({error})") from error
    if sorted(found) != list(range(len(items))):
        raise DataError(
            f"{path}: names must number the classes 0..{len(items) - 1}, it has {reprlib.repr(sorted(found))}"
        )
    if nc is not None and nc != len(found):
        raise DataError(f"{path}: nc is {nc}, but names has {len(found)}", hint="drop nc:, names alone is enough")
    return dict(sorted(found.items()))


def present(definition: DatasetDefinition, split: str) -> tuple[list[Path], list[Path]]:
    """Return what is there of a split, and every path tried for what is not."""
    found, missing = [], []
    for value in definition.splits[split]:
        tried = _candidates(definition, value)
        with _readable(tried[0]):
            there = next((path for path in tried if path.exists()), None)
        if there is None:
            missing.extend(tried)
        else:
            found.append(_annotated(there) if there.is_dir() else there)
    return found, missing


def _candidates(definition: DatasetDefinition, value: str) -> list[Path]:
    """Return where a split may lie: below ``path``; some exports write one ``../`` too many."""
    paths = [definition.root / _expanded(value)]
    if value.startswith("../"):
        paths.append(definition.root / value.removeprefix("../"))
    # a link that is left by ".." leads to the folder it lies in, as people read it, or to the one it names
    return list(dict.fromkeys([*(Path(os.path.normpath(path)) for path in paths), paths[0]]))


def _expanded(path: str | Path) -> Path:
    """Return a path with a leading ``~`` replaced, where that is somebody's home."""
    try:
        return expanded(path)
    except RuntimeError:
        return Path(path)


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
        with _readable(folder):
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
    return ", ".join(every[:_FEW]) + (", ..." if len(every) > _FEW else "")


def find_reader(entries: Sequence[Path], registry: Registry | None = None) -> DatasetReader:
    """Return the reader of the format that holds these folders and files.

    Raises:
        DataError: No installed format knows them, or they are of several formats.
    """
    from segx.plugin.registry import get_registry

    registry = registry or get_registry()
    for entry in entries:
        with _readable(entry):
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
    downloads = definition.downloads
    if needed := downloads.lacking(split, tried):
        if not fetch:
            name = definition.file.name if downloads.shipped else definition.file
            msg = f"the model remembers data={name}, which is not here, and is not downloaded unasked"
            raise DataError(msg, hint=f"to download it: data={name}")
        downloads.fetch(split, needed, lambda: present(definition, split)[1])
        found, tried = present(definition, split)
    if tried:
        raise DataError(
            f"{split} of {definition.file} is not there{downloads.unpacked()}",
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
