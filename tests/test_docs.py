"""Documentation that runs: every command on every page as it stands, tables as the code has them, links that lead on.

A fenced block of ``bash`` or ``python`` is run, in the order of the page, in a scratch folder that holds ``photo.jpg``,
``photos/`` and ``yolov8n-seg.pt``; pages of the reference find ``yolov8n-seg.onnx`` there too. A block is left out only
under a line ``<!-- not run: reason -->``. Blocks of plain ``segx`` lines and of Python run in this process, which saves
an import of torch each; what a shell does (pipes, patterns, here-documents) runs in one.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from segx import YOLO
from segx.plugin.registry import get_registry
from segx_cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NOT_RUN = re.compile(r"<!-- not run: \S.*-->\s*\Z")
_LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)(?:#[^)]*)?\)")


@dataclass(frozen=True)
class Block:
    """A fenced block that is to be run.

    Attributes:
        line: Where it begins on its page.
        language: ``"bash"`` or ``"python"``.
        code: What it says.
    """

    line: int
    language: str
    code: str


def blocks(text: str) -> Iterator[Block]:
    """Yield the blocks of a page that are to be run."""
    for match in _BLOCK.finditer(text):
        language, code = match.groups()
        if language in {"bash", "python"} and not _NOT_RUN.search(text[: match.start()]):
            yield Block(text.count("\n", 0, match.start()) + 1, language, code)


def test_blocks_are_found() -> None:
    text = (
        "a\n```bash\necho 1\n```\n<!-- not run: why -->\n```bash\nexit 1\n```\n```text\nx\n```\n```python\npass\n```\n"
    )
    assert list(blocks(text)) == [Block(2, "bash", "echo 1\n"), Block(12, "python", "pass\n")]


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A folder with images and a checkpoint: real ones where they are at hand, else drawn ones and a tiny model."""
    folder = tmp_path_factory.mktemp("material")
    (folder / "photos").mkdir()
    try:
        real: Path = request.getfixturevalue("real_data")
    except pytest.skip.Exception:
        _draw(folder)
        return folder
    shutil.copy(real / "weights" / "yolov8n-seg.pt", folder)
    images = sorted((real / "coco-mini" / "images" / "val2017").glob("*.jpg"))[:3]
    shutil.copy(images[0], folder / "photo.jpg")
    for image in images[1:]:
        shutil.copy(image, folder / "photos")
    return folder


def _draw(folder: Path) -> None:
    import cv2

    from segx.testing.models import TINY_YOLOV8
    from segx.testing.scenes import draw_scene

    image = draw_scene().image
    for name in ("photo.jpg", "photos/a.jpg", "photos/b.jpg"):
        cv2.imwrite(str(folder / name), image)
    (folder / "tiny-seg.yaml").write_text(TINY_YOLOV8)
    YOLO(folder / "tiny-seg.yaml").save(folder / "yolov8n-seg.pt")
    (folder / "tiny-seg.yaml").unlink()


# README is typed by people, each process of a distributed run starts the command line again, and Paddle does not share
# a process with other frameworks.
IN_A_SHELL = ("README.md", "distributed.md", "paddle.md")

PIP = """\
#!{python}
import pathlib, sys, tomllib
if sys.argv[1:3] != ["install", "-e"]:
    sys.exit(f"this pip only installs folders: {{sys.argv[1:]}}")
folder = pathlib.Path(sys.argv[3]).resolve()
project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
site = pathlib.Path({site!r})
for package in (folder / "src").iterdir():
    (site / package.name).symlink_to(package)
info = site / f"{{project['name'].replace('-', '_')}}-{{project['version']}}.dist-info"
info.mkdir()
lines = ["Metadata-Version: 2.1", f"Name: {{project['name']}}", f"Version: {{project['version']}}"]
(info / "METADATA").write_text("\\n".join(lines))
entries = [f"{{name}} = {{value}}" for name, value in project["entry-points"]["segx"].items()]
(info / "entry_points.txt").write_text("\\n".join(["[segx]", *entries]))
"""


def _stand_in_for_pip(folder: Path) -> dict[str, str]:
    """Return an environment in which ``pip install -e FOLDER`` works without a registry, into a folder of its own."""
    tools, site = folder / "bin", folder / "site"
    tools.mkdir()
    site.mkdir()
    (tools / "pip").write_text(PIP.format(python=sys.executable, site=str(site)))
    (tools / "pip").chmod(0o755)
    path = [str(tools), str(Path(sys.executable).parent), os.environ["PATH"]]
    return {"PATH": os.pathsep.join(path), "PYTHONPATH": str(site)}


