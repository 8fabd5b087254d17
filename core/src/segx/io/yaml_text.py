"""Reads YAML, in one way wherever it comes from: plain values, every key once, names of classes as they are written."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml
from yaml.composer import Composer

if TYPE_CHECKING:
    from collections.abc import Collection

_TEXT, _INTEGER = "tag:yaml.org,2002:str", "tag:yaml.org,2002:int"
_TYPED = {_INTEGER, *(f"tag:yaml.org,2002:{kind}" for kind in ("bool", "timestamp"))}
_NOT_TEXT = {*_TYPED, *(f"tag:yaml.org,2002:{kind}" for kind in ("float", "null"))}
_PLAIN = re.compile(r"-?(0|[1-9]\d*)")
"""Numbers that mean the same to everybody."""
_MERGE = "tag:yaml.org,2002:merge"
_NOT_YAML = (yaml.YAMLError, ValueError, ArithmeticError, LookupError, AttributeError, TypeError, RecursionError)
"""PyYAML leaves it to Python to say what is wrong with 2024-13-01, !!bool x, !!timestamp x."""
_LONGEST = 200


class NotYamlError(ValueError):
    """A text that is no YAML, or says one thing twice; with the line, in one line."""


class _Strict(Composer):
    """What we ask beyond YAML.

    Attributes:
        typed: Values are read as they are typed on a command line, where the option they are for says what they mean.
    """

    typed = False

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Return a mapping; of a key that is there twice PyYAML alone would take the last."""
        node: Any = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                line, value = key.start_mark.line + 1, self.construct_object(key, deep=True)  # type: ignore[attr-defined]
                if value in lines:
                    name = key.value[:_LONGEST]
                    raise NotYamlError(f"{name}: is there twice, in line {lines[value]} and line {line}: keep one")
                lines[value] = line
        return node

    def construct_document(self, node: Any) -> Any:
        """Return a document; names of classes are text, whatever YAML takes yes, 007, 1:30 or null for."""
        if isinstance(node, yaml.MappingNode):
            self.flatten_mapping(node)  # type: ignore[attr-defined]  # what << brings belongs to it
            for key, value in node.value:
                if key.value == "names":
                    for item in self._items(value):
                        _take_text(item, _NOT_TEXT)
                elif self.typed:
                    _take_typed(value)
        return super().construct_document(node)  # type: ignore[misc]

    def _items(self, node: Any) -> list[Any]:
        """Return the values of a list or a mapping."""
        if isinstance(node, yaml.MappingNode):
            self.flatten_mapping(node)  # type: ignore[attr-defined]
            return [value for _, value in node.value]
        return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _take_text(node: Any, kinds: Collection[str]) -> None:
    """Take for text what YAML takes for something of these kinds; what is empty stays nothing."""
    if node.tag in kinds and node.value:
        node.tag = _TEXT


def _take_typed(node: Any) -> None:
    """Take for text, in the value of an option, what YAML reads otherwise than a command line does: no, 007, 1:30."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _take_typed(item)
    elif not (node.tag == _INTEGER and _PLAIN.fullmatch(node.value)):
        _take_text(node, _TYPED)


if yaml.__with_libyaml__:

    class _Loader(_Strict, yaml.CSafeLoader):
        """Characters are read in C, five times faster; nesting is followed in Python, which bounds how deep."""

        def __init__(self, text: str) -> None:
            yaml.CSafeLoader.__init__(self, text)
            Composer.__init__(self)
else:

    class _Loader(_Strict, yaml.SafeLoader):  # type: ignore[no-redef]
        """All in Python, where PyYAML was built without its library."""


def load(text: str, *, typed: bool = False) -> Any:
    """Return the one document that a text holds, of plain types; None where it holds none.

    Args:
        text: The document.
        typed: What is no number is text in its values, as on a command line, so that a name like 007 or no is one.

    Raises:
        NotYamlError: It is no YAML, has several documents, or a key twice.
    """
    try:
        loader = _Loader(text)
        loader.typed = typed
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except NotYamlError:
        raise
    except _NOT_YAML as error:
        mark, problem = (getattr(error, name, None) for name in ("problem_mark", "problem"))
        words = problem or (str(error).splitlines() or [type(error).__name__])[0]
        raise NotYamlError(f"{f'line {mark.line + 1}: ' if mark else ''}{words[:_LONGEST]}") from error
