"""Export: a model through a chain of exporters into one file or folder, which is proven before it gets its name.

Everything that can be refused is refused before torch is loaded. The work is done in a temporary folder beside the
destination; what was at the destination before stays as it is until the new artefact is whole and proven.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import logging
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from segx import __version__, sidecar
from segx.artifact import Artifact, ArtifactInfo
from segx.errors import DataError, ExportError, MissingPluginError, SegxError, UsageError
from segx.interfaces import ModelSession
from segx.options import ExportOptions, SessionOptions, image_size
from segx.paths import expanded, weights_folder
from segx.proofs import record_proof
from segx.registry import get_registry
from segx.runs import Run, Step
from segx.specs import Tolerance

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from segx.interfaces import Exporter, Session
    from segx.parity import Proof
    from segx.registry import Registry
    from segx.sources import SourceImage
    from segx.specs import BackendSpec, ExporterSpec

logger = logging.getLogger(__name__)

MODEL_FORMATS = frozenset({"pt"})
"""Formats that hold a model as exporters take it."""

_PRECISION_OPTIONS = frozenset({"half", "int8"})


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """A finished export.

    Attributes:
        artifact: What was made.
        info: What travels with it; ``info.parity`` holds the figures of the proof.
        seconds: How long it took, proof included.
        unproven: Why it was not verified, with what to do about it; empty when it was.
    """

    artifact: Artifact
    info: ArtifactInfo
    seconds: float
    unproven: str = ""

    @property
    def path(self) -> Path:
        """The file or folder."""
        return self.artifact.path


def export(
    model: Artifact | ModelSession,
    format: str,  # noqa: A002 - the word of the command line
    options: Mapping[str, Any] | ExportOptions | None = None,
    *,
    name: str = "",
    pictures: Sequence[SourceImage] = (),
    registry: Registry | None = None,
) -> ExportResult:
    """Write a model in another format and prove it.

    Args:
        model: A model on disk, or one that is open. Of a format on the way to the one asked for, the way begins there.
        format: The format, bare or ``name@distribution``.
        options: The format's own options.
        name: What the user named as model, for an open one; its stem names the result.
        pictures: Pictures to prove it on, besides the drawn ones.
        registry: Where to look things up; default: the installed plugins.

    Raises:
        UsageError: The format, an option or a combination is wrong.
        MissingPluginError: The format, or something it needs, is not installed.
        ModelError: The model cannot be read.
        ExportError: It could not be made, or differs from its source by more than its format allows.
    """
    job = _plan(model, format, options, name=name, registry=registry or get_registry())
    run = Run(mode="export", model=job.name, options={"format": format, **job.options.as_dict()})
    job.registry.tell("run_started", run=run)
    try:
        result = _carry_out(job, run, pictures)
    except BaseException as error:
        job.registry.tell("run_failed", run=run, error=error)
        raise
    job.registry.tell("run_ended", run=run, metrics=_metrics(result))
    return result


def check(
    info: ArtifactInfo,
    format: str,  # noqa: A002 - as above
    options: Mapping[str, Any] | ExportOptions | None = None,
    *,
    registry: Registry | None = None,
) -> None:
    """Refuse what an export to this format would refuse, before a model exists: training asks this first.

    Raises:
        UsageError: The format, an option or a combination is wrong.
        MissingPluginError: The format, or something it needs, is not installed.
    """
    registry = registry or get_registry()
    _links(registry.export_chain(format), info, options, registry)


def verify(
    artifact: Artifact,
    reference: Artifact | Session,
    *,
    pictures: Sequence[SourceImage] = (),
    tolerance: Tolerance | None = None,
    device: str | None = None,
    registry: Registry | None = None,
) -> Proof:
    """Compare a model on disk with the model it was made from.

    Args:
        artifact: The model to prove.
        reference: Its source.
        pictures: Pictures to prove it on, besides the drawn ones.
        tolerance: How far they may be apart; default: what the format allows for the file's precision.
        device: Where both run; default: on the CPU where the runtime has one.
        registry: Where to look things up; default: the installed plugins.

    Raises:
        MissingPluginError: No backend for one of the formats is installed.
        ModelError: One of them cannot be opened or run.
    """
    from segx.parity import prove

    registry = registry or get_registry()
    with contextlib.ExitStack() as stack:
        source = _opened(stack, reference, registry, device) if isinstance(reference, Artifact) else reference
        made = _opened(stack, artifact, registry, device)
        allowed = tolerance or _tolerance(registry.exporters.get(artifact.format), made.info.precision)
        task = registry.load_task(source.info.task)
        return prove(source, made, task=task, tolerance=allowed, pictures=pictures)


def default_destination(model: Path, spec: ExporterSpec) -> Path:
    """Return where the result goes: beside the model, or into the current folder for a model from the cache."""
    with contextlib.suppress(OSError):
        if model.resolve().is_relative_to(weights_folder().resolve()):
            model = Path(model.name)
    return model.with_name(model.stem + spec.suffix)


# What is to be done


@dataclass(frozen=True, kw_only=True)
class _Link:
    """One exporter of the chain with its options."""

    spec: ExporterSpec
    exporter: Exporter
    options: ExportOptions


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A checked export: nothing is left that the options alone could make fail."""

    model: Artifact | ModelSession
    name: str
    links: tuple[_Link, ...]
    info: ArtifactInfo
    destination: Path
    registry: Registry

    @property
    def spec(self) -> ExporterSpec:
        return self.links[-1].spec

    @property
    def options(self) -> ExportOptions:
        return self.links[-1].options


