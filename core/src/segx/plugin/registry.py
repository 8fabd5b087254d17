"""Look up declarations: names, conflicts, export chains, backends."""

from __future__ import annotations

import functools
import logging
import sys
import threading
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

from segx.artifact import Artifact, WeightsFile
from segx.errors import DataError, MissingPluginError, ModelError, PluginError, SegxError, UsageError, did_you_mean
from segx.io.files import irregular
from segx.plugin import known as known_plugins
from segx.plugin.discovery import DISABLE, discover
from segx.plugin.guard import LOADING_PATIENCE, one_line, was_interrupted, watched
from segx.plugin.requirements import unmet
from segx.plugin.specs import (
    ArchitectureSpec,
    BackendSpec,
    CommandSpec,
    DatasetFormatSpec,
    ExporterSpec,
    Spec,
    TaskSpec,
    no_problem,
    nothing,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pluggy

    from segx.plugin.discovery import Broken, Disabled, Discovery, Plugin
    from segx.plugin.interfaces import Architecture, Backend, DatasetReader, Exporter, Task

S = TypeVar("S", bound=Spec)

Event = Literal["run_started", "step_ended", "run_ended", "run_failed"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Unavailable:
    """A declaration that cannot be used on this machine, and why.

    Attributes:
        spec: What was declared.
        reason: Why it cannot be used: ``"needs tensorrt>=10, found none"``.
        fix: What to type, or an empty string.
    """

    spec: Spec
    reason: str
    fix: str = ""

    @property
    def message(self) -> str:
        """The reason with the fix behind it."""
        return f"{self.reason}: {self.fix}" if self.fix else self.reason


@dataclass(frozen=True, kw_only=True)
class Backends:
    """The backends that declare a format.

    Attributes:
        usable: Those that can be used here, best first.
        unavailable: Those that cannot, with the reason.
    """

    usable: tuple[BackendSpec, ...]
    unavailable: tuple[Unavailable, ...]


class _Catalog(Generic[S]):
    """All declarations of one kind.

    Args:
        kind: What it is called in code.
        word: What users call it: an exporter is a "format".
        specs: What the plugins declare.
    """

    def __init__(self, kind: str, word: str, specs: Iterable[S]) -> None:
        self.kind = kind
        self.word = word
        self.specs = tuple(specs)
        self.claims: dict[str, list[S]] = defaultdict(list)
        for spec in self.specs:
            self.claims[spec.name].append(spec)

    @functools.cached_property
    def mapping(self) -> Mapping[str, S]:
        """Name to declaration; where two distributions claim a name, only ``name@distribution``."""
        named: dict[str, S] = {}
        for name, claims in sorted(self.claims.items()):
            if len(claims) == 1:
                named[name] = claims[0]
            else:
                named.update((full_name(spec), spec) for spec in claims)
        return MappingProxyType(named)

    def get(self, name: str) -> S | None:
        """Return what a bare or full name means, None if nothing.

        Raises:
            PluginError: Several distributions claim the bare name.
        """
        bare, _, distribution = name.partition("@")
        claims = self.claims.get(bare, [])
        if distribution:
            return next((spec for spec in claims if spec.provider == distribution), None)
        if len(claims) > 1:
            choices = " or ".join(full_name(spec) for spec in claims)
            raise PluginError(
                f"{self.word} {name!r} is claimed by {len(claims)} distributions", hint=f"say which: {choices}"
            )
        return claims[0] if claims else None


class Registry:
    """What the installed plugins declare.

    Args:
        discovery: What was found; see :func:`segx.plugin.discovery.discover`.
    """

    def __init__(self, discovery: Discovery) -> None:
        self._discovery = discovery
        self._lock = threading.RLock()
        self._instances: dict[tuple[str, str, str], Any] = {}
        self._unprepared: dict[str, str] | None = None
        declared = discovery.declared
        self._tasks = _Catalog("task", "task", cast("tuple[TaskSpec, ...]", declared["task"]))
        self._architectures = _Catalog(
            "architecture", "architecture", cast("tuple[ArchitectureSpec, ...]", declared["architecture"])
        )
        self._exporters = _Catalog("exporter", "format", cast("tuple[ExporterSpec, ...]", declared["exporter"]))
        self._backends = _Catalog("backend", "backend", cast("tuple[BackendSpec, ...]", declared["backend"]))
        self._dataset_formats = _Catalog(
            "dataset_format", "dataset format", cast("tuple[DatasetFormatSpec, ...]", declared["dataset_format"])
        )
        self._commands = _Catalog("command", "command", cast("tuple[CommandSpec, ...]", declared["command"]))

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

    @property
    def tasks(self) -> Mapping[str, TaskSpec]:
        """Name to task."""
        return self._tasks.mapping

    @property
    def architectures(self) -> Mapping[str, ArchitectureSpec]:
        """Name to architecture."""
        return self._architectures.mapping

    @property
    def exporters(self) -> Mapping[str, ExporterSpec]:
        """Name to export format."""
        return self._exporters.mapping

    @property
    def backends(self) -> Mapping[str, BackendSpec]:
        """Name to backend."""
        return self._backends.mapping

    @property
    def dataset_formats(self) -> Mapping[str, DatasetFormatSpec]:
        """Name to dataset format."""
        return self._dataset_formats.mapping

    @property
    def commands(self) -> Mapping[str, CommandSpec]:
        """Name to sub-command."""
        return self._commands.mapping

    # One by its name

    def task(self, name: str) -> TaskSpec:
        """Return a task by name, or by ``name@distribution``; so do the other lookups.

        Raises:
            UsageError: The name is not known.
            MissingPluginError: It is known and not installed.
            PluginError: Its plugin is broken, or several distributions claim the name.
        """
        return self._look_up(self._tasks, name)

    def architecture(self, name: str) -> ArchitectureSpec:
        """Return an architecture by name."""
        return self._look_up(self._architectures, name)

    def exporter(self, name: str) -> ExporterSpec:
        """Return an export format by name."""
        return self._look_up(self._exporters, name)

    def backend(self, name: str) -> BackendSpec:
        """Return a backend by name."""
        return self._look_up(self._backends, name)

    def dataset_format(self, name: str) -> DatasetFormatSpec:
        """Return a dataset format by name."""
        return self._look_up(self._dataset_formats, name)

    def command(self, name: str) -> CommandSpec:
        """Return a sub-command by name."""
        return self._look_up(self._commands, name)

    # Loaded

    def load_task(self, name: str) -> Task:
        """Return a task, loaded; so do the other loaders.

        Raises:
            MissingPluginError: It, or something it requires, is not installed.
            PluginError: It cannot be loaded.
        """
        return cast("Task", self._load(self._tasks, self.task(name)))

    def load_architecture(self, name: str) -> Architecture:
        """Return an architecture, loaded."""
        return cast("Architecture", self._load(self._architectures, self.architecture(name)))

    def load_exporter(self, spec: ExporterSpec) -> Exporter:
        """Return an exporter, loaded."""
        return cast("Exporter", self._load(self._exporters, spec))

    def load_backend(self, spec: BackendSpec) -> Backend:
        """Return a backend, loaded."""
        return cast("Backend", self._load(self._backends, spec))

    def load_dataset_format(self, spec: DatasetFormatSpec) -> DatasetReader:
        """Return a dataset reader, loaded."""
        return cast("DatasetReader", self._load(self._dataset_formats, spec))

    def load_command(self, spec: CommandSpec) -> Any:
        """Return a sub-command, loaded: a ``typer.Typer`` or a function."""
        return self._load(self._commands, spec)

    def load(self, kind: str, spec: Spec) -> Any:
        """Return what any declaration of a kind loads; the loaders above say of which type it is."""
        return self._load(next(catalog for catalog in self._catalogs() if catalog.kind == kind), spec)

    def prepare(self) -> None:
        """Have every plugin keep its libraries from reporting by themselves; done once, before the first is imported.

        All are asked, not only the one that is loaded: libraries import each other (a graph optimiser imports a
        runtime). Whoever imports what a declaration requires without loading it calls this first.
        """
        with self._lock:
            if self._unprepared is not None:
                return
            self._unprepared = {}
            for spec in (spec for specs in self.declared.values() for spec in specs if spec.prepare is not nothing):
                try:
                    with watched(f"plugin {spec.provider} is preparing {spec.name!r}"):
                        spec.prepare()
                except BaseException as error:
                    if was_interrupted(error):
                        self._unprepared = None
                        raise
                    self._unprepared[full_name(spec)] = one_line(error)

    def unavailable(self, spec: Spec, *, precision: str | None = None) -> Unavailable | None:
        """Return why a declaration cannot be used here, None if it can; imports nothing.

        Args:
            spec: What is declared.
            precision: Of an exporter, the precision that is to be written.
        """
        if _elsewhere(spec):
            return Unavailable(spec=spec, reason=f"works on {', '.join(spec.platforms)}, this is {sys.platform}")
        more = spec.requires_for.get(precision, ()) if precision and isinstance(spec, ExporterSpec) else ()
        missing = unmet((*spec.requires, *more))
        if not missing:
            problem = _problem(spec)
            return Unavailable(spec=spec, reason=problem) if problem else None
        reasons = "; ".join(problem.reason for problem in missing)
        wanted = " ".join(f'"{problem.requirement}"' for problem in missing if not problem.problem)
        return Unavailable(spec=spec, reason=f"needs {reasons}", fix=f"pip install {wanted}" if wanted else "")

    def require(self, spec: Spec, *, precision: str | None = None) -> None:
        """Refuse a declaration that cannot be used here.

        Raises:
            MissingPluginError: Something it requires, or needs besides, is not there.
            UsageError: This is not a platform it works on.
        """
        problem = self.unavailable(spec, precision=precision)
        if problem is None:
            return
        error = UsageError if _elsewhere(spec) else MissingPluginError
        name = f"{spec.name!r} in {precision}" if precision else repr(spec.name)
        raise error(f"{self._word(spec)} {name} ({self._signature(spec.provider)}) {problem.message}")

    # Models

    def architecture_for(self, definition: Mapping[str, Any]) -> Architecture:
        """Return the architecture that recognises the content of a model's YAML.

        Raises:
            ModelError: None does.
        """
        for spec in self._architectures.specs:
            if self.unavailable(spec) is None:
                architecture = cast("Architecture", self._load(self._architectures, spec))
                if architecture.detects(definition):
                    return architecture
        skipped = [
            f"{spec.name} {problem.message}"
            for spec in self._architectures.specs
            if (problem := self.unavailable(spec))
        ]
        known = ", ".join(self.architectures) or "none"
        hint = "; ".join([f"architectures: {known}", *skipped])
        raise ModelError("the model's definition is of no architecture that is installed", hint=hint)

    def variant(self, name: str) -> ArchitectureSpec | None:
        """Return the architecture that ships a configuration: ``"yolov8n-seg"``, with or without ``.yaml``."""
        stem = name.removesuffix(".yaml").removesuffix(".yml")
        return next((spec for spec in self._architectures.specs if stem in spec.variants), None)

    def weights_file(self, name: str) -> WeightsFile | None:
        """Return where a file of weights is published: ``"yolov8n-seg.pt"``."""
        return next((spec.weights[name] for spec in self._architectures.specs if name in spec.weights), None)

    def artifact(self, path: Path | str) -> Artifact:
        """Return a model on disk with its format, which the end of its name tells.

        Raises:
            ModelError: It is not there, or its name is of no known format.
        """
        path = Path(path)
        kind = self.format_of(path)
        if not path.exists():
            raise ModelError(f"model {str(path)!r} is not there", hint=self._missing_model_hint(path))
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
        table.update((spec.suffix, spec.name) for spec in self._exporters.specs)
        for backend in sorted(self._backends.specs, key=_order, reverse=True):
            for kind, suffixes in backend.formats.items():
                table.update(dict.fromkeys(suffixes, kind))
        return MappingProxyType(table)

    # Export and backends

    def export_chain(self, name: str) -> tuple[ExporterSpec, ...]:
        """Return the exporters that lead from the model to a format, in the order they work.

        Raises:
            SegxError: As :meth:`exporter`, for the format itself or one that it is made from.
            PluginError: The formats are made from each other.
        """
        chain = [self.exporter(name)]
        while chain[0].source != "model":
            source = chain[0].source
            if any(spec.name == source.partition("@")[0] for spec in chain):
                circle = " <- ".join(spec.name for spec in chain)
                raise PluginError(
                    f"format {name!r} cannot be made: {source} <- {circle} is a circle",
                    hint=f"tell the authors of {', '.join(sorted({spec.provider for spec in chain}))}",
                )
            try:
                chain.insert(0, self.exporter(source))
            except SegxError as error:
                message = f"format {chain[0].name!r} is made from {source!r}: {error.message}"
                raise type(error)(message, hint=error.hint) from error
        return tuple(chain)

    def backends_for(self, kind: str) -> Backends:
        """Return the backends that run a format: the usable ones, best first, and the others with the reason."""
        usable, unavailable = [], []
        for spec in sorted(self._backends.specs, key=_order):
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
                f"{problem.spec.name} ({self._signature(problem.spec.provider)}) {problem.message}"
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
            PluginError: Several do.
        """
        if name is not None:
            return self.dataset_format(name)
        path = Path(path)
        found = [spec for spec in self._dataset_formats.specs if _detects(spec, path)]
        if len(found) > 1:
            choices = ", ".join(full_name(spec) for spec in found)
            raise PluginError(f"{path}: several dataset formats recognise it: {choices}")
        if found:
            return found[0]
        if not path.exists():
            raise DataError(f"data set {str(path)!r} is not there")
        known = "; ".join(f"{key}: {spec.summary}" for key, spec in self.dataset_formats.items()) or "none"
        raise DataError(f"{path}: no installed dataset format recognises it", hint=f"installed: {known}")

    # Telling

    def notify(self, event: Event, **facts: Any) -> None:
        """Notify all listeners of an event; a listener that fails is logged, and the run goes on.

        Args:
            event: Name of the event hook, without ``segx_``.
            **facts: What the hook is told.
        """
        caller = getattr(self.manager.hook, f"segx_{event}")
        for listener in reversed(caller.get_hookimpls()):
            try:
                with watched(f"plugin {listener.plugin_name} is at work in segx_{event}"):
                    listener.function(*(facts[name] for name in listener.argnames))
            except BaseException as error:
                if was_interrupted(error):
                    raise
                logger.warning("plugin %s failed in segx_%s: %s", listener.plugin_name, event, one_line(error))
                logger.debug("plugin %s failed", listener.plugin_name, exc_info=True)

    # How

    def _catalogs(self) -> tuple[_Catalog[Any], ...]:
        return (
            self._tasks,
            self._architectures,
            self._exporters,
            self._backends,
            self._dataset_formats,
            self._commands,
        )

    def _look_up(self, catalog: _Catalog[S], name: str) -> S:
        spec = catalog.get(name)
        if spec is not None:
            return spec
        raise self._not_found(catalog, name)

    def _not_found(self, catalog: _Catalog[Any], name: str) -> SegxError:
        """Return the error for a name that nothing installed provides."""
        installed = f"installed {catalog.word}s: {', '.join(catalog.mapping) or 'none'}"
        bare, _, asked = name.partition("@")
        if asked and bare in catalog.claims:
            choices = ", ".join(full_name(spec) for spec in catalog.claims[bare])
            return UsageError(f"{catalog.word} {bare!r} is not provided by {asked!r}", hint=f"it is by {choices}")
        distribution = asked or known_plugins.PROVIDERS.get((catalog.kind, bare), "")
        reported = self._error_about(distribution, f"{catalog.word} {bare!r}")
        if reported is not None:
            return reported
        if not asked and distribution:
            return MissingPluginError(
                f"{catalog.word} {name!r} needs: pip install {distribution}",
                hint=_join(installed, _planned(distribution)),
            )
        known = {known_name for kind, known_name in known_plugins.PROVIDERS if kind == catalog.kind}
        closest = did_you_mean(name, {*catalog.mapping, *known})
        broken = "; ".join(f"{item.distribution} {item.version} {item.reason}" for item in self.broken)
        return UsageError(
            f"{catalog.word} {name!r} is not known{closest}",
            hint=_join(installed, f"broken plugins: {broken}" if broken else ""),
        )

    def _error_about(self, distribution: str, subject: str) -> SegxError | None:
        """Return the error for something of a distribution that is installed and broken or left out."""
        for broken in self.broken:
            if broken.distribution == distribution:
                signature = f"{broken.distribution} {broken.version}"
                return PluginError(
                    f"{subject} is provided by {signature}, which is broken: {broken.reason}",
                    hint=f"pip install --upgrade {distribution}, or see: segx plugins",
                )
        if any(item.distribution == distribution for item in self.disabled):
            return PluginError(f"{subject} is provided by {distribution}, which {DISABLE} leaves out")
        return None

    def _load(self, catalog: _Catalog[Any], spec: Spec) -> Any:
        key = (catalog.kind, spec.name, spec.provider)
        with self._lock:
            if key not in self._instances:
                self.require(spec)
                self._instances[key] = self._import(catalog, spec)
            return self._instances[key]

    def _import(self, catalog: _Catalog[Any], spec: Spec) -> Any:
        what = f"{catalog.word} {spec.name!r} ({self._signature(spec.provider)})"
        self.prepare()
        if reason := (self._unprepared or {}).get(full_name(spec)):
            raise PluginError(f"{what} cannot be prepared: {reason}")
        try:
            with watched(f"{what} is loading", patience=LOADING_PATIENCE):
                return spec.load()
        except SegxError:
            raise
        except BaseException as error:
            if was_interrupted(error):
                raise
            raise PluginError(f"{what} cannot be loaded: {one_line(error)}") from error

    def _named_backend(self, kind: str, name: str, device: str | None) -> BackendSpec:
        spec = self.backend(name)
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
            reported = self._error_about(distribution, f"the backend for format {kind!r}")
            if reported is not None:
                return reported
        if known and known.backends:
            return MissingPluginError(
                f"running format {kind!r} needs: pip install {known.backends[0]}", hint=_planned(known.backends[0])
            )
        formats = sorted({name for spec in self._backends.specs for name in spec.formats})
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
        return _join(closest, models)

    def _signature(self, distribution: str) -> str:
        """Return the distribution with its version: ``"segx-export-tensorrt 0.1.0"``."""
        version = next((plugin.version for plugin in self.plugins if plugin.distribution == distribution), "")
        return f"{distribution} {version}".strip()

    def _word(self, spec: Spec) -> str:
        return next(catalog.word for catalog in self._catalogs() if any(item is spec for item in catalog.specs))


@functools.cache
def get_registry() -> Registry:
    """Return the registry of this process; plugins are discovered on the first call."""
    return Registry(discover())


def full_name(spec: Spec) -> str:
    """Return the name that is never ambiguous: ``"tflite@segx-export-tflite"``."""
    return f"{spec.name}@{spec.provider}"


def device_kind(device: str) -> str:
    """Return the kind of a device: ``"0"``, ``"0,1"`` and ``"cuda:1"`` are ``"cuda"``."""
    kind = device.strip().lower().partition(":")[0]
    return "cuda" if kind.replace(",", "").replace(" ", "").isdigit() else kind


def _runs_on(spec: BackendSpec, device: str | None) -> bool:
    return device is None or device_kind(device) in spec.devices


def _order(spec: BackendSpec) -> tuple[int, str, str]:
    """Sort the best backend first, the same way on every machine."""
    return -spec.priority, spec.name, spec.provider


def _elsewhere(spec: Spec) -> bool:
    return bool(spec.platforms) and sys.platform not in spec.platforms


def _problem(spec: Spec) -> str:
    if spec.problem is no_problem:
        return ""
    try:
        with watched(f"plugin {spec.provider} is looking whether {spec.name!r} can be used"):
            return str(spec.problem() or "")
    except BaseException as error:
        if was_interrupted(error):
            raise
        return f"cannot say whether it can be used: {one_line(error)}"


def _detects(spec: DatasetFormatSpec, path: Path) -> bool:
    try:
        with watched(f"data set format {full_name(spec)} is looking at {path}"):
            return bool(spec.detects(path))
    except BaseException as error:  # a plugin that breaks its promise must not hide the others
        if was_interrupted(error):
            raise
        logger.warning("dataset format %s failed to look at %s: %s", full_name(spec), path, one_line(error))
        return False


def _planned(distribution: str) -> str:
    return f"{distribution} is planned and not released yet" if distribution in known_plugins.PLANNED else ""


def _join(*lines: str) -> str:
    return "\n  ".join(line for line in lines if line)
