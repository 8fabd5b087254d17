"""Images at training size, read once: kept in memory within a limit, and on the disk where that is asked for."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, cast

with contextlib.suppress(ImportError):  # Windows has none, and no processes either
    import fcntl

import cv2
import numpy as np

from segx.errors import DataError
from segx.io.files import replacing
from segx.io.images import image_of
from segx.io.index_cache import file_digest
from segx.io.paths import cache_folder
from segx.runtime.memory import Laid, SharedMemory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from segx.structures.annotations import Sample
    from segx_task_segment.training.augment import LabelledImage

    Image = NDArray[np.uint8]

logger = logging.getLogger("segx.train")

DEFAULT_BYTES = 1 << 30
"""Memory that read images may take when nothing else is asked for."""
_MARGIN = 0.8
"""Of what is free, on the disk or in memory, that images may take."""


def read_for_training(sample: Sample, imgsz: int) -> Image:
    """Return uint8 (H, W, 3) BGR as its ground truth is stated for, the long side scaled to ``imgsz``.

    Raises:
        DataError: The file is missing, no whole image, or of another size than its ground truth.
    """
    try:
        image = image_of(sample, least=imgsz)
    except DataError as error:
        raise DataError(f"{sample.path}: {error.message}", hint="segx data check lists every such file") from error
    height, width = sample.shape
    gain = imgsz / max(height, width)
    size = max(min(round(width * gain), imgsz), 1), max(min(round(height * gain), imgsz), 1)
    if image.shape[1::-1] != size:
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR), np.uint8)
    return image


class MemoryCache:
    """Keeps what was used last, within a limit of memory.

    Args:
        limit: Bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: OrderedDict[int, LabelledImage] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, index: int) -> LabelledImage | None:
        """Return an image if it is here."""
        with self._lock:
            item = self._items.get(index)
            if item is not None:
                self._items.move_to_end(index)
            return item

    def put(self, index: int, item: LabelledImage) -> None:
        """Keep an image; those not used for longest go."""
        with self._lock:
            if index not in self._items:
                self._items[index] = item
                self._bytes += item.nbytes
            while self._bytes > self._limit and len(self._items) > 1:
                _, dropped = self._items.popitem(last=False)
                self._bytes -= dropped.nbytes


class SharedCache:
    """Keeps images in memory that several processes see, each in a place of its own.

    Nobody waits: a place that another one writes to is left alone, and the image is read anew. What was got stays as it
    is until :meth:`release`. Locks are the system's, of byte ranges; they go with the process that holds them.

    Args:
        memory: Of no size yet, or what another process has made of it; used for nothing else.
        places: How many images it holds.
        room: Bytes for each; what is larger is not kept.
    """

    def __init__(self, memory: SharedMemory, *, places: int, room: int) -> None:
        table, room = -(-8 * places // 64) * 64, -(-room // 64) * 64
        whole = memory.bytes(table + places * room)  # once: a second mapping that goes would take the locks along
        self._memory, self._file = memory, memory.file
        self._keys = whole[: 8 * places].view(np.int64)
        self._rooms = whole[table:].reshape(places, room)
        self._place: list[int] | range = range(places)
        self._held: set[int] = set()
        self._order: Sequence[int] = ()

    def arrange(self, order: Sequence[int]) -> None:
        """Say in which order images are asked for: where there is no place for all, those of one time share none."""
        count = len(self._keys)
        if count < len(order) and order is not self._order:
            self._order = order
            places = np.empty(len(order), np.int64)
            places[np.asarray(order)] = np.arange(len(order)) % count
            self._place = places.tolist()

    def get(self, index: int) -> LabelledImage | None:
        """Return an image if it is here; its arrays cannot be written to."""
        place = self._place[index]
        mine = place in self._held
        if not mine and not self._locked(place, fcntl.LOCK_SH):
            return None
        if self._keys[place] == index + 1:
            self._held.add(place)
            return cast("LabelledImage", Laid.read(self._rooms[place]))
        if not mine:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)
        return None

    def put(self, index: int, item: LabelledImage) -> None:
        """Keep an image, where nobody uses its place."""
        place, laid = self._place[index], Laid(item)
        if laid.size > self._rooms.shape[1] or place in self._held or not self._locked(place, fcntl.LOCK_EX):
            return
        self._keys[place] = 0  # whoever ends in the midst of it leaves nothing
        laid.write(self._rooms[place])
        self._keys[place] = index + 1
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, place)

    def release(self) -> None:
        """Let others write where the images lie that were got."""
        if self._held:
            fcntl.lockf(self._file, fcntl.LOCK_UN)
            self._held.clear()

    def _locked(self, place: int, kind: int) -> bool:
        try:
            fcntl.lockf(self._file, kind | fcntl.LOCK_NB, 1, place)
        except OSError:
            return False
        return True


