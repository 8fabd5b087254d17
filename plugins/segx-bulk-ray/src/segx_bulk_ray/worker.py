"""What runs on a worker: it reads, decodes and predicts the images of a shard."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tarfile
import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from segx.errors import DataError
from segx.io.sources import Part, Source, Unreadable
from segx.runtime import opencv
from segx.structures.batch import SourceImage
from segx_bulk_ray import output as files
from segx_bulk_ray.decoder import Decoder
from segx_bulk_ray.sources import Shard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from segx import YOLO


@dataclass(frozen=True)
class Work:
    """What is done with each shard.

    Attributes:
        model: The path of the model, where all workers see it.
        packed: A reference to what :func:`pack` made of the model, where they do not.
        sha256: The model's hash.
        settings: Of ``predict``.
        output: Where shards are written, if they are.
        about: What is written into each file about model and settings.
    """

    model: str
    packed: Any = None
    sha256: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    output: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Counts:
    """What a shard came to.

    Attributes:
        images: That were predicted.
        objects: Found in them.
        unreadable: Images that could not be read.
    """

    images: int = 0
    objects: int = 0
    unreadable: int = 0


_open: dict[tuple[str, str], YOLO] = {}
"""The model of this process; a worker opens it once, for all the shards it is given."""
_decoder = Decoder()
"""Of this process as well: one shard after the other asks it, and it ends when this process does."""


def predicted(batch: pa.Table, *, work: Work) -> pa.Table:
    """Predict the images of the one shard of a batch, and return their rows."""
    (row,) = batch.to_pylist()
    shard = Shard(row["kind"], tuple(row["items"]), row["group"])
    return pa.Table.from_pylist(_rows(shard, work), files.ROWS)


def do_shard(index: int, shard: Shard, work: Work) -> Counts:
    """Predict the images of a shard and write their rows; return how many there were."""
    rows = _rows(shard, work)
    files.write_shard(work.output, index, rows, work.about)
    unreadable = sum(item["unreadable"] is not None for item in rows)
    objects = sum(len(item["objects"]) for item in rows)
    return Counts(images=len(rows) - unreadable, objects=objects, unreadable=unreadable)


def _rows(shard: Shard, work: Work) -> list[dict[str, Any]]:
    """Return a row for each image of a shard, in its order."""
    images = _Images(shard)
    found = _model(work).predict(Source([images]), stream=True, verbose=False, **work.settings)
    rows: list[dict[str, Any]] = []
    try:
        with opencv.one_thread():  # other workers have the other cores
            rows += map(files.row_of, found)
    except DataError:
        if rows or not images.failed:
            raise
        # else nothing of it could be read, which its rows say
    for number in sorted(images.failed):
        rows.insert(number, images.failed[number])
    return rows


class _Images(Part):
    """The images of a shard as a source of ``predict``, which reads and decodes them ahead of the network.

    Its length stays unknown, as a tar file's: each shard is predicted as a source of many images is.

    Attributes:
        failed: Rows of those that could not be read, by their number in the shard.
    """

    def __init__(self, shard: Shard) -> None:
        self._shard = shard
        self.failed: dict[int, dict[str, Any]] = {}

    def loaders(self) -> Iterator[Callable[[], SourceImage | Unreadable]]:
        """Yield what decodes each image; it has been read then."""
        return (partial(self._load, number, *item) for number, item in enumerate(self._shard))

    def _load(self, number: int, name: str, data: bytes | DataError) -> SourceImage | Unreadable:
        try:
            if isinstance(data, DataError):
                raise data
            return SourceImage(image=_decoder.decode(data), path=name)
        except DataError as error:
            self.failed[number] = files.unreadable_row(name, error.message)
            return Unreadable(path=name, reason=error.message)


def _model(work: Work) -> YOLO:
    from segx import YOLO  # noqa: PLC0415 - where it runs

    key = (work.sha256, work.model)
    if key not in _open:
        _open.clear()  # a worker that is used for another run gives its memory back
        _open[key] = YOLO(work.model if work.packed is None else _unpacked(work))
    return _open[key]


def pack(path: Path) -> bytes:
    """Return a model's file or folder as the bytes of a tar file, for machines that do not see it."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.add(path, arcname=path.name)
    return data.getvalue()


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a model: of its file, or of the names and contents of its folder."""
    digest = hashlib.sha256()
    folder = path.is_dir()
    for file in sorted(item for item in path.rglob("*") if item.is_file()) if folder else [path]:
        if folder:
            digest.update(str(file.relative_to(path)).encode())
        with file.open("rb") as opened:
            while chunk := opened.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def _unpacked(work: Work) -> str:
    """Return the path of the model on this machine; it is unpacked once for all workers of a machine."""
    import ray  # noqa: PLC0415 - where it runs

    folder = Path(tempfile.gettempdir()) / f"segx-bulk-{os.getuid() if hasattr(os, 'getuid') else 0}"
    target = folder / work.sha256[:32]
    if not target.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or (hasattr(os, "getuid") and folder.stat().st_uid != os.getuid()):
            raise DataError(f"{folder} belongs to somebody else", hint="set TMPDIR to a folder of your own")
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            with tarfile.open(fileobj=io.BytesIO(ray.get(work.packed))) as archive:
                archive.extractall(aside, filter="data")
            moved = Path(aside) / "whole"
            moved.mkdir()
            (Path(aside) / Path(work.model).name).rename(moved / Path(work.model).name)
            with contextlib.suppress(OSError):  # another worker was faster
                moved.rename(target)
    return str(target / Path(work.model).name)
