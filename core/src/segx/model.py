"""``YOLO``: one object with four verbs."""

from __future__ import annotations

import logging
import os
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, Unpack, overload

from segx.artifact import Artifact
from segx.console import each_spoken, spoken
from segx.errors import MissingModelError, UsageError, WrongTypeError
from segx.handles import Handles
from segx.options.verbs import (
    BenchmarkOptions,
    ExportOptions,
    PredictOptions,
    TrainOptions,
    ValOptions,
    VerifyOptions,
)
from segx.plugin.registry import get_registry
from segx.sessions import MODEL_FORMAT, Sessions, find_model, find_weights, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from segx.flows.benchmark_rows import Benchmark
    from segx.flows.export import ExportResult
    from segx.flows.parity import Proof
    from segx.io.sources import Source, Unreadable
    from segx.io.writers import RunOutput
    from segx.options.arguments import ExportArguments, PredictArguments, TrainArguments, ValArguments
    from segx.options.schema import Options
    from segx.plugin.interfaces import Metrics, Session
    from segx.plugin.training import Trained
    from segx.structures.results import Results

    Chosen = TypeVar("Chosen", bound=Options)

logger = logging.getLogger(__name__)

_MANY = 4
"""Batches from which on it is worth a session of its own to take several side by side."""
_MAX_LINES = 20
"""Of skipped tensors, that are named one by one."""


