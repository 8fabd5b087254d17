"""``ResultArray``: a NumPy array that also answers to the methods of a tensor, for programs written for those."""

from __future__ import annotations

import math
import numbers
import operator
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from segx.ops.arrays import to_numpy
from segx.structures.types import Device

if TYPE_CHECKING:
    from numpy.typing import NDArray


class OnHost:
    """What lies in the host's memory already: ``cpu()``, ``numpy()``, ``cuda()`` and ``to()`` return it as it is."""

    def to(self, *_where: Any, **_how: Any) -> Self:
        """Return this object: it holds NumPy arrays already."""
        return self

    cpu = numpy = cuda = to


class Sorted(NamedTuple):
    """What ``max``, ``min`` and ``sort`` return when they are called as a tensor's: values, and where they were."""

    values: Any
    indices: Any


class Indices(tuple[Any, ...]):
    """What ``nonzero`` returns: indices for each axis, which is NumPy's, with the methods of a tensor's rows."""

    __slots__ = ()

    @property
    def rows(self) -> ResultArray:
        """(elements, axes): where each element is."""
        return ResultArray.of(np.stack(self, axis=-1))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rows, name)


class Size(int):
    """The number of elements; called, the shape or one side of it, as a tensor's ``size`` is."""

    shape: tuple[int, ...]

    def __call__(self, dim: int | None = None) -> Any:
        """Return the shape, or its side ``dim``."""
        return self.shape if dim is None else self.shape[dim]


