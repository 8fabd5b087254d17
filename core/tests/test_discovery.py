"""A plugin that is broken, speaks another API or claims a taken name never hinders the others."""

from __future__ import annotations

import logging
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest

from segx import hookimpl
from segx.errors import DataError, MissingPluginError, ModelError, PluginError, UsageError
from segx.plugin.discovery import discover
from segx.plugin.registry import Registry
from segx.plugin.weights import resolve_weights
from segx.runs import Run
from segx.testing.interpreter import run_fresh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HEAD = """
from segx import hookimpl
from segx.options.verbs import ExportOptions
from segx.plugin.specs import *
from segx.artifact import WeightsFile
SEGX_API = (1, 0)
def never(): raise AssertionError("loaded")
def exporter(name, **more):
    given = {"name": name, "summary": "a test", "load": never, "suffix": f".{name}", "options": ExportOptions, **more}
    return ExporterSpec(**given)
def backend(name, formats, **more):
    return BackendSpec(**{"name": name, "summary": "a test", "load": never, "formats": formats, **more})
"""

GOOD = """
@hookimpl
def segx_exporters(): return [exporter("good")]
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Installs a tiny distribution: metadata, an entry point and one module."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delenv("SEGX_DISABLE_PLUGINS", raising=False)

    def put(distribution: str, code: str, *, version: str = "1.2", head: str = HEAD) -> None:
        package = distribution.replace("-", "_")
        for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
            monkeypatch.delitem(sys.modules, name)  # the real one of this name, which another test has imported
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
        source = textwrap.dedent(head) + textwrap.dedent(code)
        (tmp_path / package / "plugin.py").write_text(source, encoding="utf-8")
        info = tmp_path / f"{package}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        entry = f"{distribution.removeprefix('segx-')} = {package}.plugin"
        (info / "entry_points.txt").write_text(f"[segx]\n{entry}\n")

    before = set(sys.modules)
    yield put
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def find(tmp_path: Path) -> Callable[[], Registry]:
    """Finds what was written, and nothing else."""
    return lambda: Registry(discover(path=[str(tmp_path)]))


BROKEN = {
    "raises": ("raise ValueError('no\\nluck')", "ValueError: no luck"),
    "exits": ("raise SystemExit(3)", "SystemExit: 3"),
    "is-interrupted": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "leaves": ("raise GeneratorExit", "GeneratorExit"),
    "error-fails": (
        "class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd",
        "Odd",
    ),
    "steers-the-terminal": ("raise ValueError('\\x1b[2Jgone')", r"ValueError: \x1b[2Jgone"),
    "hook-exits": ("@hookimpl\ndef segx_tasks(): raise SystemExit(0)", "SystemExit: 0"),
    "hook-is-interrupted": ("@hookimpl\ndef segx_tasks(): raise KeyboardInterrupt", "KeyboardInterrupt"),
    "hook-leaves": ("@hookimpl\ndef segx_tasks():\n    raise GeneratorExit\n    yield", "GeneratorExit"),
    "hook-yields-for-ever": (
        "import itertools\n@hookimpl\ndef segx_exporters(): return (exporter(f'e{i}') for i in itertools.count())",
        "declares more than 500 things",
    ),
    "hook-declares-too-many": (
        "@hookimpl\ndef segx_exporters(): return [exporter(f'e{i}') for i in range(10_000)]",
        "declares more than 500 things",
    ),
    "name-steers": ("@hookimpl\ndef segx_exporters(): return [exporter('a\\x1bc')]", "up to 100 visible characters"),
    "name-long": ("@hookimpl\ndef segx_exporters(): return [exporter('a' * 5000)]", "up to 100 visible characters"),
    "suffix-none": ("@hookimpl\ndef segx_exporters(): return [exporter('a', suffix=None)]", "with suffix=None"),
    "formats-none": ("@hookimpl\ndef segx_backends(): return [backend('a', None)]", "with formats=None"),
    "formats-text": ("@hookimpl\ndef segx_backends(): return [backend('a', {'x': '.x'})]", "with formats={'x': '.x'}"),
    "priority-text": ("@hookimpl\ndef segx_backends(): return [backend('a', {}, priority='x')]", "a whole number"),
    "requires-text": ("@hookimpl\ndef segx_exporters(): return [exporter('a', requires='x')]", "a tuple of texts"),
    "load-none": ("@hookimpl\ndef segx_exporters(): return [exporter('a', load=None)]", "expected a function"),
    "imports": ("import no_such_module_anywhere", "ModuleNotFoundError: No module named 'no_such_module_anywhere'"),
    "syntax": ("def (:", "SyntaxError"),
    "warns": ("import warnings; warnings.warn('old', DeprecationWarning)", "DeprecationWarning: old"),
    "hook-raises": ("@hookimpl\ndef segx_exporters(): raise KeyError('x')", "KeyError: 'x'"),
    "hook-returns-none": ("@hookimpl\ndef segx_tasks(): pass", "segx_tasks() returned NoneType"),
    "hook-returns-text": ("@hookimpl\ndef segx_tasks(): return 'segment'", "segx_tasks() returned str"),
    "hook-returns-one": ("@hookimpl\ndef segx_exporters(): return exporter('a')", "expected a list of specs"),
    "hook-returns-dicts": ("@hookimpl\ndef segx_tasks(): return [{}]", "returned dict, expected TaskSpec"),
    "hook-returns-other": (
        "@hookimpl\ndef segx_tasks(): return [exporter('a')]",
        "returned ExporterSpec, expected TaskSpec",
    ),
    "hook-unknown": ("@hookimpl\ndef segx_exporter(): return []", "the hook 'segx_exporter', which is not known"),
    "hook-arguments": ("@hookimpl\ndef segx_exporters(what): return []", "PluginValidationError"),
    "name-at": ("@hookimpl\ndef segx_exporters(): return [exporter('a@b')]", "declares the name 'a@b'"),
    "name-empty": ("@hookimpl\ndef segx_exporters(): return [exporter('')]", "declares the name ''"),
    "name-twice": ("@hookimpl\ndef segx_exporters(): return [exporter('a'), exporter('a')]", "'a' a second time"),
    "spec-incomplete": ("@hookimpl\ndef segx_tasks(): return [TaskSpec(name='a')]", "TypeError"),
    "api-none": ("del SEGX_API", "states no SEGX_API; this segx speaks 1.0"),
    "api-text": ("SEGX_API = '1.0'", "states SEGX_API = '1.0'; expected (major, minor)"),
    "api-newer": ("SEGX_API = (1, 1)", "speaks API 1.1, this segx speaks 1.0: update segx-core"),
    "api-major": ("SEGX_API = (2, 0)", "speaks API 2.0, this segx speaks 1.0: update segx-core"),
    "api-older": ("SEGX_API = (0, 9)", "speaks API 0.9, this segx speaks 1.0: update the plugin"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_is_recorded_and_the_others_work(
    case: str, write: Callable[..., None], find: Callable[[], Registry]
) -> None:
    code, reason = BROKEN[case]
    write("segx-export-bad", GOOD.replace("good", "lost") + "\n" + code)
    write("segx-export-good", GOOD)
    write("zzz-last", "@hookimpl\ndef segx_backends(): return [backend('last', {'good': ('.good',)})]")
    registry = find()
    assert [item.distribution for item in registry.broken] == ["segx-export-bad"]
    broken = registry.broken[0]
    assert (broken.name, broken.version) == ("export-bad", "1.2")
    assert reason in broken.reason
    assert "\n" not in broken.reason
    assert list(registry.exporters) == ["good"], "nothing of a broken plugin is left"
    assert registry.exporters["good"].provider == "segx-export-good"
    assert list(registry.backends) == ["last"]
    assert [plugin.module for plugin in registry.plugins] == ["segx_export_good.plugin", "zzz_last.plugin"]


HANGING = {
    "import": "import time\ntime.sleep(1000)",
    "hook": "@hookimpl\ndef segx_tasks():\n    import threading\n    threading.Event().wait()",
    "generator": "@hookimpl\ndef segx_tasks():\n    while True:\n        yield from ()",
}


def _helpers() -> int:
    return sum(thread.name == "segx-plugin" for thread in threading.enumerate())


@pytest.mark.parametrize("case", HANGING)
def test_a_plugin_that_hangs_is_given_up(
    case: str, write: Callable[..., None], find: Callable[[], Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segx.plugin.discovery.PATIENCE", 0.3)
    write(f"segx-export-hangs-{case}", HANGING[case])
    write("segx-export-good", GOOD)
    registry = find()
    assert [item.reason for item in registry.broken] == ["was not done in 0.3 s"]
    assert list(registry.exporters) == ["good"]
    if case == "generator":
        until = time.monotonic() + 20
        while (left := _helpers()) > 2 and time.monotonic() < until:
            time.sleep(0.05)
        assert left <= 2, "only those that wait"


@pytest.mark.parametrize("which", ["METADATA", "entry_points.txt"])
def test_metadata_that_are_not_utf_8_hinder_nobody(
    which: str, write: Callable[..., None], find: Callable[[], Registry], tmp_path: Path
) -> None:
    write("segx-export-good", GOOD)
    write("segx-export-odd", GOOD.replace("good", "odd"))
    path = tmp_path / "segx_export_odd-1.2.dist-info" / which
    path.write_bytes(path.read_bytes() + b"\nSummary: caf\xe9\n")
    other = tmp_path / "elsewhere-1.dist-info"
    other.mkdir()
    (other / "METADATA").write_bytes(b"Name: caf\xe9")
    (other / "entry_points.txt").write_bytes(b"[console_scripts]\ncaf\xe9 = a:b")
    registry = find()
    assert "good" in registry.exporters
    assert {item.distribution for item in registry.broken} <= {"segx-export-odd"}
    assert len(registry.plugins) + len(registry.broken) == 2, "told, or read all the same"


def test_what_is_prepared_is_prepared_before_anything_is_loaded(
    write: Callable[..., None], find: Callable[[], Registry]
) -> None:
    code = """
    done = []
    def note(word): return lambda: done.append(word)
    @hookimpl
    def segx_exporters():
        return [
            exporter("first", prepare=note("first prepared"), load=note("first loaded")),
            exporter("second", prepare=note("second prepared"), load=note("second loaded")),
        ]
    """
    write("segx-export-both", code)
    registry = find()
    done = sys.modules["segx_export_both.plugin"].done
    assert not done
    registry.exporters.load("second")
    registry.exporters.load("first")
    assert done == ["first prepared", "second prepared", "second loaded", "first loaded"]


def test_what_cannot_be_prepared_is_not_loaded(write: Callable[..., None], find: Callable[[], Registry]) -> None:
    code = """
    def fail(): raise SystemExit(7)
    @hookimpl
    def segx_exporters(): return [exporter("bad", prepare=fail), exporter("good", load=dict)]
    """
    write("segx-export-both", code)
    registry = find()
    assert registry.exporters.load("good") == {}
    with pytest.raises(PluginError, match=r"'bad' .* cannot be prepared: SystemExit: 7"):
        registry.exporters.load("bad")


@pytest.mark.parametrize("error", ["SystemExit(0)", "KeyboardInterrupt", "GeneratorExit", "MemoryError"])
def test_a_plugin_that_ends_the_program_when_loaded_is_reported(
    error: str, write: Callable[..., None], find: Callable[[], Registry]
) -> None:
    write(
        "segx-export-bad",
        f"def leave(*_): raise {error}\n@hookimpl\ndef segx_exporters(): return [exporter('bad', load=leave)]\n"
        "@hookimpl\ndef segx_dataset_formats():\n"
        "    return [DatasetFormatSpec(name='odd', summary='a test', load=leave, detects=leave)]",
    )
    registry = find()
    with pytest.raises(PluginError, match=f"cannot be loaded: {error.partition('(')[0]}"):
        registry.exporters.load("bad")
    with pytest.raises(DataError, match="no installed dataset format recognises it"):
        registry.dataset_format_for(Path(__file__))


@pytest.mark.parametrize("error", ["SystemExit(0)", "KeyboardInterrupt", "GeneratorExit"])
def test_a_listener_that_ends_the_program_breaks_nothing(
    error: str, write: Callable[..., None], find: Callable[[], Registry], caplog: pytest.LogCaptureFixture
) -> None:
    write("segx-logger-bad", f"@hookimpl\ndef segx_run_started(run): raise {error}")
    find().notify("run_started", run=Run(mode="predict", model="m"))
    assert "plugin logger-bad@segx-logger-bad failed in segx_run_started" in caplog.text


def test_ctrl_c_while_a_listener_works_is_the_users(write: Callable[..., None], find: Callable[[], Registry]) -> None:
    code = "@hookimpl\ndef segx_run_started(run):\n    import signal\n    signal.raise_signal(signal.SIGINT)"
    write("segx-logger-slow", code)
    with pytest.raises(KeyboardInterrupt):
        find().notify("run_started", run=Run(mode="predict", model="m"))


def test_a_listener_that_hangs_is_named(
    write: Callable[..., None], find: Callable[[], Registry], caplog: pytest.LogCaptureFixture
) -> None:
    write("segx-logger-slow", "@hookimpl\ndef segx_run_started(run):\n    import time\n    time.sleep(0.3)")
    registry = find()
    with patch("segx.plugin.guard.PATIENCE", 0.1):
        registry.notify("run_started", run=Run(mode="predict", model="m"))
    assert "plugin logger-slow@segx-logger-slow is at work in segx_run_started, for more than 0.1 s" in caplog.text


def test_to_be_told_costs_no_thread(write: Callable[..., None], find: Callable[[], Registry]) -> None:
    """A prediction tells of each image."""
    write("segx-logger-quick", "@hookimpl\ndef segx_step_ended(run, step):\n    step['told'] += 1")
    registry, step = find(), {"told": 0}
    registry.notify("step_ended", run=None, step=step)
    with patch("threading.Thread.start", side_effect=AssertionError("a thread was begun")):
        for _ in range(3):
            registry.notify("step_ended", run=None, step=step)
    assert step["told"] == 4


def test_damaged_metadata_hinder_nobody(
    write: Callable[..., None], find: Callable[[], Registry], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write("segx-export-good", GOOD)
    for name, entry in {"nameless-1": "a = b.plugin", "odd-2": "this is = no entry: point:", "half-3": "c ="}.items():
        info = tmp_path / f"{name}.dist-info"
        info.mkdir()
        (info / "entry_points.txt").write_text(f"[segx]\n{entry}\n")
        if not name.startswith("nameless"):
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name[:-2]}\nVersion: {name[-1]}\n")
    with caplog.at_level(logging.WARNING):
        registry = find()
    assert list(registry.exporters) == ["good"]
    assert {item.distribution for item in registry.broken} == {"odd", "half"}
    assert "has no name" in caplog.text


def test_beside_the_real_plugins(write: Callable[..., None]) -> None:
    before = Registry(discover())
    write("segx-aaa-broken", "raise RuntimeError('first on the path')")
    write("segx-mmm-foreign", "SEGX_API = (7, 0)")
    write("acme-segx", "@hookimpl\ndef segx_tasks(): return [TaskSpec(name='segment', summary='s', load=never)]")
    after = Registry(discover())
    assert {item.distribution for item in after.broken} - {item.distribution for item in before.broken} == {
        "segx-aaa-broken",
        "segx-mmm-foreign",
    }
    assert dict(after.exporters.items()) == dict(before.exporters.items())
    assert dict(after.backends.items()) == dict(before.backends.items())
    assert set(after.tasks) == {"segment@acme-segx", "segment@segx-task-segment"}
    with pytest.raises(PluginError, match="segment"):
        after.tasks.load("segment")
    assert after.tasks.load("segment@segx-task-segment").name == "segment"


def test_whoever_asks_for_what_a_broken_plugin_has_is_reported(
    write: Callable[..., None], find: Callable[[], Registry]
) -> None:
    write("segx-export-tflite", "raise ValueError('no luck')")
    with pytest.raises(PluginError) as reported:
        find().exporters.get("tflite")
    assert reported.value.message == (
        "format 'tflite' is provided by segx-export-tflite 1.2, which is broken: ValueError: no luck"
    )
    with pytest.raises(UsageError) as unknown:
        find().exporters.get("no-such-format")
    assert "segx-export-tflite 1.2 ValueError: no luck" in unknown.value.hint


def test_two_may_claim_one_name(write: Callable[..., None], find: Callable[[], Registry]) -> None:
    write("segx-export-tflite", "@hookimpl\ndef segx_exporters(): return [exporter('tflite'), exporter('other')]")
    write("acme-segx", "@hookimpl\ndef segx_exporters(): return [exporter('tflite', suffix='.acme')]")
    registry = find()
    assert list(registry.exporters) == ["other", "tflite@acme-segx", "tflite@segx-export-tflite"]
    with pytest.raises(PluginError) as conflict:
        registry.exporters.get("tflite")
    assert conflict.value.message == "format 'tflite' is claimed by 2 distributions"
    assert conflict.value.hint == "say which: tflite@acme-segx or tflite@segx-export-tflite"
    assert registry.exporters.get("tflite@acme-segx").suffix == ".acme"
    assert registry.exporters.get("tflite@segx-export-tflite").suffix == ".tflite"
    assert registry.exporters.get("other@segx-export-tflite") == registry.exporters.get("other")
    with pytest.raises(UsageError, match="is not provided by 'nobody'"):
        registry.exporters.get("tflite@nobody")


@pytest.mark.parametrize(
    ("value", "left"),
    [
        ("", ["a", "b"]),
        ("segx-export-a", ["b"]),
        ("export-a", ["b"]),
        (" Segx_Export.A ,, nobody", ["b"]),
        ("export-a,segx-export-b", []),
        ("all", []),
    ],
)
def test_plugins_can_be_left_out(
    value: str,
    left: list[str],
    write: Callable[..., None],
    find: Callable[[], Registry],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write("segx-export-a", "@hookimpl\ndef segx_exporters(): return [exporter('a')]")
    write("segx-export-b", "@hookimpl\ndef segx_exporters(): return [exporter('b')]")
    monkeypatch.setenv("SEGX_DISABLE_PLUGINS", value)
    registry = find()
    assert list(registry.exporters) == left
    assert len(registry.disabled) == 2 - len(left)


def test_whoever_asks_for_what_was_left_out_is_reported(
    write: Callable[..., None], find: Callable[[], Registry], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("segx-export-tflite", "raise AssertionError('imported all the same')")
    monkeypatch.setenv("SEGX_DISABLE_PLUGINS", "all")
    registry = find()
    assert not registry.broken
    with pytest.raises(PluginError, match="which SEGX_DISABLE_PLUGINS leaves out"):
        registry.exporters.get("tflite")


def test_unknown_names_are_suggested_never_changed(write: Callable[..., None], find: Callable[[], Registry]) -> None:
    write("segx-export-good", GOOD)
    with pytest.raises(UsageError) as unknown:
        find().exporters.get("godo")
    assert str(unknown.value) == "format 'godo' is not known; did you mean 'good'?\n  installed formats: good"
    with pytest.raises(UsageError, match="did you mean 'tflite'"):
        find().exporters.get("tflit")


def test_known_names_say_what_to_install(write: Callable[..., None], find: Callable[[], Registry]) -> None:
    write("segx-export-good", GOOD)
    with pytest.raises(MissingPluginError) as missing:
        find().exporters.get("onnx")
    assert str(missing.value) == "format 'onnx' needs: pip install segx-export-onnx\n  installed formats: good"
    with pytest.raises(MissingPluginError, match="task 'segment' needs: pip install segx-task-segment"):
        find().tasks.get("segment")
    with pytest.raises(MissingPluginError, match="architecture 'yolov8-seg' needs: pip install segx-model-yolov8"):
        find().architectures.load("yolov8-seg")


def test_requirements_are_reported_before_anything_is_imported(
    write: Callable[..., None], find: Callable[[], Registry]
) -> None:
    write(
        "segx-export-tensorrt",
        "@hookimpl\ndef segx_exporters(): return [exporter('engine', requires=('absent-tensorrt>=10', 'numpy>=1'))]",
        version="0.1.0",
    )
    registry = find()
    assert registry.exporters.get("engine").name == "engine", "it can be looked at"
    with pytest.raises(MissingPluginError) as missing:
        registry.exporters.load("engine")
    assert str(missing.value) == (
        "format 'engine' (segx-export-tensorrt 0.1.0) needs absent-tensorrt>=10, found none: "
        'pip install "absent-tensorrt>=10"'
    )
    assert missing.value.exit_code == 5


def test_platforms(write: Callable[..., None], find: Callable[[], Registry]) -> None:
    write("segx-export-a", "@hookimpl\ndef segx_exporters(): return [exporter('a', platforms=('plan9', 'beos'))]")
    registry = find()
    with pytest.raises(UsageError, match=r"format 'a' \(segx-export-a 1.2\) works on plan9, beos, this is "):
        registry.require(registry.exporters.get("a"))


def test_platforms_of_a_backend(write: Callable[..., None], find: Callable[[], Registry]) -> None:
    code = """
    @hookimpl
    def segx_backends():
        return [backend("native", {"x": (".x",)}, priority=10, platforms=("plan9",)), backend("other", {"x": (".x",)})]
    """
    write("segx-backend-a", code)
    found = find().backends_for("x")
    assert [spec.name for spec in found.usable] == ["other"]
    assert "works on plan9" in found.unavailable[0].message


def test_what_is_installed_and_cannot_be_used_says_why(
    write: Callable[..., None], find: Callable[[], Registry]
) -> None:
    code = """
    def fails(): raise SystemExit(1)
    @hookimpl
    def segx_backends():
        return [
            backend("blind", {"x": (".x",)}, problem=lambda: "needs a GPU, found none"),
            backend("odd", {"x": (".x",)}, problem=fails),
            backend("fine", {"x": (".x",)}, problem=lambda: ""),
        ]
    """
    write("segx-backend-a", code)
    registry = find()
    found = registry.backends_for("x")
    assert [spec.name for spec in found.usable] == ["fine"]
    assert [item.message for item in found.unavailable] == [
        "needs a GPU, found none",
        "cannot say whether it can be used: SystemExit: 1",
    ]
    with pytest.raises(MissingPluginError, match=r"backend 'blind' .* needs a GPU, found none"):
        registry.backend_for("x", name="blind")


def test_a_precision_may_need_more(write: Callable[..., None], find: Callable[[], Registry]) -> None:
    code = """
    @hookimpl
    def segx_exporters():
        return [exporter("a", precisions=("fp32", "int8"), requires_for={"int8": ("absent-nncf>=2",)})]
    """
    write("segx-export-a", code)
    registry = find()
    spec = registry.exporters.get("a")
    assert registry.unavailable(spec) is None
    assert registry.unavailable(spec, precision="fp32") is None
    registry.require(spec, precision="fp32")
    with pytest.raises(MissingPluginError, match=r"format 'a' in int8 .* needs absent-nncf>=2, found none: pip"):
        registry.require(spec, precision="int8")


def test_what_does_not_load_is_reported(write: Callable[..., None], find: Callable[[], Registry]) -> None:
    write("segx-export-good", GOOD)
    registry = find()
    with pytest.raises(PluginError) as failure:
        registry.exporters.load("good")
    assert failure.value.message == "format 'good' (segx-export-good 1.2) cannot be loaded: AssertionError: loaded"


def test_instances_are_made_once(write: Callable[..., None], find: Callable[[], Registry]) -> None:
    write(
        "segx-export-a",
        "@hookimpl\ndef segx_exporters(): return [exporter('a', load=object), exporter('b', load=object)]",
    )
    registry = find()
    first, other = (registry.exporters.load(name) for name in "ab")
    assert registry.exporters.load("a@segx-export-a") is first is not other


CHAIN = """
@hookimpl
def segx_exporters():
    return [exporter('c', source='b'), exporter('b', source='a'), exporter('a'), exporter('p', source='q'),
            exporter('q', source='r'), exporter('r', source='p'), exporter('s', source='s'),
            exporter('t', source='tflite')]
