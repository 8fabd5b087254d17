"""The words of the field: no name in the sources is of the vocabulary that was this project's alone."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [ROOT / "core" / "src", ROOT / "cli" / "src", *sorted((ROOT / "plugins").glob("*/src"))]
PRIVATE = {
    "cure": "hint",
    "cures": "hints",
    "lane": "stream",
    "lanes": "streams",
    "picture": "image, chart",
    "pictures": "images, charts",
    "shelf": "catalog",
    "shot": "image, frame",
    "shots": "images, frames",
    "sink": "writer",
    "sinks": "writers",
    "tell": "notify, report",
    "told": "reported, message",
    "truth": "annotation",
    "truths": "annotations",
    "wish": "request",
}
"""Word to what the field says."""


KEPT = {("dataset.py", "picture")}
"""A name that programs from before the renaming still call."""


def names(file: Path) -> set[str]:
    """Every name that a module gives: to classes, functions, arguments, variables and attributes."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return found


def words(name: str) -> set[str]:
    """The words of a name, in small letters."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}


def test_names_are_of_the_words_of_the_field() -> None:
    private = {
        f"{file.relative_to(ROOT)}: {name}": f"say {PRIVATE[word]}"
        for source in SOURCES
        for file in source.rglob("*.py")
        for name in names(file)
        if (file.name, name) not in KEPT
        for word in words(name) & PRIVATE.keys()
    }
    assert private == {}