class ResultArray(np.ndarray[Any, np.dtype[Any]]):
    """An array of a result: NumPy's in every respect, with the methods that programs call on tensors as well.

    It shares the memory it is made of. One number of it is an array without axes, which has ``cpu()`` and ``item()``
    and still serves as a number and as a key of a dictionary. Where NumPy and tensors mean two things by one name,
    positional arguments mean NumPy's, and the words ``dim``, ``keepdim``, ``descending`` and ``as_tuple`` the tensor's:
    ``max(0)`` is an array, ``max(dim=0)`` values and indices. ``size`` is a number that can be called. ``numpy()`` and
    ``astype()`` give plain arrays.
    """

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    @classmethod
    def of(cls, array: Any) -> ResultArray:
        """Return an array as one of these, without copying."""
        return np.asarray(array).view(cls)

    # One number

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(_index(index))
        return ResultArray.of(found) if isinstance(found, np.generic) else found

    def __hash__(self) -> int:  # type: ignore[override]  # NumPy's arrays have none
        if self.ndim:
            raise TypeError(f"unhashable: an array of shape {self.shape}; one number of it can be a key")
        return hash(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __index__(self) -> int:
        return operator.index(self.item())

    def __rmul__(self, other: Any) -> Any:
        """Repeat a text, as in ``"s" * (n > 1)``; numbers are multiplied."""
        return other * self.item() if isinstance(other, str) and not self.ndim else super().__rmul__(other)

    def __round__(self, digits: int | None = None) -> Any:
        return round(self.item(), digits) if self.size == 1 else np.round(self, digits or 0)

    def __format__(self, spec: str) -> str:
        one = self.size == 1 and (spec or not self.ndim)
        return format(self.item(), spec) if one else super().__format__(spec)

    # Other arrays of the same numbers

    @property
    def size(self) -> Size:
        """The number of elements; ``size()`` is the shape and ``size(0)`` its first side."""
        size = Size(np.ndarray.size.__get__(self))
        size.shape = self.shape
        return size

    device: Any = Device("cpu")  # NumPy says "cpu", too
    is_cuda = requires_grad = False

    def cpu(self, *_how: Any, **_more: Any) -> ResultArray:
        """Return the array: it lies there already."""
        return self

    cuda = detach = contiguous = cpu

    def clone(self) -> ResultArray:
        """Return a copy."""
        return self.copy()

    def numpy(self, **_how: Any) -> NDArray[Any]:
        """Return a plain array that shares the memory."""
        return np.asarray(self)

    def astype(self, *args: Any, **how: Any) -> Any:
        """Return a plain array of another type; of an array without axes NumPy's own number."""
        return np.asarray(self).astype(*args, **how)[... if self.ndim else ()]

    def to(self, *what: Any, dtype: Any = None, **_how: Any) -> ResultArray:
        """Return the array, as another type where one is named; a device changes nothing."""
        kinds = [kind for kind in map(_number_type, (*what, dtype)) if kind is not None]
        return ResultArray.of(np.asarray(self).astype(kinds[0])) if kinds else self

    def unsqueeze(self, dim: int) -> Any:
        """Return the array with one more axis, of length one."""
        return np.expand_dims(self, dim)

    def squeeze(self, axis: Any = None, *, dim: Any = None) -> Any:
        """Return the array without its axes of length one; ``dim`` stays where it is longer."""
        if dim is not None and self.shape[dim] != 1:
            return self
        return super().squeeze(axis if dim is None else dim)

    def flatten(self, *axis: Any, start_dim: int = 0, end_dim: int = -1, **how: Any) -> Any:
        """Return a copy with axes made into one: all, or those from ``start_dim`` to ``end_dim``, as ``flatten(1)``."""
        if (axis and isinstance(axis[0], str)) or how:
            return super().flatten(*axis, **how)
        start = axis[0] if axis else start_dim
        end = axis[1] if len(axis) > 1 else end_dim
        sides = self.shape or (1,)
        start, end = start % len(sides), end % len(sides) + 1
        return self.reshape(*sides[:start], math.prod(sides[start:end]), *sides[end:]).copy()

    def permute(self, *dims: Any) -> Any:
        """Return the array with its axes in another order."""
        return super().transpose(*dims)

    def transpose(self, *axes: Any) -> Any:
        """Return the array with its axes in another order; two of more are exchanged."""
        return self.swapaxes(*axes) if len(axes) == 2 < self.ndim else super().transpose(*axes)

    def view(self, *shape: Any) -> Any:  # type: ignore[override]
        """Return the same memory: in another shape where numbers are given, else as another type."""
        sides = shape[0] if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
        whole = bool(sides) and all(isinstance(side, numbers.Integral) for side in sides)
        return self.reshape(sides) if whole else super().view(*shape)

    # What is computed of them

    def max(self, *axis: Any, dim: Any = None, keepdim: Any = False, **how: Any) -> Any:
        """Return the greatest; with ``dim`` also where they are."""
        return super().max(*axis, **how) if dim is None else self._extreme("max", dim, keepdim)

    def min(self, *axis: Any, dim: Any = None, keepdim: Any = False, **how: Any) -> Any:
        """Return the smallest; with ``dim`` also where they are."""
        return super().min(*axis, **how) if dim is None else self._extreme("min", dim, keepdim)

    def _extreme(self, name: str, dim: int, keepdim: Any) -> Sorted:
        values, where = (getattr(np.ndarray, prefix + name)(self, dim, keepdims=keepdim) for prefix in ("", "arg"))
        return Sorted(values, where)

    def argsort(self, *axis: Any, dim: Any = None, descending: Any = False, **how: Any) -> Any:
        """Return the order that sorts."""
        dim = (axis[0] if axis else -1) if dim is None else dim
        order = super().argsort(dim, *axis[1:], **how)
        return np.flip(order, dim) if descending else order

    def sort(self, *axis: Any, dim: Any = None, descending: Any = None, **how: Any) -> Any:
        """Sort in place; with ``dim`` or ``descending`` return values and order instead."""
        if dim is None and descending is None:
            return super().sort(*axis, **how)
        dim = -1 if dim is None else dim
        order = self.argsort(dim=dim, descending=descending, kind="stable")
        return Sorted(np.take_along_axis(self, order, dim), order)

    def nonzero(self, *, as_tuple: Any = None) -> Any:
        """Return where the array is not 0: indices for each axis; with ``as_tuple=False`` a row for each element.

        Where that is not given, the indices also have the methods of the rows: ``nonzero().squeeze()``.
        """
        found = Indices(super().nonzero())
        return found.rows if as_tuple is False else found

    def topk(self, k: int, dim: int = -1, *, largest: Any = True) -> Sorted:
        """Return the ``k`` greatest, or smallest, with where they are, the first one first."""
        order = self.argsort(dim=dim, descending=largest, kind="stable").take(np.arange(k), dim)
        return Sorted(ResultArray.of(np.take_along_axis(self, order, dim)), order)

    def median(self) -> Any:
        """Return the value in the middle; of two the smaller."""
        return np.sort(self, None)[(int(self.size) - 1) // 2]

    def split(self, size: Any, dim: int = 0) -> list[Any]:
        """Return parts of so many along an axis, or of these lengths."""
        ends = np.cumsum(size)[:-1] if isinstance(size, list | tuple) else range(size, self.shape[dim], size)
        return np.split(self, ends, dim)

    def chunk(self, chunks: int, dim: int = 0) -> list[Any]:
        """Return at most so many parts of one length along an axis; the last may be shorter."""
        return self.split(max(1, -(-self.shape[dim] // chunks)), dim)

    def unique(self, *, sorted: Any = True, **how: Any) -> Any:  # noqa: A002, ARG002 - a tensor's word; always sorted
        """Return the different values, sorted."""
        return np.unique(self, **how)

    def clamp(self, min: Any = None, max: Any = None) -> Any:  # noqa: A002 - a tensor's words
        """Return the values within limits."""
        return np.clip(self, min, max)


def _index(index: Any) -> Any:
    """Return an index in which tensors are arrays: NumPy takes a tensor of one number for that number."""
    if isinstance(index, tuple):
        return tuple(map(_index, index))
    return to_numpy(index) if hasattr(index, "__dlpack__") and not isinstance(index, np.ndarray) else index


def _number_type(item: Any) -> Any:
    """Return the type of number that an argument of ``to`` names, or None for a device and the like."""
    if isinstance(item, np.dtype) or (isinstance(item, type) and not hasattr(item, "dtype")):
        return item  # torch.LongTensor is a type that has one; float is one
    name = str(getattr(item, "dtype", item))
    return name.removeprefix("torch.") if name.startswith("torch.") else None


def _expanded(before: tuple[int, ...], shape: Any) -> tuple[int, ...]:
    """Return a shape in which -1 is the side that was there."""
    sides = shape[0] if shape and isinstance(shape[0], tuple | list) else shape
    kept = (*(1,) * (len(sides) - len(before)), *before)
    return tuple(old if side == -1 else side for side, old in zip(sides, kept, strict=True))


def _typed(kind: str) -> Any:
    return lambda self: self.to(np.dtype(kind))


def _elementwise(function: Any) -> Any:
    return lambda self, *others: function(self, *others)  # noqa: PLW0108 - which binds, and a ufunc does not


def _reduced(name: str) -> Any:
    """Return a reduction of NumPy's that takes a tensor's words as well."""
    function = getattr(np.ndarray, name, None) or getattr(np, name)

    def method(self: ResultArray, *axis: Any, **how: Any) -> Any:
        how = {{"dim": "axis", "keepdim": "keepdims"}.get(word, word): value for word, value in how.items()}
        if isinstance(how.get("axis"), list):
            how["axis"] = tuple(how["axis"])
        return function(self, *axis, **how)

    return method


_TYPES = {
    "bool": "bool",
    "byte": "uint8",
    "char": "int8",
    "short": "int16",
    "int": "int32",
    "long": "int64",
    "half": "float16",
    "float": "float32",
    "double": "float64",
}
_UFUNCS = {
    **{name: name for name in ("abs", "floor", "ceil", "sqrt", "square", "exp", "log", "add", "isnan", "isfinite")},
    "pow": "power",
    "sub": "subtract",
    "mul": "multiply",
    "div": "divide",
    "eq": "equal",
    "ne": "not_equal",
    "gt": "greater",
    "ge": "greater_equal",
    "lt": "less",
    "le": "less_equal",
    "logical_and": "logical_and",
    "logical_or": "logical_or",
    "logical_not": "logical_not",
}
_TENSORS: dict[str, Any] = {
    "dim": lambda self: self.ndim,
    "numel": lambda self: int(self.size),
    "nelement": lambda self: int(self.size),
    "element_size": lambda self: self.itemsize,
    "is_floating_point": lambda self: self.dtype.kind == "f",
    "t": lambda self: self.T,
    "norm": lambda self: ResultArray.of(np.linalg.norm(self)),
    "masked_select": lambda self, mask: self[mask],
    "index_select": lambda self, dim, index: self.take(to_numpy(index), dim),
    "unbind": lambda self, dim=0: tuple(np.moveaxis(self, dim, 0)),
    "expand": lambda self, *shape: np.broadcast_to(self, _expanded(self.shape, shape), subok=True),
    "repeat_interleave": lambda self, repeats, dim=None: self.repeat(to_numpy(repeats), dim),
}
for _name, _kind in _TYPES.items():
    setattr(ResultArray, _name, _typed(_kind))
for _name, _function in _UFUNCS.items():
    setattr(ResultArray, _name, _elementwise(getattr(np, _function)))
for _name, _method in _TENSORS.items():
    setattr(ResultArray, _name, _method)
for _name in ("any", "all", "sum", "mean", "std", "var", "prod", "argmax", "argmin", "cumsum"):
    setattr(ResultArray, _name, _reduced(_name))
for _name in ("amax", "amin", "count_nonzero"):
    setattr(ResultArray, _name, _reduced(_name))
setattr(ResultArray, "type", ResultArray.to)  # noqa: B010 - a tensor's older word for it
