"""TorchScript files made here, so that the backend is tested without the exporter."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

import pytest

from segx.artifact import Artifact
from segx.testing.models import tiny_module

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from segx.artifact import ArtifactInfo

    Write = Callable[..., Artifact]


@pytest.fixture(scope="session")
def write_torchscript() -> Write:
    """Trace the tiny model into a file that carries any metadata."""
    import torch

    def write(path: Path, info: ArtifactInfo, metadata: Any = None, *, module: Any = None) -> Artifact:
        source = tiny_module(info)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit itself
            warnings.simplefilter("ignore", FutureWarning)
            traced = torch.jit.trace(module or source.module, torch.from_numpy(source.example), check_trace=False)
        text = json.dumps(info.to_metadata() if metadata is None else metadata)
        traced.save(str(path), _extra_files={} if metadata == {} else {"config.txt": text})
        return Artifact(path=path, format="torchscript")

    return write
