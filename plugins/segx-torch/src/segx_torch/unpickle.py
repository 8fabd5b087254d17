"""Reads a pickle as data: nothing is imported, nothing is called, unknown names are refused.

The stream is interpreted here, opcode by opcode, into plain containers and inert records. A global name is looked up
in :func:`table` and stands for one of a handful of functions of this file; it never becomes the object it names.
Opcodes that torch does not write (INST, OBJ, EXT, NEWOBJ_EX, out-of-band buffers, text numbers) are refused.
"""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from segx.errors import ModelError
from segx.plugin.registry import get_registry

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Iterator, Mapping

    Handler = Callable[["_Machine"], None]
    Build = Callable[[tuple[Any, ...]], Any]

MAX_DIMENSIONS = 16
MAX_DEPTH = 200
"""How deep objects may lie in one another: modules take three levels each, and those of models are nested ten deep."""
MAX_MADE = 300_000
"""Containers and records that one stream may make: memory, bounded while it is read."""
MAX_NODES = 400_000
"""Objects in all, shared ones counted each time they appear; the largest published model has 60 thousand."""
_MAX_NAME = 200
_MAX_CONSTANT = 64
_MAX_INTEGER = 32
_END: Any = object()
_INT32 = range(-(2**31), 2**31)


@dataclass(slots=True)
class Record:
    """An object of a known class, as data.

    Attributes:
        kind: The class it was, ``"module.Name"``.
        arguments: What it was made from.
        state: Its attributes.
    """

    kind: str
    arguments: tuple[Any, ...] = ()
    state: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StorageRef:
    """Numbers in the container: element type, entry ``data/<key>``, number of elements."""

    dtype: str
    key: str
    count: int


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A view on a storage, checked to lie inside it and to hold no element twice by its size."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Refused(Exception):  # noqa: N818 - a reason on its way to becoming a ModelError
    """Why the stream is not read further."""


@dataclass(frozen=True, slots=True)
class _Symbol:
    """What a global name stands for: what REDUCE makes of it, and whether NEWOBJ may."""

    name: str
    build: Build | None = None
    new: bool = False


ITEM_SIZE: Mapping[str, int] = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}

_STORAGES: Mapping[str, str] = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}

_MODULES: Mapping[str, tuple[str, ...]] = {
    "torch.nn.modules.container": ("Sequential", "ModuleList"),
    "torch.nn.modules.conv": ("Conv2d", "ConvTranspose2d"),
    "torch.nn.modules.batchnorm": ("BatchNorm2d",),
    "torch.nn.modules.activation": ("SiLU",),
    "torch.nn.modules.pooling": ("MaxPool2d",),
    "torch.nn.modules.upsampling": ("Upsample",),
}

_NUMPY_FORMATS: Mapping[str, str] = {
    "f8": "<d",
    "f4": "<f",
    "f2": "<e",
    "i8": "<q",
    "i4": "<i",
    "i2": "<h",
    "i1": "<b",
    "u8": "<Q",
    "u4": "<I",
    "u2": "<H",
    "u1": "<B",
    "b1": "<?",
}


def read_pickle(data: bytes, *, where: str) -> Any:
    """Return what a pickle describes, made of plain containers, records and tensor references.

    Sets and sizes come back as the list or tuple they were made from. Shared and cyclic references are kept; walked as
    a tree the result is at most :data:`MAX_DEPTH` deep and :data:`MAX_NODES` large, but for its circles.

    Args:
        data: The stream, protocol 2 to 5.
        where: The file, for errors.

    Raises:
        ModelError: The stream asks for a name outside the table, or for anything torch does not write.
    """
    try:
        value = _Machine(data).run()
        _check_extent(value)
    except Refused as refusal:
        msg = f"{where}: refused, nothing of it was run: {refusal}"
        hint = "segx reads weights, never code; ask whoever made it for model.state_dict() in safetensors"
        raise ModelError(msg, hint=hint) from None
    except (IndexError, struct.error, UnicodeDecodeError, KeyError, TypeError, ValueError, OverflowError) as error:
        msg = f"{where}: not a sound checkpoint: its pickle is damaged ({type(error).__name__})"
        raise ModelError(msg, hint="download or save the file again") from error
    return value


