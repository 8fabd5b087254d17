"""``YOLO``: one object with four verbs."""

from __future__ import annotations

import functools
import logging
import os
import threading
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, Unpack, cast, overload

from segx.artifact import Artifact
from segx.console import each_spoken, spoken
from segx.errors import ModelError, UsageError, version_or_typo
from segx.io.paths import expanded
from segx.options.verbs import PredictOptions, SessionOptions, TrainOptions, ValOptions
from segx.plugin.registry import get_registry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from segx.artifact import ArtifactInfo
    from segx.io.sources import Source, Unreadable
    from segx.options.arguments import ExportArguments, PredictArguments, TrainArguments, ValArguments
    from segx.plugin.interfaces import Architecture, Metrics, Session
    from segx.plugin.jobs import ModelConfig, ModelSummary
    from segx.plugin.registry import Registry
    from segx.plugin.specs import BackendSpec
    from segx.plugin.training import ModelBackend, ModelSession, Trained
    from segx.structures.results import Results

logger = logging.getLogger(__name__)

_MANY = 4
"""Batches from which on it is worth a session of its own to take several side by side."""
_MOST_LINES = 20
"""Of skipped tensors, that are named one by one."""

_MODEL_FORMAT = "pt"
"""The format whose backends build, change and save models."""


class ModelDefinition(NamedTuple):
    """A model that has no weights yet: its configuration, and who builds it."""

    config: ModelConfig
    architecture: Architecture


