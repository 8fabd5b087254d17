"""Errors that say what happened, why, and what to type next."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

from segx.words import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


_ENDLESS = re.compile(r"(\S{200})\S{300,}")
"""A word that is no name any more: what somebody has pasted, or the content of a file."""
_MAX = 4000
"""Characters of a message, and of a hint."""


def _cut(text: str) -> str:
    """Return a text without the middle of what nobody would read: a file may name thousands of things."""
    return text if len(text) <= _MAX else f"{text[: _MAX // 2]} ... {text[-_MAX // 4 :]}"


class SegxError(Exception):
    """Something the user can act on: one line, without a traceback unless asked for.

    Args:
        message: What happened and why, in one line.
        hint: What to type or do next; printed after the message.

    Attributes:
        exit_code: What the command line exits with.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        # Whatever a file, a plugin or a server has said is part of it, and ends on a terminal, a traceback's too.
        message, hint = (_cut(_ENDLESS.sub(r"\1...", visible(text))) for text in (message, hint))
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class UsageError(SegxError):
    """An unknown name, a value out of range, a combination that cannot work."""

    exit_code = 2


class WrongValueError(UsageError, ValueError):
    """A value that cannot be; also what programs catch for that."""


class WrongTypeError(UsageError, TypeError):
    """An argument that is not known, or of a type that is not; also what programs catch for that."""


class MissingAttributeError(UsageError, AttributeError):
    """Something that is not there by that name; also what programs, and ``hasattr``, catch for that."""


class DataError(SegxError):
    """Images, labels or sources that are missing or cannot be read."""

    exit_code = 3


class MissingDataError(DataError, FileNotFoundError):
    """A source or a data set that is not there; also what programs catch for that."""


class ModelError(SegxError):
    """A model file that is missing, unsafe, damaged or of another kind."""

    exit_code = 4


class MissingModelError(ModelError, FileNotFoundError):
    """A model that is not there; also what programs catch for that."""


class ExportError(SegxError):
    """An export that cannot be made or was not proven."""

    exit_code = 5


class MissingPluginError(SegxError):
    """A plugin, or something it needs, is not installed."""

    exit_code = 5


class PluginError(SegxError):
    """A plugin that is broken, speaks another API, or claims a name that is taken."""

    exit_code = 5


_MEANT = {
    **dict.fromkeys(("confidence", "conf_thres", "conf_threshold", "score_threshold", "threshold"), "conf"),
    **dict.fromkeys(("iou_thres", "iou_threshold", "nms_threshold"), "iou"),
    **dict.fromkeys(("lr", "learning_rate"), "lr0"),
    **dict.fromkeys(("img", "img_size", "image_size", "size"), "imgsz"),
    "batch_size": "batch",
    "weights": "model",
}
"""Words of older programs, and of other tools, whose letters are close to something else."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the closest known name, or an empty string.

    Names are suggested, never silently changed.
    """
    import difflib

    known = sorted(known)
    close = [_MEANT[name]] if _MEANT.get(name) in known else difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def version_or_typo(name: str, known: Iterable[str]) -> str:
    """Say of a model's name that its architecture is not installed, where only the number differs, else what is meant.

    Who asks for ``net11s`` where there is ``net8s`` has not mistyped it.
    """
    known = sorted(known)
    numbers = {text: re.findall(r"\d+", text) for text in (name, *known)}
    same = [text for text in known if numbers[text] == numbers[name]]
    if numbers[name] and not did_you_mean(name, same) and did_you_mean(name, known):
        return "; no architecture that is installed has a model of this number"
    return did_you_mean(name, same or known)


def not_known(names: Sequence[str], known: Iterable[str]) -> str:
    """Say that names are no options: all of them at once, or a single one with what may be meant."""
    if len(names) == 1:
        return f"option {names[0]!r} is not known{did_you_mean(names[0], known)}"
    return f"options {', '.join(map(repr, names))} are not known"


def reason(error: BaseException, *, passing: tuple[str, ...] = ()) -> str:
    """Return the first line of what an error says, but for those that begin so; its class where it says nothing."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line and not line.startswith(passing)), type(error).__name__)


def optional(library: str, *, what: str) -> Any:
    """Import a library that need not be installed, and return it.

    Raises:
        MissingPluginError: It is not; ``what`` needs it.
    """
    import importlib

    try:
        return importlib.import_module(library)
    except ImportError:
        raise MissingPluginError(f"{what} needs {library}, found none", hint=f"pip install {library}") from None
