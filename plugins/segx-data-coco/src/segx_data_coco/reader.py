"""Reads COCO JSON as it is: nothing is simplified, joined or rewritten.

Format: https://cocodataset.org/#format-data. Images are looked for where COCO keeps them and beside the JSON;
annotations are checked one by one, a bad one is named and only it is left out.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import urllib.parse
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from segx.errors import DataError
from segx.io import index_cache
from segx.io.files import open_regular
from segx.io.image_header import image_shape
from segx.structures import rle
from segx.structures.annotations import AnnotationTable, TableDataset, starts_of
from segx.words import counted
from segx_data_coco.annotations import MAX_PIXELS, AnnotationColumns, is_id, number_in, shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from segx.structures.annotations import DatasetSource

logger = logging.getLogger(__name__)

_LAYOUT = "coco/5a"
"""Part of every key in the cache; changed whenever what is stored changes."""
_LARGEST_CATEGORY = 1 << 31
_HALVES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True, eq=False)
class CocoFile:
    """One COCO JSON, read.

    Attributes:
        path: The file.
        digest: Hash of its content.
        files: ``file_name`` of each image.
        ids: Id of each image.
        sizes: int32 (images, 2), height and width; 0 where the JSON does not say.
        table: The objects; ``category`` counts ``category_names``.
        category_names: Names of the categories, in the order of their ids.
        category_ids: The ids.
        problems: Annotations that were left out.
        notes: What was kept otherwise than it is written.
    """

    path: Path
    digest: str
    files: Sequence[str]
    ids: Sequence[int | str]
    sizes: NDArray[np.int32]
    table: AnnotationTable
    category_names: Sequence[str]
    category_ids: Sequence[int]
    problems: Sequence[str]
    notes: Sequence[str]


class CocoReader:
    """Reads COCO JSON files."""

    def read(self, source: DatasetSource) -> TableDataset:
        """Return a split that one or several COCO JSON files hold.

        Raises:
            DataError: A file is no COCO data set, or its images are not to be found.
        """
        files = [read_file(path) for path in source.entries]
        if source.names is None and len(files) > 1:
            source = dataclasses.replace(source, names=_names_of(files))
        parts = [_dataset(file, source) for file in files]
        whole = _with_images_once(parts[0] if len(parts) == 1 else _join(parts))
        if not len(whole):
            raise DataError(f"{source.split} of {source.origin} holds no images")
        return whole


def read_file(path: Path) -> CocoFile:
    """Return what a COCO JSON says, from the cache when it was read before.

    Raises:
        DataError: It cannot be read, or is no COCO data set.
    """
    try:
        digest = index_cache.file_digest(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    key = index_cache.key_of(_LAYOUT, digest)
    stored = index_cache.load(key)
    if stored is not None and stored.keys() >= {"files", "ids", "sizes", "names", "numbers", "problems", "notes"}:
        return _from_arrays(path, digest, stored)
    read = _parse(path, digest)
    index_cache.store(key, _to_arrays(read))
    return read


@dataclass(frozen=True, kw_only=True)
class _Places:
    """Where the images of a JSON lie: the file of each, or None; how many are found by the end of their name alone."""

    files: Sequence[Path | None]
    by_tail: Sequence[tuple[str, Path]]


def find_images(path: Path, file_names: Sequence[str], images: Path | None = None) -> _Places:
    """Return where the images of a COCO JSON lie: by their names in the likeliest folder, else by the ends of these.

    Raises:
        DataError: None is found; every folder tried is listed.
    """
    tried = [images] if images is not None else image_folders(path)
    folders = _Folders()
    folder = next((folder for folder in tried if any(folders.hold(folder / name) for name in file_names[:20])), None)
    found: list[Path | None] = [None] * len(file_names)
    if folder is not None:
        found = [folder / name if folders.hold(folder / name) else None for name in file_names]
    by_tail = _found_by_tail(
        [name for name, place in zip(file_names, found, strict=True) if place is None], tried, folders
    )
    taken = Counter([*by_tail.values(), *(place for place in found if place is not None)])
    by_tail = {name: place for name, place in by_tail.items() if taken[place] == 1}  # else it may be another image's
    if folder is None and not by_tail:
        listed = "\n    ".join(str(folder / file_names[0]) for folder in tried)
        raise DataError(f"the images of {path} are not to be found", hint=f"give images=FOLDER; tried:\n    {listed}")
    return _Places(
        files=[place or by_tail.get(name) for name, place in zip(file_names, found, strict=True)],
        by_tail=list(by_tail.items()),
    )


class _Folders:
    """What lies in folders, each listed once."""

    def __init__(self) -> None:
        self._listings: dict[str, set[str]] = {}

    def hold(self, path: Path) -> bool:
        """Return True if there is such a file."""
        parent, name = os.path.split(path)
        if parent not in self._listings:
            try:
                with os.scandir(parent) as scan:
                    self._listings[parent] = {entry.name for entry in scan if _is_file(entry)}
            except (OSError, ValueError):  # no such folder, or no such name
                self._listings[parent] = set()
        return name in self._listings[parent]


def _found_by_tail(names: Sequence[str], folders: Sequence[Path], listed: _Folders) -> dict[str, Path]:
    """Return the files that names of another machine mean: their last parts, either slash, quoted as in addresses."""
    found = {}
    for name in names:
        for written in dict.fromkeys((name, urllib.parse.unquote(name))):
            parts = [part for part in written.replace("\\", "/").split("/") if part not in {"", ".", ".."}]
            tails = ((folder, parts[start:]) for start in range(len(parts)) for folder in folders)
            place = next((folder.joinpath(*t) for folder, t in tails if listed.hold(folder.joinpath(*t))), None)
            if place is not None:
                found[name] = place
                break
    return found


def image_folders(path: Path) -> list[Path]:
    """Return the folders where the images of a COCO JSON usually lie, the likeliest first."""
    folder = path.absolute().parent
    split = path.stem.removeprefix("instances_")
    return [
        folder.parent / "images" / split,
        folder.parent / split,
        folder / "images" / split,
        folder / split,
        folder.parent / "images",
        folder / "images",
        folder,
        folder.parent,
    ]


def _parse(path: Path, digest: str) -> CocoFile:
    content = _load_json(path)
    notes: list[str] = []
    category_ids, category_names = _categories(content["categories"], path, notes)
    files, ids, sizes, problems = _images(content["images"], path, notes)
    columns = AnnotationColumns(
        images={number: index for index, number in enumerate(ids)},
        categories={number: index for index, number in enumerate(category_ids)},
        sizes=sizes,
    )
    for position, annotation in enumerate(content["annotations"], start=1):
        columns.add(annotation, position)
    table = columns.table()
    if columns.texts:
        notes.append(f"{counted(columns.texts, 'id')} of annotations, or in them, written as text: read as numbers")
    return CocoFile(
        path=path,
        digest=digest,
        files=files,
        ids=ids,
        sizes=sizes,
        table=table,
        category_names=category_names,
        category_ids=category_ids,
        problems=[f"{path}: {problem}" for problem in (*problems, *columns.problems)],
        notes=[f"{path}: {note}" for note in (*notes, *columns.notes)],
    )


def _load_json(path: Path) -> dict[str, list[Any]]:
    try:
        with open_regular(path) as file:
            content = json.loads(file.read())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text", hint="save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error})") from error
    wanted = ("images", "annotations", "categories")
    if isinstance(content, list) and content and isinstance(content[0], dict) and "score" in content[0]:
        raise DataError(f"{path} holds predictions, not ground truth", hint="give the JSON with images and annotations")
    if not isinstance(content, dict):
        raise DataError(f"{path} is a {type(content).__name__}, not a COCO data set")
    for name in wanted:
        if name in content and not isinstance(content[name], list):
            kind = "null" if content[name] is None else shown(content[name])
            raise DataError(f"{path} is no COCO data set: {name!r} is {kind}, not a list")
        if name not in content:
            there = ", ".join(list(content)[:8]) or "nothing"
            raise DataError(f"{path} is no COCO data set: it has no list {name!r}", hint=f"it has {there}")
    return content


def _categories(categories: list[Any], path: Path, notes: list[str]) -> tuple[list[int], list[str]]:
    """Return the ids in order and their names; ids written as text are noted."""
    found: dict[int, str] = {}
    texts = 0
    for position, item in enumerate(categories, start=1):
        number, name = (item.get("id"), item.get("name")) if isinstance(item, dict) else (None, None)
        if isinstance(number, str) and (whole := number_in(number)) is not None:
            number, texts = whole, texts + 1
        elif isinstance(number, float) and number.is_integer():
            number = int(number)
        if _is_text(number):
            hint = "number the categories, there and in every category_id"
            raise DataError(f"{path}: category no. {position} has the id {shown(number)}, not a number", hint=hint)
        if not is_id(number) or abs(number) > _LARGEST_CATEGORY or not (_is_text(name) or is_id(name)):
            raise DataError(f"{path}: category no. {position} has no id or no name ({shown(item)})")
        if number in found:
            raise DataError(f"{path}: two categories have the id {number}")
        found[number] = str(name)
    if not found:
        raise DataError(f"{path} names no category")
    if texts:
        notes.append(f"{counted(texts, 'id')} of categories written as text: read as numbers")
    return sorted(found), [found[number] for number in sorted(found)]


def _images(
    images: list[Any], path: Path, notes: list[str]
) -> tuple[list[str], list[int | str], NDArray[np.int32], list[str]]:
    """Return file names, ids and sizes (0 where unknown) of the images that can be told apart, and what was wrong."""
    files: list[str] = []
    ids: dict[int | str, None] = {}
    sizes: list[tuple[int, int]] = []
    problems, several = _several_images(images)
    for position, item in enumerate(images, start=1):
        number, name = _id_and_name(item)
        if not (is_id(number) or _is_text(number)) or not _is_text(name):
            problems.append(f"image no. {position}: has no id or no file_name")
        elif number in ids:
            notes.append(f"image {number}: it is there twice, and read once")
        elif number not in several:
            height, width = item.get("height"), item.get("width")
            if not _is_size(height, width):
                if (height, width) != (None, None):
                    stated = f"height {shown(height)} and width {shown(width)}"
                    notes.append(f"image {number}: {stated} are no size: it is taken from the image")
                height = width = 0
            ids[number] = None
            files.append(name)
            sizes.append((height, width))
    if not files:
        raise DataError(f"{path} names no images")
    return files, list(ids), np.array(sizes, np.int32).reshape(-1, 2), problems


def _id_and_name(item: Any) -> tuple[Any, Any]:
    """Return id and file name of an image as they are written; 1.0, as tables of numbers write it, is 1."""
    number, name = (item.get("id"), item.get("file_name")) if isinstance(item, dict) else (None, None)
    return (int(number) if isinstance(number, float) and number.is_integer() else number), name


def _several_images(images: list[Any]) -> tuple[list[str], set[int | str]]:
    """Return a line for each id that several images have, and the ids: nothing says whose their annotations are."""
    names: defaultdict[int | str, dict[str, None]] = defaultdict(dict)
    for item in images:
        number, name = _id_and_name(item)
        if (is_id(number) or _is_text(number)) and _is_text(name):
            names[number][name] = None
    several = {number: list(files) for number, files in names.items() if len(files) > 1}
    reported = [
        f"image {number}: {len(files)} images have this id ({', '.join(files[:3])}): left out with its annotations"
        for number, files in several.items()
    ]
    return reported, set(several)


def _is_text(value: Any) -> TypeGuard[str]:
    """Return True if a value is a text that can name a file and be written down: JSON can hold halves of characters."""
    return isinstance(value, str) and bool(value) and "\0" not in value and not _HALVES.search(value)


def _is_size(height: Any, width: Any) -> bool:
    whole = all(is_id(side) and 0 < side < 1 << 31 for side in (height, width))
    return whole and height * width <= MAX_PIXELS


def _dataset(read: CocoFile, source: DatasetSource) -> TableDataset:
    """Return a JSON as a data set: images found, categories numbered as the definition numbers them."""
    places = find_images(read.path, read.files, source.images)
    found = {index: place for index, place in enumerate(places.files) if place is not None}
    sizes, unreadable = _known_sizes(read, found)
    there, missing = list(found), [index for index in range(len(read.files)) if index not in found]
    there = [index for index in there if index not in unreadable]
    table, ids = read.table, read.ids
    likely = source.images or next(iter(found.values())).parent
    problems = [
        *read.problems,
        *(f"{read.path}: {likely / read.files[index]}: not there" for index in missing),
        *(f"{read.path}: {reason}" for reason in unreadable.values()),
    ]
    if len(there) < len(read.files):
        table = table.keep_images(there)
        ids, sizes = [ids[i] for i in there], sizes[there]
    if not there:
        raise DataError(f"{read.path}: none of its images can be read", hint=problems[-1])
    table, wrong = _with_fitting_masks(table, sizes, read.sizes[there, 0] == 0)
    problems += [f"{read.path}: {reason}" for reason in wrong]
    paths = [found[index] for index in there]
    notes = list(read.notes)
    if places.by_tail:
        name, place = places.by_tail[0]
        count = counted(len(places.by_tail), "image")
        notes.append(f"{read.path}: {count} found by the end of the name alone: {name!r} is {place}")
    names, numbers, category_ids = _numbering(read, source)
    category = numbers[table.category]
    if (category < 0).any():
        unknown = sorted({read.category_names[i] for i in table.category[category < 0].tolist()})
        raise DataError(
            f"{read.path} has objects of {', '.join(unknown[:5])}, which names: of {source.origin} does not list"
        )
    return TableDataset(
        files=paths,
        ids=ids,
        sizes=sizes,
        table=AnnotationTable.from_columns({**table.columns(), "category": category.astype(np.int32)}),
        names=names,
        category_ids=category_ids,
        problems=tuple(problems),
        notes=tuple(("mended", note) for note in notes),
        fingerprint=read.digest,
    )


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link in a circle
        return False


def _known_sizes(read: CocoFile, found: Mapping[int, Path]) -> tuple[NDArray[np.int32], dict[int, str]]:
    """Return the sizes with those that the JSON leaves out taken from the images, and why some cannot be."""
    unknown = [index for index in found if not read.sizes[index, 0]]
    if not unknown:
        return read.sizes, {}
    filled, unreadable = read.sizes.copy(), {}
    for index in unknown:
        try:
            filled[index] = image_shape(found[index])
        except DataError as error:
            unreadable[index] = error.message
    return filled, unreadable


def _with_fitting_masks(
    table: AnnotationTable, sizes: NDArray[np.int32], unsaid: NDArray[np.bool_]
) -> tuple[AnnotationTable, list[str]]:
    """Leave out RLE that does not fill its image: known only now where the JSON does not say the image's size."""
    image = np.repeat(np.arange(len(sizes)), np.diff(table.offsets))
    keep, wrong = np.ones(len(table), np.bool_), []
    for row in np.flatnonzero((np.diff(table.runs) > 0) & unsaid[image]).tolist():
        height, width = sizes[image[row]].tolist()
        counts = rle.counts_of(table.counts[table.runs[row] : table.runs[row + 1]].tobytes())
        if counts.sum() != height * width:
            keep[row] = False
            wrong.append(f"annotation {table.id[row]}: its RLE does not fill {height} x {width} pixels")
    return (table.keep_objects(keep) if wrong else table), wrong


