"""A model that can be built, changed and trained: the protocols, the job and what it leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from segx.plugin.interfaces import Backend, Session
from segx.records import Record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from segx.artifact import Artifact, ArtifactInfo
    from segx.options.verbs import ExportOptions, SessionOptions, TrainOptions
    from segx.plugin.interfaces import Architecture, Criterion, LoaderMaker
    from segx.plugin.jobs import ExportModule, LoadReport, ModelConfig, ModelSummary
    from segx.runs import Step


@runtime_checkable
class ModelSession(Session, Protocol):
    """A session whose model can be changed, saved and exported: what ``.pt`` and ``.yaml`` open to."""

    def load_weights(self, artifact: Artifact) -> LoadReport:
        """Move the weights of a file that fit in name and shape into this model, and say what was skipped."""
        ...

    def for_classes(self, names: Mapping[int, str], *, seed: int = 0) -> tuple[ModelSession, LoadReport | None]:
        """Return a session of the same model for other classes, and what of its weights moved over.

        Weights that were never loaded are drawn from the seed.
        """
        ...

    def beside(self, options: SessionOptions) -> ModelSession:
        """Return another session of the same model, which runs in another way."""
        ...

    def save(self, path: Path) -> Artifact:
        """Write the model, atomically, as segx's own checkpoint."""
        ...

    def export_module(self, options: ExportOptions, info: ArtifactInfo) -> ExportModule:
        """Return the model as exporters take it."""
        ...

    def share_module(self) -> Any:
        """Return the model itself in its runtime's type, with ``names`` and ``yaml``; what is changed in it counts."""
        ...

    def heed(self) -> bool:
        """Return True if values of a shared model were changed from outside since this was asked.

        Raises:
            UsageError: Its layers were.
        """
        ...

    def describe(self) -> ModelSummary:
        """Return what there is to say of the model: parameters, FLOPs, layers."""
        ...


@runtime_checkable
class ModelBackend(Backend, Protocol):
    """A backend that can also build models that have no file yet."""

    def build(self, config: ModelConfig, architecture: Architecture, options: SessionOptions) -> ModelSession:
        """Return a session of a new model with random weights."""
        ...

    def train(self, session: ModelSession, job: TrainJob, *, resume: Path | None = None) -> Trained:
        """Train the session's model, or go on with the run that wrote ``resume``.

        Of several processes that share the work only the first returns; the others end here.

        Raises:
            UsageError: The device is not there, or the batch does not fit.
            ModelError: The loss is no longer a number, or ``resume`` is not a checkpoint of a run.
        """
        ...


class TrainJob(Record):
    """What the trainer gets from core: options, loader, loss, validation, events.

    Attributes:
        options: What was asked for.
        names: Class number to class name.
        images: Number of training images.
        folder: Returns the run's folder; called on the first process only.
        loader: Makes the loader.
        criterion: Returns the loss for a module.
        validate: Measures a session; called on the first process only. The figures hold ``"fitness"``.
        notify: Hears of each batch and epoch; called on the first process only.
        val_loader: Makes the loader of the validation images as they are, for the losses; None: they are not measured.
        settings: What a checkpoint is to remember: data, settings, versions.
        finished: The run that goes on had come to its end and was measured; only more epochs can make it go on.
    """

    options: TrainOptions
    names: Mapping[int, str]
    images: int
    folder: Callable[[], Path]
    loader: LoaderMaker
    criterion: Callable[[Any], Criterion]
    validate: Callable[[Session], Mapping[str, float]]
    notify: Callable[[Step], None]
    settings: Mapping[str, Any]
    finished: bool = False
    val_loader: LoaderMaker | None = None


class Trained(Record):
    """The result of a training run.

    Attributes:
        folder: The run's folder.
        best: The checkpoint of the best epoch, if any was written.
        last: The checkpoint of the last epoch.
        metrics: The figures of the last epoch.
        history: One row of figures for each epoch.
        exported: What the best checkpoint was exported to, when that was asked for.
    """

    folder: Path
    best: Path | None
    last: Path | None
    metrics: Mapping[str, float]
    history: Sequence[Mapping[str, float]]
    exported: Path | None = None
