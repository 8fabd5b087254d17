"""Opens ``_ncnn_model`` folders with ncnn: ours and those that other tools made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segx.errors import ModelError
from segx.plugin.base import FormatBackend, Graph
from segx_backend_ncnn import layers

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from segx.artifact import Artifact, ArtifactInfo
    from segx.options.verbs import SessionOptions
    from segx_backend_ncnn.session import NcnnSession


class NcnnBackend(FormatBackend):
    """ncnn models."""

    title = "ncnn"
    runtime = "ncnn"

    def _read(self, path: Path) -> tuple[Mapping[str, Any] | None, Graph | None]:
        """Return nothing but that it is a model: ncnn's files say neither sizes nor names, ``metadata.yaml`` does."""
        text, _ = layers.find(path)
        found = layers.read(text)
        if len(found.inputs) != 1:
            names = ", ".join(found.inputs) or "none"
            raise ModelError(f"{path}: has {len(found.inputs)} inputs ({names}); segx runs models with one")
        return None, None

    def _open(self, artifact: Artifact, info: ArtifactInfo, options: SessionOptions) -> NcnnSession:
        from segx_backend_ncnn.session import NcnnSession, choose_device, load

        path = artifact.path
        # ncnn runs whatever the weights hold, zeros too: a changed byte has to be found before.
        info.check_files(path, contents=True)
        text, weights = layers.find(path)
        blobs = layers.read(text)
        if len(blobs.outputs) != len(info.outputs):
            msg = f"{path}: the model has the outputs {', '.join(blobs.outputs)}; its metadata name"
            raise ModelError(f"{msg} {', '.join(info.outputs)}", hint="copy or export it again")
        device = choose_device(options.device)
        net = load(text, weights, device=device, precision=info.precision, threads=options.threads)
        return NcnnSession(net, blobs=blobs, path=path, info=info, device=device)

    def devices(self) -> list[str]:
        """Return what ``device=`` may be here; ``segx doctor`` shows it."""
        from segx_backend_ncnn.session import devices

        return devices()
