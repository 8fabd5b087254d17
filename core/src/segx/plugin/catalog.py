"""What plugins declare of one type: found by name, reported when it is not there, loaded once."""

from __future__ import annotations

import functools
import sys
import threading
from collections import defaultdict
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from segx.errors import MissingPluginError, PluginError, SegxError, UsageError, did_you_mean
from segx.plugin import known as known_plugins
from segx.plugin.discovery import DISABLE, PLUGIN_TYPES
from segx.plugin.guard import LOADING_PATIENCE, one_line, was_interrupted, watched, within
from segx.plugin.requirements import unmet
from segx.plugin.specs import BackendSpec, ExporterSpec, Spec, no_problem, nothing
from segx.records import Record

if TYPE_CHECKING:
    from collections.abc import ItemsView, Iterator, Mapping, ValuesView

    from segx.plugin.discovery import Discovery

S = TypeVar("S", bound=Spec)
T = TypeVar("T")


class Unavailable(Record):
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


class Loader:
    """Loads what is declared, each thing once, after every plugin has been asked to keep its libraries quiet."""

    def __init__(self, discovery: Discovery) -> None:
        self.discovery = discovery
        self._lock = threading.RLock()
        self._instances: dict[tuple[type[Spec], str, str], Any] = {}
        self._unprepared: dict[str, str] | None = None

    def prepare(self) -> None:
        """Have every plugin keep its libraries from reporting by themselves; done once, before the first is imported.

        All are asked, not only the one that is loaded: libraries import each other (a graph optimiser imports a
        runtime). Whoever imports what a declaration requires without loading it calls this first.
        """
        with self._lock:
            if self._unprepared is not None:
                return
            self._unprepared = {}
            every = (spec for specs in self.discovery.declared.values() for spec in specs)
            for spec in (spec for spec in every if spec.prepare is not nothing):
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
        raise error(f"{spec.word} {name} ({self.signature(spec.provider)}) {problem.message}")

    def load(self, spec: Spec) -> Any:
        """Return what a declaration loads.

        Raises:
            MissingPluginError: Something it requires is not installed.
            PluginError: It cannot be loaded.
        """
        key = (type(spec), spec.name, spec.provider)
        with self._lock:
            if key not in self._instances:
                self.require(spec)
                self._instances[key] = self._import(spec)
            return self._instances[key]

    def signature(self, distribution: str) -> str:
        """Return a distribution with its version: ``"segx-export-tensorrt 0.1.0"``."""
        plugins = self.discovery.plugins
        version = next((plugin.version for plugin in plugins if plugin.distribution == distribution), "")
        return f"{distribution} {version}".strip()

    def error_about(self, distribution: str, subject: str) -> SegxError | None:
        """Return the error for something of a distribution that is installed and broken or left out."""
        for broken in self.discovery.broken:
            if broken.distribution == distribution:
                signature = f"{broken.distribution} {broken.version}"
                return PluginError(
                    f"{subject} is provided by {signature}, which is broken: {broken.reason}",
                    hint=f"pip install --upgrade {distribution}, or see: segx plugins",
                )
        if any(item.distribution == distribution for item in self.discovery.disabled):
            return PluginError(f"{subject} is provided by {distribution}, which {DISABLE} leaves out")
        return None

    def _import(self, spec: Spec) -> Any:
        what = f"{spec.word} {spec.name!r} ({self.signature(spec.provider)})"
        self.prepare()
        if reason := (self._unprepared or {}).get(full_name(spec)):
            raise PluginError(f"{what} cannot be prepared: {reason}")
        try:
            with watched(f"{what} is loading", patience=LOADING_PATIENCE):
                loaded = spec.load()
        except SegxError:
            raise
        except BaseException as error:
            if was_interrupted(error):
                raise
            raise PluginError(f"{what} cannot be loaded: {one_line(error)}") from error
        if isinstance(spec, BackendSpec) and spec.apart:
            from segx.plugin.apart import stand_in

            return stand_in(spec, loaded)
        return loaded


