"""Data sets as users name them: a YAML, a COCO JSON, a folder, or a name that is shipped.

A data set YAML says ``path`` (relative to the YAML itself, always), ``train``, ``val``, ``test`` (a folder, a ``.txt``
list of images, a COCO ``.json``, or a list of these, relative to ``path``), ``names``, ``nc`` and ``download``.
Which format holds a split is found for each split, so that one YAML may train on polygons and validate on JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import filecmp
import functools
import hashlib
import json
import logging
import os
import re
import reprlib
import shutil
import urllib.parse
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from segx.artifact import WeightsFile
from segx.errors import DataError, MissingDataError, SegxError, did_you_mean
from segx.io.archives import unpack
from segx.io.download import fetch, only_one
from segx.io.files import read_text, write_text
from segx.io.names import safe
from segx.io.network import shown
from segx.io.paths import cache_folder, expanded
from segx.structures.sample import DatasetSource

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from segx.plugin.interfaces import Dataset, DatasetReader
    from segx.plugin.registry import Registry

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
YAML_SUFFIXES = {".yaml", ".yml"}
_KEYS = frozenset({"path", *SPLITS, "names", "nc", "download"})
_ALIKE = 0.75
"""How alike a key must be to one that is missing to be taken for it mistyped; "notes" and "test" are 0.67."""
ONLY = "data"
"""What the split of a data set is called that has no splits: a COCO JSON, a folder."""
_FOLDERS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
"""What folders of splits are called where no YAML says so."""
_FEW = 5
"""Names that are told one by one."""
_MAY_READ = "give yourself the right to read it: chmod u+rX"
_SHIPPED = Path(__file__).parent / "datasets"
_HEAD = 1 << 16
_LONGEST_YAML = 8 << 20
_MOST_CLASSES = 1 << 20
_RECORD = ".segx-downloads.json"
"""In a folder that segx made for a data set: what each archive has brought. It says that the folder is segx's."""


@dataclass(frozen=True, kw_only=True)
class Archive:
    """Something to download for a data set.

    Attributes:
        file: Where it is published, with size and hash where they are known.
        into: Folder below the data set's root that it is unpacked into.
        splits: The splits that need it; empty: all.
        provides: File or folder below the root that shows that it is there; empty: the split itself.
    """

    file: WeightsFile
    into: str = "."
    provides: str = ""
    splits: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """A short hash of its address."""
        return hashlib.blake2b(self.file.url.encode(), digest_size=4).hexdigest()


@dataclass(frozen=True, kw_only=True)
class DatasetDefinition:
    """A data set YAML, checked.

    Attributes:
        file: The YAML.
        base: The folder that ``path`` is relative to: that of the YAML, or segx's data folder for a shipped one.
        root: What the splits are relative to.
        splits: Split to its folders, lists and files, as written.
        names: Class number to class name; None when the YAML leaves it to the data.
        downloads: Where to get it.
        shipped: Whether it came with segx; its data then live in the cache folder.
        mistyped: A line for each entry that means nothing and is spelt almost like one that does.
    """

    file: Path
    base: Path
    root: Path
    splits: Mapping[str, tuple[str, ...]]
    names: Mapping[int, str] | None
    downloads: tuple[Archive, ...] = ()
    shipped: bool = field(default=False)
    mistyped: tuple[str, ...] = ()


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


