"""Fonts for labels: the built-in one is Latin; for other scripts one that this machine has."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import logging
from functools import cache, lru_cache
from pathlib import Path, PurePath
from typing import Any

from segx.errors import UsageError
from segx.io.paths import expanded

logger = logging.getLogger(__name__)

_FOLDERS = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "~/Library/Fonts",
    "C:/Windows/Fonts",
)
_SUFFIXES = {".ttf", ".otf", ".ttc"}
_ODD = ("bold", "italic", "oblique", "mono", "serif", "light", "thin", "black", "condensed", "display")
"""Words in the names of fonts that come last."""
_STAND_INS = ("lastresort",)
"""Words in the names of fonts that draw a frame for a whole block of letters: two names would look alike."""
_MAX = 1000
"""Fonts that are looked at."""
_NO_LETTER = "\U0010fffd"
"""What no font has: it is drawn as every letter is that is missing."""
_SIZE = 16.0


def legible(name: str, number: int, font: str | None) -> str:
    """Return the name of a class, or its number where no font here has all letters of the name: logged once.

    Raises:
        UsageError: The font cannot be read.
    """
    if has_letters(name, fitting_font(name, font)):
        return name
    _warn_once(name, number)
    return str(number)


@lru_cache(maxsize=1024)
def fitting_font(text: str, font: str | None) -> str | None:
    """Return the font to draw a text with: the one asked for where it has all letters, else another that does.

    Args:
        text: What is to be drawn.
        font: A font file, or None for the built-in font.

    Raises:
        UsageError: The font cannot be read.
    """
    if has_letters(text, font):
        return font
    return next((other for other in _installed() if has_letters(text, other)), font)


@lru_cache(maxsize=4096)
def has_letters(text: str, font: str | None) -> bool:
    """Return True if a font has all letters of a text; that of ASCII is taken for granted."""
    if text.isascii():
        return True
    try:
        face = load(_SIZE, font)
        missing = _drawn(face, _NO_LETTER)
        return all(letter.isascii() or letter.isspace() or _drawn(face, letter) != missing for letter in set(text))
    except OSError:  # an installed font of a kind that FreeType does not read
        return False


@lru_cache(maxsize=64)
def load(size: float, font: str | None) -> Any:
    """Return a font of so many pixels as Pillow has it.

    Raises:
        UsageError: The file is no font that can be read.
    """
    from PIL import ImageFont

    if font is None:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(font, round(size))
    except (OSError, ValueError) as error:
        if font in _installed():
            raise
        if PurePath(font).name == font:  # a font of the system, where it may be or not
            return ImageFont.load_default(size)
        raise UsageError(f"font={font}: cannot be read as a font ({error})", hint="give a .ttf or .otf file") from error


def _drawn(face: Any, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = face.getmask(letter)
    return mask.size, bytes(mask)


@cache
def _installed() -> tuple[str, ...]:
    """Return the font files of this machine, and of matplotlib where it is there; plain ones first."""
    folders = []
    for folder in _FOLDERS:
        with contextlib.suppress(RuntimeError):  # there is no home
            folders.append(expanded(folder))
    matplotlib = importlib.util.find_spec("matplotlib")
    if matplotlib is not None and matplotlib.origin is not None:
        folders.append(Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf")
    files = (
        file
        for folder in folders
        for file in folder.rglob("*")
        if file.suffix.lower() in _SUFFIXES and not any(word in file.stem.lower() for word in _STAND_INS)
    )
    return tuple(sorted(map(str, itertools.islice(files, _MAX)), key=_plain_first))


def _plain_first(file: str) -> tuple[bool, bool, str]:
    name = Path(file).stem.lower()
    return any(word in name for word in _ODD), "sans" not in name, file


@cache
def _warn_once(name: str, number: int) -> None:
    logger.warning("no font here has all letters of %r: its number, %d, is drawn; font=FILE names a font", name, number)
