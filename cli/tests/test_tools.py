"""The commands that are no verbs: formats, plugins, cache, doctor, completion, and those of plugins."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import typer

from segx.io import paths
from segx.plugin.registry import Registry, get_registry
from segx.plugin.specs import CommandSpec
from segx_cli import doctor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Segx = Callable[..., Any]


def test_formats_shows_what_is_ready(segx: Segx) -> None:
    ended = segx("formats")
    assert ended.code == 0
    line = next(line for line in ended.out.splitlines() if line.startswith("onnx "))
    assert ".onnx" in line
    assert "runs on onnxruntime: ready" in ended.out
    record = next(row for row in segx("formats", "--json").document if row["format"] == "onnx")
    assert record["exporter"] == "segx-export-onnx"
    assert "opset" in record["options"]
    assert record["backends"]["onnxruntime"] == "ready"


def test_formats_says_what_a_precision_needs(segx: Segx, monkeypatch: pytest.MonkeyPatch) -> None:
    found = get_registry()._discovery
    (onnx,) = found.declared["exporter"][:1]
    more = dataclasses.replace(onnx, requires_for={"fp16": ("absent-half>=1",)})
    declared = {**found.declared, "exporter": (more, *found.declared["exporter"][1:])}
    registry = Registry(dataclasses.replace(found, declared=declared))
    monkeypatch.setattr("segx.plugin.registry.get_registry", lambda: registry)
    words = 'needs absent-half>=1, found none: pip install "absent-half>=1"'
    assert "in fp16: needs absent-half>=1" in segx("formats").out
    assert segx("formats", "--json").document[0]["missing"] == {"fp16": words}
    fine = doctor.Check(subject="a plugin", state="ok", message="ok")
    monkeypatch.setattr(doctor, "_load", lambda *_: fine)
    checks = segx("doctor", "--json").document["checks"]
    assert {"subject": f"export to {onnx.name} fp16", "state": "note", "message": words} in checks


def test_formats_says_what_is_refused_here(segx: Segx, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("PATH", "")
    missing = {row["format"]: row["missing"] for row in segx("formats", "--json").document}
    assert missing["edgetpu"] == {"int8": "edgetpu_compiler is not on PATH; compile=False writes what it takes"}
    assert missing["torchscript"]["fp16"].startswith("half=True is for GPUs")
    assert not missing["onnx"]


def test_plugins_lists_what_each_declares(segx: Segx) -> None:
    ended = segx("plugins")
    assert "segx-export-onnx" in ended.out
    assert segx("plugins", "list").out == ended.out
    document = segx("plugins", "--json").document
    (record,) = [item for item in document["plugins"] if item["distribution"] == "segx-export-onnx"]
    assert record["declares"]["exporter"][0]["name"] == "onnx"


def test_a_new_plugin_is_written(segx: Segx, tmp_path: Path) -> None:
    ended = segx("plugins", "new", "export-foo", "--folder", "mine")
    assert ended.code == 0, ended.err
    assert (tmp_path / ended.out.strip() / "pyproject.toml").is_file()
    assert "pip install -e mine/segx-export-foo" in ended.err
    assert segx("plugins", "new", "export-bar", "folder=mine").out == "mine/segx-export-bar\n"
    again = segx("plugins", "new", "export-foo", "--folder", "mine")
    assert again.code == 2
    assert "is there already" in again.err


def test_what_plugins_log_is_heard(capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    from segx_cli.logs import listening
    from segx_cli.output import Output

    root = logging.getLogger()
    before = root.level, list(root.handlers)
    for quiet, received in ((False, "said by a plugin\nsegx: warning: careful\n"), (True, "segx: warning: careful\n")):
        with listening(Output(quiet=quiet)):
            logging.getLogger("segx_torch.session").info("said by a plugin")
            logging.getLogger("segx_torch.session").debug("too much")
            logging.getLogger("elsewhere").info("not ours")
            logging.getLogger("segx.flows").warning("careful")
        assert capsys.readouterr().err == received
        assert (root.level, root.handlers) == before, "the stream is this command line's; later it may be closed"


def test_broken_and_disabled_plugins_are_shown(segx: Segx, monkeypatch: pytest.MonkeyPatch) -> None:
    from segx.plugin.discovery import Broken, Disabled

    broken = Broken(name="bad", distribution="acme-bad", version="1.2", reason="ImportError: no module named acme")
    registry = get_registry()
    discovery = dataclasses.replace(
        registry._discovery, broken=(broken,), disabled=(Disabled(name="off", distribution="acme-off"),)
    )
    monkeypatch.setattr("segx.plugin.registry.get_registry", lambda: Registry(discovery))
    out = segx("plugins").out
    assert "acme-bad" in out
    assert "no module named acme" in out
    assert "left out: acme-off" in out
    checks = {check.subject: check for check in doctor._plugins(Registry(discovery))}
    assert checks["acme-bad"].state == "wrong"
    assert checks["acme-off"].state == "note"


def test_data_sets_are_cleared_only_when_they_are_asked_for(segx: Segx) -> None:
    image = paths.cache_folder() / "datasets" / "coco8-seg" / "images" / "a.jpg"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"12345")
    (paths.cache_folder() / "indexes").mkdir()
    (paths.cache_folder() / "indexes" / "a.npz").touch()
    for pattern in ("*", "*.jpg"):
        assert "data sets stay" in segx("cache", "clear", pattern).out
        assert image.is_file()
    assert not (paths.cache_folder() / "indexes").exists()
    assert segx("cache", "clear", "datasets/coco8-seg/*", "--json").document == {"removed": 1, "bytes": 5}


def test_the_cache_is_listed_and_cleared_but_nothing_else(segx: Segx, tmp_path: Path) -> None:
    cache = paths.cache_folder()
    assert "0 files" in segx("cache").out
    for name in ("weights/a.pt", "weights/b.pt.part", "indexes/x.npz", "mine/keep.txt", "keep.txt"):
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_bytes(b"12345")
    assert segx("cache", "--json").document["files"] == {"indexes/x.npz": 5, "weights/a.pt": 5, "weights/b.pt.part": 5}
    assert segx("cache", "clear", "weights/*", "--json").document == {"removed": 2, "bytes": 10}
    assert (cache / "indexes" / "x.npz").is_file()
    assert segx("cache", "clear", "--json").document == {"removed": 1, "bytes": 5}
    assert sorted(path.name for path in cache.rglob("*") if path.is_file()) == ["keep.txt", "keep.txt"]
    assert not (cache / "weights").exists()


@pytest.fixture
def _quick_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let doctor load nothing: what it does with what it hears is tested apart."""
    monkeypatch.setattr(
        doctor, "_load", lambda kind, spec, *_: doctor.Check(subject=spec.name, state="ok", message="loads")
    )


