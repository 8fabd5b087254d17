"""Core names no format, head, task, data set format or family: what plugins declare, only they know.

Texts are compared whole, docstrings aside; an example within a message ("format=onnx") is help, no knowledge.
"""

from __future__ import annotations

import ast
from pathlib import Path

from segx.plugin.registry import get_registry

CORE = Path(__file__).resolve().parent.parent / "core" / "src" / "segx"
ASIDE = ("plugin/known.py", "testing/", "templates/")
"""Generated lists of what is known, and the kit, which tests with the plugins of this repository."""
TO_GO: dict[str, set[str]] = {
    "artifact.py": {"segment", "yolov8-seg", "yolov8-seg/1"},
    "flows/train_record.py": {"torch"},
    "io/download.py": {".pt", ".pth", ".safetensors"},
    "io/sources.py": {"torch"},
    "model.py": {"onnx", "yolov8n-seg", "yolov8n-seg.pt"},
    "options/schema.py": {"torch"},
    "plugin/registry.py": {".pt"},
    "runtime/pytorch.py": {"torch"},
    "sessions.py": {"pt"},
}
"""File to the names that are still in it."""


def declared() -> set[str]:
    """Every name that the plugins of this repository declare."""
    registry = get_registry()
    names = {*registry.tasks, *registry.architectures, *registry.exporters, *registry.backends}
    names |= {*registry.dataset_formats} | {name for spec in registry.backends.values() for name in spec.formats}
    names |= {suffix for spec in registry.backends.values() for many in spec.formats.values() for suffix in many}
    names |= {name for spec in registry.architectures.values() for name in (*spec.variants, *spec.weights)}
    heads = {head for name in registry.tasks for head in registry.tasks.load(name).heads}
    return names | heads


def texts(file: Path) -> set[str]:
    """The texts in a module that are no docstrings."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    documentation = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    found = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in documentation)
    return {node.value for node in found if isinstance(node.value, str)}


def test_core_names_nothing_that_plugins_declare() -> None:
    names = declared()
    found = {
        path: more
        for file in sorted(CORE.rglob("*.py"))
        if not (path := file.relative_to(CORE).as_posix()).startswith(ASIDE)
        and (more := (texts(file) & names) - TO_GO.get(path, set()))
    }
    assert not found


def test_what_is_to_go_is_still_there() -> None:
    """The list only shrinks: what is gone from core goes from the list too."""
    names = declared()
    assert {path: gone for path, listed in TO_GO.items() if (gone := listed - (texts(CORE / path) & names))} == {}