def _numbering(read: CocoFile, source: DatasetSource) -> tuple[Mapping[int, str], NDArray[np.int64], dict[int, int]]:
    """Return the class names, the class number of each category (-1: none), and class number to category id."""
    if source.names is None:
        names: Mapping[int, str] = dict(enumerate(read.category_names))
        numbers = np.arange(len(names))
    else:
        names = source.names
        numbers = _by_name(read.category_names, names)
    ids = {int(number): read.category_ids[index] for index, number in enumerate(numbers.tolist()) if number >= 0}
    unused = max(read.category_ids, default=0) + 1
    return names, numbers, {number: ids.get(number, unused + number) for number in names}


def _by_name(category_names: Sequence[str], names: Mapping[int, str]) -> NDArray[np.int64]:
    """Return the class number of each category; of several with one name the first is the first class, and so on."""
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    for number, name in names.items():
        numbers[name].append(number)
    found = []
    for name in category_names:
        left = numbers.get(name, [-1])
        found.append(left.pop(0) if len(left) > 1 else left[0])
    return np.array(found, np.int64)


def _names_of(files: Sequence[CocoFile]) -> dict[int, str]:
    """Return the classes of several files by name, in the order in which they first come."""
    found: list[str] = []
    for file in files:
        more = Counter(file.category_names) - Counter(found)
        for name in file.category_names:
            if more[name]:
                found.append(name)
                more[name] -= 1
    return dict(enumerate(found))


