"""Data sets as users name them: a YAML, a COCO JSON, a folder, or a name that is shipped.

A data set YAML says ``path`` (relative to the YAML itself, always), ``train``, ``val``, ``test`` (a folder, a ``.txt``
list of images, a COCO ``.json``, or a list of these, relative to ``path``), ``names``, ``nc`` and ``download``.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import logging
import os
import re
import reprlib
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segx.artifact import WeightsFile
from segx.errors import DataError, MissingDataError, did_you_mean
from segx.io.files import read_mapping
from segx.io.paths import cache_folder, expanded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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
FEW = 5
"""Names that are told one by one."""
_MAY_READ = "give yourself the right to read it: chmod u+rX"
_SHIPPED = Path(__file__).parent / "datasets"
_HEAD = 1 << 16
MAX_BYTES = 8 << 20
_MAX_CLASSES = 1 << 20


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


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raise a DataError that names what cannot be read and why."""
    try:
        yield
    except OSError as error:
        name = error.filename if isinstance(error.filename, str) else path
        hint = f"{_MAY_READ} {name}" if isinstance(error, PermissionError) else ""
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
    with readable(path):
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
        listed = ", ".join(f"data={item}" for item in yamls[:FEW])
        raise DataError(f"{folder} holds {len(yamls)} data set YAMLs: name one", hint=listed)
    if yamls:
        return yamls[0]
    return folder if _annotated_splits(folder) else annotated(folder)


def _names_splits(path: Path) -> bool:
    """Return True if a YAML is a data set's."""
    try:
        content = _read_yaml(path)
    except DataError:
        return False
    return any(content.get(split) is not None for split in SPLITS)


def annotated(folder: Path) -> Path:
    """Return the one JSON of annotations that a folder without labels keeps, or the folder itself.

    Raises:
        DataError: It keeps several.
    """
    jsons = _jsons(folder)
    if len(jsons) > 1:
        listed = ", ".join(f"data={item}" for item in jsons[:FEW])
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
    if path.suffix.lower() in YAML_SUFFIXES:
        return read_definition(path)
    with readable(path):
        splits = (_annotated_splits(path) or _laid_out(path)) if path.is_dir() else {}
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


def _read_yaml(path: Path) -> dict[str, Any]:
    hint = "a data set YAML says path:, train:, val: and names:"
    return read_mapping(path, error=DataError, what="a data set", hint=hint, typed=True)


def _values(value: Any, split: str, path: Path) -> tuple[str, ...]:
    values = [_named(item) for item in (value if isinstance(value, list) else [value])]
    if not values or not all(isinstance(item, str) and item and "\0" not in item for item in values):
        raise DataError(f"{path}: {split}: is {reprlib.repr(value)}, not a folder, a file or a list of these")
    return tuple(values)


def _named(value: Any) -> Any:
    """Return a number as the name of a folder, 2024; anything else as it is."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def read_names(names: Any, nc: Any, path: Path) -> dict[int, str] | None:
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
        with readable(tried[0]):
            there = next((path for path in tried if path.exists()), None)
        if there is None:
            missing.extend(tried)
        else:
            found.append(annotated(there) if there.is_dir() else there)
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