@pytest.mark.usefixtures("_quick_loading")
def test_doctor_finds_all_in_order_or_exits_with_one(
    segx: Segx, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "segx.plugin.registry.get_registry", lambda: Registry(dataclasses.replace(get_registry()._discovery, broken=()))
    )
    ended = segx("doctor")
    assert ended.code == 0, ended.out
    assert "all is in order" in ended.out
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEGX_CACHE", str(tmp_path / "file" / "inside"))
    ended = segx("doctor", "--json")
    assert ended.code == 1
    wrong = [check for check in ended.document["checks"] if check["state"] == "wrong"]
    assert [check["subject"] for check in wrong] == ["cache folder"]
    assert "SEGX_CACHE" in wrong[0]["message"]


def test_doctor_survives_what_crashes_stalls_and_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = next(iter(get_registry().tasks.values()))
    interpreter = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(interpreter))
    for script, words in [
        ("kill -SEGV $$", "loading was ended by SIGSEGV"),
        ("echo 'ImportError: no acme' >&2; exit 1", "no acme"),
        ("sleep 5", "loading was not done within 0.3 s"),
    ]:
        interpreter.write_text(f"#!/bin/sh\n{script}\n")
        interpreter.chmod(0o755)
        monkeypatch.setattr(doctor, "_TIMEOUT", 0.3 if script.startswith("sleep") else 30)
        check = doctor._load("task", spec)
        assert check.state == "wrong"
        assert words in check.message


def test_doctor_loads_a_plugin_in_a_process_of_its_own() -> None:
    check = doctor._load("backend", get_registry().backends["onnxruntime"])
    assert check.state == "ok", check.message
    assert "devices: cpu" in check.message


def test_what_doctor_loads_leaves_nothing_in_the_users_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Libraries make folders of their own when they are imported: coremltools imports TensorFlow, that Matplotlib."""
    home, interpreter = tmp_path / "home", tmp_path / "python"
    home.mkdir()
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(home))
    interpreter.write_text(f'#!/bin/sh\ntouch "$HOME/a" "$XDG_CACHE_HOME/b" "{tmp_path}/ran"\n')
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    known = get_registry()
    tasks = {kind: declared if kind == "task" else () for kind, declared in known.declared.items()}
    list(doctor._loads(Registry(dataclasses.replace(known._discovery, declared=tasks))))
    assert (tmp_path / "ran").is_file()
    assert not list(home.iterdir())


def _greet(name: str, loud: bool = False) -> None:
    """Greet somebody."""
    print(name.upper() if loud else name)


def _app() -> typer.Typer:
    app = typer.Typer()
    app.command()(_greet)
    return app


def _exiting() -> None:
    raise typer.Exit(7)


def _interrupted() -> None:
    raise KeyboardInterrupt


@pytest.fixture
def commanding(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Makes a plugin declare the command ``greet``."""

    def declare(load: Callable[[], Any]) -> None:
        discovery = get_registry()._discovery
        spec = CommandSpec(name="greet", summary="greets", load=load, provider="acme-greet")
        declared = {**discovery.declared, "command": (spec,)}
        registry = Registry(dataclasses.replace(discovery, declared=declared))
        monkeypatch.setattr("segx.plugin.registry.get_registry", lambda: registry)

    return declare


