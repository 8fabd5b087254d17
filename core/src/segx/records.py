"""Frozen values with named fields, made without compiling anything: every start passes a hundred of them."""

from __future__ import annotations

import dataclasses
import threading
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, dataclass_transform

if TYPE_CHECKING:
    import inspect
    from collections.abc import Callable, Mapping


class _Fields(NamedTuple):
    """What the methods of a record have to know of its class."""

    taken: frozenset[str]
    in_order: tuple[str, ...]
    defaults: Mapping[str, Any]
    factories: Mapping[str, Callable[[], Any]]
    number: int
    compared: tuple[str, ...]


class _Signature:
    """What ``inspect`` and ``help`` show of a class of records: its fields; worked out when they ask."""

    def __get__(self, instance: object, owner: type[Record]) -> inspect.Signature:
        if instance is not None or owner.__init__ is not Record.__init__:
            raise AttributeError("__signature__")
        import inspect

        kinds = inspect.Parameter
        shown = [
            kinds(
                item.name,
                kinds.POSITIONAL_OR_KEYWORD if item.name in owner.__record__.in_order else kinds.KEYWORD_ONLY,
                default=next(
                    (value for value in (item.default, item.default_factory) if value is not dataclasses.MISSING),
                    kinds.empty,
                ),
                annotation=item.type,
            )
            for item in dataclasses.fields(owner)
            if item.init
        ]
        return inspect.Signature(shown)


class _Params(threading.local):
    """What :mod:`dataclasses` asks a base whose fields a class inherits: it answers only who makes a record."""

    making = False

    @property
    def frozen(self) -> bool:
        if self.making:
            return False
        raise TypeError("what derives from a record of segx (options, specs, ...) is one already: remove @dataclass")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,))
class Record:
    """Base of a class whose annotated names are its fields, as with ``@dataclass(frozen=True, kw_only=True)``.

    A dataclass compiles six methods for each class, which takes half a millisecond; these are the same for all. What
    :mod:`dataclasses` does with an instance works (``fields``, ``replace``, ``asdict``), and so does a
    ``__post_init__``. A class that derives from a record is one too: it is not decorated.

    Args:
        *given: The first fields, in their order, where the class lets names be left out.
        **values: The others, by name.

    Raises:
        TypeError: A field is missing, unknown, or given twice.
    """

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]] = {}
    __dataclass_params__: ClassVar[_Params] = _Params()
    __signature__: ClassVar[_Signature] = _Signature()
    __record__: ClassVar[_Fields] = _Fields(frozenset(), (), {}, {}, 0, ())

    def __init_subclass__(cls, *, eq: bool = True, kw_only: bool = True, **more: Any) -> None:
        """Find the fields.

        ``eq=False``: an instance equals only itself. ``kw_only=False``: the names of fields can be left out.
        """
        super().__init_subclass__(**more)
        Record.__dataclass_params__.making = True
        try:
            dataclasses.dataclass(init=False, repr=False, eq=False, kw_only=True, match_args=False)(cls)
        finally:
            Record.__dataclass_params__.making = False
        del cls.__dataclass_params__  # the base's, which refuses a decorator
        fields = dataclasses.fields(cls)
        in_order = tuple(item.name for item in fields if item.init)
        defaults = {item.name: item.default for item in fields if item.default is not dataclasses.MISSING}
        factories = {
            item.name: item.default_factory for item in fields if item.default_factory is not dataclasses.MISSING
        }
        compared = tuple(item.name for item in fields if item.compare)
        number = len({*in_order, *defaults, *factories})
        cls.__record__ = _Fields(
            frozenset(in_order), () if kw_only else in_order, defaults, factories, number, compared
        )
        if not eq:
            cls.__eq__, cls.__hash__ = object.__eq__, object.__hash__  # type: ignore[method-assign]

    def __init__(self, *given: Any, **values: Any) -> None:
        own, fields = self.__dict__, self.__record__
        if given:
            named = dict(zip(fields.in_order, given, strict=False))
            if len(named) < len(given) or named.keys() & values.keys():
                raise TypeError(f"{type(self).__qualname__} takes its fields by name, each once")
            values |= named
        own.update(fields.defaults)
        for name, make in fields.factories.items():
            if name not in values:
                own[name] = make()
        own.update(values)
        if len(own) != fields.number or not values.keys() <= fields.taken:
            unknown, missing = sorted(values.keys() - fields.taken), sorted(fields.taken - own.keys())
            what = f"takes no {', '.join(unknown)}" if unknown else f"needs {', '.join(missing)}"
            raise TypeError(f"{type(self).__qualname__} {what}")
        self.__post_init__()

    def __post_init__(self) -> None:
        """Check the fields; most classes have nothing to check."""

    def __repr__(self) -> str:
        shown = (f"{item.name}={getattr(self, item.name)!r}" for item in dataclasses.fields(self) if item.repr)
        return f"{type(self).__qualname__}({', '.join(shown)})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record) or type(other) is not type(self):
            return NotImplemented
        return self.__compared() == other.__compared()

    def __hash__(self) -> int:
        return hash(self.__compared())

    def __setattr__(self, name: str, value: Any) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")

    def __compared(self) -> tuple[Any, ...]:
        return tuple([getattr(self, name) for name in self.__record__.compared])