# What each known name makes of its arguments. ----------------------------------------------------------------------


def _empty_dict(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    _expect(arguments == (), "an OrderedDict made from arguments")
    return {}


def _sequence(arguments: tuple[Any, ...]) -> Any:
    """Return what a set or a size is made from, itself: no copy, so that no stream can multiply it."""
    _expect(len(arguments) == 1 and type(arguments[0]) in {list, tuple}, "a set or size made from something else")
    return arguments[0]


def _tensor(arguments: tuple[Any, ...]) -> TensorRef:
    _expect(len(arguments) in {6, 7}, "a tensor with a wrong number of arguments")
    storage, offset, shape, stride, _, hooks = arguments[:6]
    _expect(type(storage) is StorageRef, "a tensor without a storage")
    _expect(type(shape) is tuple and type(stride) is tuple and len(shape) == len(stride), "a tensor without a shape")
    _expect(len(shape) <= MAX_DIMENSIONS, "a tensor of too many dimensions")
    _expect(all(type(n) is int and n >= 0 for n in (offset, *shape, *stride)), "a tensor with a bad shape")
    _expect(type(hooks) is dict and not hooks, "a tensor with hooks")
    count, last = 1, offset
    for length, step in zip(shape, stride, strict=True):
        count *= length
        last += (length - 1) * step
    if count > storage.count or (count and last >= storage.count):
        raise Refused(f"it holds a tensor of shape {shape} that reaches beyond its storage of {storage.count} elements")
    return TensorRef(storage, offset, shape, stride)


def _parameter(arguments: tuple[Any, ...]) -> TensorRef:
    _expect(len(arguments) == 3 and type(arguments[0]) is TensorRef, "a parameter without a tensor")
    _expect(type(arguments[2]) is dict and not arguments[2], "a parameter with hooks")
    tensor: TensorRef = arguments[0]
    return tensor


def _detect_forward(arguments: tuple[Any, ...]) -> Record:
    """Official heads keep ``Detect.forward`` as an attribute; it is noted and never looked up."""
    owner, name = arguments if len(arguments) == 2 else (None, None)
    allowed = type(owner) is _Symbol and owner.name.endswith(".Detect") and name == "forward"
    what = repr(name[:_MAX_NAME]) if type(name) is str else _describe(name)
    _expect(allowed, f"builtins.getattr of {_describe(owner)}, {what}")
    return Record("Detect.forward")


def _latin1(arguments: tuple[Any, ...]) -> bytes:
    """Protocol 2 writes bytes as text with a codec; only the few bytes of a number are taken."""
    _expect(len(arguments) == 2 and arguments[1] == "latin1", "_codecs.encode with another codec")
    text = arguments[0]
    _expect(type(text) is str and len(text) <= _MAX_CONSTANT, "_codecs.encode of more than a number")
    return str(text).encode("latin1")


def _numpy_type(arguments: tuple[Any, ...]) -> Record:
    known = len(arguments) == 3 and _is_one_of(arguments[0], _NUMPY_FORMATS)
    _expect(known, "a numpy type that is not a plain number")
    return Record("numpy.dtype", arguments[:1])


def _numpy_number(arguments: tuple[Any, ...]) -> Any:
    _expect(len(arguments) == 2, "a numpy number with a wrong number of arguments")
    kind, raw = arguments
    _expect(type(kind) is Record and kind.kind == "numpy.dtype" and type(raw) is bytes, "a numpy number without a type")
    return struct.unpack(_NUMPY_FORMATS[kind.arguments[0]], raw)[0]


def _namespace(arguments: tuple[Any, ...]) -> Record:
    _expect(arguments == (), "a namespace made from arguments")
    return Record("namespace")


def _path(arguments: tuple[Any, ...]) -> Record:
    parts = len(arguments) <= _MAX_CONSTANT and all(type(part) is str for part in arguments)
    _expect(parts, "a path made from something else than text")
    return Record("path", arguments)


@functools.cache
def table() -> Mapping[str, _Symbol]:
    """Return every global name that is read; all others are refused.

    The classes of a family's checkpoints are those that its architecture declares. They become records like torch's
    own, whatever they are called, and no declaration takes the place of a name that is read here.
    """
    families = [spec.pickled for spec in get_registry().architectures.specs]
    builds: dict[str, Build] = {
        "collections.OrderedDict": _empty_dict,
        "builtins.set": _sequence,
        "__builtin__.set": _sequence,
        "builtins.getattr": _detect_forward,
        "__builtin__.getattr": _detect_forward,
        "torch.Size": _sequence,
        "torch._utils._rebuild_tensor_v2": _tensor,
        "torch._utils._rebuild_parameter": _parameter,
        "_codecs.encode": _latin1,
        "numpy.dtype": _numpy_type,
        "numpy.core.multiarray.scalar": _numpy_number,
        "numpy._core.multiarray.scalar": _numpy_number,
        "ultralytics.utils.IterableSimpleNamespace": _namespace,
        "ultralytics.yolo.utils.IterableSimpleNamespace": _namespace,
        **{f"pathlib{sub}.{kind}Path": _path for sub in ("", "._local") for kind in ("Posix", "Windows", "PurePosix")},
    }
    classes = [f"{module}.{name}" for known in (*families, _MODULES) for module in known for name in known[module]]
    symbols = [_Symbol(name, new=True) for name in classes]
    symbols += [_Symbol(f"torch.{name}") for name in _STORAGES]
    symbols += [_Symbol(name, build) for name, build in builds.items()]
    return {symbol.name: symbol for symbol in symbols}


def _expect(condition: object, what: str) -> None:
    if not condition:
        raise Refused(f"it holds {what}")


def _is_one_of(value: Any, known: Container[str]) -> bool:
    """Look up text and nothing else: to hash or to show a tuple is to walk it, however deep it is."""
    return type(value) is str and value in known


def _check_extent(value: Any) -> None:
    """Walk what was read, without recursion, before anybody else does.

    Raises:
        Refused: It is deeper or larger than a checkpoint can be.
    """
    stack: list[Iterator[Any]] = [iter((value,))]
    above, visited = [0], 0
    while stack:
        item = next(stack[-1], _END)
        if item is _END:
            stack.pop()
            above.pop()
            continue
        visited += 1
        kind = type(item)
        inner: Iterable[Any]
        if kind is dict:
            inner = item.values()
        elif kind is list or kind is tuple:
            inner = item
        elif kind is Record:
            inner = (item.arguments, item.state)
        else:
            inner = ()
        if inner and id(item) not in above:
            stack.append(iter(inner))
            above.append(id(item))
        if visited > MAX_NODES or len(stack) > MAX_DEPTH:
            raise Refused("it holds objects that are nested without end")


def _describe(value: Any) -> str:
    return value.name if type(value) is _Symbol else type(value).__name__


# The machine. --------------------------------------------------------------------------------------------------------


class _Machine:
    """The stack machine of the pickle format, over plain data."""

    __slots__ = ("data", "marks", "memo", "position", "stack")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        data, handlers, makes, stop, made = self.data, _HANDLERS, _MAKES, ord("."), 0
        while True:
            opcode = data[self.position]
            self.position += 1
            if opcode == stop:
                break
            handler = handlers[opcode]
            if handler is None:
                raise Refused(f"it holds the opcode {_OPCODES.get(opcode, hex(opcode))}, which torch does not write")
            if opcode in makes:
                made += 1
                _expect(made <= MAX_MADE, "more objects than a model can have")
            handler(self)
        if self.position != len(data) or len(self.stack) != 1 or self.marks:
            raise Refused("something follows the end of its pickle")
        return self.stack[0]

    def take(self, length: int) -> bytes:
        end = self.position + length
        if end > len(self.data):
            raise IndexError
        chunk = self.data[self.position : end]
        self.position = end
        return chunk

    def byte(self) -> int:
        value = self.data[self.position]
        self.position += 1
        return value

    def uint32(self) -> int:
        return int.from_bytes(self.take(4), "little")

    def line(self) -> str:
        end = self.data.index(b"\n", self.position, self.position + _MAX_NAME)
        text = self.data[self.position : end].decode("ascii")
        self.position = end + 1
        return text

    def since_mark(self) -> list[Any]:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]


