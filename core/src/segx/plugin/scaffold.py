"""Writes a whole new plugin from a template: it declares, works and keeps its contract before a line is changed."""

from __future__ import annotations

import re
import string
from importlib.resources import as_file, files
from typing import TYPE_CHECKING

from segx import __version__
from segx.errors import UsageError, did_you_mean
from segx.io.files import new_folder
from segx.io.paths import expanded
from segx.plugin.known import PLANNED, PROVIDERS
from segx.records import Record

if TYPE_CHECKING:
    from pathlib import Path


class PluginTemplate(Record):
    """A kind of plugin that there is a template for.

    Attributes:
        summary: What the new plugin is, for its own description.
        dependencies: What it needs beside the core.
        files: File to what an author changes in it, for the README.
    """

    summary: str
    dependencies: tuple[str, ...]
    files: tuple[tuple[str, str], ...]


TEMPLATES: dict[str, PluginTemplate] = {
    "export": PluginTemplate(
        summary="Export to the format $name",
        dependencies=("numpy>=1.26", "torch>=2.6"),
        files=(
            ("options.py", "the options that the format takes, typed and range-checked"),
            ("exporter.py", "the writing: here a program of torch.export, replace it with your format"),
            ("backend.py", "the running, by which every export is proven"),
        ),
    ),
    "backend": PluginTemplate(
        summary="The runtime $name",
        dependencies=("numpy>=1.26", "onnx>=1.17"),
        files=(("backend.py", "opening and running: here ONNX in plain Python, replace it with your runtime"),),
    ),
    "data": PluginTemplate(
        summary="The dataset format $name",
        dependencies=("numpy>=1.26",),
        files=(("reader.py", "the reading: here lines of JSON, replace it with your format"),),
    ),
    "command": PluginTemplate(
        summary="The command segx $dashed",
        dependencies=("typer>=0.15",),
        files=(("command.py", "what it does"),),
    ),
    "logger": PluginTemplate(
        summary="A listener to runs that writes $name.jsonl",
        dependencies=(),
        files=(("listener.py", "what is done with what is heard"),),
    ),
}

_NAME = re.compile(r"(?P<kind>[a-z]+)-(?P<rest>[a-z][a-z0-9]*(?:-[a-z0-9]+)*)")
_SUFFIX = ".tmpl"


def create(name: str, folder: Path) -> Path:
    """Write a new plugin and return its folder.

    Args:
        name: Kind and name, ``"export-foo"``; ``"segx-export-foo"`` means the same. The kinds are those of
            :data:`TEMPLATES`.
        folder: Where the plugin's folder is made.

    Raises:
        UsageError: The name is none, it is taken by an official distribution, or the folder is there already.
        DataError: The folder cannot be written.
    """
    kind, rest = _parse(name)
    distribution = f"segx-{kind}-{rest}"
    target = expanded(folder) / distribution
    if target.exists():
        raise UsageError(f"folder {str(target)!r} is there already", hint="choose another name or another --folder")
    values = _values(kind, rest, distribution)
    with new_folder(target) as made:
        for template in ("common", kind):
            with as_file(files("segx") / "templates" / template) as source:
                _fill(source, made, values)
    return target


def _parse(name: str) -> tuple[str, str]:
    plain = name.removeprefix("segx-")
    match = _NAME.fullmatch(plain)
    kinds = ", ".join(f"{kind}-foo" for kind in TEMPLATES)
    if match is None:
        raise UsageError(f"name {name!r} is not a kind and a name in small letters", hint=f"write one of: {kinds}")
    kind, rest = match["kind"], match["rest"]
    if kind not in TEMPLATES:
        raise UsageError(f"kind {kind!r} is not known{did_you_mean(kind, TEMPLATES)}", hint=f"write one of: {kinds}")
    distribution = f"segx-{plain}"
    if distribution in set(PROVIDERS.values()) - PLANNED:
        raise UsageError(f"{distribution} is an official plugin of segx", hint=f"pip install {distribution}")
    return kind, rest


def _values(kind: str, rest: str, distribution: str) -> dict[str, str]:
    """Return what the templates' placeholders stand for."""
    template = TEMPLATES[kind]
    names = {"name": rest.replace("-", "_"), "dashed": rest}
    dependencies = (f"segx-core>={__version__}", *template.dependencies)
    package = distribution.replace("-", "_")
    return {
        **names,
        "distribution": distribution,
        "package": package,
        "entry": f"{kind}-{rest}",
        "Class": "".join(part.capitalize() for part in rest.split("-")),
        "summary": string.Template(template.summary).substitute(names),
        "version": __version__,
        "dependencies": "\n".join(f'    "{item}",' for item in dependencies),
        "table": "\n".join(f"| `src/{package}/{file}` | {change} |" for file, change in template.files),
    }


def _fill(source: Path, target: Path, values: dict[str, str]) -> None:
    """Write all files of a template, with names and placeholders filled in."""
    for template in sorted(source.rglob(f"*{_SUFFIX}")):
        relative = template.relative_to(source).as_posix().removesuffix(_SUFFIX)
        path = target / relative.replace("PACKAGE", values["package"]).replace("DASHED", values["dashed"])
        path.parent.mkdir(parents=True, exist_ok=True)
        text = string.Template(template.read_text(encoding="utf-8")).substitute(values)
        path.write_text(text, encoding="utf-8")
