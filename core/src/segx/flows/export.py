"""Export: a model through a chain of exporters into one file or folder, which is proven before it gets its name.

Everything that can be refused is refused before torch is loaded. The work is done in a temporary folder beside the
destination; what was at the destination before stays as it is until the new artefact is whole and proven.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import itertools
import logging
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, Self

from segx import __version__
from segx.artifact import AXES, Artifact, ArtifactInfo, crc_of
from segx.errors import DataError, ExportError, MissingPluginError, ModelError, SegxError, UsageError, WrongValueError
from segx.flows.parity import opened, tolerance_of
from segx.io import sidecar
from segx.io.paths import expanded, weights_folder
from segx.options.schema import image_size, merged, shown
from segx.options.verbs import (
    ON_DEMAND,
    PRECISION_OPTIONS,
    ExportOptions,
    SuppressionOptions,
    changes_nothing,
    known_elsewhere,
)
from segx.plugin.jobs import ExportJob
from segx.plugin.registry import get_registry
from segx.plugin.training import ModelSession
from segx.runs import Run, Step
from segx.runtime import check_fits
from segx.runtime.leftovers import sweep, temporary_name
from segx.sessions import MODEL_FORMAT

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from segx.artifact import Parity
    from segx.flows.parity import Proof
    from segx.plugin.interfaces import Exporter, Session
    from segx.plugin.jobs import CalibrationImages
    from segx.plugin.registry import Registry
    from segx.plugin.specs import Demands, ExporterSpec, Head, TaskSpec
    from segx.structures.batch import SourceImage

logger = logging.getLogger(__name__)


class ExportResult(str):  # noqa: SLOT000 - text has no slots for attributes
    """A finished export: its path, as text and wherever a path is taken, and what is known of it.

    Attributes:
        artifact: What was made.
        info: What travels with it.
        seconds: How long it took, proof included.
        size: Bytes on disk when it got its name.
        reason: Why it was not verified, with what to do about it; empty when it was.
    """

    artifact: Artifact
    info: ArtifactInfo
    seconds: float
    size: int
    reason: str

    def __new__(cls, artifact: Artifact, **facts: Any) -> Self:
        """Return the result whose attributes are these."""
        made = super().__new__(cls, os.fspath(artifact.path))
        vars(made).update(facts, artifact=artifact)
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:  # what copies are made from
        return (self.artifact,)

    def __fspath__(self) -> str:
        return str(self)

    def __getattr__(self, name: str) -> Any:
        """Return what a path has and text has not: ``resolve()``, ``parent``, ``exists()``."""
        if name.startswith("_") or "artifact" not in vars(self):
            raise AttributeError(name)
        return getattr(self.artifact.path, name)

    @property
    def path(self) -> Path:
        """The file or folder."""
        return self.artifact.path

    @property
    def parity(self) -> Parity | None:
        """How close it came to the model; None when it was not verified."""
        return self.info.parity


def export(
    model: Artifact | ModelSession,
    format: str,  # noqa: A002 - the word of the command line
    options: Mapping[str, Any] | ExportOptions | None = None,
    *,
    name: str = "",
    images: Sequence[SourceImage] = (),
    registry: Registry | None = None,
) -> ExportResult:
    """Write a model in another format and prove it.

    Args:
        model: A model on disk, or one that is open. Of a format on the way to the one asked for, the way begins there.
        format: The format, bare or ``name@distribution``.
        options: The format's own options.
        name: What the user named as model, for an open one; its stem names the result.
        images: Images to prove it on, besides the drawn ones.
        registry: Where to look things up; default: the installed plugins.

    Raises:
        UsageError: The format, an option or a combination is wrong.
        MissingPluginError: The format, or something it needs, is not installed.
        ModelError: The model cannot be read, or is a graph that ends in something its task does not read.
        ExportError: It could not be made, or differs from its source by more than its format allows.
    """
    job = _plan(model, format, options, name=name, registry=registry or get_registry())
    run = Run(mode="export", model=job.name, options={"format": format, **job.options.as_dict()})
    job.registry.notify("run_started", run=run)
    try:
        result = _carry_out(job, run, images)
    except BaseException as error:
        job.registry.notify("run_failed", run=run, error=error)
        raise
    job.registry.notify("run_ended", run=run, metrics=_metrics(result), result=result)
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
    chain = registry.export_chain(format)
    links = _links(chain, info, chosen_options(chain, options, registry), registry)
    _ending(info, links, info.variant or "the model", registry, cuts=(), finished=False)


def default_destination(
    model: Path, spec: ExporterSpec, *, precision: str = "", registry: Registry | None = None
) -> Path:
    """Return where the result goes: beside the model, or into the current folder for a model that segx keeps itself.

    Args:
        model: The model it is made from; the end of its name that tells its format gives way.
        spec: The format.
        precision: What it is written in; one that is not the format's first is part of the name.
        registry: Where to look formats up; default: the installed plugins.
    """
    registry = registry or get_registry()
    if _kept_by_segx(model, registry):
        model = Path(model.name)
    stem = _stem(model.name, registry)
    if precision and precision != spec.precisions[0] and not stem.endswith(f"_{precision}"):
        stem = f"{stem}_{precision}"
    return model.with_name(stem + spec.suffix)


def _kept_by_segx(model: Path, registry: Registry) -> bool:
    """Return True if a model lies in the cache, or came with a plugin: places that are not for results."""
    try:
        place = model.resolve()
        return place.is_relative_to(weights_folder().resolve()) or any(
            file.path is not None and place == file.path.resolve()
            for spec in registry.architectures.values()
            for file in spec.weights.values()
        )
    except OSError:
        return False


def _stem(name: str, registry: Registry) -> str:
    """Return a model's name without the end that tells its format."""
    for suffix in sorted({*registry.suffixes, ".yaml", ".yml"}, key=len, reverse=True):
        if name.lower().endswith(suffix.lower()) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


