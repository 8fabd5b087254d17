"""Finding the command, and every ending: words, exit codes, JSON."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import segx_cli.main
from segx.errors import DataError, ExportError, ModelError
from segx_cli.commands import COMMANDS, ELSEWHERE, Command, every
from segx_cli.main import find_command

if TYPE_CHECKING:
    from collections.abc import Callable

    Segx = Callable[..., Any]


@pytest.mark.parametrize(
    "line",
    [
        "segment predict model=a source=b",
        "predict segment model=a source=b",
        "predict model=a source=b segment",
        "model=a source=b segment predict",
        "--model a --source b predict segment",
        "segment mode=predict model=a source=b",
        "--mode=predict segment model=a source=b",
        "--model=a segment --source=b predict",
    ],
)
def test_the_command_is_found_wherever_it_stands(line: str) -> None:
    name, rest = find_command(line.split())
    assert name == "predict"
    assert "predict" not in " ".join(rest)
    assert "segment" in rest


def test_a_value_that_is_a_commands_name_is_a_value() -> None:
    assert find_command(["export", "--name", "predict"]) == ("export", ["--name", "predict"])
    assert find_command(["--name", "predict", "export"]) == ("export", ["--name", "predict"])


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("predct", 2, "segx: 'predct' is no command and no task; did you mean 'predict'?"),
        ("segment predct model=a", 2, "did you mean 'predict'?"),
        ("segmnt model=a", 2, "did you mean 'segment'?"),
        ("segment", 2, "segx: 'segment' names no command"),
        ("model=a.pt", 2, "commands: benchmark, bulk, cache, completion, data"),
        ("mode=predikt", 2, "mode 'predikt' is not known; did you mean 'predict'?"),
        ("predict", 2, "segx: predict needs source=..."),
        (
            "predict model=a.pt",
            2,
            "segx: predict needs source=...\n  segx predict model=yolov8n-seg.pt source=photo.jpg",
        ),
        ("predict modl=a.pt", 2, "segx: option 'modl' is not known; did you mean 'model'?"),
        ("predict photo.jpg", 2, "meant as source=photo.jpg ?"),
        ("predict yolov8n-seg.pt", 2, "meant as model=yolov8n-seg.pt ?"),
        ("detect predict model=a source=b", 2, "task 'detect' is not installed"),
        ("predict model=a source=b task=detect", 2, "task 'detect' is not installed"),
        ("predict model=a source=b conf=2", 2, "segx: conf=2 is outside 0..1"),
        ("predict model=a source=b conf=high", 2, "segx: conf=high is not a float"),
        ("predict model=a source=b imgsz=abc", 2, "segx: imgsz=abc is not an int"),
        ("predict model=a source=b opset=3", 2, "segx: opset=3 cannot be: an option of some export formats"),
        ("predict model=a source=b augment", 2, "segx: augment=True cannot be: test-time augmentation is not there"),
        ("export model=a", 2, "segx: export needs format=..."),
        (
            "export model=a format=pb half=true",
            2,
            "\n  options: batch, device, dynamic, imgsz, opset, output, simplify, verify\n",
        ),
        ("export model=a format=onxx", 2, "segx: format 'onxx' is not known; did you mean 'onnx'?"),
        ("plugins nwe", 2, "segx: segx plugins has no action 'nwe'; did you mean 'new'?"),
        ("info model=a device=cpu", 2, "segx: device=cpu cannot be: an option of predict"),
        ("info model=a colour=1", 2, "segx: option 'colour' is not known"),
        ("cache --colour=1", 2, "segx: option 'colour' is not known"),
        ("predict model=a source=b cfg=none.yaml", 2, "segx: cfg=none.yaml cannot be read"),
    ],
)
def test_mistakes_are_one_line_and_an_exit_code(segx: Segx, line: str, code: int, message: str) -> None:
    ended = segx(*line.split())
    assert message in ended.err
    assert ended.err.startswith("segx: ")
    assert "Traceback" not in ended.err
    assert ended.out == ""
    assert ended.code == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError("no such image", hint="look elsewhere"), 3),
        (ModelError("no such model"), 4),
        (ExportError("not proven"), 5),
        (RuntimeError("something\nwith two lines"), 1),
        (MemoryError(), 1),
    ],
)
def test_each_kind_of_error_has_its_exit_code(
    segx: Segx, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    monkeypatch.setattr(segx_cli.main, "_run", _raiser(error))
    ended = segx("predict")
    assert ended.code == code
    assert ended.err.startswith("segx: ")
    assert len(ended.err.splitlines()) <= 2
    document = segx("predict", "--json").document
    assert document["error"]["exit_code"] == code
    debugged = segx("predict", "--debug")
    assert debugged.code == code
    assert debugged.err.startswith("Traceback")
    assert debugged.err.endswith(ended.err)


def test_a_file_that_the_system_refuses_is_named(segx: Segx, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = PermissionError(13, "Permission denied", "/cache/segx")
    monkeypatch.setattr(segx_cli.main, "_run", _raiser(refused))
    ended = segx("predict")
    assert ended.err == "segx: /cache/segx: Permission denied\n  the same with --debug shows where\n"
    assert ended.code == 1


def _raiser(error: BaseException) -> Callable[..., int]:
    def run(*_: object) -> int:
        raise error

    return run


def test_ctrl_c_ends_calmly(segx: Segx, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segx_cli.main, "_run", _raiser(KeyboardInterrupt()))
    ended = segx("predict")
    assert (ended.code, ended.out, ended.err) == (130, "", "segx: stopped\n")


def test_help_names_every_command(segx: Segx) -> None:
    for line in ([], ["--help"], ["-h"], ["help"]):
        ended = segx(*line)
        assert ended.code == 0
        assert ended.err == ""
        for command in COMMANDS.values():
            assert f"\n  {command.name} " in ended.out
            assert command.summary in ended.out


@pytest.mark.parametrize(("typed", "command"), list(every()), ids=lambda item: item if isinstance(item, str) else "")
def test_help_shows_every_option(segx: Segx, typed: str, command: Command) -> None:
    if command.actions:
        return  # its page lists the actions
    ended = segx(*typed.split(), "--help")
    assert ended.code == 0
    assert command.example in ended.out
    assert max(map(len, ended.out.splitlines())) <= 100
    for info in (*command.arguments, *command.known_options()):
        assert f"\n  {info.name}=" in ended.out
        assert " ".join(info.help.split()) in " ".join(ended.out.split())


def test_what_is_taken_in_silence_is_no_option_of_the_verb(segx: Segx) -> None:
    silent = segx("benchmark", "--help").out.partition("Taken where they change nothing:")[2].split()
    assert "augment," in silent
    assert not {f"{name}," for name in ("int8", "model", "cfg", "task", "data", "half")} & set(silent)


def test_help_of_a_format_is_of_its_options(segx: Segx) -> None:
    page = segx("export", "format=tflite", "--help").out
    assert "  values=float32 " in page
    assert "16-bit weights; arithmetic is 32-bit on a CPU" in page, "the words of this format, not of the first one"
    assert "only format" not in page
    assert "keras=" not in page
    assert segx("export", "--help", "--format=tflite").out == page
    assert "format 'onxx' is not known; did you mean 'onnx'" in segx("export", "format=onxx", "--help").err


def test_help_of_a_verb_may_be_asked_for_in_any_place(segx: Segx) -> None:
    page = segx("predict", "--help").out
    assert segx("--help", "segment", "predict").out == page
    assert segx("help", "predict").out == page


def test_the_default_of_the_command_line_is_shown(segx: Segx) -> None:
    assert "  save=true " in segx("predict", "--help").out


def test_the_version(segx: Segx) -> None:
    import segx as package

    assert segx("--version").out == f"segx {package.__version__}\n"
    assert segx("--version", "--json").document == {"segx": package.__version__}


def test_a_file_of_options(segx: Segx, tmp_path: Any) -> None:
    (tmp_path / "list.yaml").write_text("- conf\n")
    assert "holds a list, not names and values" in segx("predict", "model=a", "source=b", "cfg=list.yaml").err
    (tmp_path / "broken.yaml").write_text("conf: [")
    assert "cfg=broken.yaml cannot be read" in segx("predict", "model=a", "source=b", "cfg=broken.yaml").err
    (tmp_path / "strange.yaml").write_text("confi: 0.4")
    ended = segx("predict", "model=a", "source=b", "cfg=strange.yaml")
    assert "strange.yaml: option 'confi' is not known; did you mean 'conf'?" in ended.err
    (tmp_path / "strange.yaml").write_text("confi: 0.4\nconf: 0.3\nother: 1")
    ended = segx("predict", "model=a", "source=b", "cfg=strange.yaml")
    assert "strange.yaml: options 'confi', 'other' are not known" in ended.err
    (tmp_path / "wrong.yaml").write_text("conf: 7")
    assert "conf=7 is outside 0..1" in segx("predict", "model=a", "source=b", "cfg=wrong.yaml").err


def test_a_file_of_options_goes_behind_what_is_typed(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    from segx_cli.line import read_call

    (tmp_path / "all.yaml").write_text(
        textwrap.dedent("""
            mode: predict
            task: segment
            model: file.pt
            source: photos
            conf: 0.3
            iou: 0.5
            classes: [1, 2]
            device:
            max-det: 9
            format: onnx
            augment: false
            dropout: 0.0
        """)
    )
    command = COMMANDS["predict"]
    with caplog.at_level("INFO", logger="segx_cli"):
        call = read_call(command, ["cfg=all.yaml", "conf=0.6", "--model", "typed.pt"])
    assert call.task == "segment"
    assert call.arguments == {"model": "typed.pt", "source": "photos"}
    options = call.options.as_dict()
    assert (options["conf"], options["iou"], options["classes"], options["max_det"]) == (0.6, 0.5, (1, 2), 9)
    assert "left aside: format" in caplog.text


def test_predict_saves_unless_told_not_to() -> None:
    from segx_cli.line import read_call

    command = COMMANDS["predict"]
    line = ["model=a", "source=b"]
    assert read_call(command, line).options.as_dict()["save"] is True
    assert read_call(command, [*line, "--no-save"]).options.as_dict()["save"] is False


@pytest.mark.parametrize("word", ELSEWHERE)
def test_what_others_have_is_answered_with_what_does_it_here(segx: Segx, word: str) -> None:
    for line in ([word], [word, "model=yolov8n-seg.pt"], ["segment", word]):
        ended = segx(*line)
        assert (ended.code, ended.err) == (2, f"segx: segx has no command {word!r}\n  {ELSEWHERE[word]}\n")


def test_the_version_as_others_ask_for_it(segx: Segx) -> None:
    assert segx("version").out == segx("--version").out


def test_a_model_that_is_not_named_is_told(segx: Segx) -> None:
    ended = segx("val", "data=coco8-seg.yaml")
    assert ended.err.startswith("model=yolov8n-seg.pt, for no other was named\n")
    assert ended.code == 4  # it cannot be downloaded here


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
def test_a_full_disk_behind_standard_output_is_one_line() -> None:
    for more in ([], ["--json"]):
        with Path("/dev/full").open("wb") as full:
            words = [sys.executable, "-m", "segx_cli", "formats", *more]
            ended = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        assert ended.returncode == 1
        assert ended.stderr == "segx: standard output cannot be written: No space left on device\n"


def test_tables_fit_eighty_columns(segx: Segx, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for line in (["--help"], ["formats"], ["plugins"], ["data"], ["doctor", "--help"], ["predict", "--help"]):
        ended = segx(*line)
        assert max(map(len, ended.out.splitlines())) <= 80, line


TERMINATED = """
import pathlib, sys, time
from segx_cli import main
def run(tokens, switches, output):
    try:
        print("begun", file=output.stream, flush=True)
        time.sleep(60)
    finally:
        pathlib.Path(sys.argv[1]).unlink()
