"""Work in a new interpreter: its answer, its errors, its ends, and what it leaves."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest

from segx.errors import (
    DataError,
    ExportError,
    MissingPluginError,
    ModelError,
    SegxError,
    UsageError,
    WrongValueError,
)
from segx.runtime import child

WORK = """
import os, signal, subprocess, sys, time
from pathlib import Path
from segx import errors
from segx.runtime import child

ORDER = []

def echo(**arguments): return arguments
def before(): ORDER.append(("prepared", "segx.plugin.registry" in sys.modules))
def order(): return ORDER
def chatter(lines=3):
    print("a line from Python")
    os.write(1, b"bytes from C \\xff\\n")
    subprocess.run([sys.executable, "-c", "print('from a grandchild')"], check=True)
    print("on standard error", file=sys.stderr)
    for number in range(lines): print("line", number)
    return "answer"
def refuse(name):
    class Own(errors.ModelError): pass
    kind = {"Own": Own, **vars(errors)}[name]
    raise kind("what happened", hint="what to type")
def break_(): raise RuntimeError("several\\nlines   of it")
def die(number): print("last words"); os.kill(os.getpid(), number)
def leave(code): print("last words"); sys.exit(code)
def count(to):
    for done in range(to): child.notify("counting", done + 1, to)
    child.notify("without a total", 5)
def sleep(pid_file, helper=False, deaf=False):
    if deaf: signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pids = [os.getpid()]
    if helper: pids.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid)
    Path(pid_file + ".new").write_text(" ".join(map(str, pids)))
    os.rename(pid_file + ".new", pid_file)
    time.sleep(60)
def fork_and_leave(pid_file):
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    Path(pid_file).write_text(str(pid))
    return "answer"
def crash_at_the_end():
    import atexit
    atexit.register(os.kill, os.getpid(), signal.SIGSEGV)
    return "answer"
def place():
    found = {"path": sys.path, "argv": sys.argv, "stdin": sys.stdin.read()}
    return {**found, "pythonpath": os.environ.get("PYTHONPATH")}
