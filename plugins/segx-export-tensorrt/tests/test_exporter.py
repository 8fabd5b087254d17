"""What is special to engines: what the graph has to be, bounds, devices, what TensorRT is told."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from segx.errors import ExportError, MissingPluginError, UsageError
from segx.flows.export import chosen_options, export, settled
from segx.plugin.registry import get_registry
from segx.runtime import nvidia
from segx.testing.models import export_file, export_with, tiny_info, tiny_module
from segx_export_tensorrt import building
from segx_export_tensorrt.exporter import EngineExporter, profile, visible_devices
from segx_export_tensorrt.options import EngineOptions

EXPORTER = EngineExporter()
FIXED = {word: [1, 3, 64, 96] for word in ("min", "opt", "max")}
OPEN = {"min": [1, 3, 32, 32], "opt": [1, 3, 64, 96], "max": [8, 3, 128, 192]}


@pytest.mark.parametrize("asked", [{}, {"half": True}, {"int8": True, "data": "x.yaml", "most": 7, "split": "val"}])
def test_the_graph_on_the_way_has_the_precision_asked_for(asked):
    chain = get_registry().export_chain("engine")
    before, last = settled(chain, chosen_options(chain, asked))
    assert [spec.name for spec in chain] == ["onnx", "engine"]
    assert before.precision == last.precision
    if "int8" in asked:
        assert (before.data, before.most, before.split) == ("x.yaml", 7, "val")


def test_options_of_the_graph_on_the_way_are_taken():
    chain = get_registry().export_chain("engine")
    before, _ = settled(chain, chosen_options(chain, {"nms": True, "max_det": 5, "simplify": False, "dynamic": True}))
    assert (before.nms, before.max_det, before.simplify, before.dynamic) == (True, 5, False, True)


def test_without_tensorrt_or_gpu_nothing_is_begun(tmp_path, monkeypatch):
    registry = get_registry()
    if registry.unavailable(registry.exporters.get("engine")) is None:
        pytest.skip("both are here")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingPluginError, match="engine") as caught:
        export(export_file("onnx", tmp_path, tiny_module(tiny_info()))[0], "engine")
    assert "tensorrt" in str(caught.value) or "GPU" in str(caught.value)
    assert [path.suffix for path in tmp_path.iterdir()] == [".onnx"]


def test_bounds_are_open_only_where_axes_are():
    info = tiny_info(batch=2)
    assert profile(info, EngineOptions(batch=2)) == {word: [2, 3, 64, 96] for word in ("min", "opt", "max")}
    dynamic = tiny_info(dynamic=True)
    assert profile(dynamic, EngineOptions(dynamic=True)) == OPEN
    asked = EngineOptions(dynamic=True, max_batch=3, max_imgsz=(100, 96))
    assert profile(dynamic, asked)["max"] == [3, 3, 128, 96]
    assert profile(info.replace(batch=1, dynamic=frozenset({"batch"})), asked)["max"] == [3, 3, 64, 96]


@pytest.mark.parametrize(
    ("device", "visible", "wanted"),
    [
        *((None, None, None), ("cpu", "3", None), ("cuda", "3", None)),
        *(("1", None, "1"), ("cuda:01", None, "1"), ("cuda:1", "4, GPU-5f", "GPU-5f")),
    ],
)
def test_a_device_is_the_first_that_the_builder_sees(device, visible, wanted):
    assert visible_devices(device, visible) == wanted


@pytest.mark.parametrize(("device", "visible"), [("2", "0,1"), ("mps", None), ("cuda:x", None), ("0,1", None)])
def test_devices_that_cannot_be(device, visible):
    with pytest.raises(UsageError, match=f"device={device}"):
        visible_devices(device, visible)


# A builder that notes what it is told


class Builds:
    """A stand-in of the module ``tensorrt``, as of version 10, or 11 with ``typed=False``."""

    def __init__(self, *, shape=(1, 3, 64, 96), typed=True, timings=b"", **faults):
        self.noted, self.faults, self.shape, self.timings = [], faults, shape, timings
        self.module = types.ModuleType("standin_tensorrt")
        note, outer = self.noted.append, self

        class ILogger:
            INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

        class IProgressMonitor:
            pass

        class Profile:
            def set_shape(self, name, least, usual, most):
                note(("profile", name, least, usual, most))

        class Cache:
            def __init__(self, content):
                self.content = content

            def serialize(self):
                return self.content + b"+"

        class Config:
            progress_monitor = cache = None

            def clear_flag(self, flag):
                note(("cleared", flag))

            def set_memory_pool_limit(self, pool, size):
                note((pool, size))

            def add_optimization_profile(self, _profile):
                return outer.faults.get("profile", 0)

            def create_timing_cache(self, content):
                return Cache(content)

            def set_timing_cache(self, cache, ignore_mismatch):
                assert not ignore_mismatch
                if cache.content not in {b"", outer.timings}:
                    return False
                self.cache = cache
                note(("timings", cache.content))
                return True

            def get_timing_cache(self):
                return self.cache

        class Network:
            num_inputs = 1

            def get_input(self, _index):
                return types.SimpleNamespace(name="images", shape=outer.shape)

        class Builder:
            def __init__(self, logger):
                self.logger = logger
                if "start" in outer.faults:
                    logger.log(ILogger.ERROR, "CUDA initialization failure with error: 35")
                    raise TypeError("pybind11::init(): factory function returned nullptr")

            def create_network(self, flags):
                note(("flags", flags))
                return Network()

            def create_builder_config(self):
                return Config()

            def create_optimization_profile(self):
                return Profile()

            def build_serialized_network(self, _network, config):
                monitor = config.progress_monitor
                monitor.phase_start("Building", None, 2)
                monitor.phase_start("Inner", "Building", 9)
                assert monitor.step_complete("Inner", 1)
                assert monitor.step_complete("Building", 1)
                monitor.phase_finish("Building")
                if "build" in outer.faults:
                    self.logger.log(ILogger.ERROR, outer.faults["build"])
                    return None
                return b"ftrt plan"

        class OnnxParser:
            num_errors = 1

            def __init__(self, _network, _logger):
                pass

            def parse(self, _content):
                return "parse" not in outer.faults

            def get_error(self, _index):
                node = {"node_operator": lambda: "Odd", "node_name": lambda: "n7"}
                return types.SimpleNamespace(desc=lambda: "no importer\nregistered", **node)

        flags = types.SimpleNamespace(STRONGLY_TYPED=3) if typed else types.SimpleNamespace()
        vars(self.module).update(
            __version__="10.9",
            NetworkDefinitionCreationFlag=flags,
            ILogger=ILogger,
            BuilderFlag=types.SimpleNamespace(TF32="TF32"),
            Builder=Builder,
            OnnxParser=OnnxParser,
            MemoryPoolType=types.SimpleNamespace(WORKSPACE="workspace"),
            IProgressMonitor=IProgressMonitor,
        )


@pytest.fixture
def build(tmp_path, monkeypatch):
    def run(stand_in: Builds, profile=FIXED, workspace=None):
        monkeypatch.setitem(sys.modules, "standin_tensorrt", stand_in.module)
        (tmp_path / "m.onnx").write_bytes(b"graph")
        return building.build(
            str(tmp_path / "m.onnx"),
            str(tmp_path / "m.engine"),
            library="standin_tensorrt",
            profile=profile,
            workspace=workspace,
            cache=str(tmp_path / "cache"),
        )

    return run


def test_what_the_builder_is_told(build, tmp_path):
    stand_in = Builds()
    assert build(stand_in, workspace=1.5)["version"] == "10.9"
    assert (tmp_path / "m.engine").read_bytes() == b"ftrt plan"
    assert stand_in.noted == [("flags", 8), ("cleared", "TF32"), ("workspace", 3 << 29), ("timings", b"")]


def test_where_all_networks_are_typed_no_flag_is_asked_for(build):
    stand_in = Builds(typed=False)
    build(stand_in)
    assert stand_in.noted[0] == ("flags", 0)


def test_open_axes_have_bounds(build):
    stand_in = Builds(shape=(-1, 3, -1, -1))
    build(stand_in, OPEN)
    assert ("profile", "images", *OPEN.values()) in stand_in.noted


def test_timings_are_kept_and_those_of_another_gpu_dropped(build, tmp_path):
    build(Builds())
    (kept,) = (tmp_path / "cache").iterdir()
    assert kept.read_bytes() == b"+"
    again = Builds(timings=b"+")
    build(again)
    assert again.noted[-1] == ("timings", b"+")
    assert kept.read_bytes() == b"++"
    elsewhere = Builds(timings=b"other")
    build(elsewhere)
    assert elsewhere.noted[-1] == ("timings", b"")
    assert kept.read_bytes() == b"+"


@pytest.mark.parametrize(
    ("stand_in", "error", "match"),
    [
        (
            Builds(parse=True),
            ExportError,
            r"does not take this graph \(operator Odd of node n7: no importer registered\)",
        ),
        (Builds(build="Could not find any implementation\nfor node"), ExportError, "any implementation for node"),
        (Builds(start=True), UsageError, "does not start on this machine .*error: 35"),
        (Builds(shape=(2, 3, 64, 96)), ExportError, r"takes 2x3x64x96, and was to take 1x3x64x96"),
        (Builds(shape=(-1, 3, 64, 96), profile=-1), ExportError, "does not take the bounds"),
    ],
    ids=["graph", "implementation", "start", "shape", "bounds"],
)
def test_faults_are_told_in_one_line_and_leave_nothing(build, tmp_path, stand_in, error, match):
    with pytest.raises(error, match=match) as caught:
        build(stand_in)
    assert "\n" not in caught.value.message
    assert caught.value.hint or "bounds" in match or "takes" in match
    assert not (tmp_path / "m.engine").exists()


def test_a_lack_of_memory_names_the_options_about_it(build):
    with pytest.raises(ExportError) as caught:
        build(Builds(build="Requested amount of GPU memory could not be allocated"))
    assert "workspace=" in caught.value.hint


def test_a_library_that_cannot_be_loaded(tmp_path):
    with pytest.raises(UsageError, match="is installed but cannot be loaded"):
        building.build("a", "b", library="no_such_tensorrt", profile=FIXED, workspace=None, cache=str(tmp_path))


def test_gpu_is_not_known_where_there_is_none():
    if not nvidia.problem():
        pytest.skip("there is one")
    assert building.gpu_name() == ""


# Engines, really built: TensorRT for RTX has the same builder and needs no GPU for it


@pytest.fixture
def with_rtx(monkeypatch, tmp_path):
    """The installed plugins, with this exporter told to build with TensorRT for RTX."""
    import dataclasses

    from segx.plugin.registry import Registry
    from segx.plugin.specs import no_problem

    pytest.importorskip("tensorrt_rtx", reason="uv pip install tensorrt-rtx")
    monkeypatch.setattr(EngineExporter, "library", "tensorrt_rtx")
    monkeypatch.setenv("SEGX_CACHE", str(tmp_path / "cache"))
    discovery = get_registry()._discovery
    changed = tuple(
        dataclasses.replace(spec, requires=(), problem=no_problem) if spec.name == "engine" else spec
        for spec in discovery.declared["exporter"]
    )
    return Registry(dataclasses.replace(discovery, declared={**discovery.declared, "exporter": changed}))


@pytest.mark.parametrize(
    "asked",
    [{}, {"half": True}, {"int8": True}, {"dynamic": True}, {"dynamic": True, "half": True}, {"batch": 2}],
    ids=str,
)
def test_engines_are_built(with_rtx, tmp_path, asked):
    pytest.importorskip("torch", reason="the source of an export is a torch module")
    from segx.testing.models import real_module

    module = real_module(tiny_info(dynamic="dynamic" in asked, batch=asked.get("batch", 1)))
    source, made = export_file("onnx", tmp_path, module, **asked)
    given = {"half": True} if "half" in asked else {}  # what else is settled in the file
    done = export(source, "engine", given, registry=with_rtx)
    content = Path(done).read_bytes()
    assert content[1:4] == b"trt"
    assert done.info.settings["engine"]["profile"]["max"] == (
        [8, 3, 128, 192] if "dynamic" in asked else [asked.get("batch", 1), 3, 64, 96]
    )
    assert (done.info.head, done.info.outputs, done.info.dynamic) == (made.head, made.outputs, made.dynamic)
    assert done.info.precision == ("fp16" if "half" in asked else "int8" if "int8" in asked else "fp32")
    assert "tensorrt_rtx" in done.info.versions
    assert done.reason, "nothing here can open it, and that is said"
    assert list((tmp_path / "cache" / "runtimes" / "tensorrt").iterdir())


@pytest.mark.parametrize("dynamic", [False, True])
def test_suppression_is_understood(with_rtx, tmp_path, dynamic):
    """TensorRT has a layer for it; TensorRT for RTX takes the graph, and has nothing that computes that one layer."""
    pytest.importorskip("torch", reason="the source of an export is a torch module")
    from segx.testing.models import real_module

    module = real_module(tiny_info(dynamic=dynamic))
    source, made = export_file("onnx", tmp_path, module, nms=True, dynamic=dynamic)
    assert made.head == "yolov8-seg-final/1"
    with pytest.raises(ExportError, match=r"cannot build an engine.*NonMaxSuppression\S* has no runners"):
        export(source, "engine", {"verify": False}, registry=with_rtx)


@pytest.mark.usefixtures("with_rtx")
def test_an_operator_that_tensorrt_has_not_is_named(tmp_path):
    import onnx

    source, info = export_file("onnx", tmp_path, tiny_module(tiny_info()))
    model = onnx.load(source.path)
    model.graph.node[-1].op_type = "Odd"
    onnx.save(model, source.path)
    target = tmp_path / "tiny.engine"
    with pytest.raises(ExportError, match=r"does not take this graph \(operator Odd of node node_cat") as caught:
        export_with(EXPORTER, source, info, EngineOptions(), target)
    assert "\n" not in caught.value.message
    assert not target.exists()


def test_biases_of_32_bits_become_what_they_stand_for():
    import numpy as np
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    from segx_export_tensorrt.graph import with_float_biases

    random = np.random.default_rng(0)
    values = {
        "weights": random.integers(-127, 127, (4, 3, 1, 1)).astype(np.int8),
        "bias": random.integers(-9999, 9999, 4).astype(np.int32),
        "scales": random.random(4).astype(np.float32),
        "other": random.integers(-9999, 9999, 4).astype(np.int32),
        "scale": np.float32(0.25),
        "zero": np.int32(3),
    }
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("DequantizeLinear", ["weights", "scales"], ["w"], axis=0),
                helper.make_node("DequantizeLinear", ["bias", "scales"], ["b"], axis=0),
                helper.make_node("DequantizeLinear", ["other", "scale", "zero"], ["o"]),
                helper.make_node("Add", ["b", "o"], ["both"]),
                helper.make_node("Conv", ["images", "w", "both"], ["out"]),
            ],
            "g",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 8, 8])],
            [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    changed = onnx.load_from_string(with_float_biases(model.SerializeToString()))
    left = {item.name: item.data_type for item in changed.graph.initializer}
    assert left == {"weights": 3, "scales": 1, "b": 1, "o": 1}, "8-bit weights stay, what is not used goes"
    images = random.random((1, 3, 8, 8), dtype=np.float32)
    before, after = (
        onnxruntime.InferenceSession(item.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {"images": images}
        )[0]
        for item in (model, changed)
    )
    np.testing.assert_allclose(after, before, rtol=1e-5)
