"""Models in a process of their own: what they give, how they fail, and what they leave."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from segx.artifact import Artifact
from segx.errors import ModelError, PluginError, UsageError
from segx.options.verbs import SessionOptions
from segx.plugin import apart
from segx.plugin.apart import ApartBackend, ApartSession, stand_in
from segx.plugin.registry import Registry, get_registry
from segx.plugin.specs import BackendSpec, lazy
from segx.runtime import child, memory
from segx.sessions import Sessions

BACKEND = """
import ctypes, json, os, signal, subprocess, sys, threading, time
from pathlib import Path
import numpy as np
from segx.artifact import ArtifactInfo
from segx.errors import ModelError, UsageError
from segx.plugin.base import FormatBackend, FormatSession, Graph

PREPARED = []

def prepare(): PREPARED.append(os.getpid())

class Strange:
    def __init__(self, array): self.array = array
    def get(self): return self.array

class Session(FormatSession):
    runtime = "Fake runtime"
    def _run(self, model, images):
        print("the runtime prints")
        number = int(images[0, 0, 0, 0]) if images.size else 0
        if number == 1000: os.kill(os.getpid(), signal.SIGKILL); time.sleep(9)
        if number == 1001: ctypes.string_at(0)
        if number == 1002: raise RuntimeError("out of luck\\nsecond line")
        if number == 1003: raise ModelError("of its own", hint="do this")
        if number == 1004: time.sleep(60)
        if number == 1005:
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            if os.fork() == 0:
                time.sleep(60); os._exit(0)
            os._exit(7)
        if number == 1006: return [np.array([object()]), images]
        if number == 1007: time.sleep(0.3)
        sums = images.sum(axis=(1, 2, 3))
        return [np.stack([sums, sums * 2], axis=1)[:, ::-1], images.transpose(0, 1, 3, 2)]
    def close(self):
        Path(str(self.path) + ".closed").write_text(str(os.getpid()))

class Backend(FormatBackend):
    title, runtime, Session = "Fake", "Fake runtime", Session
    def _read(self, path):
        return json.loads(path.read_text()), Graph(input=(None, 3, None, None), outputs=["a", "b"])
    def _open(self, artifact, info, options):
        if options.device == "cpu:9": raise UsageError("device=cpu:9 is not there", hint="devices here: cpu")
        if options.device == "cpu:crash": os.abort()
        if options.device == "cpu:wrong": raise RuntimeError("cannot be opened")
        told = [os.getpid(), PREPARED == [os.getpid()], options.streams]
        Path(str(artifact.path) + ".pid").write_text(json.dumps(told))
        if options.device == "cpu:1": info = info.replace(variant="known better")
        return self.Session(object(), path=artifact.path, info=info, device=options.device or "cpu")
    def devices(self):
        return ["cpu", str(os.getpid())]
