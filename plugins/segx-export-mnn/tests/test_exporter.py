"""What is special to MNN: a converter that answers to nothing, a text in a flatbuffer, and a command that reports."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import onnx
import pytest
from onnx import TensorProto, helper

from segx.artifact import Artifact, ArtifactInfo
from segx.errors import ExportError
from segx.testing.interpreter import run_fresh
from segx.testing.models import export_file, export_with, real_module, tiny_info
from segx_export_mnn.exporter import MnnExporter
from segx_export_mnn.options import MnnOptions

if TYPE_CHECKING:
    from pathlib import Path

EXPORTER = MnnExporter()
SHOWN = """
import json, sys
import MNN
module = MNN.nn.load_module_from_file(sys.argv[1], [], [])
print(json.dumps(module.get_info()["bizCode"]))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, ArtifactInfo]:
    pytest.importorskip("segx_model_yolov8")
    return export_file("onnx", tmp_path_factory.mktemp("source"), real_module(tiny_info()))


def test_the_info_is_where_tools_of_mnn_show_it(source: tuple[Artifact, ArtifactInfo], tmp_path: Path) -> None:
    path = tmp_path / "m.mnn"
    export_with(EXPORTER, *source, MnnOptions(), path)
    sizes = []
    for length in (10, 4000, 10):
        info = source[1].replace(extra={"note": "x" * length})
        EXPORTER.write_info(path, info)
        assert json.loads(run_fresh(SHOWN, str(path), warnings="default")) == info.to_metadata()
        sizes.append(path.stat().st_size)
    assert sizes[0] == sizes[2] < sizes[1], "a text goes when another one comes"


def test_the_same_source_gives_the_same_bytes(source: tuple[Artifact, ArtifactInfo], tmp_path: Path) -> None:
    contents = set()
    for name in ("a.mnn", "b.mnn"):
        export_with(EXPORTER, *source, MnnOptions(), tmp_path / name)
        contents.add((tmp_path / name).read_bytes())
    assert len(contents) == 1
    assert str(tmp_path).encode() not in contents.pop()


def test_weights_of_fewer_bits_take_less_space(source: tuple[Artifact, ArtifactInfo], tmp_path: Path) -> None:
    sizes = []
    for options in (MnnOptions(), MnnOptions(half=True), MnnOptions(int8=True)):
        export_with(EXPORTER, *source, options, tmp_path / "m.mnn")
        sizes.append((tmp_path / "m.mnn").stat().st_size)
    assert sizes[0] > 1.4 * sizes[1] > 1.4 * sizes[2]


def test_an_operator_that_mnn_has_not_is_named(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("FancyNorm", ["images"], ["output0"])],
        "g",
        [value("images", TensorProto.FLOAT, [1, 3, 64, 64])],
        [value("output0", TensorProto.FLOAT, [1, 3])],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    info = ArtifactInfo(names={0: "egg"}, imgsz=(64, 64), outputs=("output0",))
    with pytest.raises(ExportError, match="MNN's converter ended with exit code 1") as caught:
        export_with(EXPORTER, Artifact(path=path, format="onnx"), info, MnnOptions(), tmp_path / "m.mnn")
    assert "These Op Not Support: ONNX::FancyNorm" in caught.value.hint
    assert [item.name for item in tmp_path.iterdir()] == ["m.onnx"]


def test_the_converter_comes_without_what_reports_and_installs() -> None:
    """The command ``mnnconvert`` imports a module that runs pip, and sends what is converted to its makers."""
    code = """
    import json, sys
    import segx_export_mnn.convert
    print(json.dumps(sorted(name for name in sys.modules if name.startswith(("MNN.tools", "aliyun", "torch")))))
    """
    assert run_fresh(code, warnings="default") == []
