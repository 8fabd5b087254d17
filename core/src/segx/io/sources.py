"""Images from files, folders, globs, lists, URLs, video, cameras and arrays."""

from __future__ import annotations

import glob
import logging
import os
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from segx.errors import DataError, MissingDataError, UsageError, WrongTypeError
from segx.io.files import open_regular, read_text
from segx.io.image_header import open_with_pillow, read_header
from segx.io.images import (
    check_array,
    check_size,
    decode_image,
    fetch_image,
    from_array,
    from_pillow,
    read_image,
    unit_of,
)
from segx.io.names import IMAGE_SUFFIXES, STREAM_SUFFIXES, VIDEO_SUFFIXES
from segx.io.paths import expanded
from segx.io.video import STREAM_SCHEMES, LiveStreams, Lost, VideoFile
from segx.records import Record
from segx.structures.batch import SourceImage
from segx.words import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from segx.structures.types import Image

logger = logging.getLogger(__name__)

_LIST_SUFFIXES = frozenset({".txt", ".csv"})
_LIST_DEPTH = 4
_LIST_ENTRIES = 1_000_000
"""Of all lists that one source is made of, those that other lists name counted as often as they are named."""
_STREAM_KINDS = frozenset(
    {"multipart/x-mixed-replace", "application/vnd.apple.mpegurl", "application/x-mpegurl", "application/dash+xml"}
)


class Unreadable(Record):
    """An image, a video or a stream that is reported and passed over.

    Attributes:
        path: The file, URL or name.
        reason: Why, in a few words.
    """

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


Item = SourceImage | Unreadable


class Part:
    """Something a source is made of.

    Attributes:
        live: It does not wait for who watches it.
    """

    live = False

    def length(self) -> int | None:
        """Return how many images it has, or None when nobody knows."""
        return None

    def loaders(self) -> Iterator[Callable[[], Item]]:
        """Yield what loads each image; these may be called in any thread and at the same time."""
        raise NotImplementedError

    def close(self) -> None:
        """Release devices; what is read closes when it has been read, and an iterator belongs to the user."""


class Source:
    """Images in order, from whatever they come.

    Iterating gives a :class:`SourceImage` for each image, and an :class:`Unreadable` for each that cannot be read.

    Attributes:
        live: A part of it is a camera or a stream, which does not wait.
    """

    def __init__(self, parts: Iterable[Part]) -> None:
        self._parts = tuple(parts)
        self.live = any(part.live for part in self._parts)

    def __iter__(self) -> Iterator[Item]:
        for load in self.loaders():
            yield load()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def length(self) -> int | None:
        """Return how many images there are, or None when nobody knows; opens videos to ask them."""
        total = 0
        for part in self._parts:
            length = part.length()
            if length is None:
                return None
            total += length
        return total

    def holds(self, count: int) -> bool:
        """Return True if there are at least so many images; an unknown number counts as many."""
        total = 0
        for part in self._parts:
            length = part.length()
            total += count if length is None else length
            if total >= count:
                return True
        return False

    def loaders(self) -> Iterator[Callable[[], Item]]:
        """Yield what loads each image; these may be called in any thread and at the same time."""
        for part in self._parts:
            yield from part.loaders()

    def close(self) -> None:
        """Release cameras and streams."""
        for part in self._parts:
            part.close()


def open_source(source: Any, *, vid_stride: int = 1, stream_buffer: bool = False) -> Source:
    """Return the images of a source.

    Args:
        source: An image or video file, a folder (without its sub-folders), a glob (``**`` reaches into sub-folders,
            those that are links too), a ``.txt`` or ``.csv``
            list, a ``.streams`` file, an http(s), rtsp, rtmp, tcp or udp address, a camera number (``0`` or ``"0"``),
            a ``PIL.Image``, a NumPy array (H, W[, 1|3|4]) BGR or a batch of them, a torch tensor (3, H, W) or
            (N, 3, H, W) RGB in 0..1, encoded bytes or a file object, or a list, tuple or iterator of any of these; or a
            :class:`Source` that somebody else has made.
        vid_stride: Take every n-th frame of videos and streams.
        stream_buffer: Keep every frame of a live stream; False: only the newest.

    Raises:
        UsageError: The source is of a kind that is not known.
        DataError: A path does not exist, a folder is empty, a camera or stream cannot be opened.
    """
    if isinstance(source, Source):
        return source
    return Source(_Reader(vid_stride=vid_stride, stream_buffer=stream_buffer).read(source, alone=True))


