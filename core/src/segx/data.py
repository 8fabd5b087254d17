"""Data sets as users name them: a YAML, a COCO JSON, a folder, or a name that is shipped.

A data set YAML says ``path`` (relative to the YAML itself, always), ``train``, ``val``, ``test`` (a folder, a ``.txt``
list of pictures, a COCO ``.json``, or a list of these, relative to ``path``), ``names``, ``nc`` and ``download``.
Which format holds a split is found for each split, so that one YAML may train on polygons and validate on JSON.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
import logging
import os
import re
import reprlib
import shutil
import urllib.parse
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import yaml

from segx.downloads import fetch, lock_of, only_one
from segx.errors import DataError, did_you_mean
from segx.interfaces import DatasetSource
from segx.paths import cache_folder, expanded
from segx.specs import WeightsFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from segx.interfaces import Dataset, DatasetReader
    from segx.specs import DatasetFormatSpec

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
YAML_SUFFIXES = {".yaml", ".yml"}
_KEYS = frozenset({"path", *SPLITS, "names", "nc", "download"})
_ALIKE = 0.75
"""How alike a key must be to one that is missing to be taken for it mistyped; "notes" and "test" are 0.67."""
_MAY_READ = "give yourself the right to read it: chmod u+rX"
_SHIPPED = Path(__file__).parent / "datasets"
_HEAD = 1 << 16
_LONGEST_YAML = 8 << 20
_MOST_CLASSES = 1 << 20
_LOCK = ".segx-download"
"""What is held, in a data set's folder, from looking for its parts until they are unpacked."""


class Formats(Protocol):
    """Who knows the formats of data sets: the registry."""

    def dataset_format_for(self, path: Path, /) -> DatasetFormatSpec:
        """Return the one installed format that recognises a path."""
        ...

    def load_dataset_format(self, spec: DatasetFormatSpec, /) -> DatasetReader:
        """Return its reader."""
        ...


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
        """What tells its address from others, in a few letters."""
        return hashlib.blake2b(self.file.url.encode(), digest_size=4).hexdigest()

    def unpacking(self, root: Path) -> Path:
        """Return the folder it is unpacked into first; one that is there holds what has not all been moved yet."""
        return root / self.into / f".unpacking-{self.key}"


@dataclass(frozen=True, kw_only=True)
class DatasetDefinition:
    """A data set YAML, checked.

    Attributes:
        file: The YAML.
        root: What the splits are relative to.
        splits: Split to its folders, lists and files, as written.
        names: Class number to class name; None when the YAML leaves it to the data.
        downloads: Where to get it.
        shipped: Whether it came with segx; its data then live in the cache folder.
        mistyped: A line for each entry that means nothing and is spelt almost like one that does.
    """

    file: Path
    root: Path
    splits: Mapping[str, tuple[str, ...]]
    names: Mapping[int, str] | None
    downloads: tuple[Archive, ...] = ()
    shipped: bool = field(default=False)
    mistyped: tuple[str, ...] = ()


def open_dataset(
    data: str | Path,
    split: str = "val",
    *,
    images: str | Path | None = None,
    registry: Formats | None = None,
    fetch: bool = True,
) -> Dataset:
    """Return one split of a data set.

    Args:
        data: A data set YAML or its shipped name, a COCO JSON, or a folder.
        split: Which part of it.
        images: Folder of the pictures, when a COCO JSON's cannot be found beside it.
        registry: Where formats are looked up; default: the installed plugins.
        fetch: Download what is not there; False where nobody named the data set.

    Raises:
        DataError: It is missing (every path tried is listed), or of another shape.
    """
    source, mistyped = _find(data, split, images=images, fetch=fetch)
    for line in mistyped:
        _warn_once(line)
    return find_reader(source.entries, registry).read(source)


def find_split(
    data: str | Path, split: str = "val", *, images: str | Path | None = None, fetch: bool = True
) -> DatasetSource:
    """Return where one split of a data set lies; downloads it when it is not there and the YAML says from where.

    Raises:
        DataError: It is missing; every path tried is listed.
    """
    return _find(data, split, images=images, fetch=fetch)[0]