def _join(parts: Sequence[TableDataset]) -> TableDataset:
    """Return several files, read with the same names, as one data set; ids that they share are given anew."""
    first = parts[0]
    files = [path for part in parts for path in part.files]
    ids, anew = _unique([number for part in parts for number in part.ids])
    table = AnnotationTable.joined([part.table for part in parts])
    numbers, again = _unique(table.id.tolist())
    notes = [note for part in parts for note in part.notes]
    if anew or again:
        reported = f"{counted(anew, 'image id')} and {counted(again, 'annotation id')} of several files are given anew"
        notes.append(("mended", reported))
    return TableDataset(
        files=files,
        ids=ids,
        sizes=np.concatenate([part.sizes for part in parts]),
        table=dataclasses.replace(table, id=np.array(numbers, np.int64)),
        names=first.names,
        category_ids=_numbered_apart([part.category_ids for part in parts]),
        problems=tuple(problem for part in parts for problem in part.problems),
        notes=tuple(notes),
        fingerprint=index_cache.key_of(*(part.fingerprint for part in parts)),
    )


def _unique(ids: Sequence[int | str]) -> tuple[list[Any], int]:
    """Return ids with those that were there before replaced by numbers above all, and how many these are."""
    top = max((number for number in ids if isinstance(number, int)), default=0)
    seen: set[int | str] = set()
    found: list[int | str] = []
    for number in ids:
        if number in seen:
            top += 1
            found.append(top)
        else:
            seen.add(number)
            found.append(number)
    return found, len(ids) - len(seen)


