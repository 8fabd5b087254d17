"""Which formats were proven on this machine, when and how closely: kept in the cache folder for ``segx formats``.

A format is called proven only when an export made here was opened by a backend and compared with its source.
"""

from __future__ import annotations

import json
import logging
import math
import platform
from typing import TYPE_CHECKING, Any

from segx.errors import SegxError
from segx.io.files import read_text, write_text
from segx.io.paths import cache_folder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from segx.artifact import ArtifactInfo

logger = logging.getLogger(__name__)


def proofs_folder() -> Path:
    """Return the folder inside the cache that holds one file for each proven format."""
    return cache_folder() / "proofs"


def record_proof(format: str, info: ArtifactInfo) -> None:  # noqa: A002 - the word of the field
    """Remember that an export was verified; without parity nothing is remembered, and failing to write is no error."""
    if info.parity is None:
        return
    proof = {
        "date": info.date,
        "machine": platform.node(),
        "model": info.variant,
        "precision": info.precision,
        "versions": dict(info.versions),
        "images": info.parity.images,
        "objects": info.parity.objects,
        "box": info.parity.box,
        "score": info.parity.score,
        "mask_iou": info.parity.mask_iou,
        "matched": info.parity.matched,
    }
    try:
        write_text(_path(format), json.dumps(proof, indent=2))
    except SegxError as error:
        logger.debug("the proof of format %s is not remembered: %s", format, error)


def read_proofs() -> Mapping[str, dict[str, Any]]:
    """Return format to what was measured when it was last proven on this machine."""
    proofs: dict[str, dict[str, Any]] = {}
    for path in _files():
        try:
            proof = json.loads(read_text(path))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(proof, dict) and proof.get("machine") == platform.node() and _is_sound(proof):
            proofs[path.stem] = proof
    return proofs


def _is_sound(proof: Mapping[str, Any]) -> bool:
    """Return True if a proof is one that segx wrote; any other is no proof."""
    figures = [proof.get(name) for name in ("box", "score", "mask_iou", "matched")]
    sound = all(isinstance(figure, int | float) and math.isfinite(figure) for figure in figures)
    return sound and isinstance(proof.get("date"), str)


def _files() -> list[Path]:
    """Return the files of all proofs; a cache that cannot be read holds none."""
    try:
        return sorted(path for path in proofs_folder().iterdir() if path.suffix == ".json")
    except OSError:
        return []


def _path(format: str) -> Path:  # noqa: A002 - as above
    return proofs_folder() / f"{format.partition('@')[0]}.json"