"""


def test_chains_are_found_from_the_source(write: Callable[..., None], find: Callable[[], Registry]) -> None:
    write("segx-export-chain", CHAIN)
    registry = find()
    assert [spec.name for spec in registry.export_chain("a")] == ["a"]
    assert [spec.name for spec in registry.export_chain("c")] == ["a", "b", "c"]
    with pytest.raises(PluginError, match="format 'p' cannot be made: p <- r <- q <- p is a circle"):
        registry.export_chain("p")
    with pytest.raises(PluginError, match="s <- s is a circle"):
        registry.export_chain("s")
    with pytest.raises(
        MissingPluginError, match="'t' is made from 'tflite': format 'tflite' needs: pip install segx-export-tflite"
    ):
        registry.export_chain("t")


BACKENDS = """
@hookimpl
def segx_backends():
    return [backend('slow', {'x': ('.x',)}, priority=1, devices=('cpu', 'cuda')),
            backend('fast', {'x': ('.x', '_x_model'), 'y': ('.y',)}, priority=5),
            backend('best', {'x': ('.x',)}, priority=9, requires=('absent-best>=2',)),
            backend('gone', {'z': ('.z',)}, requires=('absent-gone',))]
"""


def test_the_best_usable_backend_is_taken(write: Callable[..., None], find: Callable[[], Registry]) -> None:
    write("segx-backend-many", BACKENDS)
    registry = find()
    found = registry.backends_for("x")
    assert [spec.name for spec in found.usable] == ["fast", "slow"]
    assert [(item.spec.name, item.message) for item in found.unavailable] == [
        ("best", 'needs absent-best>=2, found none: pip install "absent-best>=2"')
    ]
    assert registry.backend_for("x").name == "fast"
    assert registry.backend_for("x", device="cpu").name == "fast"
    for device in ("cuda", "cuda:1", "0", "0,1"):
        assert registry.backend_for("x", device=device).name == "slow"
    assert registry.backend_for("x", name="slow").name == "slow"


def test_no_backend_is_reported_with_the_reason(write: Callable[..., None], find: Callable[[], Registry]) -> None:
    write("segx-backend-many", BACKENDS)
    registry = find()
    with pytest.raises(UsageError, match="'x' on device 'mps'") as device:
        registry.backend_for("x", device="mps")
    assert "fast runs on cpu; slow runs on cpu, cuda" in device.value.hint
    with pytest.raises(UsageError, match="backend 'slow' does not run format 'y'"):
        registry.backend_for("y", name="slow")
    with pytest.raises(UsageError, match="backend 'fast' does not run on device 'cuda'"):
        registry.backend_for("x", name="fast", device="cuda")
    with pytest.raises(MissingPluginError, match="absent-best>=2"):
        registry.backend_for("x", name="best")
    with pytest.raises(MissingPluginError, match="no backend that can run format 'z' is usable") as unavailable:
        registry.backend_for("z")
    assert (
        'gone (segx-backend-many 1.2) needs absent-gone, found none: pip install "absent-gone"'
        in unavailable.value.hint
    )
    with pytest.raises(MissingPluginError, match="running format 'onnx' needs: pip install segx-backend-onnxruntime"):
        registry.backend_for("onnx")
    with pytest.raises(MissingPluginError, match="no backend runs format 'xx'"):
        registry.backend_for("xx")


def test_formats_are_reported_by_the_longest_suffix(
    write: Callable[..., None], find: Callable[[], Registry], tmp_path: Path
) -> None:
    write("segx-backend-many", BACKENDS)
    registry = find()
    expected = {
        "m_edgetpu.tflite": "edgetpu",
        "m.tflite": "tflite",
        "M.ONNX": "onnx",
        "m.best.x": "x",
        "m_x_model": "x",
        "m_openvino_model": "openvino",
        "m.yaml": None,
        "onnx": None,
    }
    assert {name: registry.format_of(name) for name in expected} == expected
    file = tmp_path / "Model.X"
    file.touch()
    assert (registry.artifact(file).format, registry.artifact(str(file)).path) == ("x", file)
    (tmp_path / "m_openvino_model").mkdir()
    assert registry.artifact(f"{tmp_path}/m_openvino_model/").format == "openvino"


def test_a_model_that_is_not_there_is_reported_with_the_fix(
    write: Callable[..., None], find: Callable[[], Registry], tmp_path: Path
) -> None:
    write("segx-export-good", GOOD)
    registry = find()
    work = tmp_path / "work"
    work.mkdir()
    (work / "yolov8n-seg.pt").touch()
    with pytest.raises(ModelError, match="not there") as typo:
        registry.artifact(work / "yolov8n-sge.pt")
    assert "did you mean 'yolov8n-seg.pt'" in typo.value.hint
    with pytest.raises(ModelError, match="not there") as export:
        registry.artifact(work / "yolov8n-seg.good")
    assert export.value.hint == f"make it: segx export model={work / 'yolov8n-seg.pt'} format=good"
    with pytest.raises(ModelError, match="not there") as folder:
        registry.artifact(work / "deeper" / "a.pt")
    assert "no folder" in folder.value.hint
    (work / "notes.txt").touch()
    with pytest.raises(ModelError, match="no known model format"):
        registry.artifact(work / "notes.txt")


DATA = """
def dataset(name, detects): return DatasetFormatSpec(name=name, summary=f'{name} files', load=never, detects=detects)
def fails(path): raise OSError('disk')
@hookimpl
def segx_dataset_formats():
    return [dataset('a', lambda p: p.suffix == '.a'), dataset('b', lambda p: p.suffix in {'.a', '.b'}),
            dataset('c', fails)]