def _numbered_apart(category_ids: Sequence[Mapping[int, int]]) -> Mapping[int, int]:
    """Return the ids of the first file; where files disagree, numbers that are none of a class twice."""
    first = category_ids[0]
    if all(ids == first for ids in category_ids):
        return first
    return {number: number + 1 for number in first}


def _with_images_once(dataset: TableDataset) -> TableDataset:
    """Return a data set in which each image file is one image, with the annotations of all of its entries."""
    places = {path: place for place, path in enumerate(dict.fromkeys(dataset.files))}
    if len(places) == len(dataset.files):
        return dataset
    image = np.repeat([places[path] for path in dataset.files], np.diff(dataset.table.offsets))
    first = sorted({path: index for index, path in reversed(list(enumerate(dataset.files)))}.values())
    again = counted(len(dataset.files) - len(places), "entry")
    return dataclasses.replace(
        dataset,
        files=list(places),
        ids=[dataset.ids[index] for index in first],
        sizes=dataset.sizes[first],
        table=dataset.table.in_order(
            np.argsort(image, kind="stable"), starts_of(np.bincount(image, minlength=len(places)))
        ),
        notes=(*dataset.notes, ("mended", f"{again} of images that have one already: their annotations are joined")),
    )


def _to_arrays(read: CocoFile) -> dict[str, NDArray[Any]]:
    return {
        **{f"table.{name}": column for name, column in read.table.columns().items()},
        "files": index_cache.texts(read.files),
        "ids": np.frombuffer(json.dumps(list(read.ids)).encode(), np.uint8),
        "sizes": read.sizes,
        "names": index_cache.texts(read.category_names),
        "numbers": np.array(read.category_ids, np.int64),
        "problems": index_cache.texts([problem.removeprefix(f"{read.path}: ") for problem in read.problems]),
        "notes": index_cache.texts([note.removeprefix(f"{read.path}: ") for note in read.notes]),
    }


def _from_arrays(path: Path, digest: str, arrays: Mapping[str, NDArray[Any]]) -> CocoFile:
    columns = {name.removeprefix("table."): array for name, array in arrays.items() if name.startswith("table.")}
    return CocoFile(
        path=path,
        digest=digest,
        files=index_cache.untexts(arrays["files"]),
        ids=json.loads(arrays["ids"].tobytes()),
        sizes=arrays["sizes"],
        table=AnnotationTable.from_columns(columns),
        category_names=index_cache.untexts(arrays["names"]),
        category_ids=arrays["numbers"].tolist(),
        problems=[f"{path}: {problem}" for problem in index_cache.untexts(arrays["problems"])],
        notes=[f"{path}: {note}" for note in index_cache.untexts(arrays["notes"])],
    )
