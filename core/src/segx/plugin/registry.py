"""Look up declarations: names, conflicts, export chains, backends."""

from __future__ import annotations

import copy
import functools
import logging
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from segx.artifact import Artifact, WeightsFile
from segx.errors import (
    DataError,
    MissingDataError,
    MissingModelError,
    MissingPluginError,
    ModelError,
    PluginError,
    SegxError,
    UsageError,
    did_you_mean,
)
from segx.io.files import irregular
from segx.options.schema import merged
from segx.options.verbs import ON_DEMAND
from segx.plugin import known as known_plugins
from segx.plugin.catalog import Catalog, Loader, Unavailable, full_name, join_lines, planned
from segx.plugin.discovery import discover
from segx.plugin.guard import Helper, TooSlowError, one_line, was_interrupted, watched, within
from segx.records import Record
from segx.runtime import device_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pluggy

    from segx.options.verbs import ExportOptions
    from segx.plugin.discovery import Broken, Disabled, Discovery, Plugin
    from segx.plugin.interfaces import Architecture, Backend, DatasetReader, Exporter, Task
    from segx.plugin.specs import (
        ArchitectureSpec,
        BackendSpec,
        CommandSpec,
        DatasetFormatSpec,
        ExporterSpec,
        Spec,
        TaskSpec,
    )

    OwnListener = Callable[["Event", Mapping[str, Any]], None]

Event = Literal["run_started", "step_ended", "run_ended", "run_failed"]

logger = logging.getLogger(__name__)


class Backends(Record):
    """The backends that declare a format.

    Attributes:
        usable: Those that can be used here, best first.
        unavailable: Those that cannot, with the reason.
    """

    usable: tuple[BackendSpec, ...]
    unavailable: tuple[Unavailable, ...]