"""


@pytest.fixture(autouse=True)
def _module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "fake_backend.py").write_text(BACKEND, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    before = open_files()
    yield
    sys.modules.pop("fake_backend", None)
    gc.collect()
    assert not list((tmp_path / "temporary").iterdir())
    assert open_files() <= before, "a file is left open"


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0


def spec_of(**changes: object) -> BackendSpec:
    import fake_backend

    spec = BackendSpec(
        name="fake",
        summary="for tests",
        load=lazy("fake_backend:Backend"),
        prepare=fake_backend.prepare,
        formats={"fake": (".fake",)},
        concurrent=True,
        apart=True,
    )
    return replace(spec, **changes)  # type: ignore[arg-type]


@pytest.fixture
def backend() -> ApartBackend:
    spec = spec_of()
    return stand_in(spec, spec.load())


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    path = tmp_path / "model.fake"
    path.write_text(json.dumps({"task": "segment", "names": {0: "thing"}, "imgsz": [32, 64]}), encoding="utf-8")
    return Artifact(path=path, format="fake")


def images(number: float = 0, batch: int = 2, size: tuple[int, int] = (32, 64)) -> np.ndarray:
    made = np.random.default_rng(int(number)).random((batch, 3, *size), np.float32)
    made[0, 0, 0, 0] = number
    return made


def check(given: np.ndarray, got: tuple[np.ndarray, ...]) -> None:
    sums = given.astype(np.float32).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(got[0], np.stack([sums * 2, sums], axis=1), rtol=1e-5)
    np.testing.assert_array_equal(got[1], given.transpose(0, 1, 3, 2))


def pid_of(artifact: Artifact) -> int:
    return int(json.loads(Path(f"{artifact.path}.pid").read_text(encoding="ascii"))[0])


def ended(pid: int, seconds: float = 10.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except OSError:
            return True
        time.sleep(0.02)
    return False


def test_runs_elsewhere_and_gives_the_same(
    backend: ApartBackend, artifact: Artifact, capfd: pytest.CaptureFixture[str]
) -> None:
    session = backend.open(artifact, SessionOptions(device="cpu"))
    assert session.info == backend.read_info(artifact)
    assert session.device == "cpu"
    for size in [(32, 64), (320, 640), (32, 32)]:  # it grows, and what is larger than needed does no harm
        given = images(3, size=size)
        check(given, session.run(given))
    transposed = images(4, size=(64, 64)).transpose(0, 1, 3, 2)
    check(transposed, session.run(transposed))
    session.close()
    pid = pid_of(artifact)
    assert pid != os.getpid()
    assert ended(pid, 0.1)
    assert Path(f"{artifact.path}.closed").read_text(encoding="ascii") == str(pid)
    assert capfd.readouterr() == ("", "")


def test_is_prepared_there_and_told_of_its_streams(backend: ApartBackend, artifact: Artifact) -> None:
    backend.open(artifact, SessionOptions(streams=3)).close()
    assert json.loads(Path(f"{artifact.path}.pid").read_text(encoding="ascii"))[1:] == [True, 3]


def test_says_what_it_knows_better(backend: ApartBackend, artifact: Artifact) -> None:
    session = backend.open(artifact, SessionOptions(device="cpu:1"))
    assert session.info == backend.read_info(artifact).replace(variant="known better")
    session.close()


def test_a_device_that_is_not_declared_is_refused_before_a_process_is_started(
    backend: ApartBackend, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "Child", lambda *_, **__: pytest.fail("a process was started"))
    with pytest.raises(UsageError, match="does not run on device 'warp9'"):
        backend.open(artifact, SessionOptions(device="warp9"))


def test_lists_devices_there(backend: ApartBackend) -> None:
    cpu, pid = backend.devices()
    assert cpu == "cpu"
    assert pid != str(os.getpid())


def test_lists_no_devices_where_the_backend_lists_none() -> None:
    assert not hasattr(ApartBackend(spec_of(), object(), "x:y"), "devices")  # type: ignore[arg-type]


def test_outputs_stay_whatever_comes_later(backend: ApartBackend, artifact: Artifact) -> None:
    """More of them than are lent, kept in part and as views, while larger ones come."""
    session = backend.open(artifact, SessionOptions())
    kept = []
    for number in range(10):
        given = images(number, size=(32 * (1 + number % 3), 64))
        kept.append((given, session.run(given)))
    parts = [got[1][0, 0, 1:3].T for _, got in kept]
    for given, got in kept:
        check(given, got)
    copies = [part.copy() for part in parts]
    del kept, got
    for number in range(20, 32):
        given = images(number)
        check(given, session.run(given))
    session.close()
    for part, copy in zip(parts, copies, strict=True):
        np.testing.assert_array_equal(part, copy)


def test_lends_outputs_without_copying(backend: ApartBackend, artifact: Artifact) -> None:
    session = backend.open(artifact, SessionOptions())
    first = session.run(images())
    assert not any(output.flags.owndata for output in first)
    place = first[0].__array_interface__["data"][0]
    del first
    assert session.run(images())[0].__array_interface__["data"][0] == place, "the memory is used again"
    session.close()


def test_several_threads(backend: ApartBackend, artifact: Artifact) -> None:
    session = backend.open(artifact, SessionOptions(streams=3))
    batches = [images(number, size=(32 + 32 * (number % 3), 64)) for number in range(60)]
    with ThreadPoolExecutor(8) as pool:
        for given, got in zip(batches, pool.map(session.run, batches), strict=True):
            check(given, got)
    session.close()


def test_streams_run_side_by_side(backend: ApartBackend, artifact: Artifact) -> None:
    session = backend.open(artifact, SessionOptions(streams=4))
    started = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(session.run, [images(1007)] * 4))
    assert time.monotonic() - started < 1.0
    session.close()


@pytest.mark.parametrize(("number", "name"), [(1000, "SIGKILL: is there enough memory?"), (1001, "SIGSEGV")])
def test_its_end_is_told_in_one_line(backend: ApartBackend, artifact: Artifact, number: int, name: str) -> None:
    session = backend.open(artifact, SessionOptions(streams=2))
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(session.run, images(1004))
        time.sleep(0.2)
        with pytest.raises(ModelError) as failure:
            session.run(images(number))
        assert failure.value.message == f"{artifact.path}: Fake runtime was ended by {name}"
        assert "the runtime prints" in failure.value.hint
        with pytest.raises(ModelError, match="was ended by"):
            waiting.result()
    with pytest.raises(ModelError, match="was ended by"):
        session.run(images())
    session.close()
    with pytest.raises(ModelError, match="is closed"):
        session.run(images())


def test_its_end_is_noticed_though_others_hold_the_pipe(
    backend: ApartBackend, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apart, "_LOOK", 0.2)
    session = backend.open(artifact, SessionOptions())
    with pytest.raises(ModelError, match="ended with exit code 7"):
        session.run(images(1005))
    session.close()


def test_errors_come_over(backend: ApartBackend, artifact: Artifact) -> None:
    session = backend.open(artifact, SessionOptions())
    with pytest.raises(ModelError, match=r"model\.fake: Fake runtime failed \(out of luck\)"):
        session.run(images(1002))
    with pytest.raises(ModelError) as failure:
        session.run(images(1003))
    assert (failure.value.message, failure.value.hint) == ("of its own", "do this")
    with pytest.raises(ModelError, match="holds no numbers"):
        session.run(images(1006))
    with pytest.raises(ModelError, match="takes images"):
        session.run(images(batch=1)[:, :1])
    with pytest.raises(ModelError, match="takes images"):
        session.run(images()[:0])
    check(images(1), session.run(images(1)))
    session.close()


def test_what_cannot_be_opened(
    backend: ApartBackend, artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError) as refusal:
        backend.open(artifact, SessionOptions(device="cpu:9"))
    assert (refusal.value.message, refusal.value.hint) == ("device=cpu:9 is not there", "devices here: cpu")
    with pytest.raises(ModelError, match=r"model\.fake: Fake runtime was ended by SIGABRT"):
        backend.open(artifact, SessionOptions(device="cpu:crash"))
    with pytest.raises(ModelError, match=r"model\.fake: Fake runtime cannot open it \(cannot be opened\)"):
        backend.open(artifact, SessionOptions(device="cpu:wrong"))
    monkeypatch.setattr(child, "Child", lambda *a, **k: pytest.fail("a process was started"))
    (tmp_path / "bad.fake").write_text("no JSON", encoding="utf-8")
    with pytest.raises(ModelError, match=r"bad\.fake: is damaged"):
        backend.open(Artifact(path=tmp_path / "bad.fake", format="fake"), SessionOptions())
    with pytest.raises(ModelError, match="absent"):
        backend.open(Artifact(path=tmp_path / "absent.fake", format="fake"), SessionOptions())


def test_closing_twice_and_forgetting_to(backend: ApartBackend, artifact: Artifact) -> None:
    session = backend.open(artifact, SessionOptions())
    session.close()
    session.close()
    with pytest.raises(ModelError, match="the session is closed"):
        session.run(images())
    forgotten = backend.open(artifact, SessionOptions())
    pid = pid_of(artifact)
    kept = forgotten.run(images(5))
    del forgotten
    gc.collect()
    assert ended(pid)
    check(images(5), kept)


def test_closing_while_others_run(backend: ApartBackend, artifact: Artifact) -> None:
    session = backend.open(artifact, SessionOptions(streams=2))
    with ThreadPoolExecutor(8) as pool:
        runs = [pool.submit(session.run, images(1007)) for _ in range(8)]
        time.sleep(0.1)
        session.close()
        for run in runs:
            if (error := run.exception(10)) is None:
                check(images(1007), run.result())
            else:
                assert "the session is closed" in str(error)


def test_ctrl_c_leaves_the_session_usable(backend: ApartBackend, artifact: Artifact) -> None:
    session = backend.open(artifact, SessionOptions())
    for _ in range(8):  # more often than there is memory
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            session.run(images(1007))
        timer.join()
    check(images(2), session.run(images(2)))
    session.close()


SCRIPT = """
    import os, sys, time
    sys.path[:] = {path!r}
    from pathlib import Path
    import numpy as np
    from segx.artifact import Artifact
    from segx.options.verbs import SessionOptions
    from segx.plugin.apart import stand_in
    from segx.plugin.specs import BackendSpec, lazy
    load = lazy("fake_backend:Backend")
    spec = BackendSpec(name="fake", summary="x", load=load, formats={{"fake": (".fake",)}}, apart=True)
    session = stand_in(spec, load()).open(Artifact(path=Path({model!r}), format="fake"), SessionOptions())
    images = np.zeros((1, 3, 32, 64), np.float32)
    {then}