# What is to be done


@dataclass(frozen=True, kw_only=True)
class _Link:
    """One exporter of the chain with its options.

    ``head``: what its file ends in, where that is not what it is made from.
    """

    spec: ExporterSpec
    exporter: Exporter
    options: ExportOptions
    head: Head | None = None

    @property
    def demands(self) -> Demands:
        return self.spec.demands(self.options)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A checked export: exporters, options and destination.

    ``finished``: it begins at a finished graph, whose size, batch, axes, precision and head are what they are.
    ``proving``: photographs to prove it on, none of which it is calibrated on.
    """

    model: Artifact | ModelSession
    name: str
    links: tuple[_Link, ...]
    info: ArtifactInfo
    destination: Path
    registry: Registry
    finished: bool
    images: CalibrationImages | None
    proving: tuple[Path, ...]

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
    whole = chain = registry.export_chain(kind)
    finished = isinstance(model, Artifact) and model.format != MODEL_FORMAT
    if isinstance(model, Artifact):
        name = name or str(model.path)
        chain = _from_here(chain, model)
        info = registry.backends.load(registry.backend_for(model.format)).read_info(model)
    else:
        info = model.info
        name = name or info.variant or "model"
    chosen = chosen_options(whole, options, registry)
    if finished:
        task = registry.tasks.find(info.task)
        chosen = _as_its_source(chain[-1], _still_to_do(chosen, chain, name), info, task, name)
    links = _links(chain, info, chosen, registry)
    if finished:
        from segx.flows.runner import check_head

        check_head(info, registry.tasks.load(info.task), model=name)
        _check_source(info, chain, links, name)
    cuts = whole[-len(chain) - 1].cuts if finished and len(whole) > len(chain) else ()
    info, links = _ending(info, links, name, registry, cuts=cuts, finished=finished)
    path = model.path if isinstance(model, Artifact) else Path(name)
    travelling = _travelling(info, kind, links, finished=finished)
    images, proving, noted = _images(links, travelling, info, registry)
    travelling = travelling.replace(settings={**travelling.settings, **noted})
    return _Job(
        model=model,
        name=name,
        links=links,
        info=travelling,
        finished=finished,
        images=images,
        proving=proving,
        destination=_destination(path, links[-1], registry),
        registry=registry,
    )


def _images(
    links: Sequence[_Link], travelling: ArtifactInfo, info: ArtifactInfo, registry: Registry
) -> tuple[CalibrationImages | None, tuple[Path, ...], dict[str, Any]]:
    """Return the images to calibrate on, those to prove the result on, and what is to be remembered of them.

    Photographs tell more than drawings, and are at hand where a data set is named, whether or not it is calibrated on.
    """
    options = links[-1].options
    count = max(link.demands.images for link in links)
    if not count and not getattr(options, "data", None):
        return None, (), {}
    from segx.flows.calibration import images_to_prove_on, open_calibration

    if not count:
        return None, tuple(images_to_prove_on(options, registry)), {}
    made_for = info.replace(imgsz=travelling.imgsz, batch=travelling.batch)
    images, noted = open_calibration(options, made_for, count, registry)
    return images, images.held_back, {"calibration": noted}


def _from_here(chain: tuple[ExporterSpec, ...], model: Artifact) -> tuple[ExporterSpec, ...]:
    """Return the part of the chain that a model on disk still has to go."""
    if model.format == MODEL_FORMAT:
        return chain
    starts = [index for index, spec in enumerate(chain) if spec.source.partition("@")[0] == model.format]
    if not starts:
        target = chain[-1].name
        msg = f"{model.path}: {target} is not made from {model.format}"
        ways = " -> ".join([MODEL_FORMAT, *(spec.name for spec in chain)])
        raise UsageError(msg, hint=f"give the model it was made from: {ways}")
    return chain[starts[0] :]


def _links(
    chain: tuple[ExporterSpec, ...], info: ArtifactInfo, chosen: ExportOptions, registry: Registry
) -> tuple[_Link, ...]:
    """Return the exporters with their options, each combination checked."""
    links = []
    for spec, own in zip(chain, settled(chain, chosen), strict=True):
        registry.require(spec)
        if own.precision not in spec.precisions:
            msg = f"format {spec.name!r} has no precision {own.precision}"
            raise UsageError(msg, hint=f"it has: {', '.join(spec.precisions)}")
        registry.require(spec, precision=own.precision)
        exporter = registry.exporters.load(spec)
        exporter.check(info, own)
        links.append(_Link(spec=spec, exporter=exporter, options=own))
    return tuple(links)


def settled(chain: Sequence[ExporterSpec], chosen: ExportOptions) -> list[ExportOptions]:
    """Return the options of each format of a chain, settled from the last one back to the first.

    One on the way takes those that it has too, but for the precision: what is on the way stays as it is, unless the
    format made from it demands otherwise.

    Args:
        chain: The formats, in the order they are made.
        chosen: The options of the last one.
    """
    found: list[ExportOptions] = []
    demanded: Mapping[str, Any] = {}
    for spec in reversed(chain):
        own = options_on_the_way(spec, chosen, demanded) if found else chosen
        demanded = spec.demands(own).source
        found.insert(0, own)
    return found


def chosen_options(
    chain: tuple[ExporterSpec, ...],
    options: Mapping[str, Any] | ExportOptions | None,
    registry: Registry | None = None,
) -> ExportOptions:
    """Return the options of the last format, with those of the formats on the way; what is not given has its default.

    Where no precision is asked for, the format's first one is meant.

    Raises:
        UsageError: An option is unknown, out of range, or one that only other formats have.
    """
    last = chain[-1]
    kind = _options_of(chain)
    given = options.as_dict() if isinstance(options, ExportOptions) else options or {}
    if not isinstance(options, ExportOptions):
        _refuse_those_of_others(given, last, kind, registry or get_registry())
    chosen = options if isinstance(options, kind) else kind.parse(given)
    if chosen.precision in last.precisions or any(getattr(chosen, option, False) for option in PRECISION_OPTIONS):
        return chosen
    known = chosen.names()
    meant = {option: True for option, word in PRECISION_OPTIONS.items() if word == last.precisions[0]}
    return chosen.replace(**meant) if known.issuperset(meant) else chosen


def _refuse_those_of_others(
    given: Mapping[str, Any], spec: ExporterSpec, kind: type[ExportOptions], registry: Registry
) -> None:
    """Say of an option that only other formats have which they are; at a value that changes nothing it is let by.

    Raises:
        UsageError: There is one.
    """
    known, elsewhere = kind.names(), known_elsewhere()
    for option, value in given.items():
        if option in known or (option in elsewhere and changes_nothing(elsewhere[option], value)):
            continue
        if others := [other.name for other in registry.exporters.values() if option in _taken_by(other, registry)]:
            msg = f"{option}={shown(value)} does not go with format {spec.name}: only with {', '.join(others)}"
            raise WrongValueError(msg, hint=f"options: {', '.join(sorted(known))}")


def _taken_by(spec: ExporterSpec, registry: Registry) -> set[str]:
    """Return the options that an export to a format takes, as far as those on the way are installed."""
    try:
        return registry.export_options(spec.name).names()
    except SegxError:
        return spec.options.names()


def _options_of(chain: tuple[ExporterSpec, ...]) -> type[ExportOptions]:
    return merged(chain[-1].options, *(spec.options for spec in chain[:-1]), without=ON_DEMAND)


def _still_to_do(chosen: ExportOptions, chain: tuple[ExporterSpec, ...], name: str) -> ExportOptions:
    """Return the options without those of formats that are behind already.

    Raises:
        UsageError: One of those was given.
    """
    kind = _options_of(chain)
    known, plain = kind.names(), type(chosen)().as_dict()
    for option, value in chosen.as_dict().items():
        if option not in known and value != plain[option]:
            raise UsageError(f"{option}={value}: {name} is finished, that is settled in it", hint="leave it out")
    return kind.parse({option: value for option, value in chosen.as_dict().items() if option in known})


_AGAIN = "export from the .pt it was made from"


def _check_source(info: ArtifactInfo, chain: tuple[ExporterSpec, ...], links: tuple[_Link, ...], name: str) -> None:
    """Refuse a finished graph that the next format is not made from.

    Raises:
        UsageError: It is of another precision.
    """
    source = chain[0].source.partition("@")[0]
    for option, word in PRECISION_OPTIONS.items():
        if links[0].demands.source.get(option) and info.precision != word:
            msg = f"{name} is {info.precision}: {chain[0].name} in {links[0].options.precision} is made from"
            raise UsageError(f"{msg} {source} in {word}", hint=_AGAIN)


def _ending(
    info: ArtifactInfo,
    links: tuple[_Link, ...],
    name: str,
    registry: Registry,
    *,
    cuts: Collection[str],
    finished: bool,
) -> tuple[ArtifactInfo, tuple[_Link, ...]]:
    """Return what the graph is that the first link gets, and the links with what each makes of its end.

    The last format that asks for another form than the usual one decides for the whole chain.

    Args:
        info: What the source says.
        links: The exporters.
        name: What the user named as model.
        registry: Where tasks and architectures are looked up.
        cuts: Forms that a decoded graph of the source's format can be cut back to.
        finished: The source is a graph that is finished.

    Raises:
        ModelError: A finished graph suppresses by itself, and a format cannot hold that.
        UsageError: The architecture has no such form, or a finished graph ends elsewhere.
    """
    task = registry.tasks.find(info.task)
    wanted = [(link.spec.name, link.demands.form) for link in links]
    who, form = next(((who, form) for who, form in reversed(wanted) if form != "decoded"), ("", "decoded"))
    if form != "decoded" and _form(info, task) != form:
        target = _target(info, who, form, name, registry, finished=finished)
        if not finished:
            known = task.head(target) if task is not None else None
            info = known.describe(info) if known is not None else info.replace(head=target)
        elif info.head != target:
            cut = task.head_in(form, info.head) if task is not None else None
            whole = _form(info, task) == "decoded" and links[0].demands.form == form and form in cuts
            if cut is None or cut.id != target or not whole:
                raise UsageError(f"format {who!r} needs a graph that ends in {target}, not {info.head}", hint=_AGAIN)
            links = (dataclasses.replace(links[0], head=cut), *links[1:])
    return info, _suppressing(info, links, name, task)


def _form(info: ArtifactInfo, task: TaskSpec | None) -> str:
    """Return where a graph ends, as far as its task says so."""
    head = task.head(info.head) if task is not None else None
    return "decoded" if head is None else head.form


def _target(info: ArtifactInfo, who: str, form: str, name: str, registry: Registry, *, finished: bool) -> str:
    """Return the id of the head that a model has in another form.

    Raises:
        UsageError: It has none.
    """
    architecture = registry.architectures.find(info.architecture)
    task = registry.tasks.find(info.task)
    heads = dict(architecture.heads) if architecture is not None else {}
    if architecture is None and task is not None and finished:  # its family need not be installed
        own = task.head(info.head)
        heads = {head.form: head.id for head in task.heads if own is not None and head.family == own.family}
    if form not in heads:
        has = ", ".join(("decoded", *(known for known in heads if known != "decoded")))
        raise UsageError(f"format {who!r} needs a model that ends in {form} outputs", hint=f"{name} has: {has}")
    return heads[form]


def _suppressing(info: ArtifactInfo, links: tuple[_Link, ...], name: str, task: TaskSpec | None) -> tuple[_Link, ...]:
    """Return the links with the head of the one that appends suppression, where one does.

    Raises:
        ModelError: A finished graph suppresses by itself, and a format cannot hold that.
        UsageError: Suppression is asked for, and no link appends it or another needs a graph without.
    """
    found: list[_Link] = []
    final = _form(info, task) == "final"
    for link in links:
        if final and not isinstance(link.options, SuppressionOptions):
            msg = f"{name}: ends in head {info.head!r}: it suppresses by itself, and {link.spec.name} cannot do that"
            raise ModelError(msg, hint="give a file that was exported with nms=False, or the .pt it was made from")
        made = link.demands.makes
        if made is not None and not final:
            head = task.head_in(made, info.head) if task is not None else None
            if head is None or link.head is not None:
                raise UsageError(f"nms=True: {link.spec.name} cannot add it to a graph that ends in {info.head}")
            link = dataclasses.replace(link, head=head)  # noqa: PLW2901
            final = made == "final"
        found.append(link)
    if final and any(link.demands.form == "raw" for link in links):
        who = next(link.spec.name for link in links if link.demands.form == "raw")
        raise UsageError(f"nms=True: {who} with these options is made from raw outputs", hint="leave nms out")
    if not final and getattr(links[-1].options, "nms", False):
        raise UsageError(f"nms=True: {name} is finished, and ends in {info.head}", hint=_AGAIN)
    return tuple(found)


def _open_axes(links: Sequence[_Link], asked: Collection[str]) -> frozenset[str]:
    """Return the axes asked for that all formats of the chain can leave open.

    Raises:
        UsageError: Some are asked for, and there are none.
    """
    left = frozenset(asked).intersection(*(link.spec.axes for link in links))
    if asked and not left:
        names = " or ".join(link.spec.name for link in links if not link.spec.axes.intersection(asked))
        raise UsageError(
            f"dynamic=True: format {names or links[-1].spec.name} leaves no axis open", hint="leave it out"
        )
    return left


def _as_its_source(
    last: ExporterSpec, chosen: ExportOptions, info: ArtifactInfo, task: TaskSpec | None, name: str
) -> ExportOptions:
    """Return the options of an export that begins at a finished graph: what is fixed there is taken over.

    Raises:
        UsageError: An option says otherwise, or the format cannot be what the graph is.
    """
    known = chosen.names()
    changes: dict[str, Any] = {}
    again = "leave it out, or export from the .pt it was made from"
    open_ = {"height", "width"} <= info.dynamic
    if not open_:
        if chosen.imgsz is not None and image_size(chosen.imgsz, info.stride) != info.imgsz:
            asked = image_size(chosen.imgsz, info.stride)
            msg = f"imgsz={asked[0]},{asked[1]}: {name} is fixed to {info.imgsz[0]},{info.imgsz[1]}"
            raise UsageError(msg, hint=again)
        changes["imgsz"] = info.imgsz
    if "batch" not in info.dynamic:
        if chosen.batch not in {ExportOptions().batch, info.batch}:
            raise UsageError(f"batch={chosen.batch}: {name} is fixed to batch {info.batch}", hint=again)
        changes["batch"] = info.batch
    if getattr(chosen, "dynamic", False) and not info.dynamic:
        raise UsageError(f"dynamic=True: {name} leaves no axis open", hint=again)
    if "dynamic" in known:
        changes["dynamic"] = bool(info.dynamic)
    if isinstance(chosen, SuppressionOptions):
        changes |= _suppression_of(chosen, info, task, name)
    if info.precision != chosen.precision:
        changes |= _precision_of(last, chosen, info, name, known)
    return chosen.replace(**changes)


def _suppression_of(chosen: SuppressionOptions, info: ArtifactInfo, task: TaskSpec | None, name: str) -> dict[str, Any]:
    """Return how a finished graph suppresses; what is asked for must not be something else."""
    head = task.head(info.head) if task is not None else None
    if head is None or head.form != "final":
        return {}
    for option in head.options:
        asked, own = getattr(chosen, option), info.decoding.get(option)
        if asked not in {getattr(type(chosen), option), own}:
            fixed = "settled in it" if own is None else f"{own} in it"
            raise UsageError(f"{option}={asked}: {name} suppresses by itself, that is {fixed}", hint="leave it out")
    return {"nms": True, **{option: info.decoding[option] for option in head.options if option in info.decoding}}


def _precision_of(
    last: ExporterSpec, chosen: ExportOptions, info: ArtifactInfo, name: str, known: Collection[str]
) -> dict[str, Any]:
    """Return the option that keeps a graph's precision; one that is asked for may only be lower."""
    order = ("fp32", *PRECISION_OPTIONS.values())
    lower = order[order.index(info.precision) + 1 :] if info.precision in order else ()
    of_its_own = info.precision == "fp32" and chosen.precision not in order  # such as w8a16
    if of_its_own or chosen.precision in lower:
        return {}
    option = next((option for option, word in PRECISION_OPTIONS.items() if word == info.precision), "")
    asked = next((f"{option}=True: " for option in PRECISION_OPTIONS if getattr(chosen, option, False)), "")
    if asked or option not in known or info.precision not in last.precisions:
        msg = f"{asked}{name} is {info.precision}, and {last.name} made from it cannot be {chosen.precision}"
        raise UsageError(msg, hint="export from a file in fp32, or from the .pt it was made from")
    return {option: True}