class DiskCache:
    """Keeps decoded images of training size in segx's cache folder, found by the content of their files.

    The data folder is never written to. An image that changes is found no more and read anew.

    Args:
        imgsz: The training size.
    """

    def __init__(self, imgsz: int) -> None:
        self._imgsz = imgsz
        self._folder = cache_folder() / "images"
        self._writes = True

    def read(self, sample: Sample) -> Image:
        """Return an image, from the disk if it was read before.

        Raises:
            DataError: It cannot be read.
        """
        path = self._path(sample)
        found = None if path is None else _load(path)
        if found is not None:
            return found
        image = read_for_training(sample, self._imgsz)
        if path is not None and self._writes:
            self._store(path, image)
        return image

    def _path(self, sample: Sample) -> Path | None:
        try:
            digest = file_digest(sample.path)
        except OSError:
            return None
        height, width = sample.shape
        return self._folder / digest[:2] / f"{digest}-{height}x{width}-{self._imgsz}.npy"

    def _store(self, path: Path, image: Image) -> None:
        """Write an image, whole or not at all; a disk that is full is no reason to stop."""
        try:
            with replacing(path) as temporary, temporary.open("wb") as file:
                np.save(file, image, allow_pickle=False)
        except DataError as error:
            self._writes = False
            logger.warning("cache=disk: %s; going on without", error.message)


def _load(path: Path) -> Image | None:
    try:
        image = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return image if image.dtype == np.uint8 and image.ndim == 3 else None


def needed_bytes(shapes: NDArray[np.int32], imgsz: int) -> int:
    """Return how much memory images of these heights and widths take at training size."""
    sides = shapes.astype(np.float64)
    return int((imgsz * imgsz * 3 * sides.min(axis=1) / sides.max(axis=1)).sum())


def memory_limit(needed: int, *, sharing: int = 1) -> int:
    """Return the limit of a cache for all images; where memory is short, the usual one, and say so.

    Args:
        needed: Bytes of all images.
        sharing: Processes on this machine that keep as much each.
    """
    free = _free_memory()
    if free is None or needed * sharing <= _MARGIN * free:
        return max(2 * needed, DEFAULT_BYTES)
    logger.warning(
        "cache=ram would take %s of %s that are free: only the images used last are kept; cache=disk keeps all",
        *map(_size, (needed * sharing, free)),
    )
    return DEFAULT_BYTES


def disk_has_room(needed: int) -> bool:
    """Return True if the cache folder's disk has room for so many bytes more; where not, say it to people too."""
    folder = cache_folder()
    there: Sequence[Path] = [path for path in (folder, *folder.parents) if path.exists()]
    free = shutil.disk_usage(there[0]).free
    if needed <= _MARGIN * free:
        return True
    logger.warning(
        "cache=disk may take %s of %s that are free in %s: images are read anew", _size(needed), _size(free), folder
    )
    return False


def _free_memory() -> int | None:
    """Return the bytes of memory that are free, where the system says."""
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:  # noqa: PTH123 - a file of the kernel
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
