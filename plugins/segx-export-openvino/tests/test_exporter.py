"""What is special to OpenVINO: the folder, metadata in the XML, 16 bits, bfloat16, and 8 bits with a float tail."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import openvino as ov
import pytest

from segx.artifact import Artifact
from segx.errors import ExportError, UsageError
from segx.plugin.calibration import Calibration
from segx.plugin.jobs import ExportJob
from segx.plugin.registry import get_registry
from segx.testing.models import export_file, real_module, run_module, tiny_info
from segx_export_openvino import graph
from segx_export_openvino.exporter import OpenvinoExporter
from segx_export_openvino.options import OpenvinoOptions

pytest.importorskip("segx_model_yolov8")

if TYPE_CHECKING:
    from pathlib import Path

    from segx.plugin.jobs import ExportModule

EXPORTER = OpenvinoExporter()
HEAVY = {"Convolution", "GroupConvolution", "ConvolutionBackpropData"}


@pytest.fixture(scope="module")
def module() -> ExportModule:
    return real_module(tiny_info())


@pytest.fixture(scope="module")
def source(module: ExportModule, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A tiny YOLOv8-seg as ONNX."""
    return export_file("onnx", tmp_path_factory.mktemp("source"), module)[0]


def export(source: Artifact, folder: Path, **options: Any) -> Path:
    chosen = OpenvinoOptions.parse(options)
    destination = folder / f"m_{chosen.precision}_openvino_model"
    info = tiny_info().replace(precision=chosen.precision)
    count = EXPORTER_SPEC.demands(chosen).images
    images = Calibration([], count=min(count, 8), task="segment", shape=(64, 96), batch=1) if count else None
    scratch = folder / "scratch"
    scratch.mkdir()
    job = ExportJob(info=info, options=chosen, destination=destination, scratch=scratch, images=images)
    EXPORTER.check(info, chosen)
    EXPORTER.export(source, job)
    assert not list(scratch.iterdir())
    return destination


EXPORTER_SPEC = get_registry().exporters.get("openvino")


def read(folder: Path) -> ov.Model:
    return ov.Core().read_model(str(next(folder.glob("*.xml"))))


def outputs(model: ov.Model, images: np.ndarray, precision: str = "f32") -> list[np.ndarray]:
    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision})
    found = compiled(images)
    return [np.array(found[name]) for name in ("output0", "output1")]


def test_files_are_named_as_the_folder(source: Artifact, tmp_path: Path) -> None:
    """Scripts written for other tools look for ``<stem>.xml`` in ``<stem>_openvino_model``."""
    folder = export(source, tmp_path)
    assert sorted(file.name for file in folder.iterdir()) == ["m_fp32.bin", "m_fp32.xml"]


def test_native_runtime_gives_the_models_outputs(source: Artifact, module: ExportModule, tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((1, 3, 64, 96), dtype=np.float32)
    for ours, theirs in zip(outputs(read(export(source, tmp_path)), images), run_module(module, images), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-4)


def test_what_is_known_travels_in_the_xml_instead_of_what_the_onnx_file_said(source: Artifact, tmp_path: Path) -> None:
    import onnx

    model = onnx.load(source.path)
    onnx.helper.set_model_props(model, {"precision": "of yesterday", 'a key <with> "everything" & more': "1"})
    onnx.save(model, tmp_path / "odd.onnx")
    folder = export(Artifact(path=tmp_path / "odd.onnx", format="onnx"), tmp_path, half=True)
    told = read(folder).get_rt_info("framework").value
    assert told == tiny_info().replace(precision="fp16", versions=_versions(told)).to_metadata()


def _versions(told: dict[str, str]) -> dict[str, str]:
    import json

    versions: dict[str, str] = json.loads(told["segx"])["versions"]
    assert versions["openvino"].startswith("20")
    return versions


def test_half_and_bfloat16_files_are_half_as_large(source: Artifact, tmp_path: Path) -> None:
    sizes = {}
    for options in ({}, {"half": True}, {"bf16": True, "verify": False}):
        work = tmp_path / str(len(sizes))
        work.mkdir()
        sizes[len(sizes)] = next(export(source, work, **options).glob("*.bin")).stat().st_size
    assert 0.45 < sizes[1] / sizes[0] < 0.6
    assert sizes[1] == sizes[2]


def test_bfloat16_that_cannot_be_proven_here_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "cpu_has_bf16", lambda: False)
    with pytest.raises(UsageError, match="bf16=True") as caught:
        EXPORTER.check(tiny_info(), OpenvinoOptions(bf16=True))
    assert "verify=False" in caught.value.hint
    EXPORTER.check(tiny_info(), OpenvinoOptions(bf16=True, verify=False))


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"half": True, "int8": True}, "half=True and int8=True"),
        ({"bf16": True, "int8": True}, "bf16=True and int8=True"),
    ],
)
def test_combinations_are_refused_with_what_to_type(options: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word) as caught:
        EXPORTER.check(tiny_info(), OpenvinoOptions.parse(options))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("options", "precision"),
    [({}, "fp32"), ({"half": True}, "fp16"), ({"bf16": True}, "bf16"), ({"int8": True}, "int8")],
)
def test_precision_follows_the_options(options: dict[str, Any], precision: str) -> None:
    assert OpenvinoOptions.parse(options).precision == precision


