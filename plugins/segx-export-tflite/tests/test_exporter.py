"""What is special to TensorFlow Lite: precisions, what an int8 file takes and gives, and what is appended."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from flatbuffers.table import Table

from segx.artifact import Artifact, ArtifactInfo, Parity
from segx.errors import ExportError, ModelError, UsageError
from segx.flows.export import export
from segx.options.verbs import SessionOptions
from segx.plugin.calibration import Calibration
from segx.testing.models import export_file, real_module, tiny_info
from segx.testing.scenes import noise_images
from segx_backend_litert.backend import LiteRtBackend
from segx_export_tflite.exporter import TfliteExporter, end_of_model
from segx_export_tflite.options import TfliteOptions

if TYPE_CHECKING:
    from collections.abc import Callable

RAW = {"boxes", "scores", "coefficients", "prototypes"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny YOLOv8-seg as an ``.onnx`` file that ends in boxes."""
    artifact, _ = export_file("onnx", tmp_path_factory.mktemp("source"), real_module(tiny_info()))
    return artifact.path


@pytest.fixture(scope="module")
def made(source: Path) -> Callable[..., Path]:
    """The same as a file of each kind, made once."""
    found: dict[str, Path] = {}

    def make(**options: Any) -> Path:
        key = json.dumps(options, sort_keys=True)
        if key not in found:
            output = source.parent / f"{len(found)}.tflite"
            options = {"most": 4, **options} if "int8" in options else options
            found[key] = export(
                Artifact(path=source, format="onnx"), "tflite", {**options, "output": output, "verify": False}
            ).path
        return found[key]

    return make


