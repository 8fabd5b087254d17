"""What is special to ncnn: a converter that litters and never fails, graphs that are cut, one image a run."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from segx import YOLO
from segx.artifact import Artifact, ArtifactInfo
from segx.errors import ExportError, UsageError
from segx.io import sidecar
from segx.options.verbs import SessionOptions
from segx.plugin.registry import get_registry
from segx.testing.interpreter import run_fresh
from segx.testing.models import TINY_YOLOV8, export_file, export_with, real_module, tiny_info
from segx.testing.parity import assert_same_outputs
from segx.testing.scenes import noise_images
from segx_export_ncnn import convert, model
from segx_export_ncnn.exporter import NcnnExporter
from segx_export_ncnn.options import NcnnOptions

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("segx_model_yolov8")

EXPORTER = NcnnExporter()
RAW = ("boxes", "scores", "coefficients", "prototypes")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny YOLOv8-seg as a .pt, with weights that find something, as a trained one's do."""
    torch = pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("checkpoint")
    (folder / "tinyn-seg.yaml").write_text(TINY_YOLOV8)
    made = YOLO(folder / "tinyn-seg.yaml")
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in made._sessions.model("save").module.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=generator)
            elif parameter.ndim == 4 and "dfl" not in name:
                parameter.normal_(0, 1.4 / parameter[0].numel() ** 0.5, generator=generator)
    made.save(folder / "tiny.pt")
    return folder / "tiny.pt"


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, ArtifactInfo]:
    """The same as an .onnx of fixed size."""
    return export_file("onnx", tmp_path_factory.mktemp("fixed"), real_module(tiny_info()))


@pytest.fixture(scope="module")
def open_(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, ArtifactInfo]:
    """The same with open axes, ended in boxes."""
    return export_file("onnx", tmp_path_factory.mktemp("open"), real_module(tiny_info(dynamic=True)), dynamic=True)


def opened(folder: Path) -> Any:
    registry = get_registry()
    backend = registry.backends.load(registry.backend_for("ncnn"))
    return backend.open(Artifact(path=folder, format="ncnn"), SessionOptions(device="cpu"))


def kinds(folder: Path) -> list[str]:
    return [line.split()[0] for line in (folder / model.TEXT).read_text().splitlines()[2:]]


def test_folder_holds_two_files_with_the_names_other_tools_know(
    fixed: tuple[Artifact, ArtifactInfo], tmp_path: Path
) -> None:
    folder = tmp_path / "m_ncnn_model"
    done = export_with(EXPORTER, fixed[0], fixed[1], NcnnOptions(), folder)
    assert sorted(item.name for item in folder.iterdir()) == ["model.ncnn.bin", "model.ncnn.param"]
    assert {"pnnx", "ncnn", "torch", "onnx"} <= set(done.versions)
    layers = model.read(folder / model.TEXT, folder / model.WEIGHTS)
    made = [blob for layer in layers for blob in layer.outputs]
    taken = {blob for layer in layers for blob in layer.inputs}
    assert layers[0].outputs == ["in0"]
    assert sorted(set(made) - taken) == ["out0", "out1"]


def test_nothing_of_this_machine_is_in_the_files(fixed: tuple[Artifact, ArtifactInfo], tmp_path: Path) -> None:
    folder = tmp_path / "m_ncnn_model"
    export_with(EXPORTER, fixed[0], fixed[1], NcnnOptions(), folder)
    for file in folder.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes()
        assert str(fixed[0].path.parent).encode() not in file.read_bytes()


def test_half_has_16_bit_weights(fixed: tuple[Artifact, ArtifactInfo], tmp_path: Path) -> None:
    for name, half in (("full", False), ("half", True)):
        export_with(EXPORTER, fixed[0], fixed[1], NcnnOptions(half=half), tmp_path / name)
    layers = model.read(tmp_path / "half" / model.TEXT, tmp_path / "half" / model.WEIGHTS)
    heavy = [layer for layer in layers if layer.kind == "Convolution" and len(layer.weights[0]) > 100]
    assert heavy
    assert {layer.weights[0].dtype for layer in heavy} == {np.dtype(np.float16)}
    sizes = [(tmp_path / name / model.WEIGHTS).stat().st_size for name in ("half", "full")]
    assert sizes[0] < 0.6 * sizes[1]
    assert kinds(tmp_path / "half") == kinds(tmp_path / "full")


