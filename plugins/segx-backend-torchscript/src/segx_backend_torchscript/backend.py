"""Opens TorchScript files; what they say of themselves, the extra file ``config.txt``, is read without torch."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Any

from segx.errors import ModelError
from segx.plugin.base import FormatBackend

if TYPE_CHECKING:
    from pathlib import Path

    from segx.artifact import Artifact, ArtifactInfo
    from segx.options.verbs import SessionOptions
    from segx_backend_torchscript.session import TorchScriptSession

EXTRA_FILE = "config.txt"
MAX_METADATA = 4 << 20


class TorchScriptBackend(FormatBackend):
    """TorchScript models with PyTorch."""

    title = "TorchScript"
    runtime = "TorchScript"

    def _read(self, path: Path) -> tuple[dict[str, Any] | None, None]:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            root = names[0].split("/", 1)[0] if names else ""
            if f"{root}/constants.pkl" not in names:
                hint = "a checkpoint has the suffix .pt" if f"{root}/data.pkl" in names else "export or copy it again"
                raise ModelError(f"{path}: not a TorchScript model", hint=hint)
            name = f"{root}/extra/{EXTRA_FILE}"
            if name not in names:
                return None, None
            size = archive.getinfo(name).file_size
            if size > MAX_METADATA:
                raise ModelError(f"{path}: its metadata have {size} bytes, more than they can need")
            metadata = json.loads(archive.read(name))
        if not isinstance(metadata, dict):
            raise ModelError(f"{path}: its {EXTRA_FILE} is not a table of names and values")
        return metadata, None

    def _open(self, artifact: Artifact, info: ArtifactInfo, options: SessionOptions) -> TorchScriptSession:
        from segx_backend_torchscript.session import open_session

        return open_session(artifact.path, info, options)
