"""8-bit files: what is quantised, what is not, how near they stay, and that the tool behind them keeps to itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from segx import YOLO
from segx.artifact import Artifact
from segx.errors import ExportError, UsageError
from segx.flows.export import ExportResult, export
from segx.plugin.registry import get_registry
from segx.testing.models import export_with, tiny_info, tiny_module
from segx_export_onnx.exporter import OnnxExporter
from segx_export_onnx.options import OnnxOptions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytest.importorskip("segx_model_yolov8")
synth = pytest.importorskip("segx_data_synth.dataset")

LAYERS = {"Conv", "ConvTranspose"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return synth.write_dataset(tmp_path_factory.mktemp("set"), images=24, val_images=12, imgsz=256)


@pytest.fixture(scope="module")
def made(tmp_path_factory, data) -> Callable[..., ExportResult]:
    """The model that comes with segx, quantised; one file for each set of options."""
    folder = tmp_path_factory.mktemp("models")
    model = folder / "shapes-seg.pt"
    model.write_bytes(get_registry().weights_file("shapes-seg.pt").path.read_bytes())
    files: dict[str, ExportResult] = {}

    def make(**options) -> ExportResult:
        name = f"{len(files)}.onnx"
        if (key := repr(options)) not in files:
            settings = {"int8": True, "data": str(data), "imgsz": 256, "output": folder / name, **options}
            files[key] = export(Artifact(path=model, format="pt"), "onnx", settings)
        return files[key]

    return make


def test_layers_with_weights_are_in_8_bits_and_what_follows_is_not(made):
    model = onnx.load(made().path)
    assert {item.domain for item in model.opset_import} == {""}, "standard operators only"
    weights = {item.name: item for item in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    small = {name for name, item in weights.items() if np.prod(item.dims) < 256}
    layers = [node for node in model.graph.node if node.op_type in LAYERS and node.input[1] not in small]
    assert len(layers) > 50
    for node in layers:
        data, kernel = (makers[name] for name in node.input[:2])
        assert data.op_type == kernel.op_type == "DequantizeLinear"
        values = numpy_helper.to_array(weights[kernel.input[0]])
        assert values.dtype == np.int8
        assert weights[kernel.input[1]].dims[0] == values.shape[1 if node.op_type == "ConvTranspose" else 0]
        for item in (data, kernel):
            assert not numpy_helper.to_array(weights[item.input[2]]).any(), "symmetric: zero stands for zero"
    quantised = {name for node in model.graph.node if node.op_type == "QuantizeLinear" for name in node.output}
    assert quantised
    after = tail_of(model, small)
    assert {"Softmax", "Concat"} <= {node.op_type for node in after}
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in after}
    assert [value.name for value in model.graph.output] == ["output0", "output1"]


def tail_of(model: onnx.ModelProto, small: set[str]) -> list[onnx.NodeProto]:
    """The nodes after which no layer with weights comes."""
    ahead: set[str] = set()
    found = []
    for node in reversed(model.graph.node):
        heavy = node.op_type in LAYERS and node.input[1] not in small
        if heavy or any(name in ahead for name in node.output):
            ahead.update(node.input)
        else:
            found.append(node)
    return found


def test_it_is_small_and_near(made, data):
    result = made()
    parity = result.info.parity
    assert result.info.precision == "int8"
    assert result.info.settings["calibration"]["images"] <= 24
    assert parity.objects >= 20
    assert parity.matched > 0.85
    assert parity.typical_box < 1
    assert result.size < 0.4 * made(int8=False).size
    plain, mine = (
        YOLO(one.path).val(data=str(data), plots=False).results_dict["metrics/mAP50-95(M)"]
        for one in (made(int8=False), result)
    )
    assert mine > plain - 0.03


def test_it_goes_with_suppression_open_axes_and_batches(made):
    final = made(nms=True, dynamic=True)
    assert final.info.head == "yolov8-seg-final/1"
    assert final.info.dynamic == {"batch", "height", "width"}
    assert final.info.parity.objects >= 20
    assert made(batch=2).info.parity.typical_box < 1


def test_the_tool_writes_nowhere_else_and_the_same_each_time(tmp_path, monkeypatch):
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    for folder in (home, temporary):
        folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("TMPDIR", str(temporary))
    module = tiny_module(tiny_info())
    options = OnnxOptions(int8=True)
    before = set(tmp_path.rglob("*"))
    export_with(OnnxExporter(), module, module.info.replace(precision="int8"), options, tmp_path / "m.onnx")
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "m.onnx"}
    export_with(OnnxExporter(), module, module.info.replace(precision="int8"), options, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "m.onnx").read_bytes(), "the same each time"


def test_what_cannot_be_is_refused():
    with pytest.raises(UsageError, match="opset=12 with int8=True"):
        OnnxExporter().check(tiny_info(), OnnxOptions(int8=True, opset=12))


def test_without_images_there_are_no_ranges(tmp_path):
    from segx.plugin.jobs import ExportJob

    module = tiny_module(tiny_info())
    job = ExportJob(
        info=module.info, options=OnnxOptions(int8=True), destination=tmp_path / "m.onnx", scratch=tmp_path / "scratch"
    )
    with pytest.raises(ExportError, match="int8=True needs images to calibrate on"):
        OnnxExporter().export(module, job)


def test_one_bright_image_does_not_coarsen_the_steps_of_all(tmp_path):
    images = tmp_path / "images" / "train"
    images.mkdir(parents=True)
    for index, grey in enumerate((51, 51, 51, 255)):
        cv2.imwrite(str(images / f"{index}.png"), np.full((64, 64, 3), grey, np.uint8))
    (tmp_path / "set.yaml").write_text("path: .\ntrain: images/train\nval: images/train\nnames: {0: a}\n")
    model = Artifact(path=get_registry().weights_file("shapes-seg.pt").path, format="pt")
    settings = {"int8": True, "data": str(tmp_path / "set.yaml"), "imgsz": 64, "verify": False, "output": tmp_path}
    graph = onnx.load(export(model, "onnx", settings).path).graph
    (first,) = [node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "images"]
    (scale,) = [numpy_helper.to_array(item) for item in graph.initializer if item.name == first.input[1]]
    assert float(scale) == pytest.approx((0.2 * 3 + 1.0) / 4 / 127, rel=1e-3)  # of the brightest alone: 1 / 127