def _find(
    data: str | Path, split: str, *, images: str | Path | None, fetch: bool
) -> tuple[DatasetSource, tuple[str, ...]]:
    """Return where one split lies, and the lines to tell of entries that are spelt almost right."""
    folder = None if images is None else Path(images)
    if folder is not None:
        with _readable(folder):
            there = folder.is_dir()
        if not there:
            raise DataError(f"images={folder}: there is no such folder")
    path = locate(data)
    if path.suffix.lower() not in YAML_SUFFIXES:
        return DatasetSource(origin=path, split=split, entries=(path,), images=folder), ()
    definition = read_definition(path)
    source = DatasetSource(
        origin=path,
        split=split,
        entries=_entries(definition, split, fetch=fetch),
        names=definition.names,
        images=folder,
    )
    return source, definition.mistyped


def find_reader(entries: Sequence[Path], registry: Formats | None = None) -> DatasetReader:
    """Return the reader of the format that holds these folders and files.

    Raises:
        DataError: No installed format knows them, or they are of several formats.
    """
    from segx.registry import get_registry

    formats: Formats = get_registry() if registry is None else registry
    for entry in entries:
        with _readable(entry):
            _look_at(entry)
    specs = [formats.dataset_format_for(entry) for entry in entries]
    if len({spec.name for spec in specs}) > 1:
        mixed = ", ".join(f"{entry} is {spec.name}" for entry, spec in zip(entries, specs, strict=True))
        raise DataError(f"one split cannot mix formats: {mixed}")
    return formats.load_dataset_format(specs[0])


def _look_at(entry: Path) -> None:
    """Refuse what is neither a file nor a folder with something in it; raise OSError for what cannot be read."""
    if entry.is_dir():
        if not any(entry.iterdir()):
            raise DataError(f"{entry} is an empty folder: it holds no pictures")
    elif entry.is_file():
        with entry.open("rb"):
            pass
    elif entry.exists():
        raise DataError(f"{entry} is neither a file nor a folder")


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Say of what cannot be read which and why."""
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
    raise DataError(
        f"data set {str(data)!r} is not there{did_you_mean(path.stem, known)}",
        hint=f"tried: {path.absolute()}; shipped definitions: {', '.join(known)}",
    )


def _in_folder(folder: Path) -> Path:
    """Return the YAML of a folder, or the COCO JSON it keeps its annotations in, or the folder itself.

    Raises:
        DataError: It keeps several.
    """
    yamls = sorted(item for item in folder.iterdir() if item.suffix.lower() in YAML_SUFFIXES)
    if len(yamls) == 1:
        return yamls[0]
    if (folder / "labels").exists():
        return folder
    places = (folder / "annotations", folder)
    jsons = [item for place in places for item in sorted(place.glob("*.json")) if _has_annotations(item)]
    jsons = [item for item in jsons if item.stem.startswith("instances")] or jsons
    if len(jsons) > 1:
        listed = ", ".join(f"data={item}" for item in jsons[:5])
        raise DataError(f"{folder} holds {len(jsons)} COCO JSONs: name one, or write a YAML", hint=listed)
    return jsons[0] if jsons else folder


def _has_annotations(path: Path) -> bool:
    """Say whether a JSON begins or ends like a COCO data set's."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        text = file.read(_HEAD)
        file.seek(max(path.stat().st_size - _HEAD, 0))
        text += file.read(_HEAD)
    return any(key in text for key in (b'"annotations"', b'"images"'))


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
        root=root,
        splits=splits,
        names=read_names(content.get("names"), content.get("nc"), path),
        downloads=_downloads(content.get("download"), path),
        shipped=shipped,
        mistyped=mistyped,
    )


