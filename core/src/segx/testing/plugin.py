"""What every plugin keeps, whatever it declares."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import sys
import textwrap
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import pytest
from packaging.requirements import Requirement

from segx.plugin.discovery import GROUP, PLUGIN_TYPES
from segx.plugin.registry import Registry, get_registry
from segx.plugin.requirements import ALTERNATIVE
from segx.plugin.specs import API, Spec
from segx.testing.contract import Contract
from segx.testing.interpreter import run_fresh
from segx.testing.privacy import assert_keeps_to_itself

_LIGHT = """
    import importlib, json, sys
    import segx.plugin.hookspecs, segx.options.verbs, segx.plugin.discovery, segx.plugin.specs
    before = set(sys.modules)
    module = importlib.import_module(sys.argv[1])
    for hook in json.loads(sys.argv[2]):
        if hasattr(module, hook):
            list(getattr(module, hook)())
    print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""

_LOADS_ALL = """
    import importlib, pkgutil, sys
    from segx.plugin.registry import get_registry
    from segx.plugin.requirements import modules
    for name in IN_CHILD:
        sys.modules[name] = None  # so that it cannot be imported here
    registry = get_registry()
    registry.prepare()
    package = importlib.import_module(sys.argv[1].replace("-", "_"))
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not found.name.endswith("__main__"):
            try:
                importlib.import_module(found.name)
            except ImportError:
                pass  # what it requires is not installed
    for specs in registry.declared.values():
        for spec in specs:
            if spec.provider == sys.argv[1] and registry.unavailable(spec) is None:
                registry.load(spec)
                for name in [name for entry in spec.requires for name in modules(entry)]:
                    if name not in IN_CHILD:
                        importlib.import_module(name)
"""