def find_split(
    data: str | Path, split: str = "val", *, images: str | Path | None = None, fetch: bool = True
) -> DatasetSource:
    """Return where one split of a data set lies; downloads it when it is not there and the YAML says from where.

    Raises:
        DataError: It is missing; every path tried is listed.
    """
    return _source(define(data), split, _images_folder(images), fetch=fetch)


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
    from segx.structures.sample import TableDataset

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


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raise a DataError that names what cannot be read and why."""
    try:
        yield
    except OSError as error:
        name = error.filename if isinstance(error.filename, str) else path
        hint = f"{_MAY_READ} {name}" if isinstance(error, PermissionError) else ""
        raise DataError(f"{name} cannot be read: {error.strerror or error}", hint=hint) from error


@functools.cache
def _warn_once(line: str) -> None:
    logger.warning("%s", line)


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
    if path.parent == Path() and path.suffix.lower() in {"", *YAML_SUFFIXES}:
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
    yamls = sorted(item for item in folder.iterdir() if item.suffix.lower() in YAML_SUFFIXES)
    if len(yamls) > 1:  # settings of a training often lie beside the data set's own
        yamls = [item for item in yamls if _names_splits(item)]
    if len(yamls) > 1:
        listed = ", ".join(f"data={item}" for item in yamls[:_FEW])
        raise DataError(f"{folder} holds {len(yamls)} data set YAMLs: name one", hint=listed)
    return yamls[0] if yamls else _annotated(folder)


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
    head, images, tail = f"{folder}{os.sep}".rpartition(f"{os.sep}images{os.sep}")
    beside = Path(head) / "labels" / tail if images else folder / "labels"
    if beside.exists():
        return folder
    places = (folder / "annotations", folder)
    jsons = [item for place in places for item in sorted(place.glob("*.json")) if _has_annotations(item)]
    jsons = [item for item in jsons if item.stem.startswith("instances")] or jsons
    if len(jsons) > 1:
        listed = ", ".join(f"data={item}" for item in jsons[:_FEW])
        raise DataError(f"{folder} holds {len(jsons)} COCO JSONs: name one, or write a YAML", hint=listed)
    return jsons[0] if jsons else folder


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
    if path.suffix.lower() in YAML_SUFFIXES:
        return read_definition(path)
    with _readable(path):
        splits = _laid_out(path) if path.is_dir() else {}
    return DatasetDefinition(
        file=path, root=path.absolute(), base=path.absolute().parent, splits=splits or {ONLY: (".",)}, names=None
    )


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
    written = content.get("path") or "."
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
        base=base,
        root=root,
        splits=splits,
        names=read_names(content.get("names"), content.get("nc"), path),
        downloads=_downloads(content.get("download"), path),
        shipped=shipped,
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


_NOT_TEXT = {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "timestamp")}


class _Loader(yaml.SafeLoader):
    """YAML's plain values, with every key once, and names of classes as they are written."""

    def construct_document(self, node: yaml.Node) -> Any:
        """Return a document; a name like yes, 007 or 1:30 is a text, whatever YAML takes it for."""
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.value == "names" and isinstance(value, yaml.CollectionNode):
                mapping = isinstance(value, yaml.MappingNode)
                for item in [inner for _, inner in value.value] if mapping else value.value:
                    if item.tag in _NOT_TEXT:
                        item.tag = "tag:yaml.org,2002:str"
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - PyYAML's
        """Return a mapping.

        Raises:
            _TwiceError: A key is there twice; PyYAML alone would take the last.
        """
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise _TwiceError(problem=f"{key.value}: is there twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


class _TwiceError(yaml.MarkedYAMLError):
    """A key that is there twice."""


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():
            raise DataError(f"{path} is no file")
        if path.stat().st_size > _LONGEST_YAML:
            raise DataError(f"{path} has {path.stat().st_size >> 20} MiB: that is no data set YAML")
        content = yaml.load(read_text(path, encoding="utf-8-sig"), _Loader)  # noqa: S506 - a safe one
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}", hint=_MAY_READ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text", hint="save it as UTF-8") from error
    except _TwiceError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise DataError(
            f"{path}, line {line}: {error.problem}", hint="keep one of them; a list holds several"
        ) from error
    except (
        yaml.YAMLError,
        ValueError,
        ArithmeticError,
        LookupError,
        AttributeError,
        TypeError,
        RecursionError,
    ) as error:
        # PyYAML leaves it to Python to say what is wrong with 2024-13-01, !!bool x, !!timestamp x
        where = getattr(error, "problem_mark", None)
        reason = f"line {where.line + 1}: {getattr(error, 'problem', '')}" if where else _first_line(error)
        raise DataError(f"{path} is not YAML ({reason})") from error
    if not isinstance(content, dict):
        kind = {list: "a list", str: "a text", type(None): "empty"}.get(type(content), f"a {type(content).__name__}")
        raise DataError(f"{path} is {kind}, not a data set", hint="a data set YAML says path:, train:, val: and names:")
    return {str(key): value for key, value in content.items()}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _values(value: Any, split: str, path: Path) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    if not values or not all(isinstance(item, str) and item and "\0" not in item for item in values):
        raise DataError(f"{path}: {split}: is {reprlib.repr(value)}, not a folder, a file or a list of these")
    return tuple(values)


