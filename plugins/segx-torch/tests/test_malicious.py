"""A corpus of hostile files: every one is refused in one line, none runs, none takes memory before it is checked."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import pickle
import struct
import tarfile
import time
import tracemalloc
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from segx.errors import ModelError
from segx_torch.container import open_container
from segx_torch.unpickle import table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Maker = Callable[[Any, Path, Path], Path]

CORPUS: dict[str, Maker] = {}
MEMORY = 48 << 20
SECONDS = 10
MUTANTS = 300

CONV = ("torch.nn.modules.conv", "Conv2d")
DETECT = ("ultralytics.nn.modules.head", "Detect")


def hostile(name: str) -> Callable[[Maker], Maker]:
    """Add a maker to the corpus: it gets the forge, the file to write and the file that must not appear."""

    def add(maker: Maker) -> Maker:
        assert name not in CORPUS, name
        CORPUS[name] = maker
        return maker

    return add


def hostile_pickle(name: str, body: Callable[[Any, str], bytes], *, protocol: int = 2) -> None:
    """Add an archive whose pickle is a body of opcodes."""
    hostile(name)(lambda forge, path, marker: forge.archive(path, forge.pickle(body(forge, str(marker)), protocol)))


def hostile_weights(name: str, entry: Callable[[Any], bytes], storages: dict[str, bytes] | None = None) -> None:
    """Add a state dict with one entry that is not sound."""
    hostile(name)(lambda forge, path, marker: forge.archive(path, forge.weights(bad=entry(forge)), storages))


# Calls of what is not in the table ------------------------------------------------------------------------------------

CALLS: dict[tuple[str, str], Callable[[str], list[Any]]] = {
    ("os", "system"): lambda m: [f"touch {m}"],
    ("posix", "system"): lambda m: [f"touch {m}"],
    ("nt", "system"): lambda m: [f"echo > {m}"],
    ("os", "popen"): lambda m: [f"touch {m}"],
    ("os", "execl"): lambda m: ["/bin/touch", "touch", m],
    ("os", "open"): lambda m: [m, 65],
    ("os", "mkdir"): lambda m: [m],
    ("subprocess", "Popen"): lambda m: [["touch", m]],
    ("subprocess", "call"): lambda m: [["touch", m]],
    ("subprocess", "check_output"): lambda m: [["touch", m]],
    ("subprocess", "getoutput"): lambda m: [f"touch {m}"],
    ("builtins", "eval"): lambda m: [f"open({m!r}, 'w')"],
    ("__builtin__", "eval"): lambda m: [f"open({m!r}, 'w')"],
    ("builtins", "exec"): lambda m: [f"open({m!r}, 'w')"],
    ("builtins", "compile"): lambda m: [f"open({m!r}, 'w')", "x", "exec"],
    ("builtins", "open"): lambda m: [m, "w"],
    ("builtins", "__import__"): lambda m: ["os"],
    ("builtins", "setattr"): lambda m: ["x", "y", "z"],
    ("builtins", "globals"): lambda m: [],
    ("builtins", "type"): lambda m: ["X", [], {}],
    ("builtins", "object"): lambda m: [],
    ("builtins", "print"): lambda m: ["x"],
    ("builtins", "bytearray"): lambda m: [1 << 40],
    ("builtins", "list"): lambda m: [[]],
    ("importlib", "import_module"): lambda m: ["antigravity"],
    ("runpy", "_run_code"): lambda m: [f"open({m!r}, 'w')", {}],
    ("runpy", "run_path"): lambda m: [m],
    ("code", "InteractiveInterpreter"): lambda m: [],
    ("timeit", "timeit"): lambda m: [f"open({m!r}, 'w')"],
    ("cProfile", "run"): lambda m: [f"open({m!r}, 'w')"],
    ("pdb", "run"): lambda m: [f"open({m!r}, 'w')"],
    ("pty", "spawn"): lambda m: [["touch", m]],
    ("pathlib", "Path"): lambda m: [m],
    ("io", "open"): lambda m: [m, "w"],
    ("_io", "FileIO"): lambda m: [m, "w"],
    ("shutil", "copy"): lambda m: ["/etc/hostname", m],
    ("webbrowser", "open"): lambda m: ["http://localhost"],
    ("ctypes", "CDLL"): lambda m: ["libc.so.6"],
    ("socket", "create_connection"): lambda m: [["localhost", 9]],
    ("urllib.request", "urlretrieve"): lambda m: ["file:///etc/hostname", m],
    ("pickle", "loads"): lambda m: ["x"],
    ("_pickle", "loads"): lambda m: ["x"],
    ("marshal", "loads"): lambda m: ["x"],
    ("types", "FunctionType"): lambda m: ["x", {}],
    ("operator", "attrgetter"): lambda m: ["__globals__"],
    ("operator", "methodcaller"): lambda m: ["system", "x"],
    ("functools", "partial"): lambda m: ["x"],
    ("functools", "reduce"): lambda m: ["x", []],
    ("copyreg", "_reconstructor"): lambda m: ["x", "y", None],
    ("_codecs", "decode"): lambda m: ["x", "hex"],
    ("collections", "namedtuple"): lambda m: ["x", "y"],
    ("logging.config", "dictConfig"): lambda m: [{}],
    ("numpy", "load"): lambda m: [m],
    ("numpy.testing._private.utils", "runstring"): lambda m: [f"open({m!r}, 'w')", {}],
    ("numpy.core.multiarray", "_reconstruct"): lambda m: ["x", [0], "b"],
    ("torch", "load"): lambda m: [m],
    ("torch.hub", "load"): lambda m: ["x", "y"],
    ("torch.storage", "_load_from_bytes"): lambda m: ["x"],
    ("torch.jit", "load"): lambda m: [m],
    ("torch._utils", "_rebuild_tensor"): lambda m: ["x"],
    ("torch._utils", "_rebuild_wrapper_subclass"): lambda m: ["x"],
    ("torch._utils", "_rebuild_device_tensor_from_numpy"): lambda m: ["x"],
    ("torch.utils.cpp_extension", "load"): lambda m: ["x", [m]],
    ("torch.nn.modules.module", "Module"): lambda m: [],
    ("torch.nn.modules.linear", "Linear"): lambda m: [],
    ("torch.fx.graph_module", "reduce_graph_module"): lambda m: [{"code": f"open({m!r}, 'w')"}, "x"],
    ("ultralytics.nn.tasks", "torch_safe_load"): lambda m: [m],
    ("ultralytics.nn.tasks", "attempt_load_weights"): lambda m: [m],
    ("ultralytics.utils.checks", "check_requirements"): lambda m: ["evil"],
    ("pip", "main"): lambda m: [["install", "evil"]],
}


def _value(forge: Any, value: Any) -> bytes:
    match value:
        case None:
            return b"N"
        case str():
            return forge.text(value)
        case int():
            return forge.number(value)
        case list():
            return forge.list(*(_value(forge, item) for item in value))
        case dict():
            return forge.dict({key: _value(forge, item) for key, item in value.items()})
    raise AssertionError(value)


def _add_call(function: tuple[str, str], arguments: Callable[[str], list[Any]]) -> None:
    def body(forge: Any, marker: str) -> bytes:
        return forge.call(forge.name(*function), *(_value(forge, value) for value in arguments(marker)))

    hostile_pickle(f"call {'.'.join(function)}", body)


for function, arguments in CALLS.items():
    _add_call(function, arguments)


def _stack_global(forge: Any, module: str, name: str) -> bytes:
    return forge.text(module) + forge.text(name) + b"\x93"


hostile_pickle(
    "call by STACK_GLOBAL",
    lambda f, m: f.call(_stack_global(f, "os", "system"), f.text(f"touch {m}")),
    protocol=4,
)
hostile_pickle(
    "dotted STACK_GLOBAL from a known module",
    lambda f, m: f.call(_stack_global(f, "torch", "_utils._rebuild_tensor_v2.__globals__"), f.text(m)),
    protocol=4,
)
hostile_pickle(
    "known name split elsewhere",
    lambda f, m: f.call(_stack_global(f, "torch", "_utils._rebuild_parameter"), f.text(m)),
    protocol=4,
)
hostile_pickle("STACK_GLOBAL of numbers", lambda f, m: f.number(1) + f.number(2) + b"\x93", protocol=4)
hostile_pickle(
    "payload in the second of two good values",
    lambda f, m: f.dict({"a": f.number(1), "b": f.call(f.name("os", "system"), f.text(f"touch {m}"))}),
)
hostile_pickle(
    "nested reduce",
    lambda f, m: f.call(
        f.name("builtins", "eval"),
        f.call(f.name("builtins", "getattr"), f.call(f.name("builtins", "__import__"), f.text("os")), f.text("sep")),
    ),
)
hostile_pickle(
    "reduce hidden in a memo and popped", lambda f, m: f.call(f.name("os", "system"), f.text(f"touch {m}")) + b"0N"
)
hostile_pickle("call of text", lambda f, m: f.call(f.text("os.system"), f.text(m)))
hostile_pickle("call of a record", lambda f, m: f.call(f.module(CONV), f.text(m)))
hostile_pickle("call of a class of layers", lambda f, m: f.call(f.name(*CONV), f.number(3)))
hostile_pickle("call of a storage class", lambda f, m: f.call(f.name("torch", "FloatStorage"), f.number(1 << 40)))
hostile_pickle("arguments that are a list", lambda f, m: f.name("builtins", "set") + f.list(f.number(1)) + b"R")


# Attributes -----------------------------------------------------------------------------------------------------------


def _getattr(forge: Any, owner: bytes, name: str, *more: bytes) -> bytes:
    return forge.call(forge.name("__builtin__", "getattr"), owner, forge.text(name), *more)


hostile_pickle("getattr os system", lambda f, m: _getattr(f, f.name("os", "path"), "system"))
hostile_pickle("getattr Detect __globals__", lambda f, m: _getattr(f, f.name(*DETECT), "__globals__"))
hostile_pickle("getattr Detect __init__", lambda f, m: _getattr(f, f.name(*DETECT), "__init__"))
hostile_pickle("getattr Detect dotted", lambda f, m: _getattr(f, f.name(*DETECT), "forward.__globals__"))
hostile_pickle("getattr of getattr", lambda f, m: _getattr(f, _getattr(f, f.name(*DETECT), "forward"), "__globals__"))
hostile_pickle("getattr Conv2d forward", lambda f, m: _getattr(f, f.name(*CONV), "forward"))
hostile_pickle("getattr with a default", lambda f, m: _getattr(f, f.name(*DETECT), "forward", b"N"))
hostile_pickle("getattr of a dict", lambda f, m: _getattr(f, b"}", "__class__"))
hostile_pickle(
    "call of Detect.forward", lambda f, m: f.call(_getattr(f, f.name(*DETECT), "forward"), f.text(f"touch {m}"))
)
hostile_pickle(
    "state for Detect.forward", lambda f, m: _getattr(f, f.name(*DETECT), "forward") + f.dict({"a": b"N"}) + b"b"
)


# Opcodes that torch does not write ------------------------------------------------------------------------------------

hostile_pickle("INST", lambda f, m: b"(" + f.text(f"touch {m}") + b"ios\nsystem\n")
hostile_pickle("OBJ", lambda f, m: b"(" + f.name("os", "system") + f.text(f"touch {m}") + b"o")
hostile_pickle(
    "NEWOBJ_EX", lambda f, m: f.name("subprocess", "Popen") + f.tuple(f.text(m)) + f.dict({}) + b"\x92", protocol=4
)
hostile_pickle("INST of a known class", lambda f, m: b"(i" + "\n".join(CONV).encode() + b"\n")
hostile_pickle("OBJ of a known class", lambda f, m: b"(" + f.name(*CONV) + f.number(3) + b"o")
hostile_pickle("NEWOBJ_EX of a known class", lambda f, m: f.name(*CONV) + b")}" + b"\x92", protocol=4)
hostile_pickle("EXT1", lambda f, m: b"\x82\x01")
hostile_pickle("EXT2", lambda f, m: b"\x83\x01\x00")
hostile_pickle("EXT4", lambda f, m: b"\x84\x01\x00\x00\x00")
hostile_pickle("PERSID", lambda f, m: b"Pstorage\n")
hostile_pickle("NEXT_BUFFER", lambda f, m: b"\x97", protocol=5)
hostile_pickle("READONLY_BUFFER", lambda f, m: f.text("x") + b"\x98", protocol=5)
hostile_pickle("BYTEARRAY8 of an exabyte", lambda f, m: b"\x96" + struct.pack("<Q", 1 << 60), protocol=5)
hostile_pickle("BINUNICODE8 of an exabyte", lambda f, m: b"\x8d" + struct.pack("<Q", 1 << 60), protocol=4)
hostile_pickle("BINBYTES8 of an exabyte", lambda f, m: b"\x8e" + struct.pack("<Q", 1 << 60), protocol=4)
hostile_pickle("BINUNICODE of 4 GB", lambda f, m: b"X" + struct.pack("<I", 2**32 - 1))
hostile_pickle("BINBYTES of 4 GB", lambda f, m: b"B" + struct.pack("<I", 2**32 - 1))
hostile_pickle("LONG4 of 2 GB", lambda f, m: b"\x8b" + struct.pack("<i", 2**31 - 1))
hostile_pickle("LONG1 of 255 bytes", lambda f, m: b"\x8a\xff" + b"\x01" * 255)
hostile_pickle("INT in text", lambda f, m: b"I" + b"9" * 100_000 + b"\n")
hostile_pickle("LONG in text", lambda f, m: b"L" + b"9" * 100_000 + b"L\n")
hostile_pickle("STRING with escapes", lambda f, m: b"S'\\x00'\n")
hostile_pickle("UNICODE in text", lambda f, m: b"Vx\n")
hostile_pickle("DUP", lambda f, m: b"]2")
hostile_pickle("POP", lambda f, m: b"]]0")
hostile_pickle("FROZENSET", lambda f, m: b"(\x91", protocol=4)
hostile_pickle("unknown opcode", lambda f, m: b"\xff")
hostile_pickle("protocol 0", lambda f, m: f.call(f.name("os", "system"), f.text(f"touch {m}")), protocol=0)
hostile_pickle("protocol 9", lambda f, m: b"]", protocol=9)
hostile_pickle(
    "second pickle behind the first", lambda f, m: b"}." + f.call(f.name("os", "system"), f.text(f"touch {m}"))
)
hostile_pickle("no end", lambda f, m: b"}" * 3 + b"(")
hostile_pickle("empty stack", lambda f, m: b"R")
hostile_pickle("stack underflow", lambda f, m: b"\x87")
hostile_pickle("mark that is not there", lambda f, m: b"t")
hostile_pickle("memo that is not there", lambda f, m: b"h\x05")
hostile_pickle("name without an end", lambda f, m: b"c" + b"o" * 1000)
hostile_pickle("name that is not ASCII", lambda f, m: b"co\xcc\x81s\nsystem\n")
hostile_pickle("text that is not UTF-8", lambda f, m: b"X\x02\x00\x00\x00\xff\xfe")


# New objects and their state ------------------------------------------------------------------------------------------

hostile_pickle("NEWOBJ of Popen", lambda f, m: f.name("subprocess", "Popen") + f.tuple(f.list(f.text(m))) + b"\x81")
hostile_pickle("NEWOBJ with arguments", lambda f, m: f.name(*CONV) + f.tuple(f.text(m)) + b"\x81")
hostile_pickle("NEWOBJ of a function", lambda f, m: f.name("torch._utils", "_rebuild_tensor_v2") + b")\x81")
hostile_pickle("NEWOBJ of getattr", lambda f, m: f.name("builtins", "getattr") + b")\x81")
hostile_pickle("NEWOBJ of text", lambda f, m: f.text("x") + b")\x81")


def _built(forge: Any, state: bytes) -> bytes:
    return forge.name(*CONV) + b")\x81" + state + b"b"


hostile_pickle("state with __setstate__", lambda f, m: _built(f, f.dict({"__setstate__": f.name(*CONV)})))
hostile_pickle("state with __class__", lambda f, m: _built(f, f.dict({"__class__": f.name(*DETECT)})))
hostile_pickle("state with __dict__", lambda f, m: _built(f, f.dict({"__dict__": f.dict({"a": b"N"})})))
hostile_pickle("state with __reduce_ex__", lambda f, m: _built(f, f.dict({"__reduce_ex__": b"N"})))
hostile_pickle("state of slots", lambda f, m: _built(f, f.tuple(b"N", f.dict({"a": b"N"}))))
hostile_pickle("state with a number as name", lambda f, m: _built(f, b"}(" + f.number(1) + b"Nu"))
hostile_pickle("two states", lambda f, m: _built(f, f.dict({"a": b"N"})) + f.dict({"b": b"N"}) + b"b")
hostile_pickle("state on a class", lambda f, m: f.name(*CONV) + f.dict({"forward": b"N"}) + b"b")
hostile_pickle("state on getattr", lambda f, m: f.name("builtins", "getattr") + f.dict({"x": b"N"}) + b"b")
hostile_pickle("state on a list", lambda f, m: b"]" + f.dict({"append": b"N"}) + b"b")
hostile_pickle("state on a dict with __class__", lambda f, m: f.ordered() + f.dict({"__class__": b"N"}) + b"b")
hostile_pickle("item set on a class", lambda f, m: f.name(*CONV) + f.text("x") + b"Ns")
hostile_pickle("append to a record", lambda f, m: f.module(CONV) + b"Na")
hostile_pickle("appends to a dict", lambda f, m: b"}(Ne")
hostile_pickle("a tuple as a key", lambda f, m: b"}" + f.tuple() + b"Ns")
hostile_pickle("a class as a key", lambda f, m: b"}" + f.name(*CONV) + b"Ns")
hostile_pickle("a key without a value", lambda f, m: b"}(" + f.text("x") + b"u")
hostile_pickle("colliding whole numbers as keys", lambda f, m: b"}" + f.number((2**61 - 1) * 3) + b"Ns")
hostile_pickle(
    "namespace with __class__",
    lambda f, m: f.call(f.name("ultralytics.utils", "IterableSimpleNamespace")) + f.dict({"__class__": b"N"}) + b"b",
)
hostile_pickle(
    "namespace with arguments", lambda f, m: f.call(f.name("ultralytics.utils", "IterableSimpleNamespace"), f.text(m))
)
hostile_pickle("path of numbers", lambda f, m: f.call(f.name("pathlib", "PosixPath"), f.number(1)))
hostile_pickle("OrderedDict of pairs", lambda f, m: f.call(f.name("collections", "OrderedDict"), f.list()))
hostile_pickle("set of a set", lambda f, m: f.call(f.name("builtins", "set"), f.dict({})))
hostile_pickle("codec that runs", lambda f, m: f.call(f.name("_codecs", "encode"), f.text("x"), f.text("zlib")))
hostile_pickle("codec of much", lambda f, m: f.call(f.name("_codecs", "encode"), f.text("x" * 9999), f.text("latin1")))
hostile_pickle("numpy objects", lambda f, m: f.call(f.name("numpy", "dtype"), f.text("O8"), b"\x89", b"\x88"))
hostile_pickle(
    "numpy number without its type",
    lambda f, m: f.call(f.name("numpy.core.multiarray", "scalar"), f.name("numpy", "dtype"), f.text("x")),
)
hostile_pickle(
    "numpy number of the wrong length",
    lambda f, m: f.call(
        f.name("numpy._core.multiarray", "scalar"),
        f.call(f.name("numpy", "dtype"), f.text("f8"), b"\x89", b"\x88"),
        f.call(f.name("_codecs", "encode"), f.text("x"), f.text("latin1")),
    ),
)


# Storages and tensors -------------------------------------------------------------------------------------------------


def _persistent(forge: Any, *parts: bytes) -> bytes:
    return forge.tensor(forge.tuple(*parts) + b"Q", (1,), (1,))


def _storage_parts(forge: Any, **changes: bytes) -> tuple[bytes, ...]:
    parts = {
        "tag": forge.text("storage"),
        "kind": forge.name("torch", "FloatStorage"),
        "key": forge.text("0"),
        "place": forge.text("cpu"),
        "count": forge.number(4),
    }
    return tuple({**parts, **changes}.values())


hostile_pickle("storage by text", lambda f, m: f.text("storage") + b"Q")
hostile_pickle("storage of two parts", lambda f, m: f.tuple(f.text("storage"), f.text("0")) + b"Q")
hostile_pickle("module by persistent id", lambda f, m: f.tuple(*_storage_parts(f, tag=f.text("module"))) + b"Q")
hostile_weights("storage of another class", lambda f: _persistent(f, *_storage_parts(f, kind=f.name(*CONV))))
hostile_weights("storage type by text", lambda f: _persistent(f, *_storage_parts(f, kind=f.text("FloatStorage"))))
hostile_weights("storage with a path", lambda f: _persistent(f, *_storage_parts(f, key=f.text("../../etc/passwd"))))
hostile_weights(
    "storage with an absolute path", lambda f: _persistent(f, *_storage_parts(f, key=f.text("/etc/passwd")))
)
hostile_weights("storage in the pickle", lambda f: _persistent(f, *_storage_parts(f, key=f.text("../data.pkl"))))
hostile_weights("storage key of other digits", lambda f: _persistent(f, *_storage_parts(f, key=f.text("\u0660"))))
hostile_weights("storage key of a number", lambda f: _persistent(f, *_storage_parts(f, key=f.number(0))))
hostile_weights("storage without a place", lambda f: _persistent(f, *_storage_parts(f, place=b"N")))
hostile_weights("storage of negative size", lambda f: _persistent(f, *_storage_parts(f, count=f.number(-4))))
hostile_weights("storage of a billion elements", lambda f: f.tensor(f.storage("0", 10**9), (10**9,), (1,)))
hostile_weights("storage of an exabyte", lambda f: f.tensor(f.storage("0", 2**60), (2**60,), (1,)))
hostile_weights("storage longer than its entry", lambda f: f.tensor(f.storage("0", 5), (5,), (1,)))
hostile_weights("storage shorter than its entry", lambda f: f.tensor(f.storage("0", 3), (3,), (1,)))
hostile_weights(
    "storage of another type than its entry", lambda f: f.tensor(f.storage("0", 4, "DoubleStorage"), (4,), (1,))
)
hostile_weights("storage that is not there", lambda f: f.tensor(f.storage("7", 4), (4,), (1,)))
hostile_weights("tensor beyond its storage", lambda f: f.tensor(f.storage("0", 4), (3, 3), (3, 1)))
hostile_weights("tensor that ends beyond its storage", lambda f: f.tensor(f.storage("0", 4), (2,), (1,), offset=3))
hostile_weights("tensor that strides beyond its storage", lambda f: f.tensor(f.storage("0", 4), (2, 2), (1000, 1)))
hostile_weights("tensor of a stride that overflows", lambda f: f.tensor(f.storage("0", 4), (2,), (2**62,)))
hostile_weights("tensor with a negative offset", lambda f: f.tensor(f.storage("0", 4), (2,), (1,), offset=-8))
hostile_weights("tensor with a negative stride", lambda f: f.tensor(f.storage("0", 4), (2,), (-1,)))
hostile_weights("tensor with a negative length", lambda f: f.tensor(f.storage("0", 4), (-2,), (1,)))
hostile_weights("tensor of one element, a billion times", lambda f: f.tensor(f.storage("0", 4), (10**9,), (0,)))
hostile_weights("tensor whose size overflows", lambda f: f.tensor(f.storage("0", 4), (2**32, 2**32), (0, 0)))
hostile_weights("tensor of 40 dimensions", lambda f: f.tensor(f.storage("0", 4), (1,) * 40, (1,) * 40))
hostile_weights("tensor of unequal shape and stride", lambda f: f.tensor(f.storage("0", 4), (2, 2), (1,)))
hostile_weights(
    "tensor with hooks", lambda f: f.tensor(f.storage("0", 4), (4,), (1,), hooks=f.dict({"h": f.name(*CONV)}))
)
hostile_weights("tensor on no storage", lambda f: f.tensor(b"N", (4,), (1,)))
hostile_weights("tensor of nothing", lambda f: f.call(f.name("torch._utils", "_rebuild_tensor_v2")))
hostile_weights("parameter of no tensor", lambda f: f.parameter(b"N"))
hostile_weights("one entry under two types", lambda f: f.tensor(f.storage("0", 8, "HalfStorage"), (9,), (1,)))


# Payloads in the places of a good file --------------------------------------------------------------------------------


def _touch(forge: Any, marker: Path) -> bytes:
    return forge.call(forge.name("os", "system"), forge.text(f"touch {marker}"))


@hostile("state dict with a payload beside the weights")
def _weights_payload(forge: Any, path: Path, marker: Path) -> Path:
    return forge.archive(path, forge.weights(extra=_touch(forge, marker)))


@hostile("state dict with a record beside the weights")
def _weights_record(forge: Any, path: Path, marker: Path) -> Path:
    return forge.archive(path, forge.weights(extra=forge.module(CONV)))


@hostile("official file with a payload in the settings")
def _settings_payload(forge: Any, path: Path, marker: Path) -> Path:
    return forge.archive(path, forge.official(about={"train_args": forge.dict({"data": _touch(forge, marker)})}))


@hostile("official file with a payload in the names")
def _names_payload(forge: Any, path: Path, marker: Path) -> Path:
    return forge.archive(path, forge.official(names=forge.list(_touch(forge, marker))))


@hostile("official file with a custom layer")
def _custom_layer(forge: Any, path: Path, marker: Path) -> Path:
    layer = forge.module(("my.package", "Attention"))
    return forge.archive(path, forge.official(_modules=forge.dict({"x": layer})))


@hostile("official file whose parameter is text")
def _text_parameter(forge: Any, path: Path, marker: Path) -> Path:
    return forge.archive(path, forge.official(_parameters=forge.dict({"weight": forge.text("x")})))


@hostile("official file whose module is a dict")
def _dict_module(forge: Any, path: Path, marker: Path) -> Path:
    return forge.archive(path, forge.official(_modules=forge.dict({"x": forge.dict({})})))


@hostile("official file whose modules are a list")
def _list_modules(forge: Any, path: Path, marker: Path) -> Path:
    return forge.archive(path, forge.official(_modules=forge.list()))


@hostile("segx file with a payload in the training state")
def _own_payload(forge: Any, path: Path, marker: Path) -> Path:
    content = {"segx": forge.number(1), "metadata": forge.dict({}), "weights": forge.dict({})}
    return forge.archive(path, forge.pickle(forge.dict({**content, "training": _touch(forge, marker)})))


@hostile("segx file without its weights")
def _own_incomplete(forge: Any, path: Path, marker: Path) -> Path:
    return forge.archive(path, forge.pickle(forge.dict({"segx": forge.number(1), "metadata": forge.dict({})})))


@hostile("segx file whose metadata are code")
def _own_metadata(forge: Any, path: Path, marker: Path) -> Path:
    names = forge.text(f"__import__('os').system('touch {marker}')")
    content = {"segx": forge.number(1), "metadata": forge.dict({"names": names}), "weights": forge.dict({})}
    return forge.archive(path, forge.pickle(forge.dict({**content, "training": b"N"})))


@hostile("segx file whose metadata are nested without end")
def _own_deep_metadata(forge: Any, path: Path, marker: Path) -> Path:
    names = forge.text("[" * 100_000)
    content = {"segx": forge.number(1), "metadata": forge.dict({"names": names}), "weights": forge.dict({})}
    return forge.archive(path, forge.pickle(forge.dict({**content, "training": b"N"})))


@hostile("segx file whose metadata are numbers")
def _own_number_metadata(forge: Any, path: Path, marker: Path) -> Path:
    content = {"segx": forge.number(1), "metadata": forge.dict({"names": forge.number(1)}), "weights": forge.dict({})}
    return forge.archive(path, forge.pickle(forge.dict({**content, "training": b"N"})))


@hostile("segx file of a later layout")
def _own_later(forge: Any, path: Path, marker: Path) -> Path:
    return forge.archive(path, forge.pickle(forge.dict({"segx": forge.number(99)})))


@hostile("a list instead of a model")
def _no_model(forge: Any, path: Path, marker: Path) -> Path:
    return forge.archive(path, forge.pickle(forge.list()))


# Bombs ----------------------------------------------------------------------------------------------------------------


def _laughs(forge: Any, levels: int = 60) -> bytes:
    """Return lists of the same list twice, ``levels`` deep: 2 ** levels elements when written out."""
    body = forge.list() + b"q\x01"
    for _ in range(levels):
        body = b"](" + body + b"h\x01eq\x01"
    return body


@hostile("billion laughs in the settings")
def _laughing_settings(forge: Any, path: Path, marker: Path) -> Path:
    return forge.archive(path, forge.official(about={"train_args": forge.dict({"data": _laughs(forge)})}))


@hostile("billion laughs in the definition")
def _laughing_definition(forge: Any, path: Path, marker: Path) -> Path:
    return forge.archive(path, forge.official(yaml=forge.dict({"head": _laughs(forge)})))


@hostile("billion laughs of long text in the names")
def _laughing_names(forge: Any, path: Path, marker: Path) -> Path:
    body = forge.text("x" * 100_000) + b"q\x01" + b"h\x01" * 100_000
    return forge.archive(path, forge.official(names=b"](" + body + b"e"))


@hostile("modules that hold each other twice, 60 deep")
def _laughing_modules(forge: Any, path: Path, marker: Path) -> Path:
    body = forge.module(CONV) + b"q\x01"
    for _ in range(60):
        children = b"}(" + forge.text("a") + body + forge.text("b") + b"h\x01u"
        body = forge.module(CONV, _modules=children) + b"q\x01"
    return forge.archive(path, forge.official(_modules=forge.dict({"x": body})))


@hostile("a module inside itself")
def _cyclic_module(forge: Any, path: Path, marker: Path) -> Path:
    children = b"}q\x01(" + forge.text("self")
    module = forge.name(*CONV) + b")\x81q\x02" + forge.dict({"_modules": children + b"h\x02u"}) + b"b"
    return forge.archive(path, forge.pickle(forge.dict({"model": module})))


@hostile("settings inside themselves")
def _cyclic_settings(forge: Any, path: Path, marker: Path) -> Path:
    return forge.archive(path, forge.official(about={"train_args": b"}q\x01(" + forge.text("x") + b"h\x01u"}))


@hostile("a million nested tuples")
def _nested_tuples(forge: Any, path: Path, marker: Path) -> Path:
    return forge.archive(path, forge.pickle(b")" + b"\x85" * 200_000))


@hostile("deep lists in the settings")
def _nested_lists(forge: Any, path: Path, marker: Path) -> Path:
    deep = b"](" * 50_000 + b"N" + b"e" * 50_000
    return forge.archive(path, forge.official(about={"train_args": forge.dict({"data": deep})}))


DEEP = b")" + b"\x85" * 1_000_000


def _doubled(levels: int = 60) -> bytes:
    """Return tuples of the same tuple twice, ``levels`` deep."""
    return b")q\x01" + b"h\x01\x86q\x01" * levels


hostile_pickle("a numpy type of deep tuples", lambda f, m: f.call(f.name("numpy", "dtype"), DEEP, b"\x89", b"\x88"))
hostile_pickle(
    "a numpy byte order of deep tuples",
    lambda f, m: f.call(f.name("numpy", "dtype"), f.text("f8"), b"\x89", b"\x88") + f.tuple(b"N", DEEP) + b"b",
)
hostile_pickle(
    "getattr of a doubled tuple",
    lambda f, m: f.call(f.name("builtins", "getattr"), f.name(*DETECT), _doubled()),
)
hostile_pickle("getattr of deep tuples", lambda f, m: f.call(f.name("builtins", "getattr"), f.name(*DETECT), DEEP))
hostile_pickle("a codec of deep tuples", lambda f, m: f.call(f.name("_codecs", "encode"), f.text("x"), DEEP))
hostile_pickle("a storage of deep tuples", lambda f, m: _persistent(f, DEEP, DEEP, DEEP, DEEP, DEEP))
hostile_pickle("doubled tuples", lambda f, m: _doubled())


@hostile("weights beside doubled lists")
def _doubled_beside(forge: Any, path: Path, marker: Path) -> Path:
    return forge.archive(path, forge.official(about={"other": _laughs(forge)}))


@hostile("records nested 300,000 deep")
def _nested_records(forge: Any, path: Path, marker: Path) -> Path:
    record = forge.name(*CONV) + b"q\x05)\x81"
    key = forge.text("a") + b"q\x06"
    opened, levels = b"h\x05)\x81}h\x06", 300_000
    return forge.archive(path, forge.pickle(record + key + b"\x86" + opened * levels + b"N" + b"sb" * levels + b"\x86"))


def test_neither_a_pipe_nor_a_device_is_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.pt"
    os.mkfifo(pipe)
    (tmp_path / "zero.pt").symlink_to("/dev/zero")
    (tmp_path / "folder.pt").mkdir()
    for path in tmp_path.iterdir():
        with pytest.raises(ModelError, match=r"no file|not a regular file|[Ii]s a directory"):
            open_container(path)


@hostile("a memo of four billion places")
def _memo(forge: Any, path: Path, marker: Path) -> Path:
    return forge.archive(path, forge.pickle(b"]r\xff\xff\xff\xff"))


@hostile("a set of a long list, many times")
def _sets(forge: Any, path: Path, marker: Path) -> Path:
    long = b"](" + b"N" * 20_000 + b"eq\x01"
    return forge.archive(
        path, forge.pickle(b"](" + long + forge.call(forge.name("builtins", "set"), b"h\x01") * 2000 + b"e")
    )


@hostile("a pickle of five megabytes")
def _large_pickle(forge: Any, path: Path, marker: Path) -> Path:
    return forge.archive(path, forge.pickle(forge.text("x" * (5 << 20))))


# Zip tricks -----------------------------------------------------------------------------------------------------------


def _zip(path: Path, entries: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=compression)
    return path


def _good(forge: Any) -> list[tuple[str, bytes]]:
    floats = np.arange(1, 5, dtype="<f4").tobytes()
    return [("m/data.pkl", forge.weights()), ("m/data/0", floats), ("m/version", b"3\n")]


def _patched(path: Path, entries: list[tuple[str, bytes]], change: Callable[[bytearray], None]) -> Path:
    _zip(path, entries)
    data = bytearray(path.read_bytes())
    change(data)
    path.write_bytes(data)
    return path


@hostile("zip with an entry twice")
def _duplicate(forge: Any, path: Path, marker: Path) -> Path:
    evil = forge.pickle(_touch(forge, marker))
    entries = [*_good(forge), ("m/data.pkX", evil)]
    return _patched(path, entries, lambda data: _replace_all(data, b"m/data.pkX", b"m/data.pkl"))


def _replace_all(data: bytearray, old: bytes, new: bytes) -> None:
    data[:] = data.replace(old, new)


for label, name in {
    "parent folder": "m/../../evil",
    "absolute": "/m/evil",
    "backslash": "m\\evil",
    "line break": "m/ev\nil",
    "empty part": "m//evil",
    "folder": "m/evil/",
}.items():
    hostile(f"zip with the entry name {label}")(
        lambda forge, path, marker, name=name: _zip(path, [*_good(forge), (name, b"x")])
    )

for label, method in {"deflate": zipfile.ZIP_DEFLATED, "bzip2": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA}.items():
    hostile(f"zip compressed with {label}")(lambda forge, path, marker, method=method: _zip(path, _good(forge), method))


@hostile("zip bomb")
def _bomb(forge: Any, path: Path, marker: Path) -> Path:
    return _zip(path, [*_good(forge), ("m/data/1", b"\0" * (20 << 20))], zipfile.ZIP_DEFLATED)


@hostile("zip inside a zip")
def _nested(forge: Any, path: Path, marker: Path) -> Path:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("m/data.pkl", forge.weights())
    return _zip(path, [("inner/model.pt", inner.getvalue())])


@hostile("zip of two roots")
def _two_roots(forge: Any, path: Path, marker: Path) -> Path:
    return _zip(path, [*_good(forge), ("other/data.pkl", forge.pickle(_touch(forge, marker)))])


@hostile("zip without a pickle")
def _no_pickle(forge: Any, path: Path, marker: Path) -> Path:
    return _zip(path, [("m/data/0", b"x")])


@hostile("zip without entries")
def _no_entries(forge: Any, path: Path, marker: Path) -> Path:
    return _zip(path, [])


@hostile("zip whose numbers are big-endian")
def _big_endian(forge: Any, path: Path, marker: Path) -> Path:
    return _zip(path, [*_good(forge), ("m/byteorder", b"big")])


@hostile("zip whose byte order is a megabyte")
def _long_byte_order(forge: Any, path: Path, marker: Path) -> Path:
    return _zip(path, [*_good(forge), ("m/byteorder", b"little" * 200_000)])


@hostile("TorchScript under the suffix of a checkpoint")
def _torchscript(forge: Any, path: Path, marker: Path) -> Path:
    return _zip(path, [*_good(forge), ("m/constants.pkl", b"x"), ("m/code/__torch__.py", b"import os")])


@hostile("zip with a changed byte in the pickle")
def _changed_pickle(forge: Any, path: Path, marker: Path) -> Path:
    return _patched(path, _good(forge), lambda data: _replace_all(data, b"good", b"evil"))


def _central(data: bytearray, index: int) -> int:
    position = -1
    for _ in range(index + 1):
        position = data.index(b"PK\x01\x02", position + 1)
    return position


@hostile("zip whose directory says a gigabyte")
def _huge_entry(forge: Any, path: Path, marker: Path) -> Path:
    def change(data: bytearray) -> None:
        struct.pack_into("<II", data, _central(data, 1) + 20, 1 << 30, 1 << 30)

    return _patched(path, _good(forge), change)


@hostile("zip whose directory says more than its header")
def _larger_entry(forge: Any, path: Path, marker: Path) -> Path:
    def change(data: bytearray) -> None:
        struct.pack_into("<II", data, _central(data, 0) + 20, 40, 40)

    return _patched(path, _good(forge), change)


@hostile("zip whose entries overlap")
def _overlap(forge: Any, path: Path, marker: Path) -> Path:
    def change(data: bytearray) -> None:
        struct.pack_into("<I", data, _central(data, 2) + 42, 8)

    return _patched(path, _good(forge), change)


@hostile("zip whose entry begins beyond the file")
def _beyond(forge: Any, path: Path, marker: Path) -> Path:
    def change(data: bytearray) -> None:
        struct.pack_into("<I", data, _central(data, 0) + 42, 1 << 30)

    return _patched(path, _good(forge), change)


@hostile("zip whose header has another name")
def _other_name(forge: Any, path: Path, marker: Path) -> Path:
    def change(data: bytearray) -> None:
        data[30:40] = b"m/data.pkX"

    return _patched(path, _good(forge), change)


@hostile("zip whose header says compressed")
def _other_method(forge: Any, path: Path, marker: Path) -> Path:
    return _patched(path, _good(forge), lambda data: struct.pack_into("<H", data, 8, 8))


@hostile("zip whose entry is encrypted")
def _encrypted(forge: Any, path: Path, marker: Path) -> Path:
    return _patched(path, _good(forge), lambda data: struct.pack_into("<H", data, _central(data, 0) + 8, 1))


@hostile("zip behind something else")
def _prefixed(forge: Any, path: Path, marker: Path) -> Path:
    _zip(path, _good(forge))
    path.write_bytes(b"PK\x03\x04" + b"#!/bin/sh\n" * 40 + path.read_bytes())
    return path


@hostile("zip cut in half")
def _cut(forge: Any, path: Path, marker: Path) -> Path:
    _zip(path, _good(forge))
    path.write_bytes(path.read_bytes()[:200])
    return path


@hostile("zip with a broken directory")
def _broken_directory(forge: Any, path: Path, marker: Path) -> Path:
    return _patched(path, _good(forge), lambda data: _replace_all(data, b"PK\x01\x02", b"PK\x01\x03"))


# Other files ----------------------------------------------------------------------------------------------------------


class Touch:
    """Runs a command when it is unpickled by a reader that trusts."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (f"touch {self.marker}",)


