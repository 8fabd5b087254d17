"""Reads YOLO data sets: images in folders or lists, one text file of labels beside each."""

from __future__ import annotations

import dataclasses
import os
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segx.errors import DataError
from segx.io import index_cache
from segx.io.files import open_regular, read_text
from segx.io.image_header import image_shape
from segx.io.index_cache import Stamps
from segx.io.names import IMAGE_SUFFIXES
from segx.structures.annotations import TableDataset
from segx.words import counted
from segx_data_yolo.folders import walk
from segx_data_yolo.label_index import LabelIndex, read_labels
from segx_data_yolo.labels import SLACK

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from segx.structures.annotations import AnnotationTable, DatasetSource

_SIZES = "yolo-sizes/2"  # of 1, sizes of turned PNG and TIFF were those of the pixels as stored
_HEAD = 1 << 16
"""Bytes of a JSON's beginning and end that are looked at."""
_NAMES = ("classes.txt", "obj.names")
"""What annotation tools call the list of class names, one a line."""


class YoloReader:
    """Reads folders and lists of images with YOLO labels."""

    def read(self, source: DatasetSource) -> TableDataset:
        """Return a split.

        Raises:
            DataError: There are no images; what was looked at is listed.
        """
        images, problems, moved = find_images(source)
        source = _named(source, images)
        name = "\n".join(str(entry.absolute()) for entry in source.entries)
        index = read_labels([label_file(image) for image in images], name)
        sizes, unreadable = _sizes(images, name)
        problems += [f"{images[i]}: {reason}" for i, reason in unreadable.items()]
        problems += _reported(index)
        problems += _beside(images, index)
        problems += _other_case(images, index)
        names, keep, unknown = _classes(index, source)
        problems += unknown
        notes = [*moved, *_sharing(images, index)]
        table, cut = _cut_at_edges(index, keep)
        notes += cut
        if unreadable:
            there = [i for i in range(len(images)) if i not in unreadable]
            table, sizes, images = table.keep_images(there), sizes[there], [images[i] for i in there]
        if not images:
            raise DataError(f"{source.split} of {source.origin}: none of its images can be read")
        return TableDataset(
            files=[Path(image) for image in images],
            ids=image_ids(images),
            sizes=sizes,
            table=table,
            names=names,
            category_ids={number: number for number in names},
            problems=tuple(problems),
            notes=tuple(notes),
            fingerprint=index.fingerprint,
        )

    def strays(self, source: DatasetSource) -> list[Path]:
        """Return the label files beside a split's folders that belong to no image."""
        images, _, _ = find_images(source)
        if any(entry.is_file() for entry in source.entries):  # a list names some images of a folder
            return []
        known = {label_file(image) for image in images}
        folders = sorted({os.path.dirname(label) for label in known})  # noqa: PTH120 - speed
        found = [path for folder in folders for path in sorted(Path(folder).glob("*.txt"))]
        return [path for path in found if str(path) not in known and path.name not in _NAMES]


def _named(source: DatasetSource, images: Sequence[str]) -> DatasetSource:
    """Return a source with the class names that a list beside images or labels gives, where nothing else does."""
    if source.names is not None:
        return source
    origin = source.origin if source.origin.is_dir() else source.origin.parent
    places = [origin, *(entry if entry.is_dir() else entry.parent for entry in source.entries)]
    places.append(Path(label_file(images[0])).parent)
    for path in (place / name for place in dict.fromkeys([*places, places[-1].parent]) for name in _NAMES):
        if path.is_file():
            try:
                lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"{path}: the class names cannot be read ({error})") from error
            names = dict(enumerate(line for line in lines if line))
            if names:
                return dataclasses.replace(source, names=names)
    return source


def find_images(source: DatasetSource) -> tuple[list[str], list[str], list[tuple[str, str]]]:
    """Return the images of a split in order, a line for each that is named and cannot be had, and what is to note.

    Raises:
        DataError: There are none.
    """
    images: dict[str, None] = {}
    missing: list[str] = []
    unread: list[str] = []
    notes: list[tuple[str, str]] = []
    for entry in source.entries:
        found = _listed(entry, missing, notes) if entry.is_file() else _walk(str(entry.absolute()), unread)
        images.update(dict.fromkeys(found))
    if images:
        return list(images), missing + unread, notes
    if unread:
        raise DataError(f"{source.split} of {source.origin} has no image that can be read", hint=unread[0])
    if missing:
        tried = "\n    ".join(line.partition(": ")[2].removesuffix(" is not there") for line in missing[:5])
        raise DataError(f"none of the images that {source.entries[0]} lists is there", hint=f"tried:\n    {tried}")
    looked = ", ".join(str(entry) for entry in source.entries)
    raise DataError(f"{source.split} of {source.origin} holds no images", hint=f"looked in {looked}")