class _One(Part):
    """A part that is one image."""

    def length(self) -> int | None:
        return 1

    def loaders(self) -> Iterator[Callable[[], Item]]:
        yield self.read

    def read(self) -> Item:
        raise NotImplementedError


class _Still(Record, _One, kw_only=False):
    """One image."""

    name: str
    load: Callable[[], Image]

    def read(self) -> Item:
        try:
            return SourceImage(image=self.load(), path=self.name)
        except DataError as error:
            return Unreadable(path=self.name, reason=error.message)
        except MemoryError:
            return Unreadable(path=self.name, reason="it does not fit into memory")


class _NetworkInput(Record, _One, kw_only=False):
    """One image that is already what the network takes."""

    name: str
    values: Any

    def read(self) -> Item:
        try:
            values = np.clip(self.values / np.float32(unit_of(self.values, "a tensor")), 0, 1, dtype=np.float32)
        except DataError as error:
            return Unreadable(path=self.name, reason=error.message)
        image = np.rint(values.transpose(1, 2, 0)[..., ::-1] * 255).astype(np.uint8)
        return SourceImage(image=np.ascontiguousarray(image), path=self.name, network=values)


class _Video(Record, Part, kw_only=False):
    """The frames of a video."""

    file: VideoFile

    def length(self) -> int | None:
        try:
            return self.file.clip().frames
        except DataError:
            return None

    def loaders(self) -> Iterator[Callable[[], Item]]:
        try:
            for frame in self.file.frames():
                item = SourceImage(
                    image=frame.image,
                    path=self.file.name,
                    frame=frame.index,
                    clip=frame.clip,
                    seconds=frame.seconds,
                )
                yield partial(_same, item)
        except DataError as error:
            yield partial(_same, Unreadable(path=self.file.name, reason=error.message))


class _Live(Record, Part, kw_only=False):
    """The frames of cameras and streams."""

    streams: LiveStreams
    live = True

    def loaders(self) -> Iterator[Callable[[], Item]]:
        for frame in self.streams.frames():
            if isinstance(frame, Lost):
                yield partial(_same, Unreadable(path=frame.name, reason=frame.reason))
            else:
                name = frame.clip.name
                yield partial(_same, SourceImage(image=frame.image, path=name, frame=frame.index, clip=frame.clip))

    def close(self) -> None:
        self.streams.close()


class _Lazy(Record, Part, kw_only=False):
    """The images of an iterator."""

    items: Iterator[Any]
    reader: _Reader

    def loaders(self) -> Iterator[Callable[[], Item]]:
        for item in self.items:
            try:
                parts = list(self.reader.read_passing(item))
            except DataError as error:
                yield partial(_same, Unreadable(path=str(item)[:200], reason=error.message))
                continue
            for part in parts:
                yield from part.loaders()


def _same(item: Item) -> Item:
    return item


