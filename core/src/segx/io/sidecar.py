"""Carries ``ArtifactInfo`` beside or inside models whose format has no room for text of its own.

A folder gets ``metadata.yaml``, a single file ``<file>.segx.json``. Keys that other tools read keep the names and the
types those tools write.
"""

from __future__ import annotations

import ast
import json
from typing import TYPE_CHECKING, Any

from segx.artifact import ArtifactInfo
from segx.errors import ModelError
from segx.io.files import read_regular, write_text
from segx.metadata import MAX_TEXT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FOLDER_FILE = "metadata.yaml"
FILE_SUFFIX = ".segx.json"


def folder_sidecar_path(folder: Path) -> Path:
    """Return where the info of a folder lies."""
    return folder / FOLDER_FILE


def sidecar_path(file: Path) -> Path:
    """Return where the info of a single file lies."""
    return file.with_name(file.name + FILE_SUFFIX)


def location(model: Path) -> Path:
    """Return where the info of a model lies: inside a folder, beside a file."""
    return folder_sidecar_path(model) if model.is_dir() else sidecar_path(model)


def read(model: Path) -> ArtifactInfo | None:
    """Return the info of a model, or None where none was written.

    Raises:
        ModelError: It cannot be read.
    """
    metadata = read_metadata(model)
    return None if metadata is None else ArtifactInfo.from_metadata(metadata, where=str(location(model)))


def read_metadata(model: Path) -> dict[str, Any] | None:
    """Return the keys and values written for a model, or None where none were.

    Raises:
        ModelError: The file is there but cannot be read, or is no mapping.
    """
    source = location(model)
    try:
        text = read_regular(source, limit=2 * MAX_TEXT).decode()
        content = _parse(text, yaml=source.suffix != ".json")
        if isinstance(content, dict):
            return {str(key): value for key, value in content.items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"{source}: cannot be read ({reason})", hint="copy or export it again") from error
    raise ModelError(f"{source}: holds a {type(content).__name__}, not keys and values")


def _parse(text: str, *, yaml: bool) -> Any:
    """Return what a text says; JSON is YAML, but a parser for JSON alone is faster and stricter.

    Raises:
        ValueError: It says nothing.
    """
    if not yaml:
        return json.loads(text)
    from segx.io.yaml_text import load

    return load(text)


def write(model: Path, info: ArtifactInfo) -> Path:
    """Write the info of a model, atomically, and return where it went."""
    import yaml

    destination = location(model)
    content = _plain(info.to_metadata())
    if destination.suffix == ".json":
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    else:
        text = yaml.dump(
            content, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False, allow_unicode=True
        )
    return write_text(destination, text)


def _plain(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the text values as the numbers, lists and mappings they stand for."""
    info = ArtifactInfo.from_metadata(metadata)
    return {
        **metadata,
        "stride": info.stride,
        "batch": info.batch,
        "imgsz": list(info.imgsz),
        "names": dict(info.names),
        "args": ast.literal_eval(metadata["args"]),
        "segx": json.loads(metadata["segx"]),
    }
