"""What is special to frozen graphs: from an .onnx file, the names in them, and nothing that no output needs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from segx.artifact import Artifact
from segx.flows.export import export
from segx.plugin.registry import get_registry
from segx.testing.interpreter import run_fresh
from segx.testing.models import export_file, real_module, tiny_info

LOOK_INSIDE = """
import json, os, sys
os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", KERAS_HOME=os.devnull + "/keras")
import tensorflow as tf
graph = tf.compat.v1.GraphDef()
with open(sys.argv[1], "rb") as file:
    graph.ParseFromString(file.read())
read = {source.partition(":")[0] for node in graph.node for source in node.input}
print(json.dumps({
    "operators": sorted({node.op for node in graph.node}),
    "unread": sorted(node.name for node in graph.node if node.name not in read),
    "inputs": [node.name for node in graph.node if node.op == "Placeholder"],
}))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    artifact, _ = export_file(
        "onnx", tmp_path_factory.mktemp("source"), real_module(tiny_info(dynamic=True)), dynamic=True
    )
    return artifact.path


@pytest.fixture(scope="module")
def made(source: Path) -> Path:
    return export(Artifact(path=source, format="onnx"), "pb").path


def test_holds_what_its_outputs_need_and_nothing_else(made: Path) -> None:
    inside = run_fresh(LOOK_INSIDE, str(made), warnings="default")
    assert inside["inputs"] == ["x"], "the name that other tools look for"
    assert inside["unread"] == ["output0", "output1"]
    assert "VarHandleOp" not in inside["operators"]
    assert "PartitionedCall" not in inside["operators"]


def test_the_same_source_gives_the_same_bytes(source: Path, made: Path, tmp_path: Path) -> None:
    again = export(Artifact(path=source, format="onnx"), "pb", {"output": tmp_path / "again.pb", "verify": False}).path
    assert again.read_bytes() == made.read_bytes()


def test_open_axes_of_the_source_stay_open(made: Path) -> None:
    artifact = Artifact(path=made, format="pb")
    info = get_registry().backends.load("tensorflow").read_info(artifact)
    assert info.dynamic == {"batch", "height", "width"}
    assert info.parity is not None
    assert max(info.parity.raw.values()) < 1e-2


def test_nothing_of_this_machine_is_in_the_file(made: Path) -> None:
    content = made.read_bytes() + made.with_name(f"{made.name}.segx.json").read_bytes()
    for text in {str(Path(__file__).parents[3]), sys.prefix, str(made.parent), "site-packages", "Traceback"}:
        assert text.encode() not in content, text