def test_open_size_ends_before_the_grid(open_: tuple[Artifact, ArtifactInfo], tmp_path: Path) -> None:
    """A file that ends in boxes is cut, and says at any size what the graph that it is made from says there."""
    artifact, info = open_
    raw = info.replace(head="yolov8-seg-raw/1", outputs=RAW, dynamic=frozenset({"height", "width"}))
    folder = tmp_path / "m_ncnn_model"
    done = export_with(EXPORTER, artifact, raw, NcnnOptions(dynamic=True), folder)
    sidecar.write(folder, done)
    assert "MemoryData" not in kinds(folder), "no grid of one size"
    from segx_onnx_graph import raw_form

    reference = onnxruntime.InferenceSession(
        raw_form(artifact.path).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    session = opened(folder)
    for size in ((64, 96), (96, 64), (160, 32), (320, 416)):
        images = noise_images((1, 3, *size), seed=size[0])
        assert_same_outputs(session.run(images), reference.run(list(RAW), {"images": images}), names=RAW)


def test_pt_and_onnx_give_the_same_open_model(checkpoint: Path) -> None:
    graph = YOLO(checkpoint).export("onnx", dynamic=True, imgsz=64, output=checkpoint.with_name("open.onnx"))
    ours = YOLO(checkpoint).export("ncnn", dynamic=True, imgsz=64, output=checkpoint.with_name("a_ncnn_model"))
    cut = YOLO(graph).export("ncnn", output=checkpoint.with_name("b_ncnn_model"))
    for result in (ours, cut):
        assert result.parity is not None
        assert result.info.head == "yolov8-seg-raw/1"
        assert result.info.outputs == RAW
        assert result.info.dynamic == {"height", "width"}
        assert result.info.decoding == {"strides": [8, 16, 32], "bins": 16}
    for name in (model.TEXT, model.WEIGHTS):
        assert (ours.path / name).read_bytes() == (cut.path / name).read_bytes()


def test_a_batch_is_one_image_after_the_other(checkpoint: Path) -> None:
    result = YOLO(checkpoint).export("ncnn", batch=3, imgsz=64, output=checkpoint.with_name("c_ncnn_model"))
    assert result.parity is not None
    assert (result.info.batch, result.info.dynamic) == (3, frozenset())
    session = opened(result.path)
    images = noise_images((3, 3, 64, 64))
    assert [len(output) for output in session.run(images)] == [3, 3]


def test_a_source_of_several_images_is_refused_before_any_work() -> None:
    with pytest.raises(UsageError, match="the source is fixed to batch 2") as caught:
        EXPORTER.check(tiny_info(batch=2), NcnnOptions(batch=2))
    assert "batch=1" in caught.value.hint
    EXPORTER.check(tiny_info(batch=1), NcnnOptions(batch=2))


def test_works_without_torch(fixed: tuple[Artifact, ArtifactInfo], tmp_path: Path) -> None:
    code = """
    import json, sys
    sys.modules["torch"] = None
    from segx import YOLO
    result = YOLO(sys.argv[1]).export("ncnn", output=sys.argv[2])
    print(json.dumps(result.parity is not None))
    """
    assert run_fresh(code, str(fixed[0].path), str(tmp_path / "m_ncnn_model"), warnings="default") is True


# What pnnx does not tell


def test_what_ncnn_cannot_load_is_refused_though_pnnx_says_all_is_well(
    open_: tuple[Artifact, ArtifactInfo], tmp_path: Path
) -> None:
    """A grid that is computed from the size of the image becomes operations of pnnx's own."""
    artifact, info = open_
    with pytest.raises(ExportError, match=r"operations that ncnn has not: .*pnnx\.Expression") as caught:
        export_with(EXPORTER, artifact, info, NcnnOptions(dynamic=True), tmp_path / "m_ncnn_model")
    assert "\n" not in caught.value.message
    assert not list(tmp_path.iterdir()), "nothing half-written"


def test_unknown_layer_is_refused(tmp_path: Path) -> None:
    text, weights = tmp_path / model.TEXT, tmp_path / model.WEIGHTS
    text.write_text("7767517\n2 2\nInput in0 0 1 in0\nFancyNorm f 1 1 in0 out0\n")
    weights.write_bytes(b"")
    with pytest.raises(ExportError, match="operations that ncnn has not: FancyNorm"):
        convert.check(text, weights)


def test_weights_that_ncnn_cannot_read_are_refused(tmp_path: Path) -> None:
    text, weights = tmp_path / model.TEXT, tmp_path / model.WEIGHTS
    text.write_text("7767517\n2 2\nInput in0 0 1 in0\nConvolution c 1 1 in0 out0 0=3 1=1 6=9\n")
    weights.write_bytes(bytes(12))
    with pytest.raises(ExportError, match="ncnn cannot load what pnnx makes"):
        convert.check(text, weights)


def test_an_operator_that_nobody_knows_is_named(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Det", ["images"], ["output0"])],
        "g",
        [value("images", TensorProto.FLOAT, [1, 3, 64, 64])],
        [value("output0", TensorProto.FLOAT, [1, 3])],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    info = ArtifactInfo(names={0: "egg"}, imgsz=(64, 64), outputs=("output0",))
    with pytest.raises(ExportError, match="ncnn has not: Det"):
        export_with(EXPORTER, Artifact(path=path, format="onnx"), info, NcnnOptions(), tmp_path / "m_ncnn_model")
    assert [item.name for item in tmp_path.iterdir()] == ["m.onnx"]


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model at all")
    with pytest.raises(ExportError, match="pnnx cannot convert this graph") as caught:
        convert.convert(str(tmp_path / "model.onnx"), imgsz=[64, 64], other=None, half=False)
    assert "\n" not in caught.value.message


def test_pnnx_without_a_program_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ExportError, match="brings no program") as caught:
        convert.program()
    assert "pip install" in caught.value.hint


def test_finding_the_program_imports_no_torch() -> None:
    code = """
    import json, sys
    from segx_export_ncnn.convert import program
    program()
    print(json.dumps(sorted({"torch", "pnnx"} & set(sys.modules))))
    """
    assert run_fresh(code) == []