def label_file(image: str) -> str:
    """Return the label file of an image: ``images`` becomes ``labels`` where the path says so last, ``.txt``."""
    stem = os.path.splitext(image)[0]  # noqa: PTH122 - a hundred thousand Path objects cost seconds
    head, found, tail = stem.rpartition(f"{os.sep}images{os.sep}")
    return f"{head}{os.sep}labels{os.sep}{tail}.txt" if found else f"{stem}.txt"


def image_ids(images: Sequence[str]) -> list[int | str]:
    """Return an id for each image: its stem, a number where that is one; with its folders where stems repeat."""
    stems = [os.path.splitext(os.path.basename(image))[0] for image in images]  # noqa: PTH119, PTH122 - speed
    ids: list[int | str] = [int(stem) if stem.isascii() and stem.isdecimal() else stem for stem in stems]
    if len(set(ids)) == len(ids):
        return ids
    common = os.path.commonpath([os.path.dirname(image) for image in images])  # noqa: PTH120 - speed
    return [os.path.relpath(image, common).replace(os.sep, "/") for image in images]


def _walk(folder: str, unread: list[str]) -> list[str]:
    """Return the images below a folder; what is called like one and is no file is named, as what cannot be read."""
    found = []
    for entry in walk(folder, unread):
        if os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:  # noqa: PTH122 - speed
            if _is_file(entry):
                found.append(entry.path)
            else:
                unread.append(f"{entry.path}: it is not a file that can be read")
    return found


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link in a circle
        return False