class YOLO:
    """A model and what can be done with it.

    Args:
        model: A model file or folder of any installed format, a configuration (``"yolov8n-seg.yaml"`` or a file of
            your own) for a new model with random weights, or a known name, ``"yolov8n-seg.pt"`` or
            ``"yolov8n-seg"``, whose weights are downloaded on first use.
        task: The task the model has to have; default: whichever it has.

    Attributes:
        path: The model's file, or None for a new model.
        failures: What the last prediction could not read and passed over.
        trained: What the last training left: folder, weights, a row of figures for each epoch; None before.

    Raises:
        ModelError: The model is not there, or cannot be read.
        MissingPluginError: Nothing installed opens its format; the hint says what to install.
        UsageError: It is of another task.
    """

    def __init__(self, model: str | os.PathLike[str] = "yolov8n-seg.pt", task: str | None = None) -> None:
        self._registry = get_registry()
        self._origin = find_model(model, self._registry)
        self._given = os.fspath(model)
        self._sessions: dict[tuple[SessionOptions, str | None], Session] = {}
        self._opening = threading.RLock()
        self._changed = False
        self._info = self._read_info()
        self._device: str | None = None
        self.path = self._origin.path if isinstance(self._origin, Artifact) else None
        self.failures: list[Unreadable] = []
        self.trained: Trained | None = None
        if task is not None and task != self.task:
            raise UsageError(f"{self._given} is a model for {self.task!r}, not for {task!r}")

    # What is known

    @property
    def metadata(self) -> ArtifactInfo:
        """What travels with the model: task, classes, input size, versions, parity."""
        return self._info

    @property
    def names(self) -> Mapping[int, str]:
        """Class number to class name."""
        return self._info.names

    @property
    def task(self) -> str:
        """The task its outputs belong to."""
        return self._info.task

    @property
    def device(self) -> str | None:
        """Where it ran last, ``"cpu"`` or ``"cuda:0"``; None when it has not run yet."""
        return self._device

    def info(self) -> ModelSummary:
        """Return layers, parameters and FLOPs; they are logged too.

        Raises:
            UsageError: The model is an exported one, of which these are not known.
        """
        summary = self._model_session("info").describe()
        with spoken(True):
            logger.info(
                "%s: %d layers, %s parameters (%s fused), %.1f GFLOPs at %dx%d",
                self._info.variant or self._given,
                summary.layers,
                f"{summary.parameters:,}",
                f"{summary.fused_parameters:,}",
                summary.gflops,
                *summary.imgsz,
            )
            for note in summary.notes:
                logger.info("%s", note)
        return summary

    def __repr__(self) -> str:
        return f"YOLO({self._given!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a copy, and another process, open the model's file again when they first need it.

        Raises:
            UsageError: Its weights are in memory only.
        """
        if self._changed or not isinstance(self._origin, Artifact):
            msg = f"{self!r} cannot be copied or sent to another process: its weights are in memory only"
            raise UsageError(msg, hint='write them first: YOLO(model.save("mine.pt"))')
        return _reopen, (str(self._origin.path.absolute()), self._given)

    # Weights

    def load(self, weights: str | os.PathLike[str]) -> Self:
        """Move the weights of a file that fit in name and shape into this model; what is skipped is logged.

        Args:
            weights: A checkpoint, or a known name.

        Raises:
            ModelError: The file cannot be read, or nothing in it fits.
            UsageError: This model is an exported one.
        """
        session = self._model_session("load")
        report = session.load_weights(_weights(weights, self._registry))
        self._forget_sessions(but=session)
        self._changed, self._info = True, session.info
        taken, skipped, missing = len(report.loaded), len(report.skipped), len(report.missing)
        level = logging.WARNING if skipped else logging.INFO  # shown without logging set up
        say = partial(logger.log, level)
        say("%s: %d tensors taken, %d skipped, %d not in it", os.fspath(weights), taken, skipped, missing)
        for name, reason in islice(report.skipped.items(), _MOST_LINES):
            say("  skipped %s: %s", name, reason)
        if skipped > _MOST_LINES:
            say("  and %d more", skipped - _MOST_LINES)
        return self

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the model as segx's own checkpoint, whole or not at all.

        Raises:
            UsageError: This model is an exported one.
        """
        return self._model_session("save").save(Path(path)).path

    # The verbs

    @overload
    def predict(
        self, source: Any, *, stream: Literal[False] = False, **options: Unpack[PredictArguments]
    ) -> list[Results]: ...

    @overload
    def predict(
        self, source: Any, *, stream: Literal[True], **options: Unpack[PredictArguments]
    ) -> Iterator[Results]: ...

    def predict(self, source: Any, *, stream: bool = False, **options: Any) -> list[Results] | Iterator[Results]:
        """Find the objects in images.

        Args:
            source: See :func:`segx.io.sources.open_source`: a file, folder, glob, list, address, video, camera number,
                PIL image, NumPy array, torch tensor, bytes, or a list of these.
            stream: Return an iterator that works as it is asked, and keeps nothing; for videos and long folders.
            options: See :class:`segx.options.verbs.PredictOptions`.

        Returns:
            One :class:`~segx.structures.results.Results` for each image, in order. What cannot be read is logged,
            passed over and kept in :attr:`failures`.

        Raises:
            UsageError: An option is unknown, out of range, or does not go with the model.
            DataError: The source does not exist, or nothing of it can be read.
        """
        chosen = PredictOptions.parse({**options, "stream": stream})
        with spoken(chosen.verbose):
            found = self._predict(source, chosen)
            return each_spoken(found, chosen.verbose) if chosen.stream else list(found)

    __call__ = predict

    def _predict(self, source: Any, options: PredictOptions) -> Iterator[Results]:
        from segx.flows.predict import predict
        from segx.io.sources import open_source

        self.failures = []
        opened = open_source(source, vid_stride=options.vid_stride, stream_buffer=options.stream_buffer)
        try:
            session, streams = self._session_for(opened, options)
            return predict(
                session,
                opened,
                options,
                task=self._registry.load_task(self.task),
                notify=self._registry.notify,
                model=self._given,
                failures=self.failures,
                streams=streams,
            )
        except BaseException:
            opened.close()
            raise

    @overload
    def export(self, format: str = "onnx", **options: Unpack[ExportArguments]) -> Path: ...

    @overload
    def export(self, format: str = "onnx", **options: Any) -> Path: ...

    def export(self, format: str = "onnx", **options: Any) -> Path:  # noqa: A002 - the word of the command line
        """Write the model in another format, prove that the result finds the same, and return its path.

        Args:
            format: See ``segx formats``; ``name@distribution`` where several distributions provide it.
            options: See :class:`segx.options.verbs.ExportOptions` and the format's own.

        Raises:
            UsageError: The format, an option or a combination is wrong.
            MissingPluginError: The format, or something it needs, is not installed.
            ExportError: It could not be made, or differs from the model by more than its format allows.
        """
        from segx.flows.export import export

        on_disk = isinstance(self._origin, Artifact) and not self._changed
        model = cast("Artifact", self._origin) if on_disk else self._model_session("export")
        with spoken(True):
            return export(model, format, options, name=self._given, registry=self._registry).path

    def train(self, **options: Unpack[TrainArguments]) -> Metrics:
        """Train the model; afterwards this object holds the best weights, and :attr:`trained` what else was left.

        Args:
            options: See :class:`segx.options.verbs.TrainOptions`. ``data`` may be left out where the model remembers
                it. ``resume=True`` goes on with the run this model is the ``last.pt`` of, ``resume=path`` with that of
                another file, with the options it began with; those given here win.

        Returns:
            What the best weights measure on the validation split, as :meth:`val` does; ``metrics.save_dir`` is the
            run's folder.

        Raises:
            UsageError: An option is unknown, out of range, or no data are named.
            DataError: The data are missing or hold nothing to learn from, or something cannot be written.
            ModelError: The model is an exported one, or ``resume`` is not a checkpoint of a run.
        """
        from segx.flows.train import resumed, train

        chosen = TrainOptions.parse(options)  # a wrong option is told before anything is read
        if chosen.resume:
            path = self._take_resumed(chosen.resume)
            session = self._model_session("train")
            chosen = resumed(options, path, session.info)
        else:
            session = self._model_session("train")
            if not chosen.pretrained and isinstance(self._origin, Artifact):
                hint = f"model={self._info.variant or 'yolov8n-seg'}.yaml"
                raise UsageError(f"pretrained=false starts from nothing, but {self._given} has weights", hint=hint)
        try:
            weights = _weights(chosen.pretrained, self._registry) if isinstance(chosen.pretrained, str) else None
            fetch = not chosen.resume or "data" in options  # what only a file names is not fetched
            with spoken(chosen.verbose):
                result = train(
                    session, chosen, model=self._given, registry=self._registry, weights=weights, fetch=fetch
                )
        except BaseException:
            if not self._changed:
                self._close_sessions()  # what was half trained goes; the model is what its file says
            raise
        self.trained = result.trained
        written = self.trained.best or self.trained.last
        if written is not None:
            self._take(written)
        return result.metrics

    def val(self, *, show: bool = True, **options: Unpack[ValArguments]) -> Metrics:
        """Measure the model on a data set, by the COCO protocol for ``segment``.

        Args:
            show: Log the table of figures.
            options: See :class:`segx.options.verbs.ValOptions`. ``data`` may be left out where the model remembers it.

        Returns:
            The figures: ``metrics.box.map``, ``metrics.seg.map50``, ``metrics.results_dict``, ...

        Raises:
            UsageError: An option is unknown, out of range, or does not go with the model; or no data are named.
            DataError: The data are missing, or hold nothing to measure.
        """
        from segx.flows.val import val

        chosen = ValOptions.parse(options)
        how = chosen.session()
        session, streams = self._session_and_streams(how, chosen.backend)
        with spoken(chosen.verbose):
            metrics = val(session, chosen, model=self._given, registry=self._registry, streams=streams)
            if show:
                for line in metrics.to_table(verbose=chosen.verbose).splitlines():
                    logger.info("%s", line)
        return metrics

    def _take_resumed(self, resume: Path | bool) -> Path:  # noqa: FBT001 - the option's own type
        """Return the checkpoint that a run goes on from, after becoming the model in it.

        Raises:
            UsageError: There is none.
            ModelError: It is not there.
        """
        path = self.path if isinstance(resume, bool) else resume
        if path is None or path.suffix.lower() in {".yaml", ".yml"}:
            hint = "resume=runs/segment/train/weights/last.pt"
            raise UsageError("resume=true needs the last.pt of a run", hint=hint)
        if path.is_dir():
            path = path / "weights" / "last.pt"
        if path != self.path:
            if not path.exists():
                raise ModelError(f"resume={path} is not there", hint="a run keeps its state in weights/last.pt")
            self._take(path)
        return path

    def _take(self, path: Path) -> None:
        """Become the model in another file."""
        self._close_sessions()
        self._origin, self._changed, self.path = Artifact(path=path, format=_MODEL_FORMAT), False, path
        self._info = self._read_info()

    # How

    def _close_sessions(self) -> None:
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()

    def _read_info(self) -> ArtifactInfo:
        if isinstance(self._origin, ModelDefinition):
            return self._origin.architecture.info(self._origin.config)
        spec = self._registry.backend_for(self._origin.format)
        return self._registry.load_backend(spec).read_info(self._origin)

    def _session(self, how: SessionOptions, backend: str | None = None) -> Session:
        """Return an open model, the same one for the same options."""
        key = (how, backend)
        with self._opening:
            session = self._sessions.get(key)
            if session is None:
                session = self._sessions[key] = self._open(how, backend)
        self._device = session.device
        return session

    def _session_for(self, source: Source, options: PredictOptions) -> tuple[Session, int]:
        """Return an open model, and how many images of the source are to go through it side by side."""
        how = options.session()
        if source.live or not source.holds(_MANY * options.batch):
            return self._session(how, options.backend), 1
        return self._session_and_streams(how, options.backend)

    def _session_and_streams(self, how: SessionOptions, backend: str | None) -> tuple[Session, int]:
        """Return an open model, and how many of many images should go through it side by side."""
        from segx.runtime import streams_and_threads

        known = self._sessions.get((how, backend))
        on_cpu = known is None or known.device == "cpu"
        if not (on_cpu and self._backend_spec(how, backend).concurrent):
            return self._session(how, backend), 1
        streams, threads = streams_and_threads(how.threads)
        session = self._session(how.replace(threads=threads), backend)
        if session.device != "cpu":  # where threads do not matter
            self._sessions[how, backend] = session
            return session, 1
        return session, streams

    def _backend_spec(self, how: SessionOptions, backend: str | None) -> BackendSpec:
        kind = self._origin.format if isinstance(self._origin, Artifact) else _MODEL_FORMAT
        return self._registry.backend_for(kind, name=backend, device=how.device)

    def _open(self, how: SessionOptions, backend: str | None) -> Session:
        spec = self._backend_spec(how, backend)
        runtime = self._registry.load_backend(spec)
        if spec.caution and self.path is not None:
            _warn_once(f"{self.path} {spec.caution}")
        if isinstance(self._origin, Artifact) and not self._changed:
            return runtime.open(self._origin, how)
        if isinstance(self._origin, ModelDefinition) and not self._sessions:
            return cast("ModelBackend", runtime).build(self._origin.config, self._origin.architecture, how)
        # The weights are in memory only: the sessions that run elsewhere get a copy.
        import tempfile

        with tempfile.TemporaryDirectory(prefix="segx-") as folder:
            return runtime.open(next(iter(self._model_sessions())).save(Path(folder) / "model.pt"), how)

    def _model_sessions(self) -> Iterator[ModelSession]:
        return (cast("ModelSession", session) for session in self._sessions.values())

    def _model_session(self, verb: str) -> ModelSession:
        """Return a session whose model can be changed, saved and exported.

        Raises:
            UsageError: The model is an exported one.
        """
        from segx.plugin.training import ModelSession

        session = next(iter(self._sessions.values())) if self._sessions else self._session(SessionOptions())
        if not isinstance(session, ModelSession):
            kind = self._origin.format if isinstance(self._origin, Artifact) else _MODEL_FORMAT
            hint = "exported models predict and validate; use the .pt it was made from"
            raise UsageError(f"{verb} needs a model of format 'pt', {self._given} is {kind!r}", hint=hint)
        return session

    def _forget_sessions(self, *, but: Session) -> None:
        """Close the sessions that hold old weights."""
        for key, session in list(self._sessions.items()):
            if session is not but:
                session.close()
                del self._sessions[key]