class PluginContract(Contract, standard=True):
    """Tests of a distribution with a plugin.

    Attributes:
        distribution: What is installed with pip: ``"segx-export-foo"``.
        in_child: Modules that it requires and imports only in a process of its own, which it prepares itself.
    """

    in_child: ClassVar[tuple[str, ...]] = ()
    distribution: ClassVar[str]

    @pytest.fixture(scope="class")
    @classmethod
    def registry(cls) -> Registry:
        """The registry of this process."""
        return get_registry()

    @pytest.fixture(scope="class")
    @classmethod
    def entries(cls) -> tuple[metadata.EntryPoint, ...]:
        """The distribution's entry points for segx."""
        found = metadata.distribution(cls.distribution).entry_points
        return tuple(entry for entry in found if entry.group == GROUP)

    @pytest.fixture(scope="class")
    @classmethod
    def declared(cls, registry: Registry) -> dict[str, tuple[Spec, ...]]:
        """Kind to what the distribution declares."""
        every = registry.declared
        return {kind: tuple(s for s in every[kind] if s.provider == cls.distribution) for kind in PLUGIN_TYPES}

    def test_is_found_by_its_entry_point(self, entries: tuple[metadata.EntryPoint, ...], registry: Registry) -> None:
        """One entry point in the group ``segx``, named as the distribution, leading to ``<package>.plugin``."""
        assert len(entries) == 1, f"{self.distribution} has {len(entries)} entry points in the group {GROUP!r}"
        assert entries[0].name == self.distribution.removeprefix("segx-")
        package, _, module = entries[0].value.rpartition(".")
        assert module == "plugin"
        assert package == self.distribution.replace("-", "_")
        broken = [item.reason for item in registry.broken if item.distribution == self.distribution]
        assert not broken
        assert self.distribution in {plugin.distribution for plugin in registry.plugins}

    def test_speaks_this_api(self, entries: tuple[metadata.EntryPoint, ...]) -> None:
        """``SEGX_API`` is stated as the numbers themselves, not taken from the core that happens to be installed."""
        tree = ast.parse(_source(entries[0].value).read_text(encoding="utf-8"))
        stated = [
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None and _names(node) == ["SEGX_API"]
        ]
        assert len(stated) == 1
        assert stated[0][0] == API[0]
        assert stated[0][1] <= API[1]

    def test_plugin_module_imports_nothing_heavy(self, entries: tuple[metadata.EntryPoint, ...]) -> None:
        """``plugin.py`` and what its declaring hooks import: the standard library, segx and the plugin itself."""
        hooks = json.dumps([hook for hook, _ in PLUGIN_TYPES.values()])
        imported = set(run_fresh(_LIGHT, entries[0].value, hooks))
        heavy = {name for name in imported if not _is_standard_library(name)}
        assert not heavy - {"segx", self.distribution.replace("-", "_")}, "import these inside load()"

    def test_declares_something(self, declared: dict[str, tuple[Spec, ...]], registry: Registry) -> None:
        """At least one spec, or a listener."""
        telling = ("segx_run_started", "segx_step_ended", "segx_run_ended", "segx_run_failed")
        listeners = {
            impl.plugin_name.rpartition("@")[2]
            for hook in telling
            for impl in getattr(registry.manager.hook, hook).get_hookimpls()
        }
        assert any(declared.values()) or self.distribution in listeners

    def test_specs_are_frozen_and_complete(self, declared: dict[str, tuple[Spec, ...]]) -> None:
        """Each has a name, one line of summary without a full stop, a lazy load, and cannot be changed."""
        for spec in (spec for specs in declared.values() for spec in specs):
            assert spec.name == spec.name.strip() != ""
            assert spec.summary.strip(), f"{spec.name} has no summary"
            assert "\n" not in spec.summary
            assert not spec.summary.endswith("."), f"{spec.name}: the summary is part of a table, not a sentence"
            assert callable(spec.load)
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(spec, "name", "other")  # noqa: B010 - the type checker refuses the plain form
            assert isinstance(spec.requires, tuple), f"{spec.name}: requires is changeable"

    def test_requirements_can_be_checked(self, declared: dict[str, tuple[Spec, ...]]) -> None:
        """Each is a PEP 508 requirement."""
        for spec in (spec for specs in declared.values() for spec in specs):
            for entry in spec.requires:
                for text in entry.split(ALTERNATIVE):
                    Requirement(text)

    def test_each_loads_or_says_why_not(self, declared: dict[str, tuple[Spec, ...]], registry: Registry) -> None:
        """A spec whose requirements are met loads; one whose are not says which and what to type."""
        for specs in declared.values():
            for spec in specs:
                problem = registry.unavailable(spec)
                if problem is None:
                    assert registry.load(spec) is not None
                    assert registry.load(spec) is registry.load(spec), "loaded once"
                else:
                    assert problem.reason

    @pytest.fixture
    def work(self) -> tuple[str, tuple[str, ...]]:
        """Python that has the plugin do its work in a fresh interpreter, and the ``sys.argv[2:]`` it takes."""
        return "", ()

    def test_keeps_to_itself(self, work: tuple[str, tuple[str, ...]], tmp_path: Path) -> None:
        """Loaded and at work it calls nobody and leaves no file outside segx's cache, nor do its libraries.

        What a library does by itself when it is imported is kept from happening in ``prepare`` of the spec.
        """
        code, arguments = work
        both = f"IN_CHILD = {self.in_child!r}\n" + textwrap.dedent(_LOADS_ALL) + textwrap.dedent(code)
        assert_keeps_to_itself(both, self.distribution, *arguments, folder=tmp_path / "alone")

    def test_dependencies_have_lower_bounds(self) -> None:
        """Each dependency says from which version on it works; the core is one of them."""
        requirements = [Requirement(text) for text in metadata.requires(self.distribution) or ()]
        assert "segx-core" in {requirement.name for requirement in requirements}
        for requirement in requirements:
            operators = {part.operator for part in requirement.specifier}
            assert operators & {">=", "==", "~=", ">"} or requirement.url, f"{requirement} has no lower bound"

    def test_stands_apart_from_other_plugins(self, entries: tuple[metadata.EntryPoint, ...]) -> None:
        """No module imports another plugin's package; the registry is the way."""
        plugin = _source(entries[0].value)
        own = self.distribution.replace("-", "_")
        others = {
            _top_level(entry.value) for entry in metadata.entry_points(group=GROUP) if _top_level(entry.value) != own
        }
        for file in sorted(plugin.parent.rglob("*.py")):
            taken = _imports(ast.parse(file.read_text(encoding="utf-8"))) & others
            assert not taken, f"{file} imports {taken}"


def _source(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def _top_level(name: str) -> str:
    return name.partition(":")[0].partition(".")[0]


def _names(node: ast.Assign | ast.AnnAssign) -> list[str]:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _imports(tree: ast.AST) -> set[str]:
    """Return the top-level packages that a module imports anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(_top_level(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(_top_level(node.module))
    return found


def _is_standard_library(name: str) -> bool:
    return name in sys.stdlib_module_names or name.startswith("_")


def load_or_skip(registry: Registry, spec: Spec) -> Any:
    """Return what a spec loads, or skip the test with the reason why it cannot be used here."""
    problem = registry.unavailable(spec)
    if problem is not None:
        pytest.skip(f"{spec.name} {problem.message}")
    return registry.load(spec)