class YOLO(Handles):
    """A model and what can be done with it.

    Args:
        model: A model file or folder of any installed format, a configuration (``"yolov8n-seg.yaml"`` or a file of
            your own) for a new model with random weights, or a known name, ``"yolov8n-seg.pt"`` or
            ``"yolov8n-seg"``, whose weights are downloaded on first use.
        task: The task the model has to have; default: whichever it has.
        verbose: Log layers, parameters and FLOPs, where they are known.

    Attributes:
        failures: What the last prediction could not read and passed over.
        trained: What the last training left: folder, weights, a row of figures for each epoch; None before.

    Raises:
        ModelError: The model is not there, or cannot be read.
        MissingPluginError: Nothing installed opens its format; the hint says what to install.
        UsageError: It is of another task.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "yolov8n-seg.pt",
        task: str | None = None,
        verbose: bool = False,  # noqa: FBT001, FBT002 - a keyword that others have
    ) -> None:
        super().__init__()
        self._registry = get_registry()
        origin = find_model(model, self._registry)
        self._given = printable(model)
        self._sessions = Sessions(origin, self._given, self._registry)
        self._outputs: dict[PredictOptions, RunOutput] = {}
        self.failures: list[Unreadable] = []
        self.trained: Trained | None = None
        self.overrides = {"model": self._given, "task": self.task}
        if task is not None and task != self.task:
            raise UsageError(f"{self._given} is a model for {self.task!r}, not for {task!r}")
        if verbose and (self.path is None or self.path.suffix == f".{MODEL_FORMAT}"):
            self.info()

    # What is known

    @property
    def path(self) -> Path | None:
        """The model's file, or None for a new model."""
        return self._sessions.path

    @property
    def names(self) -> Mapping[int, str]:
        """Class number to class name."""
        return self.metadata.names

    @property
    def task(self) -> str:
        """The task its outputs belong to."""
        return self.metadata.task

    def __repr__(self) -> str:
        return f"YOLO({self._given!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a copy, and another process, open the model's file again when they first need it.

        Raises:
            UsageError: Its weights are in memory only.
        """
        artifact = self._sessions.artifact
        if artifact is None:
            msg = f"{self!r} cannot be copied or sent to another process: its weights are in memory only"
            raise UsageError(msg, hint='write them first: YOLO(model.save("mine.pt"))')
        return _reopen, (str(artifact.path.absolute()), self._given, self._defaults, self.overrides)

    # Weights

    def load(self, weights: str | os.PathLike[str]) -> Self:
        """Move the weights of a file that fit in name and shape into this model; what is skipped is logged.

        Args:
            weights: A checkpoint, or a known name.

        Raises:
            ModelError: The file cannot be read, or nothing in it fits.
            UsageError: This model is an exported one.
        """
        session = self._sessions.model("load")
        report = session.load_weights(find_weights(weights, self._registry))
        self._sessions.keep_only(session)
        taken, skipped, missing = len(report.loaded), len(report.skipped), len(report.missing)
        names = session.info.names
        level = logging.WARNING if skipped or report.fresh(names) else logging.INFO  # shown without logging set up
        say = partial(logger.log, level)
        say("%s: %d tensors taken, %d skipped, %d not in it", printable(weights), taken, skipped, missing)
        for name, reason in islice(report.skipped.items(), _MAX_LINES):
            say("  skipped %s: %s", name, reason)
        if skipped > _MAX_LINES:
            say("  and %d more", skipped - _MAX_LINES)
        if line := report.about_classes(names):
            say("  %s", line)
        return self

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the model as segx's own checkpoint, whole or not at all.

        Raises:
            UsageError: This model is an exported one.
        """
        return self._sessions.model("save").save(Path(path)).path

    # The verbs

    @overload
    def predict(
        self,
        source: Any = None,
        stream: Literal[False] = False,  # noqa: FBT002
        *,
        options: PredictOptions | None = None,
        **given: Unpack[PredictArguments],
    ) -> list[Results]: ...

    @overload
    def predict(
        self,
        source: Any = None,
        *,
        stream: Literal[True],
        options: PredictOptions | None = None,
        **given: Unpack[PredictArguments],
    ) -> Iterator[Results]: ...

    def predict(
        self,
        source: Any = None,
        stream: bool = False,  # noqa: FBT001, FBT002 - as it is elsewhere
        *,
        options: PredictOptions | None = None,
        **given: Any,
    ) -> list[Results] | Iterator[Results]:
        """Find the objects in images.

        Args:
            source: See :func:`segx.io.sources.open_source`: a file, folder, glob, list, address, video, camera number,
                PIL image, NumPy array, torch tensor, bytes, or a list of these.
            stream: Return an iterator that works as it is asked, and keeps nothing; for videos and long folders.
            options: What is asked for, where it has been checked already.
            given: See :class:`segx.options.verbs.PredictOptions`. What calls with the same options write goes into one
                folder, nothing over anything else. A document (``save_json``, ``save_csv``) is of one call, which has a
                folder of its own; with ``exist_ok`` files of the same name are replaced.

        Returns:
            One :class:`~segx.structures.results.Results` for each image, in order. What cannot be read is logged,
            passed over and kept in :attr:`failures`.

        Raises:
            UsageError: No source is named, or an option is unknown, out of range, or does not go with the model.
            DataError: The source does not exist, or nothing of it can be read.
        """
        if source is None:
            raise WrongTypeError("predict needs a source", hint='model.predict("photo.jpg")')
        given = given if options else self._with_defaults(PredictOptions, {**given, "stream": stream})
        chosen = _checked(PredictOptions, options, given)
        with spoken(chosen.verbose):
            found = self._predict(source, chosen)
            return each_spoken(found, chosen.verbose) if stream or chosen.stream else list(found)

    __call__ = predict

    def _predict(self, source: Any, options: PredictOptions) -> Iterator[Results]:
        from segx.flows.predict import predict
        from segx.io.sources import open_source
        from segx.io.writers import RunOutput

        failures: list[Unreadable] = []
        self.failures = failures  # another thread may begin to predict, with failures of its own
        # Who names a folder that may be there already wants its files replaced, and a document is of one call.
        alone = options.exist_ok or options.save_json or options.save_csv
        output = None if alone else self._outputs.setdefault(options.replace(stream=False), RunOutput())
        opened = open_source(source, vid_stride=options.vid_stride, stream_buffer=options.stream_buffer)
        try:
            session, streams = self._session_for(opened, options)
            return predict(
                session,
                opened,
                options,
                task=self._registry.tasks.load(self.task),
                notify=self._listening().notify,
                model=self._given,
                failures=failures,
                streams=streams,
                output=output,
            )
        except BaseException:
            opened.close()
            raise

    def _session_for(self, source: Source, options: PredictOptions) -> tuple[Session, int]:
        """Return an open model, and how many images of the source are to go through it side by side."""
        how = options.session()
        if source.live or not source.holds(_MANY * (options.batch or self.metadata.batch)):
            return self._sessions.get(how, options.backend), 1
        return self._sessions.with_streams(how, options.backend)

    @overload
    def export(
        self,
        format: str = "onnx",
        *,
        options: ExportOptions | None = None,
        **given: Unpack[ExportArguments],
    ) -> ExportResult: ...

    @overload
    def export(self, format: str = "onnx", *, options: ExportOptions | None = None, **given: Any) -> ExportResult: ...

    def export(
        self,
        format: str = "onnx",  # noqa: A002 - the word of the command line
        *,
        options: ExportOptions | None = None,
        **given: Any,
    ) -> ExportResult:
        """Write the model in another format, prove that the result finds the same, and return where it is.

        Args:
            format: See ``segx formats``, in any case; ``name@distribution`` where several distributions provide it.
            options: What is asked for, where it has been checked already.
            given: See :class:`segx.options.verbs.ExportOptions` and the format's own.

        Returns:
            The path, as text that also says how close the result came to the model.

        Raises:
            UsageError: The format, an option or a combination is wrong.
            MissingPluginError: The format, or something it needs, is not installed.
            ExportError: It could not be made, or differs from the model by more than its format allows.
        """
        from segx.flows.export import export

        if not isinstance(format, str):
            raise WrongTypeError(f"format is {format!r}, not the name of one", hint='format="onnx"; see segx formats')
        model = self._sessions.artifact or self._sessions.model("export")
        if isinstance(model, Artifact) and self._sessions.renamed:
            logger.warning("%s: what is made of it has the class names of the file", self._given)
        if options is None:
            chosen: Any = self._with_defaults(ExportOptions, given, placed=False)
        else:
            chosen = _checked(ExportOptions, options, given)
        with spoken(True):
            return export(model, format, chosen, name=self._given, registry=self._listening())

    def train(self, *, options: TrainOptions | None = None, **given: Unpack[TrainArguments]) -> Metrics:
        """Train the model; afterwards this object holds the best weights, and :attr:`trained` what else was left.

        Args:
            options: What is asked for, where it has been checked already; a run that goes on is asked for by name.
            given: See :class:`segx.options.verbs.TrainOptions`. ``data`` may be left out where the model remembers
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

        asked: Mapping[str, Any] = given if options else self._with_defaults(TrainOptions, given, placed=False)
        chosen = _checked(TrainOptions, options, asked)  # a wrong option is refused before anything is read
        if chosen.resume:
            path = self._take_resumed(chosen.resume)
            session = self._sessions.model("train")
            chosen = resumed(given, path, session.info)
        else:
            session = self._sessions.model("train")
            if not chosen.pretrained and self.path is not None:
                hint = f"model={self.metadata.variant or 'yolov8n-seg'}.yaml"
                raise UsageError(f"pretrained=false starts from nothing, but {self._given} has weights", hint=hint)
        try:
            weights = find_weights(chosen.pretrained, self._registry) if isinstance(chosen.pretrained, str) else None
            fetch = not chosen.resume or "data" in given  # what only a file names is not fetched
            with spoken(chosen.verbose):
                result = train(
                    session, chosen, model=self._given, registry=self._listening(), weights=weights, fetch=fetch
                )
        except BaseException:
            if not self._sessions.changed:
                self._sessions.close()  # what was half trained goes; the model is what its file says
            raise
        self.trained = result.trained
        written = self.trained.best or self.trained.last
        if written is not None:
            self._take(written)
        self.metrics = result.metrics
        return result.metrics

    def val(self, *, show: bool = True, options: ValOptions | None = None, **given: Unpack[ValArguments]) -> Metrics:
        """Measure the model on a data set, by the COCO protocol for ``segment``.

        Args:
            show: Log the table of figures.
            options: What is asked for, where it has been checked already.
            given: See :class:`segx.options.verbs.ValOptions`. ``data`` may be left out where the model remembers it.

        Returns:
            The figures: ``metrics.box.map``, ``metrics.seg.map50``, ``metrics.results_dict``, ...

        Raises:
            UsageError: An option is unknown, out of range, or does not go with the model; or no data are named.
            DataError: The data are missing, or hold nothing to measure.
        """
        from segx.flows.val import validate

        chosen = _checked(ValOptions, options, given if options else self._with_defaults(ValOptions, given))
        with spoken(chosen.verbose):
            session, streams = self._sessions.with_streams(chosen.session(), chosen.backend)
            metrics = validate(session, chosen, model=self._given, registry=self._listening(), streams=streams)
            if show:
                for line in metrics.to_table(verbose=chosen.verbose).splitlines():
                    logger.info("%s", line)
        self.metrics = metrics
        return metrics

    def verify(self, reference: str | os.PathLike[str], *, options: VerifyOptions | None = None, **given: Any) -> Proof:
        """Compare the model with the one it was made from, on drawn images and those of a data set.

        Args:
            reference: The model it was made from, or any other that should find the same.
            options: What is asked for, where it has been checked already.
            given: See :class:`segx.options.verbs.VerifyOptions`.

        Returns:
            The figures, and what of them is outside of what the format allows: ``proof.holds``, ``proof.problems``.

        Raises:
            UsageError: An option is unknown or out of range, or the weights of this model are in memory only.
            ModelError: One of the two cannot be opened or run.
            DataError: The data are missing, or an image cannot be read.
        """
        from segx.flows.parity import images_of, verify

        chosen = _checked(VerifyOptions, options, given)
        source = find_model(reference, self._registry)
        if not isinstance(source, Artifact):
            raise UsageError(f"{os.fspath(reference)} has no weights to compare with")
        return verify(
            self._on_disk("verify"),
            source,
            images=images_of(chosen, self._registry),
            device=chosen.device,
            backend=chosen.backend,
            registry=self._registry,
        )

    def benchmark(self, *, options: BenchmarkOptions | None = None, **given: Any) -> Benchmark:
        """Measure the model in every format that can be made of it here.

        Args:
            options: What is asked for, where it has been checked already.
            given: See :class:`segx.options.verbs.BenchmarkOptions`.

        Returns:
            A row for each format: accuracy, latency, throughput, size, parity; and the run's folder with the models.

        Raises:
            UsageError: An option is unknown or out of range, or the weights of this model are in memory only.
            DataError: The data are missing, or hold nothing to measure.
        """
        from segx.flows.benchmark import benchmark

        chosen = _checked(BenchmarkOptions, options, given)
        with spoken(chosen.verbose):
            return benchmark(self._on_disk("benchmark"), chosen, name=self._given, registry=self._registry)

    def _on_disk(self, verb: str) -> Artifact:
        """Return the model's file.

        Raises:
            UsageError: Its weights are in memory only.
        """
        artifact = self._sessions.artifact
        if artifact is None:
            hint = f'write them first: YOLO(model.save("mine.pt")).{verb}(...)'
            raise UsageError(f"{verb} works on files, and the weights of {self._given} are in memory only", hint=hint)
        return artifact

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
                raise MissingModelError(f"resume={path} is not there", hint="a run keeps its state in weights/last.pt")
            self._take(path)
        return path

    def _take(self, path: Path) -> None:
        """Become the model in another file."""
        self._sessions.close()
        self._sessions = Sessions(Artifact(path=path, format=MODEL_FORMAT), self._given, self._registry)


def _checked(kind: type[Chosen], options: Chosen | None, given: Mapping[str, Any]) -> Chosen:
    """Return options, checked once: as they are where somebody has done so before.

    Raises:
        UsageError: One is unknown or out of range, or they come in both ways.
    """
    if options is None:
        return kind.parse(given)
    if given:
        raise UsageError(f"options= holds them all: {', '.join(given)} cannot be given beside it")
    return options


def _reopen(path: str, given: str, defaults: dict[str, Any], overrides: dict[str, Any]) -> YOLO:
    """Return a model of a file, called as it was by who opened it first, and with what was set for all calls."""
    model = YOLO(path)
    model._given, model._defaults, model.overrides = given, dict(defaults), dict(overrides)  # noqa: SLF001 - its own
    return model