def _mistyped(content: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Tell of entries spelt almost like one that is missing; all others are the user's own and stay unread."""
    missing = [key for key in _KEYS if key not in content]
    found = []
    for key in content.keys() - _KEYS:
        close = difflib.get_close_matches(key.lower(), missing, n=1, cutoff=_ALIKE)
        if close:
            found.append(f"{path}: {key}: means nothing; did you mean {close[0]}:?")
    return tuple(sorted(found))


class _Loader(yaml.SafeLoader):
    """YAML's plain values, with every key once."""

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
        if path.stat().st_size > _LONGEST_YAML:
            raise DataError(f"{path} has {path.stat().st_size >> 20} MiB: that is no data set YAML")
        content = yaml.load(path.read_text(encoding="utf-8-sig"), _Loader)  # noqa: S506 - a safe one
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


def _entries(definition: DatasetDefinition, split: str, *, fetch: bool = True) -> tuple[Path, ...]:
    """Return the folders and files of a split, fetched if they can be and may be."""
    if split not in definition.splits:
        there = ", ".join(definition.splits)
        raise DataError(
            f"{definition.file} has no split {split!r}; it has {there}",
            hint="; ".join([f"try split={there}", *definition.mistyped]),
        )
    found, tried = _present(definition, split)
    lacking, lock = _lacking(definition, split, tried), definition.root / _LOCK
    if lacking and not fetch:
        name = definition.file.name if definition.shipped else definition.file
        msg = f"the model remembers data={name}, which is not here, and is not downloaded unasked"
        raise DataError(msg, hint=f"to download it: data={name}")
    if lacking or (definition.downloads and lock_of(lock).exists()):
        _fetch(definition, split, lock)
        found, tried = _present(definition, split)
    if tried:
        raise DataError(
            f"{split} of {definition.file} is not there",
            hint="tried:\n    " + "\n    ".join(str(path) for path in tried),
        )
    return tuple(found)


def _lacking(definition: DatasetDefinition, split: str, tried: Sequence[Path]) -> list[Archive]:
    """Return the archives that a split needs and that are not there; ``tried``: what of the split is missing."""
    return [
        archive
        for archive in definition.downloads
        if not archive.splits or split in archive.splits
        if (not (definition.root / archive.provides).exists() if archive.provides else tried)
        or archive.unpacking(definition.root).exists()
    ]


def _fetch(definition: DatasetDefinition, split: str, lock: Path) -> None:
    """Download what a split lacks: one process at a time, those that waited look again."""
    try:
        definition.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{definition.root}: {error.strerror or error}") from error
    with only_one(lock, error=DataError):
        _, tried = _present(definition, split)
        for archive in _lacking(definition, split, tried):
            logger.info("%s: %s is not there; downloading %s", definition.file.stem, split, archive.file.url)
            download(archive, definition.root)


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
            found.append(there)
    return found, missing


def _candidates(definition: DatasetDefinition, value: str) -> list[Path]:
    """Return where a split may lie: below ``path``; some exports write one ``../`` too many."""
    paths = [definition.root / _expanded(value)]
    if value.startswith("../"):
        paths.append(definition.root / value.removeprefix("../"))
    return [Path(os.path.normpath(path)) for path in paths]


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


def download(archive: Archive, root: Path) -> None:
    """Fetch an archive (progress, resume, size and hash checked) and unpack it below ``root``.

    What it holds counts as there when all of it is; a process that ends before is made up for by the next. A single
    outer folder named like ``root`` is left away.

    Raises:
        DataError: It cannot be had, or is no safe archive.
    """
    name = Path(urllib.parse.urlsplit(archive.file.url).path).name
    name = f"{archive.key}-{name}"  # many data sets have a train.zip
    path = fetch(archive.file, cache_folder() / "downloads" / name, error=DataError)
    target, work = root / archive.into, archive.unpacking(root)
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            unpack(path, work)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
        content = list(work.iterdir())
        if len(content) == 1 and content[0].is_dir() and content[0].name == root.name:
            content = list(content[0].iterdir())
        for item in content:
            _merge(item, target / item.name)
        shutil.rmtree(work)
        path.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(f"{path} cannot be unpacked into {target}: {error.strerror or error}") from error


def unpack(path: Path, folder: Path) -> None:
    """Unpack a zip archive into an empty folder.

    Raises:
        DataError: It is no zip archive, or would write outside the folder.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                parts = Path(member.filename.replace("\\", "/")).parts
                if ".." in parts or Path(member.filename).is_absolute() or (member.external_attr >> 28) == 0xA:
                    raise DataError(f"{path} holds {member.filename!r}, which would leave its folder: not unpacked")
            archive.extractall(folder)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path} is no zip archive that can be read ({error})") from error


def _merge(source: Path, target: Path) -> None:
    """Move a file or a folder into place, folder into folder where both are there."""
    if source.is_dir() and target.is_dir():
        for item in source.iterdir():
            _merge(item, target / item.name)
    elif source.is_dir():
        shutil.move(source, target)
    else:
        source.replace(target)