def _proto(m: _Machine) -> None:
    version = m.byte()
    _expect(2 <= version <= 5, f"pickle protocol {version}")


def _frame(m: _Machine) -> None:
    m.take(8)


def _mark(m: _Machine) -> None:
    m.marks.append(len(m.stack))


def _none(m: _Machine) -> None:
    m.stack.append(None)


def _true(m: _Machine) -> None:
    m.stack.append(True)


def _false(m: _Machine) -> None:
    m.stack.append(False)


def _int32(m: _Machine) -> None:
    m.stack.append(int.from_bytes(m.take(4), "little", signed=True))


def _int8(m: _Machine) -> None:
    m.stack.append(m.byte())


def _int16(m: _Machine) -> None:
    m.stack.append(int.from_bytes(m.take(2), "little"))


def _long1(m: _Machine) -> None:
    length = m.byte()
    _expect(length <= _MAX_INTEGER, "a whole number of more than 256 bits")
    m.stack.append(int.from_bytes(m.take(length), "little", signed=True))


def _float(m: _Machine) -> None:
    m.stack.append(struct.unpack(">d", m.take(8))[0])


def _text32(m: _Machine) -> None:
    m.stack.append(m.take(m.uint32()).decode("utf-8", "surrogatepass"))


def _text8(m: _Machine) -> None:
    m.stack.append(m.take(m.byte()).decode("utf-8", "surrogatepass"))