"""


def start(artifact: Artifact, then: str, folder: Path) -> subprocess.Popen[bytes]:
    code = SCRIPT.format(path=sys.path, model=str(artifact.path), then=then)
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    return subprocess.Popen(command, env={**os.environ, "TMPDIR": str(folder)}, stderr=subprocess.PIPE)


@pytest.mark.parametrize("running", [False, True])
def test_ends_when_this_process_is_killed(artifact: Artifact, tmp_path: Path, running: bool) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    then = "images[:] = 1004; session.run(images)" if running else "time.sleep(60)"
    process = start(artifact, then, theirs)
    until = time.monotonic() + 20
    while not Path(f"{artifact.path}.pid").exists() and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(0.3)
    process.kill()
    process.communicate()
    assert ended(pid_of(artifact), 20)
    assert not list(theirs.iterdir())


def test_a_program_that_ends_without_closing_is_clean(artifact: Artifact, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    process = start(artifact, "kept = session.run(images)", theirs)
    assert process.communicate(timeout=60)[1] == b""
    assert process.returncode == 0
    assert ended(pid_of(artifact), 0.1)
    assert not list(theirs.iterdir())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_fork_does_not_end_it(backend: ApartBackend, artifact: Artifact) -> None:
    session = backend.open(artifact, SessionOptions())
    pid = os.fork()
    if pid == 0:
        session.close()
        os._exit(0)
    os.waitpid(pid, 0)
    check(images(2), session.run(images(2)))
    session.close()


def test_leaves_no_zombie(backend: ApartBackend, artifact: Artifact) -> None:
    session = backend.open(artifact, SessionOptions())
    pid = pid_of(artifact)
    with pytest.raises(ModelError):
        session.run(images(1000))
    session.close()
    assert ended(pid, 0.1)


def test_memory_is_given_back(backend: ApartBackend, artifact: Artifact) -> None:
    before = open_files()
    for _ in range(3):
        session = backend.open(artifact, SessionOptions())
        kept = session.run(images())
        session.close()
    del session, kept
    gc.collect()
    assert open_files() <= before


def test_without_memory_files_it_works_too(
    backend: ApartBackend, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on macOS."""
    monkeypatch.delattr(os, "memfd_create", raising=False)
    session = backend.open(artifact, SessionOptions())
    check(images(2), session.run(images(2)))
    session.close()


