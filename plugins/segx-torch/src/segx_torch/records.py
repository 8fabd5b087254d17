"""Walks the inert records of an official container: weights by name, and what the file says of itself."""

from __future__ import annotations

import math
import re
from pathlib import PureWindowsPath
from typing import TYPE_CHECKING, Any

from segx_torch.unpickle import Record, TensorRef

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_DEPTH = 40
MAX_NODES = 200_000

_SCALED_NAME = re.compile(r"yolo[a-z]*\d+([a-z])(?![a-z])", re.IGNORECASE)


class Malformed(Exception):  # noqa: N818 - a reason on its way to becoming a ModelError
    """Why the records are not a model."""


def state_dict(module: Record) -> dict[str, TensorRef]:
    """Return the weights of a pickled ``torch.nn.Module``, named as ``module.state_dict()`` names them.

    Raises:
        Malformed: The records do not form a tree of modules.
    """
    weights: dict[str, TensorRef] = {}
    waiting: list[tuple[str, int, Record]] = [("", 0, module)]
    visited = 0
    while waiting:
        prefix, depth, record = waiting.pop()
        visited += 1
        if depth > MAX_DEPTH or visited > MAX_NODES:
            raise Malformed("its modules are nested without end")
        for name, tensor in _own_tensors(record):
            weights[prefix + name] = tensor
        if len(weights) > MAX_NODES:
            raise Malformed("it has more tensors than a model can have")
        children = [
            (f"{prefix}{name}.", depth + 1, _module(child))
            for name, child in _members(record, "_modules").items()
            if child is not None
        ]
        waiting.extend(reversed(children))
    return weights


def _own_tensors(record: Record) -> list[tuple[str, TensorRef]]:
    hidden = record.state.get("_non_persistent_buffers_set", ())
    named = [*_members(record, "_parameters").items()]
    named += [item for item in _members(record, "_buffers").items() if item[0] not in hidden]
    tensors = [(name, value) for name, value in named if value is not None]
    if not all(isinstance(value, TensorRef) for _, value in tensors):
        raise Malformed(f"a parameter of {record.kind} is not a tensor")
    return tensors


def _module(value: Any) -> Record:
    if not isinstance(value, Record) or "_modules" not in value.state:
        raise Malformed("a module of it is not a module")
    return value


def _members(record: Record, key: str) -> Mapping[str, Any]:
    members = record.state.get(key, {})
    if not isinstance(members, dict) or not all(isinstance(name, str) for name in members):
        raise Malformed(f"{key} of {record.kind} is not a table of names")
    return members


def plain(value: Any) -> Any:
    """Return the JSON-able part of a tree: tensors and unknown objects become None, paths and sets text and lists.

    Raises:
        Malformed: The tree is deeper or larger than settings can be; shared parts count each time they appear.
    """
    budget = [MAX_NODES]
    return _plain(value, MAX_DEPTH, budget)


def _plain(value: Any, depth: int, budget: list[int]) -> Any:
    budget[0] -= 1 + (len(value) >> 4 if isinstance(value, str) else 0)
    if depth == 0 or budget[0] < 0:
        raise Malformed("its settings are larger than settings can be")
    match value:
        case dict():
            return {key: _plain(item, depth - 1, budget) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item, depth - 1, budget) for item in value]
        case Record(kind="namespace" | "path"):
            return _plain(value.state or "/".join(value.arguments), depth - 1, budget)
        case bool() | int() | str():
            return value
        case float() if math.isfinite(value):
            return value
    return None


def definition_of(module: Record, name: str) -> dict[str, Any] | None:
    """Return the model definition a module carries, in today's form: with ``scales`` and the chosen ``scale``.

    Files of 2023's first months carry ``depth_multiple`` and ``width_multiple`` instead, and None as text.

    Args:
        module: The pickled model.
        name: A name with the scale letter in it, for definitions that lack one.
    """
    definition = plain(module.state.get("yaml"))
    if not isinstance(definition, dict):
        return None
    depth, width = definition.pop("depth_multiple", None), definition.pop("width_multiple", None)
    if "scales" not in definition and depth is not None and width is not None:
        letter = scale_letter(str(definition.get("yaml_file", ""))) or scale_letter(name) or "n"
        definition["scales"] = {letter: [depth, width, definition.get("max_channels", 1 << 20)]}
        definition["scale"] = letter
    names = plain(module.state.get("names"))
    if isinstance(names, dict | list) and names:
        definition["nc"] = len(names)
    return {key: _without_text_none(value) for key, value in definition.items() if key != "yaml_file"}


def scale_letter(name: str) -> str:
    """Return the scale letter in a model's name, or an empty string: ``"yolov8m-seg"`` -> ``"m"``."""
    found = _SCALED_NAME.search(PureWindowsPath(name).name)
    return found.group(1).lower() if found else ""


def _without_text_none(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_text_none(item) for item in value]
    return None if value == "None" else value