def opened(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    interpreter = Interpreter(model_path=str(path))
    runner = interpreter.get_signature_runner("serving_default")
    (source,) = runner.get_input_details().values()
    return source, runner.get_output_details()


def test_names_and_layout_are_those_of_the_page(made: Callable[..., Path]) -> None:
    source, outputs = opened(made())
    assert (source["shape"].tolist(), source["dtype"]) == ([1, 64, 96, 3], np.float32)
    assert {name: item["shape"].tolist() for name, item in outputs.items()} == {
        "output0": [1, 39, 126],
        "output1": [1, 16, 24, 32],
    }


@pytest.mark.parametrize("options", [{}, {"half": True}], ids=str)
def test_boxes_are_fractions_of_the_image_and_segx_says_so(
    source: Path, made: Callable[..., Path], options: dict[str, Any]
) -> None:
    images = noise_images((1, 3, 64, 96))
    run = Interpreter(model_path=str(made(**options))).get_signature_runner("serving_default")
    found = run(images=np.ascontiguousarray(images.transpose(0, 2, 3, 1)))["output0"]
    wanted = onnxruntime.InferenceSession(str(source)).run(["output0"], {"images": images})[0]
    size = np.array([[96], [64]] * 2)
    np.testing.assert_allclose(found[:, :4] * size, wanted[:, :4], atol=0.5 if options else 1e-3)
    np.testing.assert_allclose(found[:, 4:], wanted[:, 4:], atol=0.05 if options else 1e-4)
    with zipfile.ZipFile(made(**options)) as archive:
        info = ArtifactInfo.from_metadata(json.loads(archive.read("metadata.json")))
    assert (info.head, info.decoding) == ("yolov8-seg/1", {"boxes": "fractions"})
    session = LiteRtBackend().open(Artifact(path=made(**options), format="tflite"), SessionOptions(device="cpu"))
    np.testing.assert_allclose(session.run(images)[0][:, :4], wanted[:, :4], atol=0.5 if options else 1e-3)


def test_boxes_in_an_unknown_unit_are_refused(made: Callable[..., Path]) -> None:
    artifact = Artifact(path=made(), format="tflite")
    info = LiteRtBackend().read_info(artifact).replace(decoding={"boxes": "percent"})
    with pytest.raises(ModelError, match=r"boxes in 'percent' are not known"):
        LiteRtBackend()._open(artifact, info, SessionOptions(device="cpu"))


def test_half_takes_half_the_space(made: Callable[..., Path]) -> None:
    whole, half = made().stat().st_size, made(half=True).stat().st_size
    assert 0.5 < half / whole < 0.7  # so small a model has more of graph than of weights
    source, _ = opened(made(half=True))
    assert source["dtype"] == np.float32


@pytest.mark.parametrize("values", ["float32", "uint8", "int8"])
def test_int8_ends_at_the_raw_head_in_the_numbers_asked_for(made: Callable[..., Path], values: str) -> None:
    path = made(int8=True, values=values)
    source, outputs = opened(path)
    assert {item["dtype"] for item in (source, *outputs.values())} == {np.dtype(values).type}
    assert set(outputs) == RAW
    assert outputs["boxes"]["shape"].tolist() == [1, 126, 64]
    with zipfile.ZipFile(path) as archive:
        info = ArtifactInfo.from_metadata(json.loads(archive.read("metadata.json")))
    assert info.head == "yolov8-seg-raw/1"
    assert info.decoding == {"strides": [8, 16, 32], "bins": 16}
    assert info.precision == "int8"
    assert info.settings["calibration"]["images"] == 4


def test_bytes_of_an_image_are_taken_as_they_are(made: Callable[..., Path]) -> None:
    source, outputs = opened(made(int8=True, values="uint8"))
    scale, zero = source["quantization"]
    assert (scale, zero) == (pytest.approx(1 / 255), 0)
    scales = {name: item["quantization"][0] for name, item in outputs.items()}
    assert len(set(scales.values())) == 4, "each output has a scale of its own"


def test_ranges_are_those_of_the_images_calibrated_on(made: Callable[..., Path]) -> None:
    """Black, white and the drawn ones; prototypes are the same numbers in the file with 32 bits."""
    images = [np.full((1, 64, 96, 3), value, np.float32) for value in (0, 1)]
    images += [
        batch.transpose(0, 2, 3, 1) for batch in Calibration([], count=4, task="segment", shape=(64, 96), batch=1)
    ]
    run = Interpreter(model_path=str(made())).get_signature_runner("serving_default")
    found = np.concatenate([run(images=image)["output1"] for image in images])
    _, outputs = opened(made(int8=True, values="int8"))
    scale, zero = outputs["prototypes"]["quantization"]
    assert scale == pytest.approx((found.max() - found.min()) / 255, rel=1e-3)
    assert (-128 - zero) * scale == pytest.approx(found.min(), abs=scale)


def test_what_is_computed_is_integers(made: Callable[..., Path]) -> None:
    interpreter = Interpreter(model_path=str(made(int8=True, values="uint8")))
    kinds = {np.dtype(item["dtype"]).name for item in interpreter.get_tensor_details()}
    assert kinds <= {"int8", "uint8", "int32"}


def test_the_archive_is_read_as_other_tools_read_it(made: Callable[..., Path]) -> None:
    with zipfile.ZipFile(made()) as archive:
        assert archive.namelist() == ["metadata.json", "labels.txt"]
        assert archive.testzip() is None
        metadata = json.loads(archive.read(archive.namelist()[0]))
        assert archive.read("labels.txt").decode().splitlines() == ["red", "green", "blue"]
    assert (metadata["task"], metadata["stride"], metadata["batch"]) == ("segment", "32", "1")
    assert all(isinstance(value, str) for value in metadata.values())


@pytest.mark.parametrize("options", [{}, {"int8": True, "values": "uint8"}], ids=str)
def test_metadata_say_how_images_are_normalised_and_where_the_labels_are(
    made: Callable[..., Path], options: dict[str, Any]
) -> None:
    """In the place where tools look for it, read as its schema says; the note of the runtime's version stays."""
    content = made(**options).read_bytes()
    model = schema.Model.GetRootAs(content, 0)
    notes = {model.Metadata(place).Name(): model.Metadata(place).Buffer() for place in range(model.MetadataLength())}
    assert notes.keys() == {b"min_runtime_version", b"TFLITE_METADATA"}
    data = model.Buffers(notes[b"TFLITE_METADATA"]).DataAsNumpy().tobytes()
    assert data[4:8] == b"M001"
    graph = child(table(data), 3, 0)
    image = child(graph, 2, 0)
    assert text(image, 0) == "images"
    normalisation = child(child(image, 4, 0), 1)
    assert [number(normalisation, field) for field in (0, 1)] == [0, 255]
    names = [text(child(graph, 3, place), 0) for place in range(len(RAW) if options else 2)]
    assert (set(names) == RAW) if options else (names == ["output0", "output1"])
    interpreter = Interpreter(model_content=content)
    shapes = {name: item["shape"].tolist() for name, item in opened(made(**options))[1].items()}
    assert [item["shape"].tolist() for item in interpreter.get_output_details()] == [shapes[name] for name in names]
    labels = child(child(graph, 3, names.index("scores" if options else "output0")), 6, 0)
    assert text(labels, 0) == "labels.txt"


@pytest.mark.parametrize("options", [{}, {"int8": True, "values": "uint8"}], ids=str)
def test_metadata_are_read_by_mediapipe(made: Callable[..., Path], options: dict[str, Any]) -> None:
    """A reader that others wrote; it wants an older NumPy than segx, so that it lives in an environment of its own."""
    python = os.environ.get("SEGX_TEST_MEDIAPIPE")
    if not python:
        pytest.skip("SEGX_TEST_MEDIAPIPE names no Python that has mediapipe==0.10.21")
    code = """
import json, sys
from mediapipe.tasks.python.metadata.metadata import MetadataDisplayer
shown = MetadataDisplayer.with_model_file(sys.argv[1])
print(json.dumps([shown.get_packed_associated_file_list(), json.loads(shown.get_metadata_json())]))
"""
    said = subprocess.run([python, "-c", code, str(made(**options))], capture_output=True, text=True, check=True).stdout
    files, read = json.loads(said)
    assert files == ["metadata.json", "labels.txt"]
    (graph,) = read["subgraph_metadata"]
    assert graph["input_tensor_metadata"][0]["process_units"][0]["options"] == {"mean": [0.0], "std": [255.0]}
    assert {item["name"] for item in graph["output_tensor_metadata"]} == (RAW if options else {"output0", "output1"})


def table(data: bytes) -> Table:
    return Table(data, struct.unpack_from("<I", data)[0])


def child(parent: Table, field: int, place: int | None = None) -> Table:
    """Return the table that a field leads to, or the one at a place of the vector that it leads to."""
    if place is None:
        return Table(parent.Bytes, parent.Indirect(parent.Pos + parent.Offset(4 + 2 * field)))
    return Table(parent.Bytes, parent.Indirect(parent.Vector(parent.Offset(4 + 2 * field)) + 4 * place))


def text(parent: Table, field: int) -> str:
    return str(parent.String(parent.Pos + parent.Offset(4 + 2 * field)).decode())


def number(parent: Table, field: int) -> float:
    return float(struct.unpack_from("<f", parent.Bytes, parent.Vector(parent.Offset(4 + 2 * field)))[0])


def test_new_info_leaves_the_model_as_it_is(made: Callable[..., Path], tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(made().read_bytes())
    end = end_of_model(path)
    model = path.read_bytes()[:end]
    parity = Parity(images=1, raw={"output0": 0.5}, box=0.1, score=0.1, mask_iou=1.0, objects=2, matched=1.0)
    for count in (1, 2):
        TfliteExporter().write_info(path, tiny_info().replace(parity=parity, variant="v" * 1000 * count))
        assert path.read_bytes()[:end] == model
        assert end_of_model(path) == end
    with zipfile.ZipFile(path) as archive:
        assert ArtifactInfo.from_metadata(json.loads(archive.read("metadata.json"))).parity == parity


def test_nothing_of_this_machine_is_in_the_file(made: Callable[..., Path]) -> None:
    for path in (made(), made(int8=True, values="uint8")):
        content = path.read_bytes()
        with zipfile.ZipFile(path) as archive:
            content += archive.read("metadata.json")
        for text in {str(Path(__file__).parents[3]), sys.prefix, str(path.parent), "site-packages", "Traceback"}:
            assert text.encode() not in content, text


def test_int8_of_a_graph_with_another_end_is_refused(tmp_path: Path) -> None:
    from segx.testing.models import tiny_module

    artifact, _ = export_file("onnx", tmp_path, tiny_module(tiny_info()))
    with pytest.raises(ExportError, match="does not end in a YOLOv8 segmentation head"):
        export(artifact, "tflite", {"int8": True, "most": 2})
    assert [item.name for item in tmp_path.iterdir()] == ["tiny.onnx"]


def test_values_are_for_int8() -> None:
    with pytest.raises(UsageError, match="values=uint8 is for files of 8-bit numbers") as refusal:
        TfliteExporter().check(tiny_info(), TfliteOptions(values="uint8"))
    assert "int8=True" in refusal.value.hint


def test_dynamic_is_no_option() -> None:
    with pytest.raises(UsageError, match="dynamic"):
        TfliteOptions.parse({"dynamic": True})