def test_a_file_openvino_cannot_read_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"this is no model")
    with pytest.raises(ExportError, match=r"cannot read bad\.onnx") as caught:
        export(Artifact(path=tmp_path / "bad.onnx", format="onnx"), tmp_path)
    assert "\n" not in caught.value.message
    assert ".cpp" not in caught.value.message


# 8 bits


@pytest.fixture(scope="module")
def quantised(source: Artifact, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[Any]]:
    """The folder, what was printed meanwhile, and what listeners were told."""
    if importlib.util.find_spec("nncf") is None:
        pytest.skip("NNCF is not installed")
    folder = tmp_path_factory.mktemp("quantised")
    options = OpenvinoOptions(int8=True)
    told: list[Any] = []
    printed = io.StringIO()
    job = ExportJob(
        info=tiny_info().replace(precision="int8"),
        options=options,
        destination=folder / "m_openvino_model",
        scratch=folder,
        images=Calibration([], count=12, task="segment", shape=(64, 96), batch=1),
        notify=lambda *step: told.append(step),
    )
    with contextlib.redirect_stdout(printed):
        info = EXPORTER.export(source, job)
    assert {"openvino", "nncf"} <= info.versions.keys()
    return job.destination, printed.getvalue(), told


def test_nncf_prints_nothing_here_and_is_not_loaded(quantised: tuple[Path, str, list[Any]]) -> None:
    assert quantised[1] == ""
    assert "nncf" not in sys.modules


def test_listeners_hear_how_far_the_calibration_is(quantised: tuple[Path, str, list[Any]]) -> None:
    assert quantised[2] == [("calibrating", number, 12) for number in range(1, 13)]


def test_every_layer_with_weights_is_quantised_and_nothing_after_the_last(
    quantised: tuple[Path, str, list[Any]],
) -> None:
    model = read(quantised[0])
    after = set(graph.tail(model))
    fakes = [node for node in model.get_ordered_ops() if node.get_type_name() == "FakeQuantize"]
    heavy = [node for node in model.get_ordered_ops() if node.get_type_name() in HEAVY]
    weighted = [node for node in heavy if node.get_friendly_name() not in after]
    left = [node for node in heavy if node.get_friendly_name() in after]
    assert left, "the expectation over a side's bins is arithmetic, and stays float"
    assert all(np.prod(node.input_value(1).get_shape()) < 256 for node in left)
    assert len(weighted) > 20
    assert len(fakes) > 20
    for node in weighted:
        weights = node.input_value(1).get_node()
        while weights.get_type_name() != "Constant":
            weights = weights.input_value(0).get_node()
        assert weights.get_element_type().to_string() in {"i8", "u8"}, node.get_friendly_name()
    assert not [node for node in fakes if node.get_friendly_name() in after]


def test_silu_is_one_operation_with_8_bits_behind_it_only(quantised: tuple[Path, str, list[Any]]) -> None:
    """As two it got 8 bits around each of them: a third slower, and mask AP .338 instead of .340."""
    nodes = read(quantised[0]).get_ordered_ops()
    kinds = [node.get_type_name() for node in nodes]
    assert kinds.count("Swish") > 5
    assert kinds.count("Sigmoid") == 1, "that of the scores"
    for node in nodes:
        if node.get_type_name() == "Swish":
            assert node.input_value(0).get_node().get_type_name() in {"Add", "Convolution"}


def test_biases_are_constants(source: Artifact) -> None:
    """OpenVINO's reader of ONNX leaves a dozen operations for each, which hide from NNCF what a bias is."""
    kinds = [node.get_type_name() for node in graph.read(source.path).get_ordered_ops()]
    assert not {"ShapeOf", "Broadcast"} & set(kinds)