@functools.cache
def _warn_once(line: str) -> None:
    logger.warning("%s", line)


def _reopen(path: str, given: str) -> YOLO:
    """Return a model of a file, called as it was by who opened it first."""
    model = YOLO(path)
    model._given = given  # noqa: SLF001 - its own class's
    return model


def find_model(model: str | os.PathLike[str], registry: Registry) -> Artifact | ModelDefinition:
    """Return what a name means: a model on disk, downloaded if need be, or the design of a new one.

    Raises:
        ModelError: It is not there and no known name.
        MissingPluginError: Nothing installed knows its architecture.
    """
    if not isinstance(model, str | os.PathLike) or not os.fspath(model):  # type: ignore[redundant-expr]  # untyped callers
        raise UsageError(f"a model is named by text or a path, not by {model!r}", hint='YOLO("yolov8n-seg.pt")')
    text = os.fspath(model)
    path = expanded(text)
    try:
        path.exists()
    except OSError as error:  # no name that there could be
        raise ModelError(f"model {text!r} cannot be looked for ({error.strerror})") from error
    if path.suffix.lower() in {".yaml", ".yml"}:
        return _find_definition(text, path, registry)
    if path.exists():
        if not (path.is_file() or path.is_dir()):  # a pipe or a device might never end
            raise ModelError(f"{path} is no file")
        return registry.artifact(path)
    name = text if path.suffix or registry.format_of(text) else f"{text}.pt"
    if Path(name).exists():
        return registry.artifact(name)
    if registry.format_of(name) == _MODEL_FORMAT and Path(name).name == name:
        from segx.plugin.weights import resolve_weights

        return Artifact(path=resolve_weights(name, registry), format=_MODEL_FORMAT)
    return registry.artifact(name)  # says what is wrong with it