@pytest.mark.parametrize("load", [lambda: _greet, _app], ids=["function", "app"])
def test_a_plugins_command_runs(segx: Segx, commanding: Any, load: Callable[[], Any]) -> None:
    commanding(load)
    assert segx("greet", "ada").out == "ada\n"
    assert segx("greet", "ada", "--loud").out == "ADA\n"
    assert "Greet somebody" in segx("greet", "--help").out
    ended = segx("greet")
    assert ended.code == 2
    assert "name" in ended.err.lower()
    assert "'gret' is no command and no task; did you mean 'greet'?" in segx("gret").err


@pytest.mark.parametrize("switch", ["--debug", "--quiet", "-q"])
def test_segxs_switches_may_follow_a_plugins_command(segx: Segx, commanding: Any, switch: str) -> None:
    commanding(lambda: _greet)
    assert segx("greet", "ada", switch).out == "ada\n"
    assert segx("greet", switch, "ada").out == "ada\n"
    assert segx("greet", "--", switch).out == f"{switch}\n", "what follows -- is no switch"
    commanding(lambda: _says_json)
    assert segx("greet", "--json").out == "True\n", "its own switch is its own"
    assert segx("greet", "--loud").code == 2


def _says_json(*, json: bool = False) -> None:
    print(json)


def test_a_plugins_command_may_exit_and_fail(segx: Segx, commanding: Any) -> None:
    commanding(lambda: _exiting)
    assert segx("greet").code == 7

    def broken() -> Any:
        raise ImportError("no acme")

    commanding(broken)
    ended = segx("greet")
    assert ended.code == 5
    assert "command 'greet' (acme-greet) cannot be loaded: ImportError: no acme" in ended.err


def test_a_plugins_command_stops_as_ours_do(segx: Segx, commanding: Any) -> None:
    commanding(lambda: _interrupted)
    ended = segx("greet")
    assert (ended.code, ended.err.splitlines()[-1]) == (130, "segx: stopped")


def test_a_plugins_command_is_in_the_help(segx: Segx, commanding: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from segx.plugin.installed import Distribution

    commanding(_app)
    acme = Distribution("acme-greet", "1", "/none")
    monkeypatch.setattr(Distribution, "read", lambda self, _: b"[segx]" if self == acme else b"")
    monkeypatch.setattr("segx.plugin.installed.distributions", lambda: [acme])
    assert "from plugins\n  greet  greets (acme-greet)" in segx("--help").out


def _sized(size: int = 1, long_name: str = "") -> None:
    """Say what it got."""
    print(size, long_name)


def test_a_plugins_command_takes_values_as_all_others_do(segx: Segx, commanding: Any) -> None:
    commanding(lambda: _sized)
    for line in (
        ["size=3", "long_name=a b"],
        ["--size", "3", "--long-name", "a b"],
        ["size", "=", "3", "long_name=a b"],
    ):
        assert segx("greet", *line).out == "3 a b\n", line


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_complete(segx: Segx, shell: str) -> None:
    ended = segx("completion", shell)
    assert ended.code == 0
    for word in ("predict", "export", "conf=", "check", "retina_masks="):
        assert word in ended.out
    assert segx("completion", "bsh").code == 2


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("segx pre", "predict"),
        ("segx predict conf", "conf="),
        ("segx data ch", "check"),
        ("segx data convert to=c", "to=coco"),
    ],
)
def test_bash_completes(segx: Segx, line: str, found: str) -> None:
    words = " ".join(f"'{word}'" for word in line.split())
    place = f"COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))"
    script = segx("completion", "bash").out + f'compopt() {{ :; }}; {place}; _segx; echo "${{COMPREPLY[@]}}"'
    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert found in ended.stdout.split(), ended.stderr


def test_a_wrong_option_of_a_plugins_command_says_where_the_options_are(segx: Segx) -> None:
    for line in (["data", "synth", "--nonsense"], ["data", "synth", "images=-1"]):
        ended = segx(*line)
        assert ended.code == 2
        assert ended.err.endswith("\n  segx data synth --help lists the options\n")