@hostile("a bare pickle")
def _bare_pickle(forge: Any, path: Path, marker: Path) -> Path:
    path.write_bytes(pickle.dumps(Touch(marker)))
    return path


@hostile("a pickle by the standard library, in an archive")
def _library_pickle(forge: Any, path: Path, marker: Path) -> Path:
    return forge.archive(path, pickle.dumps({"model": Touch(marker)}, protocol=2))


@hostile("a pickle of protocol 4 by the standard library, in an archive")
def _library_pickle_4(forge: Any, path: Path, marker: Path) -> Path:
    return forge.archive(path, pickle.dumps({"model": Touch(marker)}, protocol=4))


@hostile("torch's layout before 1.6")
def _legacy(forge: Any, path: Path, marker: Path) -> Path:
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
    path.write_bytes(magic + pickle.dumps(1001, protocol=2) + pickle.dumps(Touch(marker), protocol=2))
    return path


@hostile("torch's layout before 0.4, a tar")
def _tar(forge: Any, path: Path, marker: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        data = pickle.dumps(Touch(marker))
        info = tarfile.TarInfo("pickle")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return path


for label, content in {
    "nothing": b"",
    "a web page": b"<!DOCTYPE html><html></html>",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
    "gzip": b"\x1f\x8b\x08" + b"\0" * 40,
    "random bytes": bytes(range(7, 250)),
    "Python source": b"import os\nos.system('true')\n",
}.items():
    hostile(f"a file of {label}")(lambda forge, path, marker, content=content: (path.write_bytes(content), path)[1])


# Safetensors ----------------------------------------------------------------------------------------------------------

FLOATS = np.arange(4, dtype="<f4").tobytes()
ENTRY = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


def hostile_safetensors(name: str, header: Any, data: bytes = FLOATS, length: int | None = None) -> None:
    """Add a safetensors file with a bad header: text, or anything JSON can say."""

    def maker(forge: Any, path: Path, marker: Path) -> Path:
        raw = header if isinstance(header, bytes) else json.dumps(header).encode()
        path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
        return path

    hostile(f"safetensors {name}")(maker)


hostile_safetensors("whose header is an exabyte", {"a": ENTRY}, length=2**60)
hostile_safetensors("whose header is longer than the file", {"a": ENTRY}, length=1000)
hostile_safetensors("whose header is cut", {"a": ENTRY}, length=20)
hostile_safetensors("whose header is not JSON", b"{'a': 1}")
hostile_safetensors("whose header is not UTF-8", b'{"\xff\xfe": 1}')
hostile_safetensors(
    "with a name twice", b'{"a":' + json.dumps(ENTRY).encode() + b',"a":' + json.dumps(ENTRY).encode() + b"}"
)
hostile_safetensors("with a deep header", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")
hostile_safetensors("with an unknown type", {"a": {**ENTRY, "dtype": "OBJECT"}})
hostile_safetensors("without a shape", {"a": {"dtype": "F32", "data_offsets": [0, 16]}})
hostile_safetensors("with a negative shape", {"a": {**ENTRY, "shape": [-4]}})
hostile_safetensors("with a shape that overflows", {"a": {**ENTRY, "shape": [2**39, 2**39]}})
hostile_safetensors("with a shape of text", {"a": {**ENTRY, "shape": ["4"]}})
hostile_safetensors(
    "with a shape of truth", {"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, FLOATS[:4]
)
hostile_safetensors("with a shape too large for its place", {"a": {**ENTRY, "shape": [5]}})
hostile_safetensors("with 40 dimensions", {"a": {**ENTRY, "shape": [1] * 39 + [4]}})
hostile_safetensors("with offsets beyond the file", {"a": {**ENTRY, "data_offsets": [16, 32]}})
hostile_safetensors("with offsets in reverse", {"a": {**ENTRY, "data_offsets": [16, 0]}})
hostile_safetensors("with negative offsets", {"a": {**ENTRY, "data_offsets": [-16, 0]}})
hostile_safetensors("with tensors that overlap", {"a": ENTRY, "b": ENTRY})
hostile_safetensors("with a gap", {"a": {**ENTRY, "data_offsets": [4, 20]}}, FLOATS + b"1234")
hostile_safetensors("with something behind its tensors", {"a": ENTRY}, FLOATS + b"evil")
hostile_safetensors("with metadata that are not text", {"__metadata__": {"a": 1}, "a": ENTRY})
hostile_safetensors("with metadata that are a list", {"__metadata__": ["a"], "a": ENTRY})
hostile_safetensors("with more than it may say", {"a": {**ENTRY, "code": "import os"}})
hostile_safetensors(
    "whose names are a megabyte", {"__metadata__": {"segx": "{}", "names": "[0" + ",0" * 2**20 + "]"}, "a": ENTRY}
)
hostile_safetensors("whose metadata are nested without end", {"__metadata__": {"segx": "[" * 100_000}, "a": ENTRY})
hostile_safetensors("whose definition is not JSON", {"__metadata__": {"segx": "{}", "definition": "{"}, "a": ENTRY})


# The tests ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def marker(tmp_path: Path) -> Iterator[Path]:
    """The file that any payload would make."""
    path = tmp_path / "ran"
    yield path
    assert not path.exists(), "a payload ran"


@pytest.mark.parametrize("name", CORPUS)
def test_hostile_file_is_refused(name: str, forge: Any, tmp_path: Path, marker: Path) -> None:
    path = CORPUS[name](forge, tmp_path / "model.pt", marker)
    started = time.perf_counter()
    tracemalloc.start()
    try:
        with pytest.raises(ModelError) as caught:
            open_container(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.hint
    assert peak < MEMORY, f"{peak >> 20} MB before it was refused"
    assert time.perf_counter() - started < SECONDS


def test_corpus_is_wide(
    forge: Any, tmp_path: Path, marker: Path, record_property: Callable[[str, object], None]
) -> None:
    """No two files of the corpus are the same, and there are enough of them."""
    digests = set()
    for index, make in enumerate(CORPUS.values()):
        path = make(forge, tmp_path / f"{index}.pt", marker)
        digests.add(hashlib.sha256(path.read_bytes()).digest())
        path.unlink()
    record_property("hostile files", len(digests))
    assert len(digests) == len(CORPUS) >= 200


def test_payloads_are_live(tmp_path: Path) -> None:
    """The payload would run in a reader that trusts, so the corpus proves something."""
    marker = tmp_path / "ran"
    pickle.loads(pickle.dumps(Touch(marker)))
    assert marker.exists()


@pytest.mark.parametrize("module", ["os", "posix", "subprocess", "sys", "importlib", "runpy", "shutil", "ctypes", "io"])
def test_table_has_nothing_that_acts(module: str) -> None:
    assert not [name for name in table() if name.startswith(f"{module}.")]


def test_table_is_the_one_of_the_facts() -> None:
    """A name more is a decision: it has to be inert, and this list has to say so."""
    modules = {name.rpartition(".")[0] for name in table()}
    assert modules == {
        "__builtin__", "_codecs", "builtins", "collections", "numpy", "numpy._core.multiarray", "numpy.core.multiarray",
        "pathlib", "pathlib._local", "torch", "torch._utils", "torch.nn.modules.activation",
        "torch.nn.modules.batchnorm", "torch.nn.modules.container", "torch.nn.modules.conv",
        "torch.nn.modules.pooling", "torch.nn.modules.upsampling", "ultralytics.nn.modules",
        "ultralytics.nn.modules.block", "ultralytics.nn.modules.conv", "ultralytics.nn.modules.head",
        "ultralytics.nn.tasks", "ultralytics.utils", "ultralytics.yolo.utils",
    }  # fmt: skip
    assert {name for name in table() if "builtin" in name} == {
        "__builtin__.getattr", "__builtin__.set", "builtins.getattr", "builtins.set",
    }  # fmt: skip


def test_what_an_architecture_declares_is_inert_and_replaces_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from segx.plugin.registry import get_registry

    catalog = get_registry().architectures
    (spec, *_) = catalog.specs
    greedy = dataclasses.replace(spec, pickled={"builtins": ("getattr", "eval"), "acme.nn": ("Block",)})
    before = table()["builtins.getattr"]
    monkeypatch.setattr(catalog, "specs", (greedy,))
    table.cache_clear()
    try:
        assert table()["acme.nn.Block"].build is table()["builtins.eval"].build is None
        assert table()["builtins.getattr"] == before
        assert "ultralytics.nn.tasks.SegmentationModel" not in table(), "the family that declares it is not there"
    finally:
        table.cache_clear()


def _mutated(random: np.random.Generator, data: bytes) -> bytes:
    """Return the data with a few bytes changed, cut out, doubled or moved."""
    changed = bytearray(data)
    for _ in range(random.integers(1, 6)):
        at, length = int(random.integers(len(changed))), int(random.integers(1, 12))
        match int(random.integers(4)):
            case 0:
                changed[at] = int(random.integers(256))
            case 1:
                del changed[at : at + length]
            case 2:
                changed[at:at] = changed[at : at + length]
            case _:
                other = int(random.integers(len(changed)))
                changed[at : at + length] = changed[other : other + length]
        changed = changed or bytearray(b".")
    return bytes(changed)


@pytest.mark.parametrize("kind", ["archive", "pickle", "safetensors"])
def test_mutated_files_end_in_a_refusal_or_a_container(kind: str, forge: Any, tmp_path: Path, marker: Path) -> None:
    """Whatever a file's bytes are, opening it gives a container or one clear line: no other error, no crash."""
    random = np.random.default_rng(5)
    settings = forge.dict(
        {"imgsz": forge.number(64), "path": forge.call(forge.name("pathlib", "PosixPath"), forge.text("a"))}
    )
    detect = forge.call(forge.name("builtins", "getattr"), forge.name(*DETECT), forge.text("forward"))
    pickled = forge.official(
        about={"train_args": settings},
        names=forge.list(forge.text("a")),
        forward=detect,
        yaml=forge.dict({"nc": forge.number(1)}),
    )
    path = tmp_path / "model.pt"
    header = json.dumps({"__metadata__": {"segx": "{}"}, "a": ENTRY}).encode()
    whole = {
        "archive": forge.archive(path, pickled).read_bytes(),
        "pickle": pickled,
        "safetensors": len(header).to_bytes(8, "little") + header + FLOATS,
    }[kind]
    opened, refusals = 0, []
    for _ in range(MUTANTS):
        mutated = _mutated(random, whole)
        if kind == "pickle":
            forge.archive(path, mutated)
        else:
            path.write_bytes(mutated)
        try:
            with open_container(path) as container:
                opened += 1
                for ref in container.weights.values():
                    container.numbers.size(ref.storage.key)
        except ModelError as error:
            refusals.append(error.message)
    assert opened < MUTANTS
    assert not [message for message in refusals if "\n" in message]
