"""What a graph with suppression finds is what segx itself finds with the same options."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from segx import YOLO
from segx.artifact import Artifact
from segx.errors import ExportError, ModelError, UsageError
from segx.flows.export import export
from segx.flows.runner import infer
from segx.options.verbs import DecodeOptions, SessionOptions
from segx.plugin.registry import get_registry
from segx.structures.batch import SourceImage
from segx.testing.models import tiny_info
from segx_export_onnx import suppression
from segx_export_onnx.exporter import OnnxExporter
from segx_export_onnx.options import OnnxOptions

pytest.importorskip("segx_task_segment")

NC, NM = 3, 5
OPSETS = (11, 13, 18, 21)


def graph(options: OnnxOptions) -> onnxruntime.InferenceSession:
    """A graph that only suppresses: its input is what a network would say."""
    shape = ["batch", 4 + NC + NM, "anchors"]
    rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT, shape)
    output0 = helper.make_tensor_value_info("output0", TensorProto.FLOAT, shape)
    maps = helper.make_tensor_value_info("maps", TensorProto.FLOAT, ["batch", NM, 4, 4])
    output1 = helper.make_tensor_value_info("output1", TensorProto.FLOAT, ["batch", NM, 4, 4])
    nodes = [helper.make_node("Identity", ["rows"], ["output0"]), helper.make_node("Identity", ["maps"], ["output1"])]
    made = helper.make_graph(nodes, "g", [rows, maps], [output0, output1])
    opset = helper.make_opsetid("", options.opset)
    model = helper.make_model(made, opset_imports=[opset], ir_version=8 if options.opset < 20 else 10)
    suppression.append(model, NC, ("detections", "prototypes"), options)
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def predictions(count: int, anchors: int, *, seed: int = 0, clusters: int = 12) -> np.ndarray:
    """Boxes in heaps, so that there is much to suppress; scores of all sizes."""
    random = np.random.default_rng(seed)
    rows = np.zeros((count, 4 + NC + NM, anchors), np.float32)
    centres = random.uniform(20, 300, (count, 2, clusters))
    chosen = random.integers(0, clusters, (count, anchors))
    for image in range(count):
        rows[image, :2] = centres[image][:, chosen[image]] + random.normal(0, 6, (2, anchors))
    rows[:, 2:4] = random.uniform(20, 90, (count, 2, anchors))
    rows[:, 4 : 4 + NC] = random.random((count, NC, anchors)) ** 3
    rows[:, 4 + NC :] = random.normal(size=(count, NM, anchors))
    return rows


def found(rows: np.ndarray, options: OnnxOptions) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What the graph finds and what segx finds, a table for each image: box, score, class, coefficients."""
    maps = np.zeros((len(rows), NM, 4, 4), np.float32)
    detections, passed = graph(options).run(None, {"rows": rows, "maps": maps})
    assert detections.shape == (len(rows), options.max_det, 6 + NM)
    assert detections.dtype == np.float32
    np.testing.assert_array_equal(passed, maps)
    segment = pytest.importorskip("segx_task_segment.decode")
    wanted = []
    for numbers in rows:
        own = segment.detect(numbers, NC, DecodeOptions(conf=options.conf, iou=options.iou, max_det=options.max_det))
        wanted.append(np.concatenate([own.boxes, own.scores[:, None], own.classes[:, None], own.coefficients], axis=1))
    for table in detections:
        there = table[:, 4] > 0
        assert not table[~there].any(), "rows that are not needed are zero"
        assert not there[np.argmin(there) :].any() or there.all(), "objects come first"
    return [table[table[:, 4] > 0] for table in detections], wanted


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize(
    ("options", "count", "anchors"),
    [
        ({}, 1, 400),
        ({"conf": 0.001, "max_det": 1000}, 1, 400),
        ({"conf": 0.5, "iou": 0.3, "max_det": 7}, 3, 400),
        ({"iou": 1.0, "max_det": 50}, 2, 300),
        ({"max_det": 300}, 1, 9),
        ({"conf": 1.0}, 2, 50),
    ],
)
def test_rows_are_what_segx_finds(options, count, anchors, opset):
    chosen = OnnxOptions.parse({"nms": True, "opset": opset, **options})
    mine, wanted = found(predictions(count, anchors), chosen)
    for one, other in zip(mine, wanted, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_equal_scores_keep_the_order_of_the_anchors():
    rows = predictions(1, 60, clusters=40)
    rows[:, 4 : 4 + NC] = 0
    rows[:, 4] = 0.5
    (one,), (other,) = found(rows, OnnxOptions(nms=True, max_det=20))
    assert len(other) == 20
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_box_that_scores_alike_for_two_classes_is_one_object():
    rows = predictions(1, 5)
    rows[:, 4 : 4 + NC] = 0.75
    (one,), (other,) = found(rows, OnnxOptions(nms=True))
    assert set(one[:, 5]) == {0}
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_a_graph_that_ends_otherwise_is_refused():
    made = helper.make_graph([], "g", [], [helper.make_tensor_value_info("a", TensorProto.FLOAT, [1, 6, 8])])
    with pytest.raises(ExportError, match="a graph with 1 outputs cannot suppress"):
        suppression.append(helper.make_model(made), NC, ("detections", "prototypes"), OnnxOptions(nms=True))
    made.output.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [1, 5, 2, 2]))
    with pytest.raises(ExportError, match="6 rows of outputs hold no 3 classes"):
        suppression.append(helper.make_model(made), NC, ("detections", "prototypes"), OnnxOptions(nms=True))