def no_json(): return {1, 2}
"""


@pytest.fixture(autouse=True)
def _work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "apart_work.py").write_text(WORK, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()


@pytest.fixture(autouse=True)
def _leaves_nothing(_work: None, tmp_path: Path) -> object:
    yield
    assert not list((tmp_path / "temporary").iterdir()), "a folder of a child is left"


def call(function: str, **arguments: object) -> object:
    return child.call(f"apart_work:{function}", arguments, what="Converter", timeout=60)


def ended(pid: int, seconds: float = 10.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True  # its own parent has not looked yet
        time.sleep(0.02)
    return False


def appears(file: Path, seconds: float = 20.0) -> list[int]:
    until = time.monotonic() + seconds
    while not file.exists():
        assert time.monotonic() < until, "the child has not begun"
        time.sleep(0.02)
    return [int(word) for word in file.read_text(encoding="ascii").split()]


def test_hands_over_what_json_holds(tmp_path: Path) -> None:
    given = {"text": "größe \udcff \n", "numbers": [1, 2.5, None, True], "path": tmp_path}
    assert call("echo", **given) == given | {"path": str(tmp_path)}


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes on Linux")
def test_names_that_are_not_utf8_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    folder.mkdir()
    (folder / "in_a_strange_place.py").write_text("def here(path): return open(path).read()", encoding="utf-8")
    (folder / "x.txt").write_text("content", encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    found = child.call("in_a_strange_place:here", {"path": folder / "x.txt"}, what="Reader")
    assert found == "content"
    assert {item.name for item in folder.iterdir()} <= {"in_a_strange_place.py", "x.txt", "__pycache__"}


def test_searches_where_this_process_does_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "json.py").write_text("raise RuntimeError('the folder is no place to look')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    found = call("place")
    assert found == {"path": sys.path, "argv": ["Converter"], "pythonpath": None, "stdin": ""}


@pytest.mark.parametrize("flags", [["-I"], ["-E"], ["-S"], ["-X", "utf8"], ["-B"]])
def test_works_whatever_this_interpreter_was_told(tmp_path: Path, flags: list[str]) -> None:
    code = f"""
        import sys; sys.path[:] = {sys.path!r}
        from segx.runtime import child
        print(child.call("apart_work:place", what="x")["path"] == sys.path)
    """
    done = subprocess.run(
        [sys.executable, *flags, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "True", done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_works_when_standard_streams_are_closed(tmp_path: Path, closed: str) -> None:
    code = f"""
        import sys; sys.path[:] = {sys.path!r}
        from pathlib import Path
        from segx.runtime import child
        Path({str(tmp_path / "said")!r}).write_text(child.call("apart_work:chatter", what="x"))
    """
    (tmp_path / "try.py").write_text(textwrap.dedent(code), encoding="utf-8")
    subprocess.run(["sh", "-c", f"exec {sys.executable} {tmp_path / 'try.py'} {closed}"], check=True)
    assert (tmp_path / "said").read_text(encoding="utf-8") == "answer"


def test_what_it_writes_is_logged_and_nothing_else(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="segx.runtime.child"):
        assert call("chatter") == "answer"
    assert capfd.readouterr() == ("", "")
    said = {record.getMessage() for record in caplog.records}
    assert {f"Converter: {line}" for line in ("a line from Python", "from a grandchild", "on standard error")} <= said
    assert "Converter: bytes from C \ufffd" in said


def test_prepares_first_of_all() -> None:
    answer = child.call("apart_work:order", what="x", prepare="apart_work:before")
    assert answer == [["prepared", False]]


def test_plugins_prepare_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    assert child.call("os:getenv", {"key": "ORT_DISABLE_TELEMETRY"}, what="x") == "1"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("UsageError", UsageError),
        ("WrongValueError", WrongValueError),
        ("DataError", DataError),
        ("ModelError", ModelError),
        ("ExportError", ExportError),
        ("MissingPluginError", MissingPluginError),
        ("Own", ModelError),
    ],
)
def test_errors_of_segx_come_over_as_they_are(name: str, kind: type[SegxError]) -> None:
    with pytest.raises(SegxError) as refusal:
        call("refuse", name=name)
    assert type(refusal.value) is kind
    assert (refusal.value.message, refusal.value.hint) == ("what happened", "what to type")


def test_other_errors_are_told_in_one_line_with_the_last_lines() -> None:
    with pytest.raises(ExportError) as failure:
        call("break_")
    assert failure.value.message == "Converter failed (RuntimeError: several lines of it)"
    assert "Traceback" in failure.value.hint
    assert len(failure.value.hint.splitlines()) <= child.LINES
    with pytest.raises(ModelError):
        child.call("apart_work:break_", what="x", error=ModelError)
    with pytest.raises(ExportError, match="ModuleNotFoundError"):
        child.call("no_such_module:x", what="x")
    with pytest.raises(ExportError, match="TypeError: expected str"):
        call("no_json")


@pytest.mark.parametrize(
    ("function", "argument", "words"),
    [
        ("die", {"number": int(signal.SIGKILL)}, "was ended by SIGKILL: is there enough memory?"),
        ("die", {"number": int(signal.SIGSEGV)}, "was ended by SIGSEGV"),
        ("leave", {"code": 3}, "ended with exit code 3"),
        ("leave", {"code": 0}, "ended without an answer"),
    ],
)
def test_an_end_without_an_answer_is_told(function: str, argument: dict[str, int], words: str) -> None:
    with pytest.raises(ExportError) as failure:
        call(function, **argument)
    assert failure.value.message == f"Converter {words}"
    assert failure.value.hint == "last words"


def test_the_hint_holds_the_last_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(sys.path[0], "much.py").write_text(
        "import os\ndef work():\n  [print('line', n) for n in range(50)]; os._exit(1)", encoding="utf-8"
    )
    with pytest.raises(ExportError) as failure:
        child.call("much:work", what="x")
    assert failure.value.hint.split("\n  ") == [f"line {number}" for number in range(30, 50)]


def test_crashing_after_the_answer_is_no_failure() -> None:
    assert call("crash_at_the_end") == "answer"


def test_progress_comes_in_order() -> None:
    told: list[object] = []
    child.call("apart_work:count", {"to": 3}, what="x", notify=lambda *step: told.append(step))
    assert told == [("counting", 1, 3), ("counting", 2, 3), ("counting", 3, 3), ("without a total", 5, None)]


def test_telling_elsewhere_does_nothing() -> None:
    child.notify("counting", 1, 2)


def test_an_error_in_the_listener_ends_it(tmp_path: Path) -> None:
    def listener(*_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        child.call("apart_work:count", {"to": 3}, what="x", notify=listener)


def test_takes_no_longer_than_it_may(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    with pytest.raises(ExportError, match="Converter was not done within 3 s"):
        child.call("apart_work:sleep", {"pid_file": file, "helper": True}, what="Converter", timeout=3)
    assert all(ended(pid) for pid in appears(file))


@pytest.mark.parametrize("deaf", [False, True])
def test_ctrl_c_ends_it_and_what_it_has_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaf: bool) -> None:
    monkeypatch.setattr(child, "_PATIENCE", 0.5)
    file = tmp_path / "pids"

    def press() -> None:
        appears(file)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press).start()
    with pytest.raises(KeyboardInterrupt):
        call("sleep", pid_file=str(file), helper=True, deaf=deaf)
    assert all(ended(pid) for pid in appears(file))


def test_a_process_left_behind_neither_hangs_nor_stays(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    started = time.monotonic()
    assert call("fork_and_leave", pid_file=str(file)) == "answer"
    assert time.monotonic() - started < 20
    assert all(ended(pid) for pid in appears(file))


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_ends_when_this_process_is_killed(tmp_path: Path) -> None:
    file, temporary = tmp_path / "pids", tmp_path / "theirs"
    temporary.mkdir()
    code = f"""
        import sys; sys.path[:] = {sys.path!r}
        from segx.runtime import child
        child.call("apart_work:sleep", {{"pid_file": {str(file)!r}, "helper": True, "deaf": True}}, what="x")
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], env={**os.environ, "TMPDIR": str(temporary)}
    )
    pids = appears(file)
    process.kill()
    process.wait()
    assert all(ended(pid) for pid in pids)
    until = time.monotonic() + 5
    while list(temporary.iterdir()) and time.monotonic() < until:
        time.sleep(0.02)
    assert not list(temporary.iterdir())


def test_says_when_it_cannot_be_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "gone"))
    with pytest.raises(ExportError, match="Converter cannot be started in a process of its own"):
        call("echo")
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(ExportError, match="no interpreter of its own"):
        call("echo")


def test_runs_this_interpreter_with_other_arguments(tmp_path: Path) -> None:
    done = child.run(["-c", "import os, sys; print(os.getcwd()); sys.exit('words')"], folder=tmp_path)
    assert done == child.Ended(code=1, stdout=f"{tmp_path}\n", stderr="words\n")
    with pytest.raises(TimeoutError):
        child.run(["-c", "import time; time.sleep(60)"], timeout=0.5)


def test_answers_of_any_size_come_whole() -> None:
    text = "x" * 5_000_000
    assert call("echo", text=text) == {"text": text}
    assert json.dumps(text)