def read_names(names: Any, nc: Any, path: Path) -> dict[int, str] | None:
    """Return class number to name from a YAML's ``names`` (a list or a mapping) and ``nc``.

    Raises:
        DataError: They disagree, or the numbers are not 0, 1, 2, ...
    """
    if nc is not None and (not isinstance(nc, int) or isinstance(nc, bool) or not 1 <= nc <= _MOST_CLASSES):
        raise DataError(f"{path}: nc is {reprlib.repr(nc)}, not a number of classes")
    if names is None:
        return None if nc is None else {number: f"class{number}" for number in range(nc)}
    if not isinstance(names, list | dict) or not names:
        raise DataError(f"{path}: names is {reprlib.repr(names)}, not a list or a mapping of class names")
    items = dict(names.items() if isinstance(names, dict) else enumerate(names))
    unnamed = next((name for name in items.values() if name is None or isinstance(name, list | dict | set)), "")
    if unnamed != "":
        raise DataError(
            f"{path}: names has {reprlib.repr(unnamed)}, not a name", hint='put a name like "null" in quotes'
        )
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


def _entries(definition: DatasetDefinition, split: str, *, fetch: bool, alone: bool) -> tuple[Path, ...]:
    """Return the folders and files of a split, fetched if they can be and may be."""
    if split not in definition.splits:
        there = ", ".join(definition.splits)
        fix = f"try split={there}" if alone else f"segx data split data={definition.file} output=FOLDER makes one"
        raise DataError(
            f"{definition.file} has no split {split!r}; it has {there}",
            hint="; ".join([fix, *definition.mistyped]),
        )
    found, tried = _present(definition, split)
    if lacking := _lacking(definition, split, tried):
        if not fetch:
            name = definition.file.name if definition.shipped else definition.file
            msg = f"the model remembers data={name}, which is not here, and is not downloaded unasked"
            raise DataError(msg, hint=f"to download it: data={name}")
        _fetch(definition, split, lacking)
        found, tried = _present(definition, split)
    if tried:
        raise DataError(
            f"{split} of {definition.file} is not there{_unpacked(definition)}",
            hint="tried:\n    " + "\n    ".join(str(path) for path in tried),
        )
    return tuple(found)


def _lacking(definition: DatasetDefinition, split: str, tried: Sequence[Path]) -> list[Archive]:
    """Return the archives that a split needs and that are not there; ``tried``: what of the split is missing."""
    needed = [archive for archive in definition.downloads if not archive.splits or split in archive.splits]
    if not needed:
        return []
    root, record = definition.root, _read_record(definition.root)
    if record is not None:  # in a folder that segx made it is known what was unpacked
        return [item for item in needed if not any((root / name).exists() for name in record.get(item.key, ()))]
    return [item for item in needed if (not (root / item.provides).exists() if item.provides else tried)]


def _fetch(definition: DatasetDefinition, split: str, lacking: Sequence[Archive]) -> None:
    """Download what a split lacks: one process at a time, those that waited look again.

    Raises:
        DataError: The folder is not one that a download may go into, or the archives cannot be had.
    """
    _check_root(definition, lacking[0])
    try:
        definition.base.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{definition.base}: {error.strerror or error}") from error
    with only_one(definition.root, error=DataError):
        _, tried = _present(definition, split)
        for archive in _lacking(definition, split, tried):
            _check_root(definition, archive)
            logger.info("%s: %s is not there; downloading %s", definition.file.stem, split, shown(archive.file.url))
            download(archive, definition.root, definition.base)