"""


def test_dataset_formats(
    write: Callable[..., None], find: Callable[[], Registry], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write("segx-data-many", DATA)
    registry = find()
    for name in ("x.a", "x.b", "x.c"):
        (tmp_path / name).touch()
    with caplog.at_level(logging.WARNING):
        assert registry.dataset_format_for(tmp_path / "x.b").name == "b"
    assert "dataset format c@segx-data-many failed to look at" in caplog.text
    assert registry.dataset_format_for(tmp_path / "x.a", name="a").name == "a"
    with pytest.raises(PluginError, match="a@segx-data-many, b@segx-data-many"):
        registry.dataset_format_for(tmp_path / "x.a")
    with pytest.raises(DataError, match="no installed dataset format recognises it"):
        registry.dataset_format_for(tmp_path / "x.c")
    with pytest.raises(DataError, match="is not there"):
        registry.dataset_format_for(tmp_path / "absent.c")


ARCHITECTURES = """
class Family:
    def __init__(self, key): self.key = key
    def detects(self, definition): return self.key in definition
def family(name, **more):
    return ArchitectureSpec(**{"name": name, "summary": "s", "load": lambda: Family(name), "task": "t", **more})
@hookimpl
def segx_architectures():
    published = WeightsFile(url='https://example.org/one-s.pt')
    return [family('one', variants=('one-s', 'one-l'), weights={'one-s.pt': published}),
            family('two'), family('three', requires=('absent-three>=3',))]
