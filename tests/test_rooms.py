"""The rooms of core: imports point down and never in a circle, type hints and imports inside functions included.

import-linter holds the same order for what is imported while the program runs; the floors are read from its contract.
"""

from __future__ import annotations

import ast
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "core" / "src"
FILES = {
    ".".join(file.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted((SOURCE / "segx").rglob("*.py"))
}
LAYERS = next(
    contract
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    if contract["type"] == "layers"
)
FLOORS = {
    room.strip(" ()"): number for number, floor in enumerate(reversed(LAYERS["layers"])) for room in floor.split(":")
}
KNOWN = {tuple(one.split(" -> ")) for one in LAYERS["ignore_imports"]}
"""What climbs while the program runs, and is to go."""
HINTS: set[tuple[str, str]] = set()
"""What climbs in type hints only, and is to go."""


def room(module: str) -> str:
    return ".".join(module.split(".")[:2])


def arrows(module: str) -> set[str]:
    """The modules of core that one imports, wherever and for whatever."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {
                dotted if (dotted := f"{node.module}.{alias.name}") in FILES else node.module for alias in node.names
            }
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return (found & FILES.keys()) - {module, "segx"}  # of segx itself only the version is asked for


GRAPH = {module: arrows(module) for module in FILES if module != "segx"}


def test_every_room_has_a_floor() -> None:
    assert {room(module) for module in GRAPH} - FLOORS.keys() == set()


def test_imports_point_down() -> None:
    up = {
        (one, other)
        for one, others in GRAPH.items()
        for other in others
        if room(one) != room(other) and FLOORS[room(other)] >= FLOORS[room(one)]
    }
    assert up - KNOWN - HINTS == set()
    assert HINTS.issubset(up), "what climbs no longer is no longer to be listed"


@pytest.mark.parametrize("of", ["modules", "rooms"])
def test_nothing_goes_in_a_circle(of: str) -> None:
    graph: dict[str, set[str]] = {}
    for one, others in GRAPH.items():
        down = {other for other in others if (one, other) not in KNOWN | HINTS}
        name = room if of == "rooms" else str
        graph.setdefault(name(one), set()).update({name(other) for other in down} - {name(one)})
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_polygons_are_filled_in_one_place() -> None:
    """What is taught, measured and shown is filled by ``segx.ops.polygons``; OpenCV paints made-up images only."""
    sources = [*SOURCE.rglob("*.py"), *(ROOT / "plugins").glob("*/src/**/*.py")]
    fillers = {file.name for file in sources if "fillPoly" in (text := file.read_text("utf-8")) or "frPyObj" in text}
    assert fillers == {"calibration.py", "scene.py"}