def _check_root(definition: DatasetDefinition, archive: Archive) -> None:
    """Refuse to unpack into any folder but one of the data set's own, below the YAML or segx's data folder.

    Whoever wrote the YAML names both the folder and what comes into it: a home folder, a folder that is there already,
    or one that programs look into (hidden ones) is the user's.
    """
    root, base = definition.root, definition.base
    hint = f"get {shown(archive.file.url)} and unpack it there yourself, or give path: a folder of its own"
    real, below = Path(os.path.realpath(root)), Path(os.path.realpath(base))
    if real == below or not real.is_relative_to(below):
        msg = f"{definition.file}: a download goes only into a new folder below {base}, not {root}"
        raise DataError(msg, hint=hint)
    if any(part.startswith(".") for part in real.relative_to(below).parts):
        raise DataError(f"{definition.file}: a download does not go into a hidden folder, {root}", hint=hint)
    ours = definition.shipped or _read_record(root) is not None
    if not ours and os.path.lexists(root) and not (root.is_dir() and not any(root.iterdir())):
        msg = f"{definition.file}: {root} is there and was not made by segx: nothing is downloaded"
        raise DataError(msg, hint=hint)


def _unpacked(definition: DatasetDefinition) -> str:
    """Say what the downloads have brought, where segx unpacked any."""
    record = _read_record(definition.root)
    if not record:
        return ""
    names = [name for archive in definition.downloads for name in record.get(archive.key, ())]
    some = ", ".join(f"{name}/" if (definition.root / name).is_dir() else name for name in names[:5])
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (
        f"; its download was unpacked into {definition.root} and holds {some or 'nothing'}{more}"
        f" (correct path: or the splits; it is fetched again once {definition.root} is removed)"
    )


def _present(definition: DatasetDefinition, split: str) -> tuple[list[Path], list[Path]]:
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


def _downloads(value: Any, path: Path) -> tuple[Archive, ...]:
    """Return the archives a YAML names by address. Anything else, code above all, is never run and left aside."""
    items = value if isinstance(value, list) else [] if value is None else [value]
    archives = []
    for item in items:
        entry: Any = {"url": item} if isinstance(item, str) else item
        address = str(entry.get("url", "")).strip() if isinstance(entry, dict) else ""
        if not _is_address(address):
            logger.warning("%s: download: is not an address; segx runs no code from a YAML", path)
            return ()
        archives.append(_archive(address, entry, path))
    return tuple(archives)


def _is_address(text: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.netloc) and len(text.split()) == 1


def _archive(address: str, entry: Mapping[str, Any], path: Path) -> Archive:
    into, provides, splits = entry.get("into", "."), entry.get("provides", ""), entry.get("splits", [])
    size, sha256 = entry.get("size"), entry.get("sha256")
    for name, folder in (("into", into), ("provides", provides)):
        if not isinstance(folder, str) or "\0" in folder or Path(folder).is_absolute() or ".." in Path(folder).parts:
            raise DataError(f"{path}: download {name} {reprlib.repr(folder)} would leave the data set's folder")
    if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
        raise DataError(f"{path}: download size {reprlib.repr(size)} is not a number of bytes")
    if sha256 is not None and not (isinstance(sha256, str) and re.fullmatch("[0-9a-fA-F]{64}", sha256)):
        raise DataError(f"{path}: download sha256 {reprlib.repr(sha256)} is not 64 hexadecimal digits")
    splits = [splits] if isinstance(splits, str) else splits
    if not isinstance(splits, list) or not set(map(str, splits)) <= set(SPLITS):
        raise DataError(f"{path}: download splits {reprlib.repr(splits)} are not some of {', '.join(SPLITS)}")
    file = WeightsFile(url=address, size=size, sha256=sha256)
    return Archive(file=file, into=into, provides=provides, splits=tuple(map(str, splits)))


