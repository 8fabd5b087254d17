"""Discover plugins, check their API version and collect their declarations; a broken one does not affect others."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import itertools
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import pluggy

from segx.plugin import hookspecs, specs
from segx.plugin.guard import PATIENCE, Helper, TooSlowError, one_line, was_interrupted
from segx.plugin.installed import distributions, normal
from segx.records import Record
from segx.words import visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from segx.plugin.installed import Distribution

GROUP = "segx"
"""The entry-point group; name = distribution without ``segx-``, value = ``<package>.plugin``."""

DISABLE = "SEGX_DISABLE_PLUGINS"
"""Environment variable: distributions or plugin names to leave out, with commas between, or ``all``."""

PLUGIN_TYPES: Mapping[str, tuple[str, type[specs.Spec]]] = {
    "task": ("segx_tasks", specs.TaskSpec),
    "architecture": ("segx_architectures", specs.ArchitectureSpec),
    "exporter": ("segx_exporters", specs.ExporterSpec),
    "backend": ("segx_backends", specs.BackendSpec),
    "dataset_format": ("segx_dataset_formats", specs.DatasetFormatSpec),
    "command": ("segx_commands", specs.CommandSpec),
}
"""Kind of declaration to the hook that declares it and the spec it returns."""

_MAX = 500
"""Declarations that one hook of one plugin may return."""
_LONGEST = 100
"""Characters that a name may have."""

logger = logging.getLogger(__name__)


class Plugin(Record):
    """A plugin that was found and speaks this API.

    Attributes:
        name: Its entry point's name: ``"export-onnx"``.
        distribution: What is installed with pip: ``"segx-export-onnx"``.
        version: The distribution's version.
        module: The module it was loaded from.
    """

    name: str
    distribution: str
    version: str
    module: str


class Broken(Record):
    """A plugin that was found and cannot be used.

    Attributes:
        name: Its entry point's name.
        distribution: What is installed with pip.
        version: The distribution's version.
        reason: Why it cannot be used, in one line.
    """

    name: str
    distribution: str
    version: str
    reason: str


class Disabled(Record):
    """A plugin that was left out because :data:`DISABLE` names it."""

    name: str
    distribution: str


class Discovery(Record):
    """Everything that was found.

    Attributes:
        manager: The plugins, registered with the hooks.
        plugins: Those that work, by distribution and name.
        broken: Those that do not, with the reason.
        disabled: Those the user left out.
        declared: Kind to what the plugins declare, each signed with its distribution.
    """

    manager: pluggy.PluginManager
    plugins: tuple[Plugin, ...]
    broken: tuple[Broken, ...]
    disabled: tuple[Disabled, ...]
    declared: Mapping[str, tuple[specs.Spec, ...]]


class _RefusedError(Exception):
    """A plugin breaks the rules; the text says which."""


class _Entry(NamedTuple):
    """An entry point: its name, and ``package.module`` or ``package.module:attribute``."""

    name: str
    value: str

    @property
    def module(self) -> str:
        return self.value.partition("[")[0].partition(":")[0].strip()

    def load(self) -> Any:
        attributes = filter(None, self.value.partition("[")[0].partition(":")[2].strip().split("."))
        return functools.reduce(getattr, attributes, importlib.import_module(self.module))


@dataclass
class _Loader:
    """Loads one entry point after another; what it has gathered so far is whole at any moment."""

    manager: pluggy.PluginManager
    helper: Helper = field(default_factory=Helper)
    plugins: list[Plugin] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    disabled: list[Disabled] = field(default_factory=list)
    declared: dict[str, list[specs.Spec]] = field(default_factory=lambda: {kind: [] for kind in PLUGIN_TYPES})

    def add(self, entry: _Entry, distribution: str, version: str) -> None:
        """Load one plugin; any error becomes a record of a broken plugin."""
        module: Any = None
        try:
            module = self.helper.within(entry.load, patience=PATIENCE)
            _shake_hands(module)
            self._register(module, f"{entry.name}@{distribution}")
            declared = self.helper.within(
                lambda: {kind: self._collect(kind, module, distribution) for kind in PLUGIN_TYPES}, patience=PATIENCE
            )
        except BaseException as error:
            if was_interrupted(error):
                raise
            if module is not None and self.manager.is_registered(module):
                self.manager.unregister(module)
            logger.debug("plugin %s of %s is broken", entry.name, distribution, exc_info=True)
            self.refuse(entry.name, distribution, version, error)
            return
        for kind, found in declared.items():
            self.declared[kind].extend(found)
        self.plugins.append(Plugin(name=entry.name, distribution=distribution, version=version, module=entry.module))

    def refuse(self, name: str, distribution: str, version: str, error: BaseException) -> None:
        """Note a plugin that cannot be used."""
        reason = str(error) if isinstance(error, _RefusedError | TooSlowError) else one_line(error)
        self.broken.append(
            Broken(
                name=visible(name, lines=False),
                distribution=visible(distribution, lines=False),
                version=visible(version, lines=False),
                reason=visible(reason, lines=False),
            )
        )

    def _register(self, module: Any, name: str) -> None:
        self.manager.register(module, name=name)
        for caller in self.manager.get_hookcallers(module) or ():
            if not caller.has_spec():
                optional = all(impl.optionalhook for impl in caller.get_hookimpls() if impl.plugin is module)
                if not optional:
                    known = ", ".join(name for name in dir(hookspecs) if name.startswith("segx_"))
                    raise _RefusedError(f"implements the hook {caller.name!r}, which is not known; hooks: {known}")

    def _collect(self, kind: str, module: Any, distribution: str) -> list[specs.Spec]:
        """Call one declaring hook of one plugin and check what it returns."""
        hook, spec_type = PLUGIN_TYPES[kind]
        found: list[specs.Spec] = []
        for impl in getattr(self.manager.hook, hook).get_hookimpls():
            if impl.plugin is not module:
                continue
            declared = impl.function()
            for spec in _iterate(hook, declared):
                if not isinstance(spec, spec_type):
                    raise _RefusedError(f"{hook}() returned {type(spec).__name__}, expected {spec_type.__name__}")
                _check_name(hook, spec.name)
                _check_fields(hook, spec)
                signed = spec.with_provider(distribution)
                if any(
                    other.name == spec.name and other.provider == distribution
                    for other in (*found, *self.declared[kind])
                ):
                    raise _RefusedError(f"{hook}() declares {spec.name!r} a second time")
                found.append(signed)
        return found


def discover(*, path: list[str] | None = None) -> Discovery:
    """Find all plugins; imports their ``plugin.py`` and nothing else.

    Args:
        path: Folders to look in; default: ``sys.path``.
    """
    manager = pluggy.PluginManager("segx")
    manager.add_hookspecs(hookspecs)
    loader = _Loader(manager)
    unwanted = _unwanted()
    for entry, distribution, version in _entry_points(path, loader):
        if "all" in unwanted or unwanted & {normal(entry.name), normal(distribution)}:
            loader.disabled.append(Disabled(name=entry.name, distribution=distribution))
        else:
            loader.add(entry, distribution, version)
    loader.helper.end()
    return Discovery(
        manager=manager,
        plugins=tuple(loader.plugins),
        broken=tuple(loader.broken),
        disabled=tuple(loader.disabled),
        declared={kind: tuple(found) for kind, found in loader.declared.items()},
    )


def _entry_points(path: list[str] | None, loader: _Loader) -> Iterator[tuple[_Entry, str, str]]:
    """Yield entry points with distribution and version, in a stable order; what cannot be read is noted."""
    seen: set[str] = set()
    found: list[tuple[_Entry, str, str]] = []
    for distribution in distributions(path):
        # Most distributions have nothing to do with segx: their names and versions are not even read.
        if f"[{GROUP}]".encode() not in _bytes(distribution):
            continue
        try:
            about = distribution.about()
            name, version = about.get("Name", ""), about.get("Version", "")
            entries = [_Entry(*entry) for entry in distribution.entry_points(GROUP)]
        except Exception as error:  # noqa: BLE001 - whatever one installer left behind must not hide the others
            loader.refuse(distribution.name, distribution.name, distribution.version, error)
            continue
        if not name:
            logger.warning("a distribution with a plugin of segx has no name, and is passed over; reinstall it")
            continue
        if normal(name) in seen:
            continue  # of two copies on the path the first is the one that is imported
        seen.add(normal(name))
        found.extend((entry, name, version) for entry in entries)
    yield from sorted(found, key=lambda item: (normal(item[1]), item[0].name))


def _bytes(distribution: Distribution) -> bytes:
    try:
        return distribution.read("entry_points.txt")
    except OSError:  # it may not be read, so nothing of it can be used
        return b""


def _unwanted() -> set[str]:
    return {normal(name.strip()) for name in os.environ.get(DISABLE, "").split(",") if name.strip()}


def _shake_hands(module: Any) -> None:
    """Raise if a plugin was written for another version of the API."""
    stated = getattr(module, "SEGX_API", None)
    major, minor = specs.API
    if stated is None:
        raise _RefusedError(f"states no SEGX_API; this segx speaks {major}.{minor}")
    if not (isinstance(stated, tuple) and len(stated) == 2 and all(type(number) is int for number in stated)):
        msg = f"states SEGX_API = {stated!r}; expected (major, minor), this segx speaks ({major}, {minor})"
        raise _RefusedError(msg)
    if stated[0] != major or stated[1] > minor:
        newer = stated > specs.API
        fix = "update segx-core" if newer else "update the plugin"
        raise _RefusedError(f"speaks API {stated[0]}.{stated[1]}, this segx speaks {major}.{minor}: {fix}")


def _iterate(hook: str, declared: Any) -> Iterable[Any]:
    if declared is None or isinstance(declared, str | bytes | specs.Spec):
        raise _RefusedError(f"{hook}() returned {type(declared).__name__}, expected a list of specs")
    found = tuple(itertools.islice(declared, _MAX + 1))  # it may yield for ever
    if len(found) > _MAX:
        raise _RefusedError(f"{hook}() declares more than {_MAX} things")
    return found


def _check_name(hook: str, name: Any) -> None:
    if not isinstance(name, str) or not name or any(sign in "@=," or sign.isspace() for sign in name):
        raise _RefusedError(f"{hook}() declares the name {name!r:.100}; a name holds no blanks and none of @ = ,")
    if len(name) > _LONGEST or visible(name) != name:
        msg = f"{hook}() declares the name {name[:_LONGEST]!r}; a name has up to {_LONGEST} visible characters"
        raise _RefusedError(msg)


def _check_fields(hook: str, spec: specs.Spec) -> None:
    """Refuse what would fail whoever looks at the declaration later."""
    for item in dataclasses.fields(spec):
        value, check = getattr(spec, item.name), _FIELDS.get(item.name)
        if check is not None and not check[1](value):
            raise _RefusedError(f"{hook}() declares {spec.name!r} with {item.name}={value!r:.100}; expected {check[0]}")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, tuple) and all(map(_is_text, value))


def _name_texts(value: Any) -> bool:
    """Return True if names lead to tuples of texts, and no name to an empty one."""
    return _is_named(value) and all(_are_texts(texts) and texts for texts in value.values())


def _is_named(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_text, value))


_FIELDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("summary", "source", "task"), ("a text", _is_text)),
    "suffix": ("a text that is not empty", lambda value: _is_text(value) and value != ""),
    **dict.fromkeys(("requires", "platforms", "variants"), ("a tuple of texts", _are_texts)),
    **dict.fromkeys(
        ("precisions", "devices"), ("a tuple of texts, not empty", lambda value: _are_texts(value) and value != ())
    ),
    **dict.fromkeys(("load", "problem", "prepare", "detects"), ("a function", callable)),
    **dict.fromkeys(("formats", "requires_for"), ("names with tuples of texts", _name_texts)),
    **dict.fromkeys(("weights", "tolerance"), ("names with values", _is_named)),
    "options": ("a class", lambda value: isinstance(value, type)),
    "priority": ("a whole number", lambda value: isinstance(value, int)),
}
"""What the fields of all declarations have to be."""