@pytest.fixture(scope="module")
def images() -> list[SourceImage]:
    """Drawings full of shapes, which the model that comes with segx finds."""
    synth = pytest.importorskip("segx_data_synth.dataset")
    return [SourceImage(image=synth.image(0, "val", number, 320).image, path=f"{number}.png") for number in range(4)]


@pytest.mark.parametrize(
    "options",
    [
        {"imgsz": 320},
        {"imgsz": 256, "dynamic": True, "max_det": 20, "iou": 0.4},
        {"imgsz": 256, "batch": 2, "half": True, "conf": 0.4},
        {"imgsz": (256, 320), "opset": 12, "simplify": False},
    ],
    ids=str,
)
def test_a_model_with_suppression_finds_what_it_finds_without(tmp_path, images, options):
    pytest.importorskip("segx_model_yolov8")
    model = tmp_path / "shapes-seg.pt"
    model.write_bytes(get_registry().weights_file("shapes-seg.pt").path.read_bytes())
    result = export(Artifact(path=model, format="pt"), "onnx", {"nms": True, **options}, images=images)
    info = result.info
    limits = {name: options.get(name, getattr(OnnxOptions(), name)) for name in ("conf", "iou", "max_det")}
    assert (info.head, info.outputs) == ("yolov8-seg-final/1", ("detections", "prototypes"))
    assert info.decoding == limits
    assert result.reason == ""
    assert info.parity.objects >= 10
    assert info.parity.box < (2 if options.get("half") else 1e-2)
    task, registry = get_registry().tasks.load("segment"), get_registry()
    reference, session = (
        registry.backends.load(registry.backend_for(artifact.format)).open(artifact, SessionOptions(device="cpu"))
        for artifact in (Artifact(path=model, format="pt"), result.artifact)
    )
    assert session.info.decoding == limits
    shapes = [info.imgsz] + ([(192, 320)] if info.dynamic else [])
    for shape in shapes:
        batch = task.preprocess(images[: 3 if info.dynamic else info.batch], shape)
        wanted = task.decode(infer(reference, batch.images), batch, reference.info, DecodeOptions.parse(limits))
        found = task.decode(infer(session, batch.images), batch, session.info, task.limits(info, DecodeOptions()))
        parity = task.parity(wanted, found)
        assert parity.objects >= 3
        assert parity.matched == (pytest.approx(1, abs=0.1) if options.get("half") else 1)
        assert parity.mask_iou > (0.9 if options.get("half") else 0.999)
    reference.close()
    session.close()