def _plan(
    model: Artifact | ModelSession,
    kind: str,
    options: Mapping[str, Any] | ExportOptions | None,
    *,
    name: str,
    registry: Registry,
) -> _Job:
    chain = registry.export_chain(kind)
    if isinstance(model, Artifact):
        name = name or str(model.path)
        chain = _from_here(chain, model, registry)
        info = registry.load_backend(registry.backend_for(model.format)).read_info(model)
    else:
        info = model.info
        name = name or info.variant or "model"
    links = _links(chain, info, options, registry)
    path = model.path if isinstance(model, Artifact) else Path(name)
    return _Job(
        model=model,
        name=name,
        links=links,
        info=_travelling(info, kind, links[-1]),
        destination=_destination(path, links[-1]),
        registry=registry,
    )


def _from_here(chain: tuple[ExporterSpec, ...], model: Artifact, registry: Registry) -> tuple[ExporterSpec, ...]:
    """Return the part of the chain that a model on disk still has to go."""
    if model.format in MODEL_FORMATS:
        return chain
    starts = [index for index, spec in enumerate(chain) if spec.source.partition("@")[0] == model.format]
    if not starts:
        target = chain[-1].name
        msg = f"{model.path}: {target} is not made from {model.format}"
        ways = " -> ".join(["pt", *(spec.name for spec in chain)])
        raise UsageError(msg, hint=f"give the model it was made from: {ways}")
    for spec in chain:
        registry.require(spec)
    return chain[starts[0] :]


def _links(
    chain: tuple[ExporterSpec, ...],
    info: ArtifactInfo,
    options: Mapping[str, Any] | ExportOptions | None,
    registry: Registry,
) -> tuple[_Link, ...]:
    """Return the exporters with their options, each combination checked.

    A format on the way takes those options of the last one that it has too, but for the precision: what is on the way
    stays float32, and the last exporter lowers it.
    """
    last = chain[-1]
    chosen = options if isinstance(options, last.options) else last.options.parse(_given(options))
    links = []
    for spec in chain:
        registry.require(spec)
        own = chosen if spec is last else _options_on_the_way(spec, chosen)
        if own.precision not in spec.precisions:
            msg = f"format {spec.name!r} has no precision {own.precision}"
            raise UsageError(msg, hint=f"it has: {', '.join(spec.precisions)}")
        registry.require(spec, precision=own.precision)
        exporter = registry.load_exporter(spec)
        exporter.check(info, own)
        links.append(_Link(spec=spec, exporter=exporter, options=own))
    return tuple(links)


def _given(options: Mapping[str, Any] | ExportOptions | None) -> Mapping[str, Any]:
    if options is None:
        return {}
    return options if isinstance(options, Mapping) else options.as_dict()


def _options_on_the_way(spec: ExporterSpec, chosen: ExportOptions) -> ExportOptions:
    known = {field.name for field in dataclasses.fields(spec.options)} - _PRECISION_OPTIONS
    return spec.options.parse({name: value for name, value in chosen.as_dict().items() if name in known})