def _listed(path: Path, missing: list[str], notes: list[tuple[str, str]]) -> list[str]:
    """Return the images a ``.txt`` list names, relative to the list; those of another machine by their end."""
    try:
        lines = read_text(path, encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the list cannot be read ({error})") from error
    base, found = str(path.absolute().parent), []
    moved: list[str] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            written = os.path.join(base, line.strip())  # noqa: PTH118 - speed
            image = os.path.normpath(written)
            if os.path.isfile(image):  # noqa: PTH113 - speed
                found.append(image)
            elif os.path.isfile(written):  # noqa: PTH113 - ".." after a link
                found.append(written)
            elif (near := _by_tail(base, line.strip())) is not None:
                moved.append(line.strip())
                found.append(near)
            else:
                missing.append(f"{path}, line {number}: {image} is not there")
    if moved:
        count = counted(len(moved), "image")
        notes.append(("mended", f"{path}: {count} found by the end of the name alone: {moved[0]!r}"))
    return found


def _by_tail(base: str, written: str) -> str | None:
    """Return the file in a folder that the last parts of a name mean, with either slash: two of them at least."""
    parts = [part for part in written.replace("\\", "/").split("/") if part not in {"", ".", ".."}]
    tails = (os.path.join(base, *parts[start:]) for start in range(len(parts) - 1))  # noqa: PTH118 - texts
    return next((tail for tail in tails if os.path.isfile(tail)), None)  # noqa: PTH113 - speed


def _sizes(images: Sequence[str], name: str) -> tuple[NDArray[np.int32], dict[int, str]]:
    """Return int32 (images, 2), height and width, from headers or the cache; and why some cannot be read."""
    key = index_cache.key_of(_SIZES, name)
    stored = index_cache.load(key) or {}
    now = Stamps.take(images)
    sizes = np.zeros((len(images), 2), np.int32)
    if stored.keys() >= {"files", "size", "changed", "shapes"}:
        places = {file: place for place, file in enumerate(index_cache.untexts(stored["files"]))}
        known = np.array([places.get(image, -1) for image in images], np.int64)
        same = (known >= 0) & now.same({name: stored[name][known] for name in ("size", "changed")})
        sizes[same] = stored["shapes"][known[same]]
    unreadable: dict[int, str] = {}
    unknown = np.flatnonzero(sizes[:, 0] == 0).tolist()
    for place in unknown:
        try:
            sizes[place] = image_shape(Path(images[place]))
        except DataError as error:
            unreadable[place] = error.message.partition(": ")[2]
    if unknown:
        files = index_cache.texts(images)
        index_cache.store(key, {"files": files, "size": now.size, "changed": now.trusted(), "shapes": sizes})
    return sizes, unreadable


def _reported(index: LabelIndex) -> list[str]:
    return [
        f"{index.files[file]}, line {line}: {reason}" if line else f"{index.files[file]}: {reason}"
        for file, line, reason in index.labels.bad
    ]


def _beside(images: Sequence[str], index: LabelIndex) -> list[str]:
    """Report labels that lie beside the images and are not read, of images that have no others."""
    listings: dict[str, set[str]] = {}
    found: list[tuple[str, str]] = []
    other: list[str] = []
    for place in np.flatnonzero(~index.there).tolist():
        beside = os.path.splitext(images[place])[0] + ".txt"  # noqa: PTH122 - speed
        folder, name = os.path.split(beside)
        if folder not in listings:
            every = os.listdir(folder)  # noqa: PTH208 - speed
            listings[folder] = {file for file in every if file.endswith((".txt", ".json"))}
        if beside != index.files[place] and name in listings[folder]:
            found.append((beside, index.files[place]))
        elif f"{name[:-4]}.json" in listings[folder]:
            other.append(f"{beside[:-4]}.json")
    reported = []
    if found:
        beside, label = found[0]
        count = f"labels of {counted(len(found), 'image')} lie beside them and are not read"
        reported.append(f"{beside}: {count}: this one belongs to {label}")
    if other and _is_of_labelme(other[0]):
        count = f"annotations of {counted(len(other), 'image')} lie beside them as labelme and X-AnyLabeling keep them"
        reported.append(f"{other[0]}: {count}, and are not read: pip install segx-data-labelme")
    return reported


def _other_case(images: Sequence[str], index: LabelIndex) -> list[str]:
    """Report labels that are not read because the folders are called ``Images`` and ``Labels``, of images without."""
    found: list[str] = []
    siblings: dict[str, list[str]] = {}
    for place in np.flatnonzero(~index.there).tolist():
        parts = images[place].split(os.sep)  # noqa: PTH206 - speed
        last = next((at for at in range(len(parts) - 2, 0, -1) if parts[at].casefold() == "images"), None)
        if last is None:
            continue
        above = os.sep.join(parts[:last]) or os.sep  # noqa: PTH118
        if above not in siblings:
            siblings[above] = [name for name in os.listdir(above) if name.casefold() == "labels"]  # noqa: PTH208 - speed
        stem = os.path.splitext(os.path.join(*parts[last + 1 :]))[0]  # noqa: PTH118, PTH122 - speed
        labels = (os.path.join(above, name, f"{stem}.txt") for name in siblings[above])  # noqa: PTH118 - speed
        found += [label for label in labels if label != index.files[place] and os.path.isfile(label)]  # noqa: PTH113
    if not found:
        return []
    count = f"labels of {counted(len(found), 'image')} are not read"
    return [f"{found[0]}: {count}: the folders have to be called 'images' and 'labels', in small letters"]


def _is_of_labelme(path: str) -> bool:
    """Return True if a JSON begins or ends as labelme writes them: what is drawn, and of which image."""
    try:
        with open_regular(Path(path)) as file:
            head = file.read(_HEAD)
            file.seek(max(os.path.getsize(path) - _HEAD, 0))  # noqa: PTH202 - a text
            return b'"shapes"' in head and b'"imagePath"' in head + file.read(_HEAD)
    except OSError:
        return False


def _sharing(images: Sequence[str], index: LabelIndex) -> list[tuple[str, str]]:
    """Report images that share a label file."""
    if len(set(index.files)) == len(index.files):
        return []
    by_label: defaultdict[str, list[str]] = defaultdict(list)
    for image, label in zip(images, index.files, strict=True):
        by_label[label].append(image)
    return [("shared", f"{label} is read for {' and '.join(p)}") for label, p in by_label.items() if len(p) > 1]


def _cut_at_edges(index: LabelIndex, keep: NDArray[np.bool_]) -> tuple[AnnotationTable, list[tuple[str, str]]]:
    """Return the objects that are kept, boxes cut where they leave their image, and a line for each that is cut."""
    table = index.labels.table if keep.all() else index.labels.table.keep_objects(keep)
    low, high = table.box[:, :2], table.box[:, :2] + table.box[:, 2:]
    over = np.maximum(-low, high - 1).max(axis=1, initial=0)
    far = np.flatnonzero(over > SLACK).tolist()
    reported = [
        ("outside", f"{index.files[file]}, line {line}: {what} and is cut") for file, line, what in index.labels.cut
    ]
    if not far:
        return table, reported
    file, line = np.repeat(np.arange(len(index.files)), np.diff(table.offsets)), index.labels.line[keep]
    cut = low.clip(0, 1)
    reported += [
        (
            "outside",
            f"{index.files[file[i]]}, line {line[i]}: the box reaches {over[i]:.2g} out of 0..1 and is cut",
        )
        for i in far
    ]
    return dataclasses.replace(table, box=np.concatenate([cut, high.clip(0, 1) - cut], axis=1)), reported


def _classes(index: LabelIndex, source: DatasetSource) -> tuple[Mapping[int, str], NDArray[np.bool_], list[str]]:
    """Return the class names, which objects are of one of them, and a line for each that is not."""
    category = index.labels.table.category
    if source.names is None:
        count = int(category.max(initial=-1)) + 1
        return {number: f"class{number}" for number in range(count)}, np.ones(len(category), np.bool_), []
    keep = category < len(source.names)
    file = np.repeat(np.arange(len(index.files)), np.diff(index.labels.table.offsets))
    last = len(source.names) - 1
    wrong = [
        f"{index.files[file[i]]}, line {index.labels.line[i]}: class {category[i]} is outside 0..{last}"
        for i in np.flatnonzero(~keep).tolist()
    ]
    return source.names, keep, wrong