def _weights(name: str | os.PathLike[str], registry: Registry) -> Artifact:
    """Return the file that weights are taken from.

    Raises:
        UsageError: It has none.
    """
    source = find_model(name, registry)
    if not isinstance(source, Artifact):
        raise UsageError(f"{os.fspath(name)!r} is a configuration without weights", hint="give a .pt file")
    return source


def _find_definition(text: str, path: Path, registry: Registry) -> ModelDefinition:
    """Return the configuration that a YAML of the user's own, or the name of a shipped one, describes."""
    if path.exists() and not path.is_dir():
        from segx.io.files import read_mapping

        architecture = registry.architecture_for(
            read_mapping(
                path, error=ModelError, what="a model", hint="a model's YAML has the keys nc, scales, backbone, head"
            )
        )
        return ModelDefinition(architecture.read_config(path), architecture)
    shipped = registry.variant(text)
    if shipped is not None:
        architecture = registry.load_architecture(shipped.name)
        return ModelDefinition(architecture.read_config(path.stem), architecture)
    known = [f"{name}.yaml" for spec in registry.architectures.values() for name in spec.variants]
    hint = f"shipped: {', '.join(sorted(known)) or 'none (no architecture is installed)'}"
    raise ModelError(
        f"model {text!r} is not a file here, nor a shipped configuration{version_or_typo(text, known)}", hint=hint
    )
