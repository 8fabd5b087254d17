"""Opens folders of TensorFlow.js graph models: ours and those that other tools made."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from segx.errors import ModelError
from segx.io.files import read_regular
from segx.plugin.base import FormatBackend, Graph
from segx.runtime import choose_device

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from segx.artifact import Artifact, ArtifactInfo
    from segx.options.verbs import SessionOptions
    from segx_backend_tfjs.session import TfjsSession

MODEL = "model.json"
_MAX_MODEL = 64 << 20
"""Bytes; the graph of the largest models has under a million, weights not counted."""
_MAX_AXES = 8
_BYTES = {"float32": 4, "int32": 4, "bool": 1, "float16": 2, "uint16": 2, "uint8": 1}


class TfjsBackend(FormatBackend):
    """TensorFlow.js models with Node.js."""

    title = "TensorFlow.js"
    runtime = "TensorFlow.js"

    def _read(self, path: Path) -> tuple[Mapping[str, Any] | None, Graph | None]:
        """Return the input's shape from the signature; ``metadata.yaml`` in the folder is core's to read."""
        document = json.loads(read_regular(path / MODEL, limit=_MAX_MODEL))
        if document.get("format") != "graph-model":
            raise ValueError(f"its {MODEL} is of format {document.get('format')!r}, not 'graph-model'")
        _check_weights(path, document["weightsManifest"])
        shapes = _inputs(document)
        if len(shapes) != 1:
            raise ValueError(f"it has {len(shapes)} inputs, not one")
        (shape,) = shapes
        if len(shape) != 4 or shape[3] not in {3, -1}:
            msg = f"{path}: takes {'x'.join(map(str, shape))}, not images NxHxWx3"
            raise ModelError(msg, hint="export the model again with segx export")
        batch, height, width, _ = (length if length > 0 else None for length in shape)
        return None, Graph(input=(batch, 3, height, width))

    def _open(self, artifact: Artifact, info: ArtifactInfo, options: SessionOptions) -> TfjsSession:
        device = choose_device(options.device, ("cpu",))
        from segx_backend_tfjs.session import TfjsSession, start

        runners = start(artifact.path, streams=options.streams)
        return TfjsSession(runners, path=artifact.path, info=info, device=device)


def _inputs(document: Mapping[str, Any]) -> list[list[int]]:
    """Return the shape of each input: of the signature, else of the graph's placeholders."""
    given = (document.get("signature") or {}).get("inputs")
    if given:
        shapes = [tensor["tensorShape"] for tensor in given.values()]
    else:
        nodes = document["modelTopology"]["node"]
        shapes = [node["attr"]["shape"]["shape"] for node in nodes if node["op"] == "Placeholder"]
    return [[int(axis.get("size", -1)) for axis in shape.get("dim", [])] for shape in shapes]


def _check_weights(folder: Path, manifest: list[dict[str, Any]]) -> None:
    """Refuse files of weights that are missing, or hold another number of bytes than the weights take.

    TensorFlow.js looks neither at what is missing at the end nor at what is left over.
    """
    for group in manifest:
        for name in group["paths"]:
            if name in {"", ".", ".."} or "/" in name or "\\" in name:
                raise ValueError(f"its weights are in {name!r}, which is no file of the folder")
        there = sum((folder / name).stat().st_size for name in group["paths"])
        wanted = sum(_size(weight) for weight in group["weights"])
        if there != wanted:
            raise ValueError(f"{', '.join(group['paths'])}: {there} bytes of weights, {wanted} are wanted")


def _size(weight: Mapping[str, Any]) -> int:
    kind, shape = weight.get("quantization", {}).get("dtype", weight["dtype"]), weight["shape"]
    if len(shape) > _MAX_AXES or any(type(length) is not int or not 0 <= length < 1 << 32 for length in shape):
        raise ValueError(f"the shape of {weight['name']!r:.100} is none")
    size: int = _BYTES[kind] * math.prod(shape)
    return size
