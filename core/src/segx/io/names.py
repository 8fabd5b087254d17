"""The names of everything segx writes: one component, safe on every system, each given once.

An id, a file name, an address or a class name is never used as it comes: it may hold separators, ``..`` or control
characters, be empty, too long or not UTF-8, or equal another but for case. What is written is named here, and the same
inputs in the same order get the same names.
"""

from __future__ import annotations

import functools
import re
import threading
import unicodedata
import urllib.parse
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".dib", ".dng", ".gif", ".heic", ".heif", ".hif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg"}
    | {".jpg", ".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".ras", ".sr", ".tga", ".tif", ".tiff", ".webp"}
)
VIDEO_SUFFIXES = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ogv", ".ts"}
    | {".webm", ".wmv"}
)
STREAM_SUFFIXES = frozenset({".m3u8", ".mjpeg", ".mjpg", ".mpd", ".sdp"})
_SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES | STREAM_SUFFIXES
MAX_BYTES = 120
"""Most bytes of a stem; with numbers and a suffix it fits any file system."""

# What Windows forbids in a name, control characters, what turns the direction of text, and halves of characters, which
# is how Python holds the bytes of a name that is not UTF-8.
_UNSAFE = re.compile(r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]')
_DEVICES = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³])[ ]*(\.|$)", re.IGNORECASE)
"""Names of devices on Windows, with any suffix."""
_FRAME = re.compile(r"(.+)_[0-9]+", re.DOTALL)
_NUMBERED = re.compile(r".*-[0-9]+", re.DOTALL)
_WHOLE = 1 << 53
"""From here on numbers are not exact in every JSON reader."""


def safe(name: str, *, otherwise: str = "image") -> str:
    """Return a name as one component of a path that every system takes.

    Args:
        name: Any text.
        otherwise: What a name is called of which nothing is left.
    """
    plain = _UNSAFE.sub("_", name).strip(" .").encode()[:MAX_BYTES].decode(errors="ignore").rstrip(" .")
    if not key(plain):
        return otherwise
    return f"_{plain}" if _DEVICES.match(plain) else plain


def key(name: str) -> str:
    """Return what two names have in common that some file system takes for one: case and Unicode form aside."""
    if name.isascii():
        return name.lower()  # what is said below, of which only that is left
    visible = "".join(letter for letter in name if unicodedata.category(letter) != "Cf")
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible).casefold())


def split_name(source: str) -> tuple[str, str]:
    """Return stem and suffix of what lies at a path or an address; the stem is safe.

    Only the suffix of an image, a video or a stream is one: ``scan.001`` has none.
    """
    name = _address_name(source) if "://" in source else PurePath(source).name
    suffix = PurePath(name).suffix
    if suffix.lower() not in _SUFFIXES:
        suffix = ""
    return safe(name.removesuffix(suffix)), suffix


def image_suffix(source: str, *, otherwise: str) -> str:
    """Return the suffix of an image's path or address in small letters."""
    suffix = split_name(source)[1].lower()
    return suffix if suffix in IMAGE_SUFFIXES else otherwise


class Names:
    """Gives names of which no two are one on any file system: ``a``, then ``a-2``, ``a-3`` for namesakes.

    May be asked from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: set[str] = set()
        self._videos: set[str] = set()
        self._like_frames_of: set[str] = set()
        self._last: dict[str, int] = {}

    def new(self, wanted: str, *, frames: bool = False) -> str:
        """Return a name nobody has.

        Args:
            wanted: The name where it is free; it is made safe.
            frames: It names a video: ``<name>_<number>`` is kept free for its frames.
        """
        with self._lock:
            name = first = safe(wanted)
            while not self.is_free(name, frames=frames):
                self._last[key(first)] = number = self._last.get(key(first), 1) + 1
                name = f"{first}-{number}"
            self._taken.add(key(name))
            if frames:
                self._videos.add(key(name))
            if like := _FRAME.fullmatch(key(name)):
                self._like_frames_of.add(like[1])
            return name

    def is_free(self, name: str, *, frames: bool = False) -> bool:
        """Return True if nobody has a name, nor may a frame of a video have it."""
        like = _FRAME.fullmatch(key(name))
        return not (
            key(name) in self._taken
            or (like is not None and like[1] in self._videos)
            or (frames and key(name) in self._like_frames_of)
        )


class ImageIds:
    """Gives COCO image ids: the number that a name is, else the name; each once, also as text."""

    def __init__(self) -> None:
        self._names = Names()

    def new(self, name: str) -> int | str:
        """Return the id of an image with this name."""
        number = int(name) if name.isascii() and name.isdecimal() else _WHOLE
        if number < _WHOLE and self._names.is_free(str(number)):
            self._names.new(str(number))
            return number
        return self._names.new(name)


def stems(sources: Iterable[object]) -> list[str]:
    """Return a stem for each image's path, all different."""
    names = Names()
    return [names.new(split_name(str(source))[0]) for source in sources]


def file_names(sources: Sequence[object]) -> list[str]:
    """Return a file name for each image's path: its stem of :func:`stems` and its own suffix."""
    return [stem + split_name(str(source))[1] for stem, source in zip(stems(sources), sources, strict=True)]


def image_ids(own: Sequence[int | str]) -> list[int | str]:
    """Return COCO ids of a data set's images: their own where all are different numbers, else 1, 2, 3 and so on."""
    if all(isinstance(number, int) for number in own) and len(set(own)) == len(own):
        return list(own)
    return list(range(1, len(own) + 1))


def crop_stem(stem: str, number: int) -> str:
    """Return the stem of an object's own image: ``a``, ``a-2``, ``a-3``; different for whatever differs.

    Args:
        stem: That of the image; one that ends like a numbered one gets a number always: ``a-2-1``.
        number: From 1, which object of its class in the image it is.
    """
    return stem if number == 1 and not _NUMBERED.fullmatch(key(stem)) else f"{stem}-{number}"


def class_folders(names: Mapping[int, str], numbers: Iterable[int] = ()) -> dict[int, str]:
    """Return a folder name for each class, all different.

    Args:
        names: Class number to class name.
        numbers: Classes that may have no name; their number is their name.
    """
    folders = dict(_class_folders(tuple(sorted(names.items()))))
    nameless = sorted({number for number in numbers if number not in folders})
    if nameless:
        return dict(_class_folders((*sorted(names.items()), *((number, str(number)) for number in nameless))))
    return folders


@functools.lru_cache(maxsize=8)
def _class_folders(names: tuple[tuple[int, str], ...]) -> tuple[tuple[int, str], ...]:
    given = Names()
    return tuple((number, given.new(safe(str(name), otherwise="_"))) for number, name in names)


def _address_name(address: str) -> str:
    """Return a file name for what lies at an address: the last part of its path, or its host."""
    try:
        parts = urllib.parse.urlsplit(address)
        return urllib.parse.unquote(parts.path).rstrip("/").rpartition("/")[2] or parts.hostname or "stream"
    except ValueError:
        return address