def plain_calls(block: Block) -> list[list[str]] | None:
    """Return the words of each line of a block that only calls ``segx`` and ``pip``; None where it needs a shell."""
    calls = []
    for line in block.code.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
        plain = words[:1] in (["segx"], ["pip"]) and not any(word and set(word) <= set("();<>|&") for word in words)
        if words and (not plain or any(sign in line for sign in "$`~*?")):
            return None
        calls += [words] if words else []
    return calls


def test_lines_that_need_a_shell_are_seen_from_others() -> None:
    def read(code: str) -> list[list[str]] | None:
        return plain_calls(Block(1, "bash", code))

    assert read("segx predict 'a b' x=1  # why\n\npip \\\n  b\n") == [["segx", "predict", "a b", "x=1"], ["pip", "b"]]
    for code in ("ls\n", "segx a > b\n", "x=$(segx a)\n", "segx a | head\n", "segx a photos/*.jpg\n", "segx a; ls\n"):
        assert read(code) is None, code


@pytest.fixture
def _as_found() -> Iterator[None]:
    """Leave modules and plugins as a page finds them: its commands and scripts run in this process."""
    modules = set(sys.modules)
    yield
    for name in [name for name in sys.modules.keys() - modules if re.match(r"segx_\w+_(pt2|plain|lines)\b", name)]:
        del sys.modules[name]
    get_registry.cache_clear()


def _call(program: str, *arguments: str) -> int:
    """Run one line without a shell and return its exit code."""
    if program == "segx":
        return main(arguments)
    ended = subprocess.run([program, *arguments], check=False)
    importlib.invalidate_caches()
    get_registry.cache_clear()
    return ended.returncode


WITH_COMMANDS = [page for page in PAGES if any(blocks(page.read_text(encoding="utf-8")))]


@pytest.mark.usefixtures("_as_found")
@pytest.mark.filterwarnings("default")  # as in the processes that people start
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_runs(
    page: Path, material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "place"
    shutil.copytree(material, place)
    if page.parent.name == "reference":
        YOLO(place / "yolov8n-seg.pt").export("onnx", verify=False)
    settings = {"SEGX_CACHE": str(tmp_path / "cache"), "SEGX_OFFLINE": "1", **_stand_in_for_pip(tmp_path)}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(settings["PYTHONPATH"])
    monkeypatch.chdir(place)
    here = page.name not in IN_A_SHELL
    for block in blocks(page.read_text(encoding="utf-8")):
        where = f"{page.relative_to(ROOT)}:{block.line}"
        calls = plain_calls(block) if here and block.language == "bash" else None
        if calls is not None:
            for call in calls:
                code = _call(*call)
                assert code == 0, f"{where}: {shlex.join(call)} ended with {code}\n{capfd.readouterr().err[-2000:]}"
        elif here and block.language == "python":
            exec(compile(block.code, where, "exec"), {"__name__": "__main__"})
        else:
            command = ["bash", "-euo", "pipefail", "-c"] if block.language == "bash" else [sys.executable, "-c"]
            ended = subprocess.run([*command, block.code], capture_output=True, text=True, timeout=300, check=False)
            assert ended.returncode == 0, f"{where} ended with {ended.returncode}\n{block.code}\n{ended.stderr[-2000:]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"


@pytest.fixture(scope="module")
def generator(script: Callable[[str], Any]) -> Any:
    """The script, as a module."""
    return script("generate_docs")


def test_what_is_generated_is_up_to_date(generator: Any) -> None:
    stale = [
        str(path.relative_to(ROOT))
        for path, content in generator.pages().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != content
    ]
    assert not stale, f"run: .venv/bin/python scripts/generate_docs.py ({', '.join(stale)})"


def test_the_readme_fits_a_screen_and_names_its_two_commands() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 95  # thirteen formats among them
    assert "\nmake demo " in text
    assert "\nmake test " in text


def test_the_commands_reference_names_every_option(generator: Any) -> None:
    from segx_cli.commands import COMMANDS

    page = generator.cli_reference()
    for command in COMMANDS.values():
        assert f"segx {command.name}" in page
        for info in command.known_options() if command.verb else ():
            assert f"| `{info.name}` |" in page
    for action in COMMANDS["data"].actions:
        _, _, section = page.partition(f"### segx data {action.name}\n")
        section, _, _ = section.partition("\n### ")
        for info in action.known_options():
            assert f"| `{info.name}` |" in section
