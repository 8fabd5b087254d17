"""Opens ``_executorch_model`` folders with ExecuTorch: ours and those that other tools made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segx.io.files import open_regular
from segx.plugin.base import FormatBackend, FormatSession
from segx.runtime import choose_device, cores

if TYPE_CHECKING:
    from pathlib import Path

    from segx.artifact import Artifact, ArtifactInfo
    from segx.options.verbs import SessionOptions
    from segx.structures.types import Array, Images


class ExecuTorchBackend(FormatBackend):
    """Programs of ExecuTorch."""

    title = "ExecuTorch"
    runtime = "ExecuTorch"

    def _read(self, path: Path) -> tuple[None, None]:
        """Return nothing but that it is a program: what it is stands in ``metadata.yaml``."""
        with open_regular(_program(path)) as file:
            if file.read(8)[4:6] != b"ET":
                raise ValueError("it does not begin as a program does")
        return None, None

    def _open(self, artifact: Artifact, info: ArtifactInfo, options: SessionOptions) -> ExecuTorchSession:
        device = choose_device(options.device, ("cpu",))
        info.check_files(artifact.path, contents=True)  # of damaged weights the runtime knows nothing
        from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
        from executorch.runtime import Runtime

        _unsafe_reset_threadpool(options.threads or cores())
        method = Runtime.get().load_program(_program(artifact.path)).load_method("forward")
        return ExecuTorchSession(method, path=artifact.path, info=info, device=device)


class ExecuTorchSession(FormatSession[Any]):
    """A program that is ready to run."""

    runtime = "ExecuTorch"

    def _run(self, model: Any, images: Images) -> list[Array]:
        import torch

        return [output.numpy().copy() for output in model.execute([torch.from_numpy(images)])]


def _program(folder: Path) -> Path:
    """Return the one program of a folder.

    Raises:
        ValueError: There is none, or there are several.
    """
    programs = sorted(folder.glob("*.pte"))
    if len(programs) != 1:
        raise ValueError(f"it holds {len(programs)} files *.pte, not one")
    return programs[0]
