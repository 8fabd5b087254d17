"""Records: what dataclasses promise of frozen values, without compiling anything."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from dataclasses import field
from typing import Any

import pytest

from segx.records import Record


class Point(Record):
    """A record."""

    x: int
    y: int = 2
    tags: list[str] = field(default_factory=list)
    seen: list[int] = field(default_factory=list, init=False, repr=False, compare=False)


class Named(Point):
    """One that inherits fields."""

    name: str


class Alone(Record, eq=False):
    """One that equals only itself."""

    x: int


class Pair(Record, kw_only=False):
    """One that takes its fields in order."""

    left: int
    right: int = 0


def test_fields_come_by_name_with_their_defaults() -> None:
    made = Named(x=1, name="a")
    assert dataclasses.asdict(made) == {"x": 1, "y": 2, "tags": [], "seen": [], "name": "a"}
    assert made.tags is not Named(x=1, name="a").tags
    assert repr(made) == "Named(x=1, y=2, tags=[], name='a')"


def test_what_is_compared_makes_them_equal() -> None:
    one, other = Point(x=1), Point(x=1)
    one.seen.append(3)
    assert one == other
    assert one != Point(x=2)
    assert Point(x=1) != Named(x=1, name="a")
    assert Pair(1, 2) == Pair(left=1, right=2)
    assert {Pair(1), Pair(1, 0)} == {Pair(1)}
    assert Alone(x=1) != Alone(x=1)
    assert len({Alone(x=1), Alone(x=1)}) == 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Point, "needs x"),
        (lambda: Point(x=1, z=1), "takes no z"),
        (lambda: Point(z=1), "takes no z"),
        (lambda: Point(x=1, seen=[]), "takes no seen"),
        (lambda: Point(1), "by name"),
        (lambda: Pair(1, 2, 3), "by name"),
        (lambda: Pair(1, left=2), "each once"),
    ],
)
def test_wrong_fields_are_refused(make: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        make()


def test_it_is_frozen_and_can_be_copied() -> None:
    made = Named(x=1, name="a", tags=["t"])
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.x = 2  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        del made.x
    for other in (copy.copy(made), copy.deepcopy(made), pickle.loads(pickle.dumps(made))):
        assert other == made
        assert other.x == 1
    assert dataclasses.replace(made, x=5) == Named(x=5, name="a", tags=["t"])


def test_nothing_is_compiled_for_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dataclasses build their methods with exec: half a millisecond each, a hundred of them in a start."""
    compiled: list[str] = []
    monkeypatch.setattr(dataclasses, "_create_fn", lambda name, *_, **__: compiled.append(name), raising=False)
    monkeypatch.setattr(dataclasses, "exec", lambda *_: compiled.append("exec"), raising=False)
    type("Fresh", (Record,), {"__annotations__": {"x": int}, "__doc__": "A record."})
    assert compiled == []


@pytest.mark.parametrize("how", [{}, {"frozen": True, "kw_only": True}, {"frozen": True}, {"init": False}])
def test_a_decorator_is_refused_in_one_line(how: dict[str, bool]) -> None:
    """It would go over the fields again, without what was noted of them."""

    class Own(Named):
        level: int = 3

    with pytest.raises(TypeError, match="is one already: remove @dataclass"):
        dataclasses.dataclass(**how)(Own)

    class After(Named):
        level: int = 4

    assert After(x=1, name="a").level == 4


def test_its_fields_are_its_signature() -> None:
    shown = inspect.signature(Named)
    assert list(shown.parameters)[:2] == [item.name for item in dataclasses.fields(Named)][:2]
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in shown.parameters.values())