"""


def test_architectures(write: Callable[..., None], find: Callable[[], Registry]) -> None:
    write("segx-model-many", ARCHITECTURES)
    registry = find()
    assert registry.architecture_for({"two": 1}) is registry.architectures.load("two")
    with pytest.raises(ModelError) as nobody:
        registry.architecture_for({"three": 1})
    assert "three needs absent-three>=3, found none" in nobody.value.hint
    assert registry.variant("one-l.yaml") is registry.variant("one-l") is registry.architectures.get("one")
    assert registry.variant("one-x") is None
    weights = registry.weights_file("one-s.pt")
    assert weights is not None
    assert weights.url.endswith("one-s.pt")
    assert registry.weights_file("one-l.pt") is None


def test_what_two_architectures_claim_is_never_decided_by_their_names(
    write: Callable[..., None], find: Callable[[], Registry]
) -> None:
    write("segx-model-many", ARCHITECTURES)
    write("acme-segx", ARCHITECTURES.replace("'one'", "'acme'").replace("example.org", "acme.invalid"))
    registry = find()
    for look, name in ((registry.variant, "one-s"), (registry.weights_file, "one-s.pt")):
        with pytest.raises(PluginError, match="claimed by 2 architectures") as refusal:
            look(name)
        assert "acme@acme-segx" in refusal.value.message
        assert "one@segx-model-many" in refusal.value.message
        assert "SEGX_DISABLE_PLUGINS=" in refusal.value.hint
    with pytest.raises(PluginError, match="definition is claimed by 2 architectures"):
        registry.architecture_for({"two": 1})
    with pytest.raises(PluginError, match=r"weights 'one-s\.pt' is claimed"):
        resolve_weights("one-s.pt", registry)
    assert registry.architecture_for({"acme": 1}) is registry.architectures.load("acme")


def test_listeners_are_reported_and_cannot_break_a_run(
    write: Callable[..., None], find: Callable[[], Registry], caplog: pytest.LogCaptureFixture
) -> None:
    write("segx-logger-bad", "@hookimpl\ndef segx_run_started(run): raise OSError('disk full')")
    write("segx-logger-odd", "@hookimpl\ndef segx_step_ended(step): pass")
    registry = find()
    received = []

    class Listener:
        @hookimpl
        def segx_run_started(self, run: Run) -> None:
            received.append(run)

        @hookimpl
        def segx_run_ended(self, metrics: dict[str, float]) -> None:
            received.append(metrics)

    registry.manager.register(Listener(), name="listener")
    run = Run(mode="predict", model="m.pt")
    with caplog.at_level(logging.WARNING):
        registry.notify("run_started", run=run)
        registry.notify("step_ended", run=run, step=None)
        registry.notify("run_ended", run=run, metrics={"map": 0.5})
        registry.notify("run_failed", run=run, error=ValueError())
    assert received == [run, {"map": 0.5}]
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["plugin logger-bad@segx-logger-bad failed in segx_run_started: OSError: disk full"]


def test_finding_plugins_imports_nothing_heavy() -> None:
    heavy = run_fresh(
        """
        import json, sys
        from segx.plugin.registry import get_registry
        registry = get_registry()
        list(registry.exporters), list(registry.backends), registry.backends_for("onnx"), registry.format_of("a.onnx")
        names = "numpy torch cv2 onnx onnxruntime PIL tqdm typer yaml tensorflow packaging.licenses".split()
        print(json.dumps([len(registry.plugins), [name for name in names if name in sys.modules]]))
        """
    )
    assert heavy[0] > 0
    assert heavy[1] == []
