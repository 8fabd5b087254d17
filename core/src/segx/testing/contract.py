"""What makes a test class a contract: its tests are inherited, marked as known to fail, never overridden."""

from __future__ import annotations

import types
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

_STANDARD = "_segx_standard"


class Contract:
    """Base of all contracts.

    A class in ``segx.testing`` states standard tests; whoever inherits it gets them as they are. Fixtures and class
    attributes are there to be overridden, tests are not.

    Attributes:
        xfail: Name of a standard test to the reason why it is known to fail.
    """

    xfail: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, *, standard: bool = False, **options: Any) -> None:
        """Hold the rule; ``standard=True`` is for the contracts themselves."""
        super().__init_subclass__(**options)
        inherited = {name for base in cls.__mro__[1:] for name in vars(base).get(_STANDARD, ())}
        taken = sorted(inherited & vars(cls).keys())
        if taken:
            msg = (
                f"{cls.__name__} overrides the standard test {taken[0]!r}, which is the same for every plugin; "
                f'if it is known to fail, say why: xfail = {{"{taken[0]}": "reason"}}'
            )
            raise TypeError(msg)
        own = tuple(name for name in vars(cls) if name.startswith("test_")) if standard else ()
        setattr(cls, _STANDARD, own)
        if "xfail" in vars(cls):
            _mark(cls, inherited)


def _mark(cls: type[Contract], standard: set[str]) -> None:
    """Give the class its own copies of the tests that are known to fail, marked."""
    for name, reason in cls.xfail.items():
        if name not in standard:
            msg = f"{cls.__name__}.xfail names {name!r}, which is no standard test of it"
            raise TypeError(msg)
        if not reason.strip():
            msg = f"{cls.__name__}.xfail[{name!r}] gives no reason"
            raise TypeError(msg)
        # Strict: the day it passes, the mark has to go.
        setattr(cls, name, pytest.mark.xfail(reason=reason, strict=True)(_copy(getattr(cls, name))))


def _copy(function: types.FunctionType) -> types.FunctionType:
    """Return the same test as another object, so that a mark on it marks no other plugin's."""
    copy = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__doc__ = function.__doc__
    copy.__qualname__ = function.__qualname__
    copy.__module__ = function.__module__
    copy.__dict__.update({key: list(value) if key == "pytestmark" else value for key, value in vars(function).items()})
    return copy