@pytest.fixture(scope="module")
def foreign(tmp_path_factory, images) -> Artifact:
    """A file as another tool writes it: its own names and metadata, classes and boxes as ours."""
    pytest.importorskip("segx_model_yolov8")
    folder = tmp_path_factory.mktemp("foreign")
    source = folder / "shapes-seg.pt"
    source.write_bytes(get_registry().weights_file("shapes-seg.pt").path.read_bytes())
    made = export(Artifact(path=source, format="pt"), "onnx", {"nms": True, "imgsz": 320, "verify": False})
    model = onnx.load(made.path)
    names = {"output0": "inner0", "output1": "inner1", "detections": "output0", "prototypes": "output1"}
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*model.graph.output, *model.graph.value_info):
        value.name = names.get(value.name, value.name)
    said = {"task": "segment", "names": str(dict(made.info.names)), "imgsz": "[320, 320]", "stride": "32"}
    model.ClearField("metadata_props")
    onnx.helper.set_model_props(model, {**said, "batch": "1", "args": "{'nms': True}"})
    onnx.save(model, folder / "foreign.onnx")
    return Artifact(path=folder / "foreign.onnx", format="onnx")


def test_files_of_other_tools_that_suppress_are_read(foreign, images):
    model, own = YOLO(foreign.path), YOLO(foreign.path.with_name("shapes-seg.pt"))
    assert model.metadata.head == "yolov8-seg-final/1"
    pixels = [source.image for source in images]
    for mine, wanted in zip(model.predict(pixels), own.predict(pixels, imgsz=320, rect=False), strict=True):
        assert len(wanted)
        np.testing.assert_array_equal(mine.boxes.cls, wanted.boxes.cls)
        np.testing.assert_allclose(mine.boxes.data, wanted.boxes.data, atol=0.01)
        assert all(one.iou(other)[0, 0] > 0.99 for one, other in zip(mine.masks, wanted.masks, strict=True))
    with pytest.raises(UsageError, match=r"iou=0\.5: the file suppresses by itself"):
        model.predict(pixels[:1], iou=0.5)
    assert all(len(result) <= 1 for result in model.predict(pixels, max_det=1))


def test_a_file_that_says_it_suppresses_and_does_not_is_refused(foreign, images, tmp_path):
    own = YOLO(foreign.path.with_name("shapes-seg.pt")).export(
        "onnx", imgsz=320, verify=False, output=tmp_path / "p.onnx"
    )
    model = onnx.load(own)
    model.ClearField("metadata_props")
    said = {"task": "segment", "names": str(dict(own.info.names)), "imgsz": "[320, 320]", "stride": "32"}
    onnx.helper.set_model_props(model, {**said, "batch": "1", "args": "{'nms': True}"})
    onnx.save(model, tmp_path / "lies.onnx")
    with pytest.raises(ModelError, match="are not those of head 'yolov8-seg-final/1'"):
        YOLO(tmp_path / "lies.onnx").predict(images[0].image)


def test_val_says_how_a_file_suppresses(foreign, tmp_path, caplog):
    data = pytest.importorskip("segx_data_synth.dataset").write_dataset(tmp_path / "set", images=6, imgsz=320)
    plain = YOLO(foreign.path.with_name("shapes-seg.pt")).val(data=data, imgsz=320, plots=False, rect=False)
    final = YOLO(foreign.path).val(data=data, plots=False)
    assert "suppresses by itself, with" in caplog.text
    assert final.results_dict["metrics/mAP50-95(M)"] <= plain.results_dict["metrics/mAP50-95(M)"] + 0.01
    assert final.results_dict["metrics/mAP50-95(M)"] > 0.5 * plain.results_dict["metrics/mAP50-95(M)"]
    assert "multi_label=False" in final.protocol
    with pytest.raises(UsageError, match=r"iou=0\.5: the file suppresses"):
        YOLO(foreign.path).val(data=data, iou=0.5, plots=False)


@pytest.mark.parametrize("name", ["conf", "iou", "max_det"])
def test_what_only_suppression_needs_is_refused_without_it(name):
    chosen = OnnxOptions.parse({name: 1})
    with pytest.raises(UsageError, match=f"{name}=1"):
        OnnxExporter().check(tiny_info(), chosen)
    OnnxExporter().check(tiny_info(), OnnxOptions.parse({name: 1, "nms": True}))
