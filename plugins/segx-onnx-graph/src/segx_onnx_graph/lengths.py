"""Arithmetic on lengths of axes, done while a graph is read or translated: some are integers, others still open.

A vector of lengths is a NumPy array of dtype object that holds integers and, for open axes, ``OPEN``, ``BATCH`` or a
target's own scalars. Once all of them are known it is an ordinary array.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

REPEATS = frozenset(
    {
        ("asymmetric", "floor"),
        ("asymmetric", "round_prefer_floor"),
        ("half_pixel", "round_prefer_floor"),
        ("half_pixel", "round_prefer_ceil"),
        ("pytorch_half_pixel", "round_prefer_floor"),
    }
)
"""Ways of a nearest-neighbour Resize (coordinates, rounding) that at factor 2 mean: repeat each pixel."""


class _Open:
    """A length that nobody knows yet; arithmetic with it gives another one."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name

    def _unknown(self, other: object) -> _Open:  # noqa: ARG002 - whatever it is combined with
        return OPEN

    def _scaled(self, other: object) -> _Open:
        return self if is_number(other) and other == 1 else OPEN

    __add__ = __radd__ = __sub__ = __rsub__ = __rfloordiv__ = _unknown
    __mul__ = __rmul__ = __floordiv__ = _scaled


OPEN = _Open("OPEN")
BATCH = _Open("BATCH")
"""The number of images: the one open length that keeps its name on its way through a graph."""


def is_number(length: object) -> bool:
    """Return whether a length is known."""
    return isinstance(length, int | float | np.number)


def vector(items: Sequence[Any]) -> np.ndarray[Any, Any]:
    """Return lengths as an array: of int64 where all are known, else of objects."""
    array = np.empty(len(items), object)
    for index, item in enumerate(items):  # one by one, since NumPy would look into what is a target's own
        array[index] = item
    return settled(array)


def settled(value: Any) -> np.ndarray[Any, Any]:
    """Return an array of plain numbers where all of them are known, else the array of objects as it is."""
    if not isinstance(value, np.ndarray):  # arithmetic on an array without axes gives the bare object
        bare = value
        value = np.empty((), object)
        value[()] = bare
    array: np.ndarray[Any, Any] = value
    if array.dtype == object and all(map(is_number, array.flat)):
        numbers = np.array(array.tolist())
        return numbers if array.size else numbers.astype(np.int64)
    return array


def fill_value(value: Any) -> Any:
    """Return the number that ``ConstantOfShape`` fills with, from its attribute: a tensor of one element, or None."""
    return np.float32(0) if value is None else numpy_helper.to_array(value).reshape(-1)[0]


def reshaped(
    old: Sequence[Any], new: Sequence[Any], *, allow_zero: bool = False, keeps_first: bool = False
) -> tuple[list[tuple[list[int], list[int]]], list[Any]]:
    """Return which axes a Reshape takes into which, and the new lengths, ``0`` and ``-1`` resolved where they can be.

    Axes that stay form groups of their own, so that a target with another order of axes (channels last) need not bring
    all of them into ONNX's order first.

    Args:
        old: Lengths of the value; open ones are objects of the target.
        new: What the Reshape asks for: numbers, 0 for "as before", -1 for "what is left", objects of the target.
        allow_zero: A 0 means an empty axis.
        keeps_first: The first axis stays as it is, whatever its new length is computed from.

    Returns:
        Groups (old axes, new axes), in order; and the new lengths.
    """
    old, new = list(old), list(new)
    if not allow_zero:
        new = [old[index] if is_number(length) and length == 0 else length for index, length in enumerate(new)]
    if keeps_first:
        new[0] = old[0]
    _resolve(old, new)
    head = 0
    while head < min(len(old), len(new)) and _same(old[head], new[head]):
        head += 1
    tail = _shared_tail(old, new, head)
    old_end, new_end = len(old) - tail, len(new) - tail
    _resolve(old[head:old_end], new, range(head, new_end))
    groups = [([axis], [axis]) for axis in range(head)]
    if old_end > head or new_end > head:
        groups.append((list(range(head, old_end)), list(range(head, new_end))))
    groups += [([old_end + axis], [new_end + axis]) for axis in range(tail)]
    return groups, new


