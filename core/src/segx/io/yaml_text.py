"""Reads YAML, in one way wherever it comes from: plain values, every key once, names of classes as they are written."""

from __future__ import annotations

from typing import Any

import yaml
from yaml.composer import Composer

_NOT_TEXT = {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "timestamp")}
_MERGE = "tag:yaml.org,2002:merge"
_NOT_YAML = (yaml.YAMLError, ValueError, ArithmeticError, LookupError, AttributeError, TypeError, RecursionError)
"""PyYAML leaves it to Python to say what is wrong with 2024-13-01, !!bool x, !!timestamp x."""
_LONGEST = 200


class NotYamlError(ValueError):
    """A text that is no YAML, or says one thing twice; with the line, in one line."""


class _Strict(Composer):
    """What we ask beyond YAML."""

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
        """Return a document; a name like yes, 007 or 1:30 is a text, whatever YAML takes it for."""
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.value == "names" and isinstance(value, yaml.CollectionNode):
                mapping = isinstance(value, yaml.MappingNode)
                for item in [inner for _, inner in value.value] if mapping else value.value:
                    if item.tag in _NOT_TEXT:
                        item.tag = "tag:yaml.org,2002:str"
        return super().construct_document(node)  # type: ignore[misc]


if yaml.__with_libyaml__:

    class _Loader(_Strict, yaml.CSafeLoader):
        """Characters are read in C, five times faster; nesting is followed in Python, which bounds how deep."""

        def __init__(self, text: str) -> None:
            yaml.CSafeLoader.__init__(self, text)
            Composer.__init__(self)
else:

    class _Loader(_Strict, yaml.SafeLoader):  # type: ignore[no-redef]
        """All in Python, where PyYAML was built without its library."""


def load(text: str) -> Any:
    """Return the one document that a text holds, of plain types; None where it holds none.

    Raises:
        NotYamlError: It is no YAML, has several documents, or a key twice.
    """
    try:
        loader = _Loader(text)
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