def download(archive: Archive, root: Path, base: Path) -> None:
    """Fetch an archive (progress, resume, size and hash checked) and unpack it below ``root``.

    It is unpacked whole in a folder of its own first. What is there is never replaced: a file of the same content stays
    (a process that ended before had moved it), one of another content is the user's and ends it before anything is
    moved. A single outer folder named like ``root`` is left away.

    Args:
        archive: What to fetch.
        root: The data set's folder.
        base: A folder on the same disk that is there: it is unpacked in here first.

    Raises:
        DataError: It cannot be had, is no safe archive, or holds a file that is there with another content.
    """
    stem = safe(Path(urllib.parse.urlsplit(archive.file.url).path).stem, otherwise="data")
    name = f"{archive.key}-{stem}.zip"  # many data sets have a train.zip
    path = fetch(archive.file, cache_folder() / "downloads" / name, error=DataError)
    aside = base / f".unpacking-{hashlib.blake2b(os.fsencode(root), digest_size=4).hexdigest()}-{archive.key}"
    work = aside / "content"
    made = [folder for folder in root.parents if not folder.exists()]
    try:
        shutil.rmtree(aside, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            unpack(path, work)
        except DataError:
            path.unlink(missing_ok=True)  # else it would be found damaged for ever
            raise
        content = list(work.iterdir())
        if len(content) == 1 and content[0].is_dir() and content[0].name == root.name:
            content = list(content[0].iterdir())
        moves = [(item, root / archive.into / item.name) for item in sorted(content)]
        names = [target.relative_to(root).as_posix() for _, target in moves]
        if not root.exists() or not any(root.iterdir()):
            whole = aside / "whole"
            (whole / archive.into).mkdir(parents=True)
            for source, target in moves:
                source.rename(whole / target.relative_to(root))
            _write_record(whole, archive.key, names)
            root.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                root.rmdir()
            whole.rename(root)
        else:
            for source, target in moves:
                _check_merge(source, target, root)
            (root / archive.into).mkdir(parents=True, exist_ok=True)
            for source, target in moves:
                _merge(source, target)
            if _read_record(root) is not None:
                _write_record(root, archive.key, names)
        path.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{path} cannot be unpacked into {root / archive.into}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):  # those that hold the data set now stay
                folder.rmdir()


def _check_merge(source: Path, target: Path, root: Path) -> None:
    """Refuse to move what would replace a file of another content, or leave the data set's folder through a link."""
    if not os.path.lexists(target):
        if not Path(os.path.realpath(target)).is_relative_to(os.path.realpath(root)):
            raise DataError(f"{target} lies behind a link that leaves {root}: nothing is unpacked")
    elif source.is_dir() and target.is_dir() and not target.is_symlink():
        for item in source.iterdir():
            _check_merge(item, target / item.name, root)
    elif source.is_dir() or target.is_symlink() or not (target.is_file() and filecmp.cmp(source, target, False)):
        raise DataError(f"{target} is there, and another than in the download: nothing is unpacked")


def _merge(source: Path, target: Path) -> None:
    """Move a file or a folder into place, folder into folder where both are there."""
    if source.is_dir() and target.is_dir():
        for item in source.iterdir():
            _merge(item, target / item.name)
    elif not target.exists():
        source.rename(target)


def _read_record(root: Path) -> dict[str, list[str]] | None:
    """Return what segx has unpacked into a folder that it made, by archive; None for any other folder."""
    path = root / _RECORD
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _LONGEST_YAML:
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    return {
        key: [name for name in names if isinstance(name, str) and "\0" not in name]
        for key, names in content.items()
        if isinstance(names, list)
    }


def _write_record(root: Path, key: str, names: Sequence[str]) -> None:
    record = {**(_read_record(root) or {}), key: list(names)}
    write_text(root / _RECORD, json.dumps(record, indent=1))