def options_on_the_way(
    spec: ExporterSpec, chosen: ExportOptions, demanded: Mapping[str, Any] | None = None
) -> ExportOptions:
    """Return the options of a format on the way to the one whose options are these.

    Args:
        spec: The format on the way.
        chosen: The options of the last one.
        demanded: What the format that is made from it demands.
    """
    known = spec.options.names() - set(PRECISION_OPTIONS)
    shared = {name: value for name, value in chosen.as_dict().items() if name in known}
    return spec.options.parse({**shared, **(demanded or {})})


def _travelling(info: ArtifactInfo, kind: str, links: Sequence[_Link], *, finished: bool) -> ArtifactInfo:
    """Return what is to travel with the file; nothing in it says where on this machine anything lies.

    Args:
        info: What the source says.
        kind: The format.
        links: The exporters.
        finished: The source is a graph that is finished: its axes are what they are.
    """
    options = links[-1].options
    asked = options.imgsz if options.imgsz is not None else info.imgsz
    imgsz = image_size(asked, info.stride)
    check_fits(*imgsz, options.batch, asked=options.imgsz is not None or options.batch > 1)
    if options.imgsz is not None and imgsz not in {options.imgsz, (options.imgsz, options.imgsz)}:
        logger.warning("imgsz is rounded up to %d,%d: sides are multiples of %d", *imgsz, info.stride)
    private = {"output", "device", "verify"}
    used = {key: value for key, value in options.as_dict().items() if key not in private}
    dynamic = _open_axes(links, info.dynamic if finished else AXES if getattr(options, "dynamic", False) else ())
    return info.replace(
        imgsz=imgsz,
        batch=options.batch,
        dynamic=dynamic,
        files={},
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


def _destination(model: Path, link: _Link, registry: Registry) -> Path:
    """Return where the result goes, refusing what cannot be.

    Raises:
        UsageError: ``output`` has another format's suffix, is the model itself, a link, or a folder that holds what
            no export has put there.
    """
    spec, output = link.spec, link.options.output
    destination = default_destination(model, spec, precision=link.options.precision, registry=registry)
    if output is not None:
        output = expanded(output)
        into_folder = output.is_dir() and not output.name.endswith(spec.suffix)
        destination = output / destination.name if into_folder else output
    if not destination.name.endswith(spec.suffix):
        msg = f"output={output}: names of format {spec.name!r} end in {spec.suffix}"
        raise UsageError(msg, hint=f"output={output}{spec.suffix}")
    if destination.exists() and model.exists() and destination.samefile(model):
        raise UsageError(f"output={destination} is the model itself", hint="give another output=")
    with _alone(destination.parent):
        _check_replaceable(destination, spec, registry)
    return destination


def _check_replaceable(destination: Path, spec: ExporterSpec, registry: Registry) -> None:
    """Refuse to take away what no export has put there.

    Raises:
        UsageError: It is a link, or a folder with more in it than its own metadata list.
    """
    if destination.is_symlink():
        msg = f"{destination} is a link: what it leads to is not written over"
        raise UsageError(msg, hint="give another output=, or remove the link")
    foreign = _foreign_files(destination, spec, registry) if destination.is_dir() else []
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        msg = f"{destination} is a folder with {foreign[0]}{more} in it, which no export has put there"
        raise UsageError(msg, hint="give another output=, or move them away; nothing was deleted")


def _foreign_files(folder: Path, spec: ExporterSpec, registry: Registry) -> list[str]:
    """Return what lies in a folder that its metadata do not list, all of it where there are none."""
    info = None
    with contextlib.suppress(SegxError):
        if spec.metadata == "embedded":
            artifact = Artifact(path=folder, format=spec.name)
            info = registry.backends.load(registry.backend_for(spec.name)).read_info(artifact)
        else:
            info = sidecar.read(folder)
    own = {sidecar.folder_sidecar_path(folder).name, *info.files} if info is not None else set()
    return [name for name in _files(folder) if name not in own]


def made_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and CRC-32 of each file in a folder, by its path in it."""
    files = {name: folder / name for name in _files(folder)}
    return {name: (file.stat().st_size, crc_of(file)) for name, file in files.items() if file.is_file()}


def _files(folder: Path) -> list[str]:
    """Return everything in a folder that is no folder itself, or is an empty one, as paths in it."""
    return sorted(
        item.relative_to(folder).as_posix()
        for item in folder.rglob("*")
        if item.is_symlink() or not item.is_dir() or not any(item.iterdir())
    )


# The work


def _carry_out(job: _Job, run: Run, images: Sequence[SourceImage]) -> ExportResult:
    started = time.perf_counter()
    stages = [link.spec.name for link in job.links] + (["verify"] if job.options.verify else [])
    with contextlib.ExitStack() as stack:
        source = _source(stack, job)
        folder = stack.enter_context(_workplace(job.destination.parent))
        links = _make(job, source, folder, run, stages)
        made, info = links[-1]
        if made.path.is_dir():
            info = info.replace(files=made_of(made.path))
        proof, unproven = None, "verify=False"
        if job.options.verify:
            with _kept_aside(job, made, info):
                proof, unproven = _prove(job, made, info, source, images)
        if proof is not None:
            info = info.replace(parity=proof.parity)
            job.registry.notify(
                "step_ended",
                run=run,
                step=Step(kind="stage", index=len(stages) - 1, total=len(stages), name="verify"),
            )
        _write_info(job, made, info)
        if proof is not None and proof.problems:
            raise _rejected(job, made, (*proof.problems, *_first_wrong(job, links[:-1], source)))
        size = made.size  # now, for another export may put its own in the place of this one
        _move(job, made, job.destination)
    if unproven:
        logger.warning("%s is not verified: %s", job.destination, " ".join(unproven.split()))  # a log line is one line
    return ExportResult(
        Artifact(path=job.destination, format=job.spec.name),
        info=info,
        seconds=time.perf_counter() - started,
        size=size,
        reason=unproven,
    )


def _source(stack: contextlib.ExitStack, job: _Job) -> Session:
    """Return the open source: what the result is made from and compared with."""
    if not isinstance(job.model, Artifact):
        return job.model
    return opened(stack, job.model, job.registry, job.options.device)


def _make(
    job: _Job, source: Session, folder: Path, run: Run, stages: Sequence[str]
) -> list[tuple[Artifact, ArtifactInfo]]:
    """Send the model through the chain; each link writes into the temporary folder, and says what it made."""
    current: Any = job.model
    info = job.info
    made: list[tuple[Artifact, ArtifactInfo]] = []
    if isinstance(source, ModelSession):
        # What the first format is to be made with goes before what the last one is: ncnn takes one image a run.
        current = source.export_module(job.options, info.replace(batch=job.links[0].options.batch))
        info = info.replace(outputs=current.info.outputs, decoding=current.info.decoding)
    for index, link in enumerate(job.links):
        path = folder / (job.destination.name.removesuffix(job.spec.suffix) + link.spec.suffix)
        logger.info("%s: writing %s", job.name, link.spec.name)
        on_the_way = job.finished and link is not job.links[-1]
        precision = source.info.precision if on_the_way else link.options.precision
        ending = info if link.head is None else link.head.describe(info, link.options)
        work = ExportJob(
            info=ending.replace(precision=precision),
            options=link.options,
            destination=path,
            scratch=Path(tempfile.mkdtemp(prefix="scratch-", dir=folder)),
            images=job.images if link.demands.images else None,
            notify=lambda stage, done, total: job.registry.notify(
                "step_ended", run=run, step=Step(kind="stage", index=done, total=total, name=stage)
            ),
        )
        try:
            info = link.exporter.export(current, work)
        except OSError as error:
            msg = f"format {link.spec.name!r} cannot be written: {error.strerror or error}"
            raise ExportError(msg, hint="is the disk full, or a folder not to be written?") from error
        if not path.exists():
            raise ExportError(
                f"format {link.spec.name!r} wrote nothing", hint=f"tell the authors of {link.spec.provider}"
            )
        current = Artifact(path=path, format=link.spec.name)
        made.append((current, info))
        step = Step(kind="stage", index=index, total=len(stages), name=link.spec.name)
        job.registry.notify("step_ended", run=run, step=step)
    return made


def _prove(
    job: _Job, made: Artifact, info: ArtifactInfo, source: Session, images: Sequence[SourceImage]
) -> tuple[Proof | None, str]:
    """Return what was compared, or None; and why nothing is proven by it, empty where it is."""
    from segx.flows.parity import describe, prove
    from segx.plugin.calibration import read_all

    sidecar.write(made.path, info)  # what opens it has to know what it is
    logger.info("%s: comparing %s with it", job.name, made.path.name)
    with contextlib.ExitStack() as stack:
        try:
            other = _opened_somewhere(stack, made, job)
        except (MissingPluginError, UsageError) as error:
            return None, str(error)
        task = job.registry.tasks.load(source.info.task)
        allowed = tolerance_of(job.spec, job.options.precision)
        proof = prove(
            source, other, task=task, tolerance=allowed, images=[*images, *read_all(job.proving, "proven on")]
        )
    if proof.doubt and not proof.has_detections and not proof.problems:
        more = "data" in job.options.names() and not job.proving
        return None, proof.doubt + ("; data=coco8-seg.yaml proves it on photographs" if more else "")
    logger.info("%s: %s", job.destination.name, describe(proof.parity))
    if proof.ties:
        logger.info(
            "the two keep different ones of boxes that score alike: compared with what there was to choose from"
        )
    if not proof.has_detections:
        logger.info("the model finds nothing that scores enough to compare, as untrained ones do: raw outputs decide")
    return proof, proof.doubt


@contextlib.contextmanager
def _kept_aside(job: _Job, made: Artifact, info: ArtifactInfo) -> Iterator[None]:
    """Keep a result whose proof cannot be carried through: making it may have taken long.

    Raises:
        ExportError: The proof fails, whatever with; being told to stop is passed on.
    """
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(Exception):  # what the exporter wrote itself has to do
            _write_info(job, made, info)
        aside = _put_aside(job, made)
        if not isinstance(error, Exception):
            logger.warning("stopped while it was proven: the result is left as %s", aside)
            raise
        reason = error.message if isinstance(error, SegxError) else f"{type(error).__name__}: {error}"
        msg = f"{job.spec.name} made from {job.name} cannot be proven: {' '.join(reason.split())}"
        hint = f"the result is left as {aside} to look into; verify=False skips the proof"
        raise ExportError(msg, hint=hint) from error


def _first_wrong(job: _Job, links: Sequence[tuple[Artifact, ArtifactInfo]], source: Session) -> Iterator[str]:
    """Yield which link of a chain is the first that differs from the source, where one on the way does.

    What has no backend, or does not open, cannot tell.
    """
    from segx.flows.parity import prove

    task = job.registry.tasks.load(source.info.task)
    for (made, info), link in zip(links, job.links, strict=False):
        with contextlib.suppress(SegxError), contextlib.ExitStack() as stack:
            sidecar.write(made.path, info)
            other = opened(stack, made, job.registry, None)
            if prove(source, other, task=task, tolerance=tolerance_of(link.spec, info.precision)).problems:
                yield f"{link.spec.name}, which it is made from, differs already"
                return


def _opened_somewhere(stack: contextlib.ExitStack, made: Artifact, job: _Job) -> Session:
    """Return the result, open: on the CPU if it runs there, else where it was made."""
    try:
        return opened(stack, made, job.registry, None)
    except UsageError:
        if job.options.device is None:
            raise
        return opened(stack, made, job.registry, job.options.device)


def _write_info(job: _Job, made: Artifact, info: ArtifactInfo) -> None:
    """Give a finished file its info, once: until it was proven, it lay beside the file."""
    if job.spec.metadata == "embedded":
        job.links[-1].exporter.write_info(made.path, info)
        sidecar.location(made.path).unlink(missing_ok=True)
    else:
        sidecar.write(made.path, info)


def _metrics(result: ExportResult) -> dict[str, float]:
    metrics = {"seconds": result.seconds, "bytes": float(result.size)}
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
        sweep(parent)
        folder = parent / temporary_name()
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise DataError(f"{parent}: cannot be written ({error.strerror or error})", hint="output=FOLDER") from error
    with _stopped_by_signals() as undisturbed:
        try:
            yield folder
        finally:
            with undisturbed():
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[Callable[[], contextlib.AbstractContextManager[None]]]:
    """Let a request to end unwind what runs instead of cutting it off, and give a context that none disturbs.

    Signals are the main thread's; elsewhere, and where whoever runs segx hears them itself, nothing changes.
    """
    mine = threading.current_thread() is threading.main_thread()
    known = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if mine and hasattr(signal, name)]
    numbers = [number for number in known if signal.getsignal(number) is signal.SIG_DFL]

    def stop(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    @contextlib.contextmanager
    def undisturbed() -> Iterator[None]:
        quiet = [number for number in (signal.SIGINT, *numbers) if mine and signal.getsignal(number) is not None]
        before = [signal.signal(number, signal.SIG_IGN) for number in quiet]
        try:
            yield
        finally:
            for number, handler in zip(quiet, before, strict=True):
                signal.signal(number, handler)

    for number in numbers:
        signal.signal(number, stop)
    try:
        yield undisturbed
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _move(job: _Job, made: Artifact, destination: Path) -> None:
    """Give a finished artefact, and what lies beside it, its name; what an export left there before gives way.

    Of several exports to one name the last one has it whole: the artefact and what lies beside it.

    Raises:
        UsageError: What is there by now is not an export's.
        DataError: It cannot be written.
    """
    try:
        with _alone(destination.parent):
            _check_replaceable(destination, job.spec, job.registry)
            _rename(made.path, destination)
    except OSError as error:
        raise DataError(f"{destination}: cannot be written ({error.strerror or error})") from error


def _rename(made: Path, destination: Path) -> None:
    before, beside = made.parent / "before", sidecar.sidecar_path(made)
    if destination.is_dir():
        destination.replace(before)
    try:
        if beside.exists():
            beside.replace(sidecar.sidecar_path(destination))
        made.replace(destination)
    except OSError:
        if before.exists():
            before.replace(destination)
        raise


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other export renames anything in a folder; where systems have no such lock, just go on."""
    try:
        import fcntl

        handle = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):  # Windows; a folder that is not there yet
        yield
        return
    try:
        with contextlib.suppress(OSError):  # network disks without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _put_aside(job: _Job, made: Artifact) -> Path:
    """Give a result that was not proven a name that says so, and return it."""
    stem, suffix = job.destination.name.removesuffix(job.spec.suffix), job.spec.suffix
    for number in itertools.count(1):
        word = "rejected" if number == 1 else f"rejected-{number}"
        aside = job.destination.with_name(f"{stem}.{word}{suffix}")
        with contextlib.suppress(UsageError):  # somebody else's
            _move(job, made, aside)
            break
    return aside


def _rejected(job: _Job, made: Artifact, problems: Sequence[str]) -> SegxError:
    """Rename a result that failed verification, and return the error."""
    from segx.flows.calibration import more_images

    aside = _put_aside(job, made)
    msg = f"{job.spec.name} differs from {job.name}: {'; '.join(problems)}"
    hint = f"the result is left as {aside.name} to look into; verify=False skips the proof"
    if job.images is not None and (advice := more_images(job.info.settings["calibration"])):
        hint = f"{advice}; {hint}"
    return ExportError(msg, hint=hint)
