"""The ``torchscript`` backend: what is known of a file without torch, and the way to a session."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segx_backend_torchscript.archive import read_info

if TYPE_CHECKING:
    from segx.artifact import Artifact, ArtifactInfo
    from segx.options.verbs import SessionOptions
    from segx.plugin.interfaces import Session


class TorchScriptBackend:
    """Opens TorchScript models: :class:`segx.plugin.interfaces.Backend`."""

    def read_info(self, artifact: Artifact) -> ArtifactInfo:
        """Return what a file says of itself; torch is not loaded.

        Raises:
            ModelError: The file is missing, damaged, no TorchScript model, or says nothing of itself.
        """
        return artifact.once(read_info)

    def open(self, artifact: Artifact, options: SessionOptions) -> Session:
        """Return a session that runs the model.

        Raises:
            ModelError: The file is missing, damaged or no TorchScript model.
            UsageError: The device is not there, or does not run the precision the file has.
        """
        from segx_backend_torchscript.session import open_session

        return open_session(artifact, options)