@pytest.mark.parametrize("kind", ["f16", "f32", "f64"])
def test_silu_is_found_in_graphs_of_all_numbers_and_gates_are_none(kind: str) -> None:
    """An ONNX file in half precision computes in 16 bits."""
    source = ov.opset13.parameter([1, 8], getattr(ov.Type, kind), name="images")
    other = ov.opset13.negative(source)
    silu = ov.opset13.multiply(source, ov.opset13.sigmoid(source))
    gate = ov.opset13.multiply(other, ov.opset13.sigmoid(source))
    images = np.linspace(-3, 3, 8).reshape(1, 8).astype(silu.get_element_type().to_dtype())
    model = ov.Model([silu, gate], [source])
    wanted = [np.array(output) for output in ov.Core().compile_model(model, "CPU")(images).values()]
    simple = graph.simplified(model)
    kinds = [node.get_type_name() for node in simple.get_ordered_ops()]
    assert (kinds.count("Swish"), kinds.count("Sigmoid")) == (1, 1)
    for found, output in zip(ov.Core().compile_model(simple, "CPU")(images).values(), wanted, strict=True):
        np.testing.assert_allclose(found, output, rtol=1e-2, atol=1e-6)


def test_weights_of_8_bits_before_layers_of_32_are_not_widened() -> None:
    source = ov.opset13.parameter([1, 32], ov.Type.f32)
    weights = ov.opset13.constant(np.ones((32, 16), np.int8))
    wide = ov.opset13.multiply(ov.opset13.convert(weights, "f32"), ov.opset13.constant(np.float32(0.1)))
    simple = graph.simplified(ov.Model([ov.opset13.matmul(source, wide, False, False)], [source]))
    held = [node.data for node in simple.get_ordered_ops() if node.get_type_name() == "Constant"]
    assert sum(numbers.nbytes for numbers in held) == 32 * 16 + 4


def test_an_onnx_file_in_half_precision_is_taken(tmp_path: Path) -> None:
    """Of another tool's: each number in it has 16 bits."""
    onnx = pytest.importorskip("onnx")
    nodes = [
        onnx.helper.make_node("Conv", ["images", "weights"], ["deep"]),
        onnx.helper.make_node("Sigmoid", ["deep"], ["gate"]),
        onnx.helper.make_node("Mul", ["deep", "gate"], ["output0"]),
    ]
    half = onnx.TensorProto.FLOAT16
    weights = onnx.numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float16), "weights")
    given = onnx.helper.make_tensor_value_info("images", half, (1, 3, 8, 8))
    taken = onnx.helper.make_tensor_value_info("output0", half, (1, 4, 8, 8))
    written = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", [given], [taken], [weights]),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.save(written, str(tmp_path / "half.onnx"))
    assert "Swish" in {node.get_type_name() for node in graph.read(tmp_path / "half.onnx").get_ordered_ops()}


def test_weights_take_a_quarter(quantised: tuple[Path, str, list[Any]], source: Artifact, tmp_path: Path) -> None:
    large = next(export(source, tmp_path).glob("*.bin")).stat().st_size
    assert next(quantised[0].glob("*.bin")).stat().st_size < 0.4 * large


def test_without_images_nothing_is_written_in_another_precision(source: Artifact, tmp_path: Path) -> None:
    job = ExportJob(
        info=tiny_info(),
        options=OpenvinoOptions(int8=True),
        destination=tmp_path / "m_openvino_model",
        scratch=tmp_path,
    )
    with pytest.raises(ExportError, match="no images"):
        EXPORTER.export(source, job)


def test_an_onnx_file_in_8_bits_stays_as_it_was_calibrated(
    module: ExportModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantised_onnx, _ = export_file("onnx", tmp_path, module, int8=True)
    monkeypatch.setattr("segx.runtime.child.call", lambda *_, **__: pytest.fail("quantised twice"))
    images = np.random.default_rng(0).random((1, 3, 64, 96), dtype=np.float32)
    ours = outputs(read(export(quantised_onnx, tmp_path, int8=True)), images)
    theirs = outputs(ov.Core().read_model(str(quantised_onnx.path)), images)
    kinds = {node.get_type_name() for node in graph.read(quantised_onnx.path).get_ordered_ops()}
    assert "ShapeOf" not in kinds, "as it has been read, OpenVINO compiles it wrong"
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


# Suppression in the graph


def test_suppression_in_the_graph_finds_what_segx_finds(tmp_path: Path) -> None:
    pytest.importorskip("segx_backend_openvino")
    from segx import YOLO
    from segx.testing.scenes import draw_scene

    model = YOLO("shapes-seg.pt")
    settings = {"imgsz": 160, "rect": False, "device": "cpu", "verbose": False}
    image = draw_scene(160, 160).image
    made = model.export("openvino", imgsz=160, nms=True, output=tmp_path / "m_openvino_model")
    final = YOLO(made)
    assert final.metadata.head == "yolov8-seg-final/1"
    assert final.metadata.parity is not None
    ours, theirs = final.predict(image, **settings)[0], model.predict(image, **settings)[0]
    assert len(ours) == len(theirs) > 0
    np.testing.assert_array_equal(ours.boxes.cls, theirs.boxes.cls)
    np.testing.assert_allclose(ours.boxes.data, theirs.boxes.data, atol=1e-2)