def _travelling(info: ArtifactInfo, kind: str, link: _Link) -> ArtifactInfo:
    """Return what is to travel with the file; nothing in it says where on this machine anything lies."""
    options = link.options
    asked = options.imgsz if options.imgsz is not None else info.imgsz
    imgsz = image_size(asked, info.stride)
    if options.imgsz is not None and imgsz not in {options.imgsz, (options.imgsz, options.imgsz)}:
        logger.warning("imgsz is rounded up to %d,%d: sides are multiples of %d", *imgsz, info.stride)
    private = {"output", "device", "verify"}
    used = {key: value for key, value in options.as_dict().items() if key not in private}
    return info.replace(
        imgsz=imgsz,
        batch=options.batch,
        dynamic=frozenset({"batch", "height", "width"}) if getattr(options, "dynamic", False) else frozenset(),
        precision=options.precision,
        settings={**_public(info.settings), "export": {"format": kind, **used, "imgsz": list(imgsz)}},
        versions={"segx": __version__},
        date=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        parity=None,
    )


def _public(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with the folders cut off whatever names a file."""
    return {key: _without_folders(value) for key, value in settings.items()}


def _without_folders(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _public(value)
    if isinstance(value, list | tuple):
        return [_without_folders(item) for item in value]
    if isinstance(value, str | Path):
        text = str(value)
        windows = PureWindowsPath(text)
        return windows.name if windows.is_absolute() or PurePosixPath(text).is_absolute() else text
    return value


def _destination(model: Path, link: _Link) -> Path:
    """Return where the result goes, refusing what cannot be.

    Raises:
        UsageError: ``output`` has another format's suffix, or is the model itself.
    """
    spec, output = link.spec, link.options.output
    destination = default_destination(model, spec)
    if output is not None:
        output = expanded(output)
        into_folder = output.is_dir() and not output.name.endswith(spec.suffix)
        destination = output / destination.name if into_folder else output
    if not destination.name.endswith(spec.suffix):
        msg = f"output={output}: names of format {spec.name!r} end in {spec.suffix}"
        raise UsageError(msg, hint=f"output={output}{spec.suffix}")
    if destination.exists() and model.exists() and destination.samefile(model):
        raise UsageError(f"output={destination} is the model itself", hint="give another output=")
    return destination


# The work


def _carry_out(job: _Job, run: Run, pictures: Sequence[SourceImage]) -> ExportResult:
    started = time.perf_counter()
    stages = [link.spec.name for link in job.links] + (["verify"] if job.options.verify else [])
    with contextlib.ExitStack() as stack:
        source = _source(stack, job)
        folder = stack.enter_context(_workplace(job.destination.parent))
        made, info = _make(job, source, folder, run, stages)
        problems: tuple[str, ...] = ()
        proof, unproven = _prove(job, made, source, pictures) if job.options.verify else (None, "verify=False")
        if proof is not None:
            info = info.replace(parity=proof.parity)
            problems = proof.problems
            job.registry.tell(
                "step_ended",
                run=run,
                step=Step(kind="stage", index=len(stages) - 1, total=len(stages), name="verify"),
            )
        _write_info(job, made, info)
        if problems:
            raise _rejected(job, made, problems)
        _move(made, job.destination, folder)
    if unproven:
        logger.warning("%s is not verified: %s", job.destination, unproven)
    record_proof(job.spec.name, info)
    return ExportResult(
        artifact=Artifact(path=job.destination, format=job.spec.name),
        info=info,
        seconds=time.perf_counter() - started,
        unproven=unproven,
    )


def _source(stack: contextlib.ExitStack, job: _Job) -> Session:
    """Return the open source: what the result is made from and compared with."""
    if not isinstance(job.model, Artifact):
        return job.model
    return _opened(stack, job.model, job.registry, job.options.device)


def _opened(stack: contextlib.ExitStack, artifact: Artifact, registry: Registry, device: str | None) -> Session:
    spec = registry.backend_for(artifact.format, device=device)
    session = registry.load_backend(spec).open(artifact, SessionOptions(device=device or _quiet_device(spec)))
    stack.callback(session.close)
    return session


def _quiet_device(spec: BackendSpec) -> str | None:
    """Return the CPU where the runtime has one: figures are the same on every machine then."""
    return "cpu" if "cpu" in spec.devices else None


def _make(job: _Job, source: Session, folder: Path, run: Run, stages: Sequence[str]) -> tuple[Artifact, ArtifactInfo]:
    """Send the model through the chain; each link writes into the temporary folder."""
    current: Any = job.model
    info = job.info
    if isinstance(source, ModelSession):
        current = source.export_module(job.options, info)
    for index, link in enumerate(job.links):
        path = folder / (job.destination.name.removesuffix(job.spec.suffix) + link.spec.suffix)
        logger.info("%s: writing %s", job.name, link.spec.name)
        info = link.exporter.export(current, info.replace(precision=link.options.precision), link.options, path)
        if not path.exists():
            raise ExportError(
                f"format {link.spec.name!r} wrote nothing", hint=f"tell the authors of {link.spec.provider}"
            )
        current = Artifact(path=path, format=link.spec.name)
        step = Step(kind="stage", index=index, total=len(stages), name=link.spec.name)
        job.registry.tell("step_ended", run=run, step=step)
    return current, info


def _prove(job: _Job, made: Artifact, source: Session, pictures: Sequence[SourceImage]) -> tuple[Proof | None, str]:
    """Return the proof, or why there is none."""
    from segx.parity import describe, prove

    if job.spec.metadata != "embedded":
        _write_info(job, made, job.info)  # what opens it has to know what it is
    logger.info("%s: comparing %s with it", job.name, made.path.name)
    with contextlib.ExitStack() as stack:
        try:
            other = _opened_somewhere(stack, made, job)
        except (MissingPluginError, UsageError) as error:
            return None, str(error)
        task = job.registry.load_task(source.info.task)
        allowed = _tolerance(job.spec, job.options.precision)
        proof = prove(source, other, task=task, tolerance=allowed, pictures=pictures)
    logger.info("%s: %s", job.destination.name, describe(proof.parity))
    if not proof.told_by_objects:
        logger.info("the model finds nothing that scores enough to compare, as untrained ones do: raw outputs decide")
    return proof, ""


def _opened_somewhere(stack: contextlib.ExitStack, made: Artifact, job: _Job) -> Session:
    """Return the result, open: on the CPU if it runs there, else where it was made."""
    try:
        return _opened(stack, made, job.registry, None)
    except UsageError:
        if job.options.device is None:
            raise
        return _opened(stack, made, job.registry, job.options.device)


def _tolerance(spec: ExporterSpec | None, precision: str) -> Tolerance:
    return Tolerance() if spec is None else spec.tolerance.get(precision, Tolerance())


def _write_info(job: _Job, made: Artifact, info: ArtifactInfo) -> None:
    if job.spec.metadata == "embedded":
        job.links[-1].exporter.write_info(made.path, info)
    else:
        sidecar.write(made.path, info)


def _metrics(result: ExportResult) -> dict[str, float]:
    metrics = {"seconds": result.seconds, "bytes": float(result.artifact.size)}
    parity = result.info.parity
    if parity is not None:
        metrics |= {"box": parity.box, "score": parity.score, "mask_iou": parity.mask_iou, "matched": parity.matched}
        metrics |= {f"raw/{name}": value for name, value in parity.raw.items()}
    return metrics


# Names


@contextlib.contextmanager
def _workplace(parent: Path) -> Iterator[Path]:
    """Give a temporary folder on the same disk as the destination, so that the result can be renamed into place."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".segx-export-", dir=parent))
    except OSError as error:
        raise DataError(f"{parent}: cannot be written ({error.strerror or error})", hint="output=FOLDER") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move(made: Artifact, destination: Path, folder: Path) -> None:
    """Give a finished artefact, and what lies beside it, its name; what was there before gives way."""
    try:
        if destination.is_dir():
            destination.replace(folder / "before")
        beside = sidecar.beside(made.path)
        if beside.exists():
            beside.replace(sidecar.beside(destination))
        made.path.replace(destination)
    except OSError as error:
        raise DataError(f"{destination}: cannot be written ({error.strerror or error})") from error


def _rejected(job: _Job, made: Artifact, problems: Sequence[str]) -> SegxError:
    """Put a result that was not proven aside, and return the error."""
    suffix = job.spec.suffix
    aside = job.destination.with_name(f"{job.destination.name.removesuffix(suffix)}.rejected{suffix}")
    if aside.is_dir():
        shutil.rmtree(aside)
    _move(made, aside, made.path.parent)
    msg = f"{job.spec.name} differs from {job.name}: {'; '.join(problems)}"
    return ExportError(msg, hint=f"the result is left as {aside.name} to look into; verify=False skips the proof")