class _Reader:
    """Turns what the user gave into parts, numbering what has no name of its own."""

    def __init__(self, *, vid_stride: int, stream_buffer: bool) -> None:
        self.vid_stride, self.stream_buffer = vid_stride, stream_buffer
        self.unnamed = 0
        self.lists: tuple[Path, ...] = ()
        self.listed = 0
        self.passing = False

    def read(self, source: Any, *, alone: bool) -> Iterator[Part]:  # noqa: PLR0911 - one line a kind
        """Yield the parts of a source; ``alone`` when it is all there is, so that asking the network first is fair."""
        if isinstance(source, str | os.PathLike):
            return self._read_text(os.fsdecode(source), alone=alone)
        if isinstance(source, bytes | bytearray | memoryview):
            return iter([_Still(self._name(), partial(decode_image, bytes(source)))])
        if isinstance(source, int | np.integer) and not isinstance(source, bool):
            return iter([self._live((int(source),))])
        if _comes_from(source, "PIL"):
            name = getattr(source, "filename", "") or self._name()
            return iter([_Still(str(name), partial(from_pillow, source.copy() if self.passing else source))])
        if _comes_from(source, "torch"):
            return self._read_tensor(source)
        if isinstance(source, np.ndarray):
            return self._read_array(source)
        if callable(getattr(source, "read", None)):
            return self._read_open_file(source)
        if isinstance(source, Iterator):
            return iter([_Lazy(source, self)])
        if isinstance(source, Iterable) and not isinstance(source, Mapping):
            return self._read_many(source)
        kinds = "file, folder, glob, list, URL, video, camera number, PIL image, NumPy array, torch tensor, bytes"
        raise WrongTypeError(f"a source cannot be of type {type(source).__name__}", hint=f"sources: {kinds}")

    def read_passing(self, source: Any) -> Iterator[Part]:
        """Yield the parts of what an iterator has given, which may fill the same memory with the next one."""
        self.passing = True
        try:
            return self.read(source, alone=False)
        finally:
            self.passing = False

    def _name(self) -> str:
        self.unnamed += 1
        return f"image{self.unnamed - 1}"

    def _live(self, targets: tuple[int | str, ...]) -> Part:
        return _Live(LiveStreams(targets, stride=self.vid_stride, keep_all=self.stream_buffer))

    def _video(self, name: str) -> Part:
        return _Video(VideoFile(name, stride=self.vid_stride))

    def _read_many(self, sources: Iterable[Any]) -> Iterator[Part]:
        parts = [part for source in sources for part in self.read(source, alone=False)]
        if not parts:
            raise DataError("the list of sources is empty")
        return iter(parts)

    def _read_open_file(self, file: Any) -> Iterator[Part]:
        content = file.read()
        if not isinstance(content, bytes):
            raise UsageError("a source opened as text cannot be read", hint='open it with mode "rb"')
        name = getattr(file, "name", None)
        return iter([_Still(name if isinstance(name, str) else self._name(), partial(decode_image, content))])

    def _read_array(self, array: Any) -> Iterator[Part]:
        several = array.ndim == 4
        check_array(array, batch=several)
        if self.passing:
            array = array.copy()
        copy = not self.passing  # what somebody else can change is never what results hold
        images = array if several else array[None]
        return iter([_Still(self._name(), partial(from_array, image, copy=copy)) for image in images])

    def _read_tensor(self, tensor: Any) -> Iterator[Part]:
        shape = tuple(tensor.shape)
        whole = str(tensor.dtype) == "torch.uint8"
        if len(shape) not in {3, 4} or shape[-3] != 3 or 0 in shape or not (whole or tensor.is_floating_point()):
            hint = "a tensor is the network's own input: float (3, H, W) or (N, 3, H, W), RGB in 0..1; or uint8, 0..255"
            raise UsageError(f"a tensor of shape {shape} and type {tensor.dtype} is not an image", hint=hint)
        check_size(shape[-2:])
        values = (tensor.detach() if whole else tensor.detach().float()).cpu().numpy().reshape(-1, *shape[-3:])
        if self.passing:
            values = values.copy()
        if whole:  # an image in another order, to be fitted as every image is
            return self._read_array(values.transpose(0, 2, 3, 1)[..., ::-1])
        return iter([_NetworkInput(self._name(), image) for image in values])

    def _read_text(self, text: str, *, alone: bool) -> Iterator[Part]:
        if not text.strip():
            raise UsageError("the source is empty", hint="source=photo.jpg, source=folder, source=0 for a camera")
        scheme = text.partition("://")[0].lower() if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) else ""
        if scheme == "file":
            import urllib.request

            return self._read_path(Path(urllib.request.url2pathname(urllib.parse.urlsplit(text).path)))
        if scheme in {"http", "https"}:
            return iter([self._read_address(text, alone=alone)])
        if scheme in STREAM_SCHEMES:
            return iter([self._live((text,))])
        if scheme:
            known = ", ".join(sorted({"http", "https", "file", *STREAM_SCHEMES}))
            raise UsageError(f"addresses of kind {scheme!r} are not known", hint=f"kinds: {known}")
        path = expanded(text)
        if not _exists(path):
            if isinstance(camera := _camera(text.strip()), int):
                return iter([self._live((camera,))])
            if glob.has_magic(text):
                return self._read_files(_find(text), f"nothing matches {text!r}")
            hint = "the screen is not captured: give what you capture as arrays" if text.startswith("screen") else ""
            raise MissingDataError(f"source {text!r} does not exist{_similar(path)}", hint=hint)
        return self._read_path(path)

    def _read_address(self, address: str, *, alone: bool) -> Part:
        from segx.io import network

        suffix = PurePosixPath(urllib.parse.urlsplit(address).path).suffix.lower()
        if suffix in VIDEO_SUFFIXES:
            return self._video(address)
        if suffix in STREAM_SUFFIXES:
            return self._live((address,))
        if suffix not in IMAGE_SUFFIXES and alone:
            try:
                kind = network.content_type(address)
            except DataError as error:
                raise DataError(f"{network.shown(address)}: {error.message}") from error
            if kind in _STREAM_KINDS:
                return self._live((address,))
            if kind.startswith("video/"):
                return self._video(address)
        return _Still(network.shown(address), partial(fetch_image, address))

    def _read_path(self, path: Path) -> Iterator[Part]:
        if path.is_dir():
            return self._read_folder(path)
        suffix = path.suffix.lower()
        if suffix == ".streams":
            targets = tuple(map(_camera, _lines(path)))
            if not targets:
                raise DataError(f"{path} names no stream", hint="one address or camera number on each line")
            return iter([self._live(targets)])
        if suffix in _LIST_SUFFIXES:
            return self._read_list(path)
        return iter([self._read_file(path)])

    def _read_file(self, path: Path) -> Part:
        suffix = path.suffix.lower()
        if suffix in VIDEO_SUFFIXES or (suffix == ".gif" and _is_animated(path)):
            return self._video(str(path))
        return _Still(str(path), partial(read_image, path))

    def _read_files(self, files: Iterable[Path], otherwise: str) -> Iterator[Part]:
        known = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES]
        if not known:
            suffixes = "jpg, png, webp, tif, bmp, avif, heic, mp4, avi, mkv, mov, webm"
            raise DataError(otherwise, hint=f"images and videos have suffixes such as {suffixes}")
        return iter([self._read_file(path) for path in sorted(known, key=natural_order)])

    def _read_folder(self, folder: Path) -> Iterator[Part]:
        try:
            entries = list(folder.iterdir())
        except OSError as error:
            raise DataError(f"folder {folder} cannot be read: {error.strerror}") from error
        shown = [entry for entry in entries if not entry.name.startswith(".")]
        folders = sum(entry.is_dir() for entry in shown)
        deeper = "to look into sub-folders: source='" + str(folder / "**" / "*.*") + "'"
        otherwise = f"folder {folder} holds no image and no video" + (f"; {deeper}" if folders else "")
        found = self._read_files([entry for entry in shown if not entry.is_dir()], otherwise)
        if folders:
            logger.info("%s: %s left aside; %s", folder, counted(folders, "sub-folder"), deeper)
        return found

    def _read_list(self, path: Path) -> Iterator[Part]:
        if len(self.lists) >= _LIST_DEPTH:
            raise DataError(f"lists are nested too deeply: {', '.join(str(item) for item in self.lists)}")
        entries = _rows(path) if path.suffix.lower() == ".csv" else _lines(path)
        if entries and entries[0].lower() == "source":
            entries = entries[1:]
        if not entries:
            raise DataError(f"list {path} names no source", hint="one path or address on each line")
        self.listed += len(entries)
        if self.listed > _LIST_ENTRIES:
            raise DataError(f"list {path} and those it belongs to name more than {_LIST_ENTRIES:,} sources")
        resolved = [entry if "://" in entry else str(path.parent / expanded(entry)) for entry in entries]
        missing = [entry for entry in resolved if not ("://" in entry or glob.has_magic(entry) or _exists(Path(entry)))]
        if missing:
            others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
            raise MissingDataError(f"{missing[0]}, named in {path}, does not exist{others}")
        self.lists += (path,)
        try:
            return self._read_many(resolved)
        finally:
            self.lists = self.lists[:-1]


