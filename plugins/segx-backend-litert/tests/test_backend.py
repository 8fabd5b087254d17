"""What is special to LiteRT: 8-bit numbers, runs side by side, other tools' files, and files for an Edge TPU."""

from __future__ import annotations

import copy
import json
import random
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from segx.artifact import Artifact
from segx.errors import ModelError, UsageError
from segx.io import sidecar
from segx.options.verbs import SessionOptions
from segx.testing.models import export_file, run_module, tiny_info, tiny_module, wanted_info
from segx.testing.parity import assert_follows, assert_same_outputs
from segx.testing.scenes import noise_images
from segx_backend_litert import delegate
from segx_backend_litert import session as session_module
from segx_backend_litert.backend import LiteRtBackend
from segx_backend_litert.flatbuffer import read_header, read_metadata

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BACKEND = LiteRtBackend()
CPU = SessionOptions(device="cpu")
FOREIGN = {
    "description": "somebody's model",
    "author": "somebody",
    "version": "8.3.0",
    "stride": 32,
    "task": "segment",
    "batch": 1,
    "imgsz": [64, 96],
    "names": {"0": "person", "1": "it's a dog", "2": "cat"},
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    artifact, _ = export_file("tflite", tmp_path_factory.mktemp("plain"), tiny_module(tiny_info()))
    return artifact.path


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The raw head in 8 bits, by what it takes and gives."""
    found: dict[str, Path] = {}

    def make(values: str) -> Path:
        if values not in found:
            found[values] = export_file(
                "tflite", tmp_path_factory.mktemp(values), raw_module(), int8=True, values=values
            )[0].path
        return found[values]

    return make


def raw_module() -> Any:
    from segx.plugin.registry import get_registry

    return tiny_module(wanted_info(get_registry().exporters.get("tflite"), tiny_info(), int8=True))


def bare(path: Path) -> bytes:
    """Return a model without what is appended to it."""
    with zipfile.ZipFile(path) as archive:
        end = min(item.header_offset for item in archive.infolist())
    return path.read_bytes()[:end]


def test_header_is_read_without_the_runtime(plain: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from segx.artifact import Artifact\n"
        "from segx_backend_litert.backend import LiteRtBackend\n"
        f"info = LiteRtBackend().read_info(Artifact(path=Path({str(plain)!r}), format='tflite'))\n"
        "assert info.names[0] == 'red', info\n"
        "assert 'ai_edge_litert.interpreter' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.parametrize("values", ["float32", "uint8", "int8"])
def test_eight_bit_files_take_and_give_floats_here(quantised: Callable[[str], Path], values: str) -> None:
    session = BACKEND.open(Artifact(path=quantised(values), format="tflite"), CPU)
    assert (session.info.precision, session.info.outputs[0]) == ("int8", "boxes")
    images = [noise_images((1, 3, 64, 96), seed=seed) * np.float32((seed + 1) / 4) for seed in range(4)]
    got = [session.run(one) for one in images]
    wanted = [run_module(raw_module(), one) for one in images]
    assert_follows(got, wanted, names=session.info.outputs)
    assert all(output.dtype == np.float32 for output in got[0])


def test_bytes_come_back_as_bytes(quantised: Callable[[str], Path]) -> None:
    pool, _ = session_module.start(quantised("uint8"), raw_module().info, CPU)
    place = np.zeros((1, 64, 96, 3), np.uint8)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 96)).astype(np.uint8)
    session_module._fill(place, pixels.astype(np.float32) / 255, pool.input)
    np.testing.assert_array_equal(place, pixels.transpose(0, 2, 3, 1))


def test_as_many_interpreters_as_threads_and_no_more(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    real = session_module.Interpreter

    def counted(*arguments: Any, **options: Any) -> Any:
        made.append(options["num_threads"])
        return real(*arguments, **options)

    monkeypatch.setattr(session_module, "Interpreter", counted)
    session = BACKEND.open(Artifact(path=plain, format="tflite"), SessionOptions(device="cpu", threads=1, streams=3))
    batches = [noise_images((1, 3, 64, 96), seed=seed) for seed in range(24)]
    alone = [session.run(images) for images in batches]
    assert made == [1]
    with ThreadPoolExecutor(6) as threads:
        together = list(threads.map(session.run, batches))
    assert 1 <= len(made) <= 3
    for got, wanted in zip(together, alone, strict=True):
        assert_same_outputs(got, wanted, names=session.info.outputs)


def test_interpreter_that_failed_is_lent_again(plain: Path) -> None:
    pool, _ = session_module.start(plain, tiny_info(), CPU)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), pool.lend():
            raise ZeroDivisionError
    with pool.lend():
        pass


def test_file_of_another_tool_opens(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.tflite"
    path.write_bytes(_without_signature(bare(plain)))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("temp_meta.txt", str(FOREIGN))
    session = BACKEND.open(Artifact(path=path, format="tflite"), CPU)
    assert session.info.names == {0: "person", 1: "it's a dog", 2: "cat"}
    assert session.info.imgsz == (64, 96)
    images = noise_images((1, 3, 64, 96))
    assert_same_outputs(session.run(images), run_module(tiny_module(tiny_info()), images), names=session.info.outputs)


def test_file_that_takes_channels_first_opens(plain: Path, tmp_path: Path) -> None:
    """As the incumbent writes them since it converts PyTorch models directly."""
    path = tmp_path / "other.tflite"
    path.write_bytes(_with_channels_first(bare(plain)))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("metadata.json", json.dumps(FOREIGN))
    session = BACKEND.open(Artifact(path=path, format="tflite"), CPU)
    assert (session.info.imgsz, session.info.dynamic) == ((64, 96), frozenset())
    images = noise_images((1, 3, 64, 96))
    assert_same_outputs(session.run(images), run_module(tiny_module(tiny_info()), images), names=session.info.outputs)
    with pytest.raises(ModelError, match="takes images 1x3x64x96"):
        session.run(noise_images((1, 3, 96, 64)))


def test_boxes_in_fractions_are_brought_into_pixels() -> None:
    pixels = np.random.default_rng(0).random((1, 39, 126), dtype=np.float32)
    pixels[:, 0:4:2] *= 96
    pixels[:, 1:4:2] *= 64
    fractions = pixels.copy()
    fractions[:, 0:4:2] /= 96
    fractions[:, 1:4:2] /= 64
    assert [session_module._in_fractions(flat) for flat in (pixels, fractions)] == [False, True]
    session_module._into_pixels(fractions, 64, 96)
    np.testing.assert_allclose(fractions, pixels, rtol=1e-5)


def test_other_outputs_than_promised_are_reported(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(bare(plain))
    sidecar.write(path, tiny_info().replace(outputs=("a", "b", "c")))
    with pytest.raises(ModelError, match="gives output0, output1; its metadata name a, b, c"):
        BACKEND.open(Artifact(path=path, format="tflite"), CPU)


def test_file_without_metadata_is_described_by_what_lies_beside(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.tflite"
    path.write_bytes(bare(plain))
    with pytest.raises(ModelError, match="carries no metadata") as refusal:
        BACKEND.read_info(Artifact(path=path, format="tflite"))
    assert "m.tflite.segx.json" in refusal.value.hint
    sidecar.sidecar_path(path).write_text(json.dumps({"task": "segment", "names": {"0": "cat"}}))
    assert BACKEND.read_info(Artifact(path=path, format="tflite")).names == {0: "cat"}


def test_every_cut_of_a_file_is_reported(plain: Path, tmp_path: Path) -> None:
    whole, cut = plain.read_bytes(), tmp_path / "cut.tflite"
    for length in [0, 1, 7, *range(8, len(whole), 997)]:
        cut.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"cut\.tflite"):
            BACKEND.open(Artifact(path=cut, format="tflite"), CPU)


def test_whatever_bytes_are_changed_it_is_read_or_refused_in_one_line(plain: Path, tmp_path: Path) -> None:
    whole, chance, path = plain.read_bytes(), random.Random(5), tmp_path / "m.tflite"
    refused = 0
    for number in range(300):
        changed = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            first = len(whole) - 1500 if number % 2 else 0
            changed[chance.randrange(first, len(whole))] = chance.randrange(256)
        path.write_bytes(changed)
        try:
            BACKEND.read_info(Artifact(path=path, format="tflite"))
        except ModelError as error:
            refused += "\n" not in error.message
    assert refused > 30


@pytest.mark.parametrize("content", [b"\xff\xd8\xff\xe0 a JPEG", b"PK\x03\x04 a zip", b"\x00" * 64, b"\x1c\0\0\0TFL3"])
def test_other_files_are_no_models(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.tflite"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="damaged or no TFLite model"):
        BACKEND.read_info(Artifact(path=path, format="tflite"))


@pytest.mark.parametrize("repeated", ["tensors", "axes", "operators", "inputs", "codes"])
def test_small_file_that_names_one_part_again_and_again_is_refused_at_once(tmp_path: Path, repeated: str) -> None:
    path = tmp_path / "many.tflite"
    path.write_bytes(_repeating(**{repeated: 150_000}))
    with pytest.raises(ModelError, match="more than 100,000 parts, or tensors of more than 16 axes"):
        BACKEND.read_info(Artifact(path=path, format="tflite"))
    path.write_bytes(_repeating())
    with pytest.raises(ModelError, match="it takes 1x1x1x1 of float32"):
        BACKEND.read_info(Artifact(path=path, format="tflite"))


def _repeating(*, tensors: int = 1, axes: int = 4, operators: int = 1, inputs: int = 1, codes: int = 1) -> bytes:
    """Return a graph in which all tensors, operators and codes lie at one place."""
    builder = flatbuffers.Builder()

    def table(kind: str, **values: int) -> int:
        getattr(schema, f"{kind}Start")(builder)
        for name, value in values.items():
            getattr(schema, f"{kind}Add{name}")(builder, value)
        return int(getattr(schema, f"{kind}End")(builder))

    def offsets(count: int, part: int) -> int:
        builder.StartVector(4, count, 4)
        for _ in range(count):
            builder.PrependUOffsetTRelative(part)
        return int(builder.EndVector())

    def numbers(values: list[int]) -> int:
        return int(builder.CreateNumpyVector(np.array(values, np.int32)))

    tensor = offsets(tensors, table("Tensor", Shape=numbers([1] * axes)))
    ends = {"Inputs": numbers([0] * inputs), "Outputs": numbers([0])}
    operator = offsets(operators, table("Operator", **ends))
    ends = {"Inputs": numbers([0]), "Outputs": numbers([0])}
    graph = offsets(1, table("SubGraph", Tensors=tensor, Operators=operator, **ends))
    buffer = offsets(1, table("Buffer"))
    code = offsets(codes, table("OperatorCode"))
    builder.Finish(table("Model", Version=3, Subgraphs=graph, Buffers=buffer, OperatorCodes=code), b"TFL3")
    return bytes(builder.Output())


def test_wrong_size_names_both(plain: Path) -> None:
    session = BACKEND.open(Artifact(path=plain, format="tflite"), CPU)
    with pytest.raises(ModelError, match="takes images 1x3x64x96, got 1x3x64x64") as caught:
        session.run(noise_images((1, 3, 64, 64)))
    assert "imgsz=64,96" in caught.value.hint


# Files for an Edge TPU


def test_compiled_file_is_known_and_not_run_on_a_cpu(plain: Path, tmp_path: Path) -> None:
    path = tmp_path / "m_edgetpu.tflite"
    path.write_bytes(_compiled(bare(plain)))
    sidecar.write(path, tiny_info())
    assert read_header(path).compiled
    assert read_metadata(path) is None
    with pytest.raises(UsageError, match=r"compiled for an Edge TPU, whose library .* is not installed") as refusal:
        BACKEND.open(Artifact(path=path, format="edgetpu"), SessionOptions())
    assert "compile=False" in refusal.value.hint


def test_device_of_a_file_is_the_one_that_runs_it(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delegate, "library", lambda: "libedgetpu.so.1")
    assert BACKEND.devices() == ["cpu", "tpu"]
    assert session_module._device(None, plain, compiled=False) == "cpu"
    assert session_module._device(None, plain, compiled=True) == "tpu"
    assert session_module._device("tpu", plain, compiled=True) == "tpu"
    with pytest.raises(UsageError, match="is not compiled for an Edge TPU"):
        session_module._device("tpu", plain, compiled=False)
    with pytest.raises(UsageError, match=r"device=cpu: .* is compiled for an Edge TPU"):
        session_module._device("cpu", plain, compiled=True)


def test_accelerator_that_does_not_answer(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delegate, "library", lambda: "libedgetpu-that-is-not-there.so")
    path = tmp_path / "m_edgetpu.tflite"
    path.write_bytes(_compiled(bare(plain)))
    sidecar.write(path, tiny_info())
    with pytest.raises(UsageError, match="no Edge TPU answers"):
        BACKEND.open(Artifact(path=path, format="edgetpu"), SessionOptions(device="tpu"))


def _changed(content: bytes, change: Callable[[Any], None]) -> bytes:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    change(model)
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _without_signature(content: bytes) -> bytes:
    def change(model: Any) -> None:
        model.signatureDefs = None
        graph = model.subgraphs[0]
        for number, index in enumerate(graph.outputs):
            graph.tensors[index].name = f"Identity_{number}".encode()

    return _changed(content, change)


def _with_channels_first(content: bytes) -> bytes:
    """Turn the input before all else, and the maps at the end."""

    def change(model: Any) -> None:
        model.signatureDefs = None
        graph = model.subgraphs[0]
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.TRANSPOSE
        code.version = 1
        model.operatorCodes.append(code)

        def turn(index: int, order: tuple[int, ...], shape: list[int]) -> tuple[Any, int]:
            """Return an operator that lacks its output or its input, and a new tensor for that."""
            data = schema.BufferT()
            data.data = np.frombuffer(np.array(order, np.int32).tobytes(), np.uint8)
            model.buffers.append(data)
            axes, tensor = schema.TensorT(), copy.deepcopy(graph.tensors[index])
            axes.name, axes.shape, axes.type = b"axes", np.array([4], np.int32), schema.TensorType.INT32
            axes.buffer = len(model.buffers) - 1
            tensor.name, tensor.shape, tensor.shapeSignature = b"turned", np.array(shape, np.int32), None
            graph.tensors += [axes, tensor]
            operator = schema.OperatorT()
            operator.opcodeIndex = len(model.operatorCodes) - 1
            operator.inputs = np.array([index, len(graph.tensors) - 2], np.int32)
            operator.outputs = np.array([len(graph.tensors) - 1], np.int32)
            return operator, len(graph.tensors) - 1

        (source,) = graph.inputs
        first, new = turn(source, (0, 2, 3, 1), [1, 3, 64, 96])
        first.inputs[0], first.outputs[0] = new, source
        last = [index for index in graph.outputs if len(graph.tensors[index].shape) == 4]
        _, height, width, channels = graph.tensors[last[0]].shape
        end, maps = turn(last[0], (0, 3, 1, 2), [1, channels, height, width])
        graph.operators = [first, *graph.operators, end]
        graph.inputs = np.array([new], np.int32)
        graph.outputs = np.array([maps if index == last[0] else index for index in graph.outputs], np.int32)

    return _changed(content, change)


def _compiled(content: bytes) -> bytes:
    def change(model: Any) -> None:
        model.operatorCodes[0].customCode = b"edgetpu-custom-op"
        model.operatorCodes[0].builtinCode = model.operatorCodes[0].deprecatedBuiltinCode = 32

    return _changed(content, change)