def sized(shape: Sequence[Any]) -> list[Any]:
    """Return a shape as targets take it: -1 for a single open length, so that the known ones stay known."""
    unknown = [index for index, length in enumerate(shape) if not is_number(length)]
    alone = len(unknown) == 1 and not any(is_number(length) and length == -1 for length in shape)
    return [int(length) if is_number(length) else -1 if alone else length for length in shape]


def _same(left: Any, right: Any) -> bool:
    return left is right or (is_number(left) and is_number(right) and left == right)


def _all_known(lengths: Sequence[Any]) -> bool:
    return all(map(is_number, lengths))


def _resolve(old: Sequence[Any], new: list[Any], among: range | None = None) -> None:
    """Put a number for -1 where everything else is known."""
    places = range(len(new)) if among is None else among
    rest = [place for place in places if is_number(new[place]) and new[place] == -1]
    others = [new[place] for place in places if place not in rest]
    if len(rest) == 1 and _all_known(old) and _all_known(others) and math.prod(others):
        new[rest[0]] = math.prod(old) // math.prod(others)


def _shared_tail(old: list[Any], new: list[Any], head: int) -> int:
    """Return how many of the last axes stay; an open one that only that explains takes the old length."""
    tail = 0
    while tail < min(len(old), len(new)) - head:
        last_old, last_new = old[-1 - tail], new[-1 - tail]
        if not _same(last_old, last_new):
            left, right = old[head : len(old) - tail - 1], new[head : len(new) - tail - 1]
            balanced = _all_known([*left, *right]) and -1 not in right and math.prod(left) == math.prod(right)
            contradicts = is_number(last_old) and is_number(last_new) and last_new > 0
            if not balanced or contradicts:
                break
        new[-1 - tail] = last_old
        tail += 1
    return tail


def _equal(left: Any, right: Any) -> Any:
    left, right = np.broadcast_arrays(left, right)  # an open length equals no marker such as -1
    pairs = zip(left.flat, right.flat, strict=True)
    return np.array([is_number(a) and is_number(b) and a == b for a, b in pairs], bool).reshape(left.shape)


def _slice(value: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    if not all(is_number(item) for part in (starts, ends) for item in part.flat):
        return NotImplemented
    cut = [slice(None)] * value.ndim
    for index, (start, end) in enumerate(zip(starts, ends, strict=True)):
        step = 1 if steps is None else int(steps[index])
        cut[index if axes is None else int(axes[index])] = slice(int(start), int(end), step)
    return value[tuple(cut)]


def _cast(value: Any, to: int, **_: Any) -> Any:
    whole = to in (TensorProto.INT32, TensorProto.INT64)
    if value.dtype == object:
        return value if whole else NotImplemented
    return value.astype(helper.tensor_dtype_to_np_dtype(to))


def _filled(shape: Any, value: Any = None) -> Any:
    return np.full(shape.astype(int), fill_value(value)) if _all_known(list(shape)) else NotImplemented


def _expand(value: Any, shape: Any) -> Any:
    return NotImplemented if shape.dtype == object else value + np.zeros(shape.tolist(), value.dtype)


ARITHMETIC: Mapping[str, Callable[..., Any]] = {
    "Add": lambda a, b: a + b,
    "Sub": lambda a, b: a - b,
    "Mul": lambda a, b: a * b,
    "Div": lambda a, b: a // b,
    "Cast": _cast,
    "Concat": lambda *parts, axis: np.concatenate([part.astype(object) for part in parts], axis),
    "ConstantOfShape": _filled,
    "Equal": _equal,
    "Expand": _expand,
    "Gather": lambda value, index, axis: np.take(value, index.astype(int), axis),
    "Identity": lambda value: value,
    "Reshape": lambda value, shape, **_: value.reshape(shape.tolist()),
    "Slice": _slice,
    "Squeeze": lambda value, axes=None: np.squeeze(value, None if axes is None else tuple(axes.tolist())),
    "Unsqueeze": lambda value, axes: np.expand_dims(value, tuple(axes.tolist())),
    "Where": np.where,
}
"""Operators on lengths of which some are open. Fractions never get here: what is known of them is folded before."""
