"""Opens folders of PaddlePaddle's inference models: ours and those that other tools made."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from segx.errors import ModelError
from segx.io.files import read_regular
from segx.plugin.base import FormatBackend, Graph
from segx.runtime import choose_device

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from segx.artifact import Artifact, ArtifactInfo
    from segx.options.verbs import SessionOptions
    from segx_backend_paddle.session import PaddleSession

WEIGHTS = ".pdiparams"
_PROGRAMS = (".json", ".pdmodel")
"""Suffixes of a program: since Paddle 3, and before."""
_MAX_PROGRAM = 64 << 20
"""Bytes; the program of the largest models has half a million."""
_INPUT, _OUTPUT = ".data", ".fetch"
"""How the operations are named that take the input and give an output."""
_FLOAT32 = "0.t_f32"
_ENLARGES = "_interp"


class PaddleBackend(FormatBackend):
    """PaddlePaddle models with Paddle Inference."""

    title = "Paddle"
    runtime = "Paddle Inference"

    def _read(self, path: Path) -> tuple[Mapping[str, Any] | None, Graph | None]:
        """Return what the program says; ``metadata.yaml`` in the folder is core's to read."""
        program = find_program(path)
        if program.suffix != ".json":
            return None, None  # of before Paddle 3: what metadata.yaml says is believed
        operations = _operations(program)
        inputs = [item for item in operations if item["#"].endswith(_INPUT)]
        if len(inputs) != 1 or not any(item["#"].endswith(_OUTPUT) for item in operations):
            raise ModelError(f"{program}: has {len(inputs)} inputs; segx runs models with one, and outputs")
        kind, shape = inputs[0]["O"][0]["TT"]["D"][:2]
        if len(shape) != 4 or shape[1] not in {3, -1} or kind["#"] != _FLOAT32:
            took = f"{'x'.join(map(str, shape))} of kind {kind['#'].rpartition('_')[2]}"
            raise ModelError(f"{program}: takes {took}, not images Nx3xHxW of kind f32")
        return None, Graph(input=[length if length > 0 else None for length in shape])

    def _open(self, artifact: Artifact, info: ArtifactInfo, options: SessionOptions) -> PaddleSession:
        device = choose_device(options.device, ("cpu",))
        from segx_backend_paddle.session import PaddleSession, start

        program = find_program(artifact.path)
        predictors = start(program, options, sizes_vary=bool(info.dynamic), onednn=_suits_onednn(program))
        return PaddleSession(predictors, path=artifact.path, info=info, device=device)


def _operations(program: Path) -> list[dict[str, Any]]:
    content = json.loads(read_regular(program, limit=_MAX_PROGRAM))
    return [item for block in content["program"]["regions"][0]["blocks"] for item in block["ops"]]


def _suits_onednn(program: Path) -> bool:
    """Say whether oneDNN can run a program: of Paddle 3 none that enlarges by factors, which other tools write."""
    if program.suffix != ".json":
        return True
    enlarging = (item for item in _operations(program) if item["#"].endswith(_ENLARGES))
    return not any(given["N"] == "scale" and given["AT"]["D"] for item in enlarging for given in item["A"])


def find_program(folder: Path) -> Path:
    """Return the program in a folder, which lies beside its weights: at the top, or one folder below.

    Raises:
        ModelError: There is none, or there are several.
    """
    if not folder.exists():
        raise ModelError(f"{folder}: there is no such model", hint="a folder that segx export format=paddle wrote")
    found = list(_programs(folder))
    if len(found) != 1:
        what = "holds no program with weights" if not found else f"holds {len(found)} programs with weights"
        msg = f"{folder}: is damaged or no Paddle model: it {what}"
        raise ModelError(
            msg, hint=f"one {' or '.join(_PROGRAMS)} with a {WEIGHTS} of the same name beside it is wanted"
        )
    return found[0]


def _programs(folder: Path) -> Iterator[Path]:
    for weights in sorted([*folder.glob(f"*{WEIGHTS}"), *folder.glob(f"*/*{WEIGHTS}")]):
        programs = [weights.with_suffix(suffix) for suffix in _PROGRAMS if weights.with_suffix(suffix).is_file()]
        yield from programs[:1]
