"""Reads what a TorchScript file says of itself, without torch: the extra file ``config.txt``, a JSON document."""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

from segx.artifact import ArtifactInfo
from segx.errors import ModelError
from segx.io import sidecar

if TYPE_CHECKING:
    from pathlib import Path

EXTRA_FILE = "config.txt"
MAX_METADATA = 4 << 20

_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, ValueError, LookupError, OverflowError)
"""What ``zipfile`` answers to damaged, encrypted and unknown archives."""


def read_info(path: Path) -> ArtifactInfo:
    """Return what is known of a model; files that other tools made say the same under the same keys.

    Raises:
        ModelError: The file is missing, damaged, no TorchScript model, or says nothing of itself.
    """
    try:
        if path.exists() and not path.is_file():
            raise ModelError(f"{path}: is no regular file", hint="export or copy it again")
        with zipfile.ZipFile(path) as archive:
            text = _config(archive, path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error
    except _DAMAGE as error:
        raise ModelError(f"{path}: not a TorchScript model ({error})", hint="export or copy it again") from error
    metadata = _parse(text, path) if text is not None else sidecar.read_metadata(path)
    if not metadata or "task" not in metadata:
        msg = f"{path}: carries no metadata: task, names, stride and head (NMS inside?) are unknown"
        raise ModelError(msg, hint=f"export it with segx, or write them as JSON into {sidecar.sidecar_path(path).name}")
    return ArtifactInfo.from_metadata(metadata, where=str(path))


def _config(archive: zipfile.ZipFile, path: Path) -> bytes | None:
    names = archive.namelist()
    root = names[0].split("/", 1)[0] if names else ""
    if f"{root}/constants.pkl" not in names:
        hint = "a checkpoint has the suffix .pt" if f"{root}/data.pkl" in names else "export or copy it again"
        raise ModelError(f"{path}: not a TorchScript model", hint=hint)
    name = f"{root}/extra/{EXTRA_FILE}"
    if name not in names:
        return None
    if archive.getinfo(name).file_size > MAX_METADATA:
        raise ModelError(f"{path}: its metadata have {archive.getinfo(name).file_size} bytes, more than they can need")
    return archive.read(name)


def _parse(text: bytes, path: Path) -> dict[str, Any]:
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: its {EXTRA_FILE} is not JSON ({type(error).__name__})") from error
    if not isinstance(metadata, dict):
        raise ModelError(f"{path}: its {EXTRA_FILE} is not a table of names and values")
    return metadata