def natural_order(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    """Return a key that sorts ``2.jpg`` before ``10.jpg``, in each folder, whatever the case."""
    pieces = re.split(r"(\d+)", str(path).casefold())
    return [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces if piece], str(path)


def _comes_from(value: Any, package: str) -> bool:
    """Return True if a value is of a class of a package, without importing it."""
    return any(kind.__module__.partition(".")[0] == package for kind in type(value).__mro__)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, a NUL in it
        return False


def _find(pattern: str) -> Iterator[Path]:
    """Yield the files that a pattern matches; folders that are there, such as ``photos[1]``, are no pattern."""
    path = Path(expanded(pattern))
    there = next(folder for folder in path.parents if _exists(folder))
    whole = os.path.join(glob.escape(str(there)), str(path.relative_to(there)))  # noqa: PTH118 - a pattern is no path
    return (Path(name) for name in glob.iglob(whole, recursive=True) if Path(name).is_file())  # noqa: PTH207


def _similar(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except (OSError, ValueError):
        return ""
    import difflib

    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.7)
    return f"; did you mean {str(path.with_name(close[0]))!r}?" if close else ""


def _camera(text: str) -> int | str:
    """Return the number of a camera, or the text where it is none: no system has a thousand million of them."""
    return int(text) if text.isdecimal() and len(text) < 10 else text


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in _text(path).splitlines() if line.strip()]


