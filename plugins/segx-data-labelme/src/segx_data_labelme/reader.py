"""Reads folders of labelme and X-AnyLabeling: a JSON beside each image, its shapes in pixels.

Formats: https://github.com/wkentaro/labelme (``label_file.py`` writes ``shapes``, ``imagePath``, ``imageHeight``) and
https://github.com/CVHub520/X-AnyLabeling, whose rectangles have four corners.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from segx.errors import DataError
from segx.io.files import read_regular, read_text
from segx.io.image_header import image_shape
from segx.io.names import IMAGE_SUFFIXES
from segx.structures.annotations import AnnotationTable, TableDataset, starts_of
from segx.words import counted
from segx_data_labelme.files import image_of, walk
from segx_data_labelme.shapes import WITHOUT_AREA, BadShapeError, label_of, objects_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from segx.structures.annotations import Annotation, DatasetSource

_LONGEST = 1 << 29
"""Bytes of a JSON; labelme puts the image itself into it."""
_LISTS = ("classes.txt", "labels.txt")
_NO_CLASSES = {"__ignore__", "_background_"}


@dataclass(frozen=True, kw_only=True)
class _File:
    """One JSON that was read.

    Attributes:
        path: The file.
        content: What it says.
        image: The image it speaks of.
        shape: (height, width) of that.
    """

    path: Path
    content: Mapping[str, Any]
    image: Path
    shape: tuple[int, int]


class LabelmeReader:
    """Reads the format: :class:`segx.plugin.interfaces.DatasetReader`."""

    def read(self, source: DatasetSource) -> TableDataset:
        """Return the images of a split that have a JSON; one without shapes is an image with nothing in it.

        Raises:
            DataError: There are none, or a list of classes cannot be read.
        """
        problems: list[str] = []
        digest = hashlib.blake2b(digest_size=16)
        paths = _jsons(source)
        files: dict[Path, _File] = {}
        for path in paths:
            try:
                file = _read(path, digest)
            except _SkippedError as reason:
                problems.append(f"{path}: {reason}")
                continue
            if file.image in files:
                problems.append(f"{path}: {files[file.image].path} is of the same image")
            else:
                files[file.image] = file
        if not files:
            raise DataError(
                f"{source.split} of {source.origin} has no annotation of labelme that can be read",
                hint=problems[0] if problems else f"looked in {', '.join(map(str, source.entries))}",
            )
        names = dict(source.names or _listed(source) or _used(files.values()))
        problems += _not_annotated(source, files)
        return _dataset(list(files.values()), names, problems, digest.hexdigest())


class _SkippedError(ValueError):
    """A JSON that is left out, and why."""


def _jsons(source: DatasetSource) -> list[Path]:
    found: list[Path] = []
    for entry in source.entries:
        if not entry.exists():
            raise DataError(f"{entry}: it is not there")
        found += [entry] if entry.is_file() else [path for path in walk(entry) if path.suffix.lower() == ".json"]
    return found


def _read(path: Path, digest: Any) -> _File:
    try:
        data = read_regular(path, limit=_LONGEST)
        content = json.loads(data)
    except OSError as error:
        raise _SkippedError(f"it cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise _SkippedError(f"it is no JSON ({str(error)[:80]})") from error
    if not isinstance(content, dict) or "shapes" not in content:
        raise _SkippedError("it holds no shapes, as those of labelme do")
    digest.update(json.dumps([path.name, content["shapes"]]).encode())
    image = image_of(path, content.get("imagePath"))
    if image is None:
        within = "; it lies within the JSON: save it beside" if content.get("imageData") else ""
        raise _SkippedError(f"its image {str(content.get('imagePath'))[:200]!r} is not there{within}")
    try:
        height, width = image_shape(image)
    except DataError as error:
        raise _SkippedError(error.message) from error
    stated = content.get("imageHeight"), content.get("imageWidth")
    if all(isinstance(side, int) and side > 0 for side in stated) and stated != (height, width):
        msg = f"it is of an image of {stated[1]} x {stated[0]} pixels, {image.name} has {width} x {height}"
        raise _SkippedError(msg)
    return _File(path=path, content=content, image=image, shape=(height, width))


def _listed(source: DatasetSource) -> dict[int, str]:
    """Return the classes that a list beside the data names; nothing where there is none."""
    origin = source.origin if source.origin.is_dir() else source.origin.parent
    folders = [origin, *(entry if entry.is_dir() else entry.parent for entry in source.entries)]
    for path in (folder / name for folder in dict.fromkeys(folders) for name in _LISTS):
        if path.is_file():
            try:
                lines = [line.strip() for line in read_text(path, encoding="utf-8-sig").splitlines()]
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(f"{path}: the class names cannot be read ({error})") from error
            return dict(enumerate(line for line in lines if line and line not in _NO_CLASSES))
    return {}


def _used(files: Iterable[_File]) -> dict[int, str]:
    """Return the classes that shapes have, by name."""
    labels: set[str] = set()
    for file in files:
        shapes = file.content["shapes"]
        for item in shapes if isinstance(shapes, list) else ():
            try:
                label = label_of(item)
            except BadShapeError:
                continue  # it is named where the shapes are read
            if item.get("shape_type") not in WITHOUT_AREA:
                labels.add(label)
    return dict(enumerate(sorted(labels - _NO_CLASSES)))


def _not_annotated(source: DatasetSource, files: Mapping[Path, _File]) -> list[str]:
    """Return a line for each folder with images that have no JSON: nobody has said that nothing is in them."""
    reported = []
    for entry in source.entries:
        if entry.is_dir():
            images = [path for path in walk(entry) if path.suffix.lower() in IMAGE_SUFFIXES and path not in files]
            left = [image for image in images if not image.with_suffix(".json").is_file()]
            if left:
                reported.append(
                    f"{entry}: {counted(len(left), 'image')} without a JSON left out, such as {left[0].name}"
                )
    return reported


def _dataset(files: Sequence[_File], names: Mapping[int, str], problems: list[str], digest: str) -> TableDataset:
    numbers = {name: number for number, name in names.items()}
    notes: list[tuple[str, str]] = []
    objects: list[list[Annotation]] = []
    for file in files:
        found, bad, cut = objects_of(file.content["shapes"], numbers, file.shape)
        objects.append(found)
        problems += [f"{file.path}: {line}" for line in bad]
        notes += [("outside", f"{file.path}: {line}") for line in cut]
    stems = [file.image.stem for file in files]
    unique = len(set(stems)) == len(stems)
    return TableDataset(
        files=[file.image for file in files],
        ids=stems if unique else [str(file.image) for file in files],
        sizes=np.array([file.shape for file in files], np.int32).reshape(-1, 2),
        table=_table(objects),
        names=names,
        category_ids={number: number for number in names},
        problems=tuple(problems),
        notes=tuple(notes),
        fingerprint=hashlib.blake2b(f"{digest}{sorted(names.items())}".encode(), digest_size=16).hexdigest(),
    )


def _table(images: Sequence[Sequence[Annotation]]) -> AnnotationTable:
    """Return all objects as columns."""
    every = list(chain.from_iterable(images))
    rings = [ring for annotation in every for ring in annotation.polygons]
    counts = [annotation.rle["counts"] if annotation.rle else b"" for annotation in every]
    ids = [number for image in images for number in range(1, len(image) + 1)]
    return AnnotationTable(
        offsets=starts_of([len(image) for image in images]),
        category=np.array([annotation.category for annotation in every], np.int32),
        crowd=np.zeros(len(every), np.bool_),
        area=np.full(len(every), np.nan),
        id=np.array(ids, np.int64),
        box=np.array([annotation.box for annotation in every], np.float64).reshape(-1, 4),
        parts=starts_of([len(annotation.polygons) for annotation in every]),
        points=starts_of([len(ring) for ring in rings]),
        xy=np.concatenate([np.zeros((0, 2)), *rings]),
        runs=starts_of([len(text) for text in counts]),
        counts=np.frombuffer(b"".join(counts), np.uint8),
    )