class Catalog(Generic[S, T]):
    """All declarations of one type, by name; where two distributions claim one, only ``name@distribution`` is a key.

    Args:
        plugin_type: What it is called in code: ``"exporter"``; users call it by the ``word`` of its spec.
        loader: Who loads.
    """

    def __init__(self, plugin_type: str, loader: Loader) -> None:
        self.plugin_type = plugin_type
        self.word = PLUGIN_TYPES[plugin_type][1].word
        self.specs = cast("tuple[S, ...]", tuple(loader.discovery.declared[plugin_type]))
        self.claims: dict[str, list[S]] = defaultdict(list)
        self._loader = loader
        for spec in self.specs:
            self.claims[spec.name].append(spec)

    @functools.cached_property
    def _named(self) -> Mapping[str, S]:
        named: dict[str, S] = {}
        for name, claims in sorted(self.claims.items()):
            named.update({name: claims[0]} if len(claims) == 1 else {full_name(spec): spec for spec in claims})
        return MappingProxyType(named)

    def __iter__(self) -> Iterator[str]:
        return iter(self._named)

    def __len__(self) -> int:
        return len(self._named)

    def __contains__(self, name: object) -> bool:
        return name in self._named

    def __getitem__(self, name: str) -> S:
        return self._named[name]

    def values(self) -> ValuesView[S]:
        """Return the declarations, in the order of their names."""
        return self._named.values()

    def items(self) -> ItemsView[str, S]:
        """Return names and declarations."""
        return self._named.items()

    def find(self, name: str) -> S | None:
        """Return what a bare or full name means, in capitals or not; None if nothing.

        Raises:
            PluginError: Several distributions claim the bare name.
        """
        bare, _, distribution = name.partition("@")
        claims = self.claims.get(bare) or self.claims.get(bare.lower(), [])
        if distribution:
            return next((spec for spec in claims if spec.provider == distribution), None)
        if len(claims) > 1:
            choices = " or ".join(full_name(spec) for spec in claims)
            message = f"{self.word} {name!r} is claimed by {len(claims)} distributions"
            raise PluginError(message, hint=f"say which: {choices}")
        return claims[0] if claims else None

    def get(self, name: str) -> S:
        """Return what a bare or full name means: ``"onnx"``, ``"onnx@segx-export-onnx"``.

        Raises:
            UsageError: The name is not known.
            MissingPluginError: It is known and not installed.
            PluginError: Its plugin is broken, or several distributions claim the name.
        """
        spec = self.find(name)
        if spec is None:
            raise self._not_found(name)
        return spec

    def load(self, spec: S | str) -> T:
        """Return what a declaration, or the one of this name, loads.

        Raises:
            MissingPluginError: It, or something it requires, is not installed.
            PluginError: It cannot be loaded.
            UsageError: The name is not known.
        """
        return cast("T", self._loader.load(self.get(spec) if isinstance(spec, str) else spec))

    def only(self, found: list[S], what: str) -> S | None:
        """Return the one declaration that claims something, None if none does; what is claimed twice is never guessed.

        Raises:
            PluginError: Several do.
        """
        if len(found) > 1:
            choices = ", ".join(full_name(spec) for spec in found)
            hint = f"leave one out: {DISABLE}={found[-1].provider}, or uninstall it"
            raise PluginError(f"{what} is claimed by {len(found)} {self.word}s: {choices}", hint=hint)
        return found[0] if found else None

    def _not_found(self, name: str) -> SegxError:
        """Return the error for a name that nothing installed provides."""
        installed = f"installed {self.word}s: {', '.join(self) or 'none'}"
        bare, _, asked = name.partition("@")
        if asked and bare in self.claims:
            choices = ", ".join(full_name(spec) for spec in self.claims[bare])
            return UsageError(f"{self.word} {bare!r} is not provided by {asked!r}", hint=f"it is by {choices}")
        distribution = asked or known_plugins.PROVIDERS.get((self.plugin_type, bare), "")
        reported = self._loader.error_about(distribution, f"{self.word} {bare!r}")
        if reported is not None:
            return reported
        if not asked and distribution:
            return MissingPluginError(
                f"{self.word} {name!r} needs: pip install {distribution}",
                hint=join_lines(installed, planned(distribution)),
            )
        known = {known_name for kind, known_name in known_plugins.PROVIDERS if kind == self.plugin_type}
        broken = [f"{item.distribution} {item.version} {item.reason}" for item in self._loader.discovery.broken]
        return UsageError(
            f"{self.word} {name!r} is not known{did_you_mean(name, {*self, *known})}",
            hint=join_lines(installed, f"broken plugins: {'; '.join(broken)}" if broken else ""),
        )


def full_name(spec: Spec) -> str:
    """Return the name that is never ambiguous: ``"tflite@segx-export-tflite"``."""
    return f"{spec.name}@{spec.provider}"


def planned(distribution: str) -> str:
    """Say that a distribution is planned, if it is."""
    return f"{distribution} is planned and not released yet" if distribution in known_plugins.PLANNED else ""


def join_lines(*lines: str) -> str:
    """Return the lines of a hint that say something."""
    return "\n  ".join(line for line in lines if line)


def _elsewhere(spec: Spec) -> bool:
    return bool(spec.platforms) and sys.platform not in spec.platforms


def _problem(spec: Spec) -> str:
    if spec.problem is no_problem:
        return ""
    try:
        with watched(f"plugin {spec.provider} is looking whether {spec.name!r} can be used"):
            return within(lambda: str(spec.problem() or ""))
    except BaseException as error:
        if was_interrupted(error):
            raise
        return f"cannot say whether it can be used: {one_line(error)}"