main._run = run
sys.exit(main.main([]))
"""


def test_a_command_that_is_asked_to_end_tidies_up(tmp_path: Path) -> None:
    half = tmp_path / ".half"
    half.touch()
    words = [sys.executable, "-c", TERMINATED, str(half)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (143, "segx: stopped by SIGTERM\n")
    assert not half.exists()


MISTAKEN = """
import os, signal, sys
from segx.errors import ModelError
from segx_cli import main
def run(tokens, switches, output):
    try:
        os.kill(os.getpid(), int(sys.argv[1]))
        signal.pause()
    except BaseException as error:  # as what a library makes of it that is interrupted while it is imported
        raise ModelError("it cannot be loaded: initialization failed") from error
main._run = run
sys.exit(main.main([]))
"""


@pytest.mark.skipif(os.name == "nt", reason="signals are of other systems")
@pytest.mark.parametrize(("number", "code", "said"), [(15, 143, "stopped by SIGTERM"), (2, 130, "stopped")])
def test_a_stop_that_a_library_takes_for_a_fault_is_still_a_stop(number: int, code: int, said: str) -> None:
    words = [sys.executable, "-c", MISTAKEN, str(number)]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (code, f"segx: {said}\n")


@pytest.mark.parametrize(
    ("reason", "cure"),
    [("No module named 'cv2'", "pip install opencv-python"), ("libGL.so.1: cannot open", "opencv-python-headless")],
)
def test_opencv_that_cannot_be_imported_is_told_with_its_cure(
    segx: Segx, monkeypatch: pytest.MonkeyPatch, reason: str, cure: str
) -> None:
    def fail(*_: object) -> None:
        raise ImportError(reason, name="cv2")

    monkeypatch.setattr("segx_cli.main._run", fail)
    ended = segx("predict", "source=x")
    assert ended.code == 5
    assert f"OpenCV cannot be imported ({reason}" in ended.err.replace("ImportError: ", "")
    assert cure in ended.err
