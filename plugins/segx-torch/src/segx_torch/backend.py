"""The ``torch`` backend: what is known of a checkpoint without torch, and the way to a session."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from segx.runtime import variables
from segx_torch.container import open_container

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from segx.artifact import Artifact, ArtifactInfo
    from segx.options.verbs import SessionOptions
    from segx.plugin.interfaces import Architecture
    from segx.plugin.jobs import ModelConfig
    from segx.plugin.training import ModelSession, Trained, TrainJob


class TorchBackend:
    """Opens checkpoints and builds new models: :class:`segx.plugin.training.ModelBackend`."""

    def read_info(self, artifact: Artifact) -> ArtifactInfo:
        """Return what a checkpoint says of itself; neither torch nor the model is loaded.

        Raises:
            ModelError: The file is missing, damaged, unsafe or of another kind.
        """
        if os.name == "nt":  # a file that is open cannot be replaced there
            with open_container(artifact.path) as container:
                return container.info
        return artifact.once(open_container).info  # who opens a session goes on from here

    def open(self, artifact: Artifact, options: SessionOptions) -> ModelSession:
        """Return a session of the checkpoint's model.

        Raises:
            ModelError: The file is missing, damaged, unsafe or of another kind, or no architecture installed fits.
            UsageError: The device is not there, or cannot run in half precision.
        """
        with _idle_threads_sleep():
            from segx_torch.session import open_session

        return open_session(artifact, options)

    def build(self, config: ModelConfig, architecture: Architecture, options: SessionOptions) -> ModelSession:
        """Return a session of a new model with random weights.

        Raises:
            UsageError: The device is not there, or cannot run in half precision.
        """
        with _idle_threads_sleep():
            from segx_torch.session import TorchSession

        return TorchSession(architecture.build(config), config, architecture, architecture.info(config), options)

    def train(self, session: ModelSession, job: TrainJob, *, resume: Path | None = None) -> Trained:
        """Train a session of this backend, or go on with the run that wrote ``resume``.

        Raises:
            UsageError: The device is not there, or the batch does not fit.
            ModelError: The loss is no longer a number, or ``resume`` holds no run to go on with.
        """
        from segx_torch.session import TorchSession
        from segx_torch.training.run import train

        if not isinstance(session, TorchSession):
            raise TypeError(f"the torch backend trains its own sessions, not {type(session).__name__}")
        # Read when CUDA starts; cuBLAS varies without it.
        fixed = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"} if job.options.deterministic else {}
        try:
            with variables(**fixed):
                return train(session, job, resume=resume)
        finally:
            session.weights_changed()


def _idle_threads_sleep() -> AbstractContextManager[None]:
    """Ask OpenMP not to spin while its threads wait for each other, unless the user has asked for something else.

    On a machine where others want the cores too, an image took ten times as long with spinning threads as without.
    OpenMP reads the variable when torch is imported, so later it has no effect.
    """
    return variables(OMP_WAIT_POLICY="PASSIVE")