def _bytes8(m: _Machine) -> None:
    m.stack.append(m.take(m.byte()))


def _bytes32(m: _Machine) -> None:
    m.stack.append(m.take(m.uint32()))


def _empty_list_op(m: _Machine) -> None:
    m.stack.append([])


def _empty_tuple(m: _Machine) -> None:
    m.stack.append(())


def _empty_dict_op(m: _Machine) -> None:
    m.stack.append({})


def _tuple(m: _Machine) -> None:
    m.stack.append(tuple(m.since_mark()))


def _tuple1(m: _Machine) -> None:
    m.stack[-1] = (m.stack[-1],)


def _tuple2(m: _Machine) -> None:
    m.stack[-2:] = [(m.stack[-2], m.stack[-1])]


def _tuple3(m: _Machine) -> None:
    m.stack[-3:] = [(m.stack[-3], m.stack[-2], m.stack[-1])]


def _append(m: _Machine) -> None:
    item = m.stack.pop()
    _expect(type(m.stack[-1]) is list, "an append to something that is not a list")
    m.stack[-1].append(item)


def _appends(m: _Machine) -> None:
    items = m.since_mark()
    _expect(type(m.stack[-1]) is list, "an append to something that is not a list")
    m.stack[-1].extend(items)


def _setitem(m: _Machine) -> None:
    value = m.stack.pop()
    key = m.stack.pop()
    _store(m.stack[-1], key, value)


def _setitems(m: _Machine) -> None:
    items = m.since_mark()
    _expect(len(items) % 2 == 0, "a key without a value")
    target = m.stack[-1]
    for key, value in zip(items[::2], items[1::2], strict=True):
        _store(target, key, value)


def _store(target: Any, key: Any, value: Any) -> None:
    _expect(type(target) is dict, "an item set on something that is not a dict")
    # Small whole numbers and text cannot be made to collide; anything else as a key is not a checkpoint's.
    if type(key) is not str and (type(key) is not int or key not in _INT32):
        raise Refused(f"it holds a key of type {_describe(key)}")
    target[key] = value


def _put8(m: _Machine) -> None:
    m.put(m.byte())


def _put32(m: _Machine) -> None:
    m.put(m.uint32())


def _memoize(m: _Machine) -> None:
    m.put(len(m.memo))


def _get8(m: _Machine) -> None:
    m.stack.append(m.memo[m.byte()])


def _get32(m: _Machine) -> None:
    m.stack.append(m.memo[m.uint32()])


def _global(m: _Machine) -> None:
    module, name = m.line(), m.line()
    m.stack.append(_lookup(module, name))