class Registry:
    """What the installed plugins declare: six catalogs, and what is looked up across them.

    Args:
        discovery: What was found; see :func:`segx.plugin.discovery.discover`.

    Attributes:
        tasks: The tasks.
        architectures: The families of models.
        exporters: The export formats.
        backends: The runtimes.
        dataset_formats: The ways of writing ground truth down.
        commands: The sub-commands; each loads a ``typer.Typer`` or a function.
    """

    def __init__(self, discovery: Discovery) -> None:
        self._discovery = discovery
        self._loader = loader = Loader(discovery)
        self.tasks: Catalog[TaskSpec, Task] = Catalog("task", loader)
        self.architectures: Catalog[ArchitectureSpec, Architecture] = Catalog("architecture", loader)
        self.exporters: Catalog[ExporterSpec, Exporter] = Catalog("exporter", loader)
        self.backends: Catalog[BackendSpec, Backend] = Catalog("backend", loader)
        self.dataset_formats: Catalog[DatasetFormatSpec, DatasetReader] = Catalog("dataset_format", loader)
        self.commands: Catalog[CommandSpec, Any] = Catalog("command", loader)
        self.prepare, self.unavailable = loader.prepare, loader.unavailable
        self.require, self.load = loader.require, loader.load
        self._own: tuple[OwnListener, ...] = ()
        named = (f"{plugin.name}@{plugin.distribution}" for plugin in discovery.plugins)
        self._helpers = {name: Helper() for name in named}
        self._left_out: set[str] = set()

    # What there is

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """The plugins that work."""
        return self._discovery.plugins

    @property
    def broken(self) -> tuple[Broken, ...]:
        """The plugins that do not, with the reason."""
        return self._discovery.broken

    @property
    def disabled(self) -> tuple[Disabled, ...]:
        """The plugins the user left out."""
        return self._discovery.disabled

    @property
    def manager(self) -> pluggy.PluginManager:
        """The plugin manager; listeners may be registered with it."""
        return self._discovery.manager

    @property
    def declared(self) -> Mapping[str, tuple[Spec, ...]]:
        """Kind to everything declared, conflicts included; the kinds are those of ``KINDS``."""
        return self._discovery.declared

    # Models

    def architecture_for(self, definition: Mapping[str, Any]) -> Architecture:
        """Return the architecture that recognises the content of a model's YAML.

        Raises:
            ModelError: None does.
            PluginError: Several do.
        """
        problems = {spec.name: self.unavailable(spec) for spec in self.architectures.specs}
        usable = [spec for spec in self.architectures.specs if self.unavailable(spec) is None]
        found = [spec for spec in usable if self.architectures.load(spec).detects(definition)]
        spec = self.architectures.only(found, "the model's definition")
        if spec is not None:
            return self.architectures.load(spec)
        skipped = [f"{name} {problem.message}" for name, problem in problems.items() if problem]
        hint = "; ".join([f"architectures: {', '.join(self.architectures) or 'none'}", *skipped])
        raise ModelError("the model's definition is of no architecture that is installed", hint=hint)

    def variant(self, name: str) -> ArchitectureSpec | None:
        """Return the architecture that ships a configuration: ``"yolov8n-seg"``, with or without ``.yaml``.

        Raises:
            PluginError: Several do.
        """
        stem = name.removesuffix(".yaml").removesuffix(".yml")
        found = [spec for spec in self.architectures.specs if stem in spec.variants]
        return self.architectures.only(found, f"configuration {stem!r}")

    def weights_file(self, name: str) -> WeightsFile | None:
        """Return where a file of weights is published: ``"yolov8n-seg.pt"``.

        Raises:
            PluginError: Several architectures publish one of this name.
        """
        found = [spec for spec in self.architectures.specs if name in spec.weights]
        spec = self.architectures.only(found, f"weights {name!r}")
        return None if spec is None else spec.weights[name]

    def artifact(self, path: Path | str) -> Artifact:
        """Return a model on disk with its format, which the end of its name tells.

        Raises:
            ModelError: It is not there, or its name is of no known format.
        """
        path = Path(path)
        kind = self.format_of(path)
        if not path.exists():
            raise MissingModelError(f"model {str(path)!r} is not there", hint=self._missing_model_hint(path))
        if what := irregular(path):
            raise ModelError(f"{path}: it is {what}, not a regular file")
        if kind is None:
            known = ", ".join(sorted(self.suffixes))
            raise ModelError(f"{path}: the end of the name is of no known model format", hint=f"known: {known}")
        return Artifact(path=path, format=kind)

    def format_of(self, path: Path | str) -> str | None:
        """Return the format that a name belongs to, whether or not there is such a file."""
        name = Path(path).name.lower()
        suffixes = self.suffixes
        for suffix in sorted(suffixes, key=len, reverse=True):
            if name.endswith(suffix.lower()):
                return suffixes[suffix]
        return None

    @functools.cached_property
    def suffixes(self) -> Mapping[str, str]:
        """Suffix to format; what is installed goes before what is only known."""
        table: dict[str, str] = {}
        for kind, known in known_plugins.FORMATS.items():
            table.update(dict.fromkeys(known.suffixes, kind))
        table.update((spec.suffix, spec.name) for spec in self.exporters.specs)
        for backend in sorted(self.backends.specs, key=_order, reverse=True):
            for kind, suffixes in backend.formats.items():
                table.update(dict.fromkeys(suffixes, kind))
        return MappingProxyType(table)

    # Export and backends

    def export_chain(self, name: str) -> tuple[ExporterSpec, ...]:
        """Return the exporters that lead from the model to a format, in the order they work.

        Raises:
            SegxError: As :meth:`Catalog.get`, for the format itself or one that it is made from.
            PluginError: The formats are made from each other.
        """
        chain = [self.exporters.get(name)]
        while chain[0].source != "model":
            source = chain[0].source
            if any(spec.name == source.partition("@")[0] for spec in chain):
                circle = " <- ".join(spec.name for spec in chain)
                raise PluginError(
                    f"format {name!r} cannot be made: {source} <- {circle} is a circle",
                    hint=f"tell the authors of {', '.join(sorted({spec.provider for spec in chain}))}",
                )
            try:
                chain.insert(0, self.exporters.get(source))
            except SegxError as error:
                message = f"format {chain[0].name!r} is made from {source!r}: {error.message}"
                raise type(error)(message, hint=error.hint) from error
        return tuple(chain)

    def export_options(self, name: str) -> type[ExportOptions]:
        """Return the options that an export to a format takes: its own, and those of the formats on the way."""
        chain = self.export_chain(name)
        return merged(chain[-1].options, *(spec.options for spec in chain[:-1]), without=ON_DEMAND)

    def backends_for(self, kind: str) -> Backends:
        """Return the backends that run a format: the usable ones, best first, and the others with the reason."""
        usable, unavailable = [], []
        for spec in sorted(self.backends.specs, key=_order):
            if kind in spec.formats:
                problem = self.unavailable(spec)
                if problem is None:
                    usable.append(spec)
                else:
                    unavailable.append(problem)
        return Backends(usable=tuple(usable), unavailable=tuple(unavailable))

    def backend_for(self, kind: str, *, name: str | None = None, device: str | None = None) -> BackendSpec:
        """Return the best usable backend for a format.

        Args:
            kind: The format.
            name: A backend asked for by name.
            device: Where it has to run: ``"cpu"``, ``"cuda:0"``, ``"0"``; default: anywhere.

        Raises:
            MissingPluginError: None is installed, or something it requires is not; the hint says what to type.
            UsageError: The backend asked for does not run this format, or none runs on this device.
        """
        if name is not None:
            return self._named_backend(kind, name, device)
        found = self.backends_for(kind)
        fitting = [spec for spec in found.usable if _runs_on(spec, device)]
        if fitting:
            return fitting[0]
        if found.usable:
            offers = "; ".join(f"{spec.name} runs on {', '.join(spec.devices)}" for spec in found.usable)
            lines = "".join(f"\n  {problem.spec.name} {problem.message}" for problem in found.unavailable)
            raise UsageError(f"no installed backend runs format {kind!r} on device {device!r}", hint=offers + lines)
        if found.unavailable:
            lines = "\n  ".join(
                f"{problem.spec.name} ({self._loader.signature(problem.spec.provider)}) {problem.message}"
                for problem in found.unavailable
            )
            raise MissingPluginError(f"no backend that can run format {kind!r} is usable", hint=lines)
        raise self._no_backend(kind)

    # Data

    def dataset_format_for(self, path: Path | str, *, name: str | None = None) -> DatasetFormatSpec:
        """Return the dataset format of a path.

        Args:
            path: A data set's file or folder.
            name: A format asked for by name; nothing is then detected.

        Raises:
            DataError: No installed format recognises it.
            PluginError: Several of the same priority do.
        """
        if name is not None:
            return self.dataset_formats.get(name)
        path = Path(path)
        found = [spec for spec in self.dataset_formats.specs if _detects(spec, path)]
        highest = max((spec.priority for spec in found), default=0)
        spec = self.dataset_formats.only([spec for spec in found if spec.priority == highest], str(path))
        if spec is not None:
            return spec
        if not path.exists():
            raise MissingDataError(f"data set {str(path)!r} is not there")
        known = "; ".join(f"{key}: {spec.summary}" for key, spec in self.dataset_formats.items()) or "none"
        raise DataError(f"{path}: no installed dataset format recognises it", hint=f"installed: {known}")

    # Telling

    def with_listener(self, listener: OwnListener) -> Registry:
        """Return this registry with a listener of the caller's own, called for what is notified through this one.

        Unlike those of plugins it gets every fact, and what it raises is passed on: it ends the run.
        """
        other = copy.copy(self)
        other._own = (*self._own, listener)  # noqa: SLF001 - its own class's
        return other

    def notify(self, event: Event, **facts: Any) -> None:
        """Notify all listeners of an event; a plugin's that fails is logged, and the run goes on.

        Installed plugins are called in a thread of their own, each always in the same; one that does not come back is
        left out from then on. Listeners that a program has registered itself are called in the thread that works.

        Args:
            event: Name of the event hook, without ``segx_``.
            **facts: What the hook gets, and what only :meth:`with_listener` does.
        """
        caller = getattr(self.manager.hook, f"segx_{event}")
        for listener in reversed(caller.get_hookimpls()):
            name = listener.plugin_name
            call = functools.partial(listener.function, *(facts[fact] for fact in listener.argnames))
            if name in self._left_out:
                continue
            helper, what = self._helpers.get(name), f"plugin {name} is at work in segx_{event}"
            try:
                if helper is not None:
                    helper.within(call, what=what)
                else:
                    with watched(what):
                        call()
            except TooSlowError as error:
                self._left_out.add(name)
                logger.warning("plugin %s %s in segx_%s, and is left out from now on", name, error, event)
            except BaseException as error:
                if was_interrupted(error):
                    raise
                logger.warning("plugin %s failed in segx_%s: %s", name, event, one_line(error))
                logger.debug("plugin %s failed", name, exc_info=True)
        for own in self._own:
            own(event, facts)

    # How

    def _named_backend(self, kind: str, name: str, device: str | None) -> BackendSpec:
        spec = self.backends.get(name)
        if kind not in spec.formats:
            raise UsageError(
                f"backend {name!r} does not run format {kind!r}", hint=f"it runs {', '.join(sorted(spec.formats))}"
            )
        self.require(spec)
        if not _runs_on(spec, device):
            raise UsageError(
                f"backend {name!r} does not run on device {device!r}", hint=f"it runs on {', '.join(spec.devices)}"
            )
        return spec

    def _no_backend(self, kind: str) -> SegxError:
        """Return the error for a format that no installed backend declares."""
        known = known_plugins.FORMATS.get(kind)
        for distribution in known.backends if known else ():
            reported = self._loader.error_about(distribution, f"the backend for format {kind!r}")
            if reported is not None:
                return reported
        if known and known.backends:
            return MissingPluginError(
                f"running format {kind!r} needs: pip install {known.backends[0]}", hint=planned(known.backends[0])
            )
        formats = sorted({name for spec in self.backends.specs for name in spec.formats})
        return MissingPluginError(
            f"no backend runs format {kind!r}{did_you_mean(kind, formats)}",
            hint=f"formats that can be run: {', '.join(formats) or 'none'}",
        )

    def _missing_model_hint(self, path: Path) -> str:
        """Return what to do about a model that is not there."""
        if self.weights_file(path.name) is not None and path.parent != Path():
            return f"it is published: without a folder, model={path.name} downloads it"
        kind = self.format_of(path)
        suffix = next((s for s, k in self.suffixes.items() if k == kind and path.name.lower().endswith(s.lower())), "")
        source = path.with_name(path.name[: len(path.name) - len(suffix)] + ".pt")
        if suffix and kind in self.exporters and source.exists():
            return f"make it: segx export model={source} format={kind}"
        if not path.parent.is_dir():
            return f"there is no folder {str(path.parent)!r} in {Path.cwd()}"
        there = [item.name for item in path.parent.iterdir() if self.format_of(item) is not None]
        closest = did_you_mean(path.name, there).removeprefix("; ")
        models = f"models in {str(path.parent.resolve())!r}: {', '.join(sorted(there)[:8]) or 'none'}"
        return join_lines(closest, models)


@functools.cache
def get_registry() -> Registry:
    """Return the registry of this process; plugins are discovered on the first call."""
    return Registry(discover())


def _runs_on(spec: BackendSpec, device: str | None) -> bool:
    return device is None or device_kind(device) in spec.devices


def _order(spec: BackendSpec) -> tuple[int, str, str]:
    """Sort the best backend first, the same way on every machine."""
    return -spec.priority, spec.name, spec.provider


def _detects(spec: DatasetFormatSpec, path: Path) -> bool:
    try:
        with watched(f"data set format {full_name(spec)} is looking at {path}"):
            return within(lambda: bool(spec.detects(path)))
    except BaseException as error:  # a plugin that breaks its promise must not hide the others
        if was_interrupted(error):
            raise
        logger.warning("dataset format %s failed to look at %s: %s", full_name(spec), path, one_line(error))
        return False