def test_by_the_path_of_a_file_it_works_too(
    backend: ApartBackend, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows."""
    monkeypatch.setattr(memory, "sys", type("System", (), {"platform": "win32"}))
    session = backend.open(artifact, SessionOptions())
    for number in range(8):
        check(images(number), session.run(images(number)))
    assert isinstance(session, ApartSession)
    session.close()


def test_the_registry_loads_what_stands_for_it(artifact: Artifact) -> None:
    discovery = get_registry()._discovery
    spec = spec_of(provider="segx-fake", concurrent=False)
    registry = Registry(replace(discovery, declared={**discovery.declared, "backend": (spec,)}))
    backend = registry.backends.load("fake")
    assert isinstance(backend, ApartBackend)
    assert registry.backends.load("fake") is backend
    sessions = Sessions(artifact, "model.fake", registry)
    session = sessions.get(SessionOptions(device="cpu"))
    check(images(2), session.run(images(2)))
    sessions.close()
    assert ended(pid_of(artifact), 0.1)
    wrong = Registry(replace(discovery, declared={**discovery.declared, "backend": (spec_of(load=object),)}))
    with pytest.raises(PluginError, match="lazy"):
        wrong.backends.load("fake")


def test_declaration_has_to_be_lazy() -> None:
    with pytest.raises(PluginError, match=r"its load has to be lazy"):
        stand_in(spec_of(load=object), object())  # type: ignore[arg-type]


def test_outputs_cross_in_the_order_they_lie() -> None:
    maps = np.moveaxis(np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4), -1, 1)
    shared = memory.SharedMemory.new()
    said = apart._laid_down([maps, images()[:, :, ::2]], shared)
    whole = shared.bytes(said["size"])
    there = [
        whole[begin : begin + size].view(kind).reshape(shape).transpose(axes)
        for kind, shape, axes, begin, size in said["outputs"]
    ]
    np.testing.assert_array_equal(there[0], maps)
    np.testing.assert_array_equal(there[1], images()[:, :, ::2])
    assert there[0].strides == maps.strides  # no axis was turned on the way
