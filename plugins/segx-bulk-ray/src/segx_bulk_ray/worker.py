"""What runs on a worker: it reads, decodes and predicts the images of a shard."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import queue
import tarfile
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from segx.errors import DataError
from segx_bulk_ray import output as files
from segx_bulk_ray.decoder import Decoder
from segx_bulk_ray.sources import Shard

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

    from segx import YOLO
    from segx.structures.types import Image

_AHEAD = 4
"""Images that are decoded before the network asks for them."""
DONE = pa.schema([("shard", pa.int64()), ("images", pa.int64()), ("objects", pa.int64()), ("unreadable", pa.int64())])


@dataclass(frozen=True)
class Work:
    """What is done with each shard.

    Attributes:
        model: The path of the model, where all workers see it.
        packed: A reference to what :func:`pack` made of the model, where they do not.
        sha256: The model's hash.
        settings: Of ``predict``.
        output: Where shards are written; empty: their rows are returned.
        about: What is written into each file about model and settings.
    """

    model: str
    packed: Any = None
    sha256: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    output: str = ""
    about: Mapping[str, Any] = field(default_factory=dict)


_open: dict[tuple[str, str], YOLO] = {}
"""The model of this process; a worker opens it once, for all the shards it is given."""
_decoder = Decoder()
"""Of this process as well: one shard after the other asks it, and it ends when this process does."""


def do_shard(batch: pa.Table, *, work: Work) -> pa.Table:
    """Predict the images of the one shard of a batch; return their rows, or how many there were."""
    (row,) = batch.to_pylist()
    shard = Shard(row["kind"], tuple(row["items"]), row["group"])
    rows = list(_rows(shard, work))
    if not work.output:
        return pa.Table.from_pylist(rows, files.ROWS)
    files.write_shard(work.output, row["index"], rows, work.about)
    unreadable = sum(item["unreadable"] is not None for item in rows)
    objects = sum(len(item["objects"]) for item in rows)
    done = {"shard": row["index"], "images": len(rows) - unreadable, "objects": objects, "unreadable": unreadable}
    return pa.Table.from_pylist([done], DONE)


def _rows(shard: Shard, work: Work) -> Iterator[dict[str, Any]]:
    """Yield a row for each image of a shard, in its order."""
    model = _model(work)
    many = work.settings.get("batch") or model.metadata.batch
    waiting: list[tuple[str, Image]] = []
    with contextlib.closing(_decoded(shard)) as images:
        for name, image in images:
            if isinstance(image, DataError):
                yield from _predicted(model, waiting, work)
                waiting = []
                yield files.unreadable_row(name, image.message)
                continue
            waiting.append((name, image))
            if len(waiting) == many:
                yield from _predicted(model, waiting, work)
                waiting = []
    yield from _predicted(model, waiting, work)


def _predicted(model: YOLO, named: list[tuple[str, Image]], work: Work) -> Iterator[dict[str, Any]]:
    if not named:
        return
    found = model.predict([image for _, image in named], verbose=False, **work.settings)
    for (name, _), results in zip(named, found, strict=True):
        yield files.row_of(name, results)


def _decoded(shard: Shard) -> Generator[tuple[str, Image | DataError], None, None]:
    """Yield the images of a shard, read and decoded while the network is busy with those before."""
    ready: queue.Queue[tuple[str, Image | DataError] | BaseException | None] = queue.Queue(_AHEAD)
    ended = threading.Event()

    def put(item: tuple[str, Image | DataError] | BaseException | None) -> None:
        while not ended.is_set():
            with contextlib.suppress(queue.Full):
                ready.put(item, timeout=0.5)
                return

    def fill() -> None:
        try:
            for name, data in shard:
                if ended.is_set():
                    return
                put((name, data if isinstance(data, DataError) else _decode(data)))
            put(None)
        except BaseException as error:  # noqa: BLE001 - it is raised where the images are asked for
            put(error)

    thread = threading.Thread(target=fill, name="segx-bulk-read", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        ended.set()
        thread.join()


def _decode(data: bytes) -> Image | DataError:
    try:
        return _decoder.decode(data)
    except DataError as error:
        return error


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