def _stack_global(m: _Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    _expect(type(name) is str and type(module) is str, "a global name that is not text")
    m.stack.append(_lookup(module, name))


def _lookup(module: str, name: str) -> _Symbol:
    symbol = table().get(f"{module}.{name}")
    # "a" "b.c" and "a.b" "c" spell the same: only the split that pickle itself writes is known.
    if symbol is None or "." in name:
        raise Refused(f"it asks for {f'{module}.{name}'[:_MAX_NAME]!r}, which is not part of a model's weights")
    return symbol


def _reduce(m: _Machine) -> None:
    arguments, symbol = m.stack.pop(), m.stack.pop()
    if type(symbol) is not _Symbol or type(arguments) is not tuple or symbol.build is None:
        raise Refused(f"it holds a call of {_describe(symbol)}")
    m.stack.append(symbol.build(arguments))


def _newobj(m: _Machine) -> None:
    arguments, symbol = m.stack.pop(), m.stack.pop()
    if type(symbol) is not _Symbol or not symbol.new or arguments != ():
        raise Refused(f"it holds a new {_describe(symbol)} made from {_describe(arguments)}")
    m.stack.append(Record(symbol.name))


def _build(m: _Machine) -> None:
    state, target = m.stack.pop(), m.stack[-1]
    if type(target) is Record and target.kind == "numpy.dtype":
        known = type(state) is tuple and len(state) >= 2 and _is_one_of(state[1], "<|=")
        _expect(known, "a big-endian numpy type")
        return
    known = type(target) is dict or (type(target) is Record and target.kind not in {"path", "Detect.forward"})
    _expect(known and type(state) is dict, "a state for something that has none")
    _expect(all(type(key) is str and not key.startswith("__") for key in state), "a state that replaces attributes")
    if type(target) is Record:  # on a dict it is the ``_metadata`` of ``state_dict()``, which says nothing of weights
        _expect(not target.state, "a second state for one object")
        target.state = state


def _persistent(m: _Machine) -> None:
    reference = m.stack.pop()
    _expect(type(reference) is tuple and len(reference) == 5 and reference[0] == "storage", "a forged storage")
    _, symbol, key, location, count = reference
    kind = symbol.name.removeprefix("torch.") if type(symbol) is _Symbol else ""
    _expect(kind in _STORAGES, "a storage of an unknown type")
    _expect(type(key) is str and key.isascii() and key.isdigit() and len(key) < 10, "a storage with a forged name")
    _expect(type(location) is str, "a storage without a place")
    _expect(type(count) is int and 0 <= count < 2**40, "a storage with a forged size")
    m.stack.append(StorageRef(_STORAGES[kind], key, count))


_KNOWN: Mapping[str, Handler] = {
    "\x80": _proto,
    "\x95": _frame,
    "(": _mark,
    "N": _none,
    "\x88": _true,
    "\x89": _false,
    "J": _int32,
    "K": _int8,
    "M": _int16,
    "\x8a": _long1,
    "G": _float,
    "X": _text32,
    "\x8c": _text8,
    "C": _bytes8,
    "B": _bytes32,
    "]": _empty_list_op,
    ")": _empty_tuple,
    "}": _empty_dict_op,
    "t": _tuple,
    "\x85": _tuple1,
    "\x86": _tuple2,
    "\x87": _tuple3,
    "a": _append,
    "e": _appends,
    "s": _setitem,
    "u": _setitems,
    "q": _put8,
    "r": _put32,
    "\x94": _memoize,
    "h": _get8,
    "j": _get32,
    "c": _global,
    "\x93": _stack_global,
    "R": _reduce,
    "\x81": _newobj,
    "b": _build,
    "Q": _persistent,
}

_MAKES = frozenset(b"])}t\x85\x86\x87R\x81")
"""The opcodes that make a container or a record."""

_HANDLERS: tuple[Handler | None, ...] = tuple(_KNOWN.get(chr(code)) for code in range(256))

_OPCODES: Mapping[int, str] = {
    ord(letter): name
    for letter, name in {
        "i": "INST",
        "o": "OBJ",
        "\x82": "EXT1",
        "\x83": "EXT2",
        "\x84": "EXT4",
        "\x92": "NEWOBJ_EX",
        "P": "PERSID",
        "\x8b": "LONG4",
        "\x97": "NEXT_BUFFER",
        "\x98": "READONLY_BUFFER",
        "2": "DUP",
        "0": "POP",
        "1": "POP_MARK",
        "I": "INT",
        "L": "LONG",
        "S": "STRING",
        "V": "UNICODE",
        "F": "FLOAT",
        "l": "LIST",
        "d": "DICT",
    }.items()
}