def _rows(path: Path) -> list[str]:
    """Return the column headed ``source``, or else the first, and whatever else in the rows is a source."""
    import csv

    lines = csv.reader(_text(path).splitlines(), skipinitialspace=True)
    rows = [row for line in lines if any(row := [cell.strip() for cell in line])]
    heads = [cell.lower() for cell in rows[0]] if rows else []
    if "source" in heads:
        column = heads.index("source")
        return [row[column] for row in rows if len(row) > column and row[column]]

    def is_source(cell: str) -> bool:
        return "://" in cell or (not cell.isdecimal() and _exists(path.parent / expanded(cell)))

    found = [[cell for place, cell in enumerate(row) if cell and (not place or is_source(cell))] for row in rows]
    if any(len(cells) > 1 for cells in found):
        logger.warning("%s: there are several sources in a row; all of them are read", path)
    return [cell for cells in found for cell in cells]


def _text(path: Path) -> str:
    try:
        return read_text(path, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise DataError(f"list {path} cannot be read: {reason}") from error


def _is_animated(path: Path) -> bool:
    """Return True if a file is to be read as a video; what cannot be read at all is refused as an image."""
    try:
        with open_regular(path) as file:
            header = read_header(file)
            check_size(header.stored, heavy=header.heavy)
            with open_with_pillow(file) as image:
                return bool(getattr(image, "is_animated", False))
    except (OSError, DataError, ValueError, EOFError, SyntaxError):
        return False
