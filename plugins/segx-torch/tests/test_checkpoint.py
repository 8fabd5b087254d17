"""Checkpoints of every kind are read into the same tensors, and segx's own are written whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from segx.artifact import ArtifactInfo
from segx.errors import DataError, ModelError
from segx.plugin.registry import get_registry
from segx.testing.interpreter import run_fresh
from segx_torch.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from segx_torch.container import open_container
from segx_torch.unpickle import read_pickle

FOUR = torch.tensor([[1.0, 2.0], [3.0, 4.0]])


def _checkpoint(**changes: Any) -> Checkpoint:
    generator = torch.Generator().manual_seed(3)
    content: dict[str, Any] = {
        "info": ArtifactInfo(names={0: "a", 1: "it's"}, imgsz=(64, 96), settings={"data": "x.yaml", "lr": 0.1}),
        "definition": {"nc": 2, "scale": "n", "scales": {"n": [0.33, 0.25, 1024]}, "head": [[-1, 1, "C2f", [8, True]]]},
        "weights": {
            "a.weight": torch.randn(4, 3, 3, 3, generator=generator),
            "a.bias": torch.zeros(0),
            "a.bn.num_batches_tracked": torch.tensor(7),
        },
    }
    return Checkpoint(**{**content, **changes})


def _assert_same(got: Any, wanted: Any) -> None:
    if isinstance(wanted, torch.Tensor):
        assert got.dtype == wanted.dtype
        torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)
    elif isinstance(wanted, dict):
        assert got.keys() == wanted.keys()
        for key, value in wanted.items():
            _assert_same(got[key], value)
    elif isinstance(wanted, list | tuple):
        assert type(got) is type(wanted)
        assert len(got) == len(wanted)
        for ours, theirs in zip(got, wanted, strict=True):
            _assert_same(ours, theirs)
    else:
        assert got == pytest.approx(wanted, nan_ok=True) if isinstance(wanted, float) else got == wanted


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_round_trip(tmp_path: Path, suffix: str) -> None:
    wanted = _checkpoint()
    write_checkpoint(tmp_path / f"m{suffix}", wanted)
    got = read_checkpoint(tmp_path / f"m{suffix}")
    assert got.info == wanted.info
    assert got.definition == wanted.definition
    assert got.training is None
    _assert_same(got.weights, wanted.weights)


def test_training_state_round_trip(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(3):
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
    training = {
        "weights": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": {"torch": torch.get_rng_state(), "python": [3, [2**32 - 1, 2**127 + 1], None]},
        "half": torch.tensor([1.5], dtype=torch.float16),
        "best": float("nan"),
        "rows": [{"loss": np.float64(0.25), "epoch": np.int64(3)}],
        "shape": (1, 2),
        "on": True,
        "nothing": None,
        "scaler": {},
    }
    write_checkpoint(tmp_path / "last.pt", _checkpoint(training=training))
    got = read_checkpoint(tmp_path / "last.pt", training=True).training
    assert got is not None
    _assert_same(got, {**training, "rows": [{"loss": 0.25, "epoch": 3}]})
    assert type(got["rows"][0]["loss"]) is float
    again = torch.optim.AdamW(model.parameters(), lr=0.1)
    again.load_state_dict(got["optimizer"])
    assert read_checkpoint(tmp_path / "last.pt").training is None, "it is read only when asked for"


def test_training_state_of_an_object_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"training\.loader\[0\] is a PosixPath"):
        write_checkpoint(tmp_path / "m.pt", _checkpoint(training={"loader": [Path("x")]}))
    assert not list(tmp_path.iterdir())


def test_torch_reads_it_without_trust(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m.pt", _checkpoint(training={"epoch": 3}))
    content = torch.load(tmp_path / "m.pt", weights_only=True)
    assert content["segx"] == 1
    assert content["training"] == {"epoch": 3}
    _assert_same(content["weights"], _checkpoint().weights)


def test_safetensors_library_reads_it(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m.safetensors", _checkpoint())
    _assert_same(safetensors.torch.load_file(tmp_path / "m.safetensors"), _checkpoint().weights)


def test_half_is_half_the_size_and_read_as_float(tmp_path: Path) -> None:
    weights = {"a": torch.randn(1000, 50)}
    write_checkpoint(tmp_path / "full.pt", _checkpoint(weights=weights))
    write_checkpoint(tmp_path / "half.pt", _checkpoint(weights=weights), half=True)
    assert (tmp_path / "half.pt").stat().st_size < (tmp_path / "full.pt").stat().st_size * 0.52
    got = read_checkpoint(tmp_path / "half.pt").weights["a"]
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, weights["a"].half().float(), rtol=0, atol=0)


def test_views_are_written_as_what_they_show(tmp_path: Path) -> None:
    large = torch.arange(1_000_000.0)
    weights = {"row": large[10:14], "turned": torch.arange(6.0).view(2, 3).t(), "spread": torch.ones(1).expand(4)}
    write_checkpoint(tmp_path / "m.pt", _checkpoint(weights=weights))
    assert (tmp_path / "m.pt").stat().st_size < 10_000
    _assert_same(read_checkpoint(tmp_path / "m.pt").weights, weights)


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool],
)
def test_plain_state_dicts_of_any_number(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.tensor([[0, 1, 2], [3, 4, 5]]).to(dtype)
    torch.save({"x": tensor}, tmp_path / "m.pt")
    got = read_checkpoint(tmp_path / "m.pt")
    assert got.kind == "weights"
    expected = tensor.float() if tensor.is_floating_point() else tensor
    _assert_same(got.weights, {"x": expected})


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_any_protocol_of_torch(tmp_path: Path, protocol: int) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    torch.save(model.state_dict(), tmp_path / "m.pt", pickle_protocol=protocol)
    _assert_same(read_checkpoint(tmp_path / "m.pt").weights, dict(model.state_dict()))


def test_views_of_one_storage_share_it(tmp_path: Path) -> None:
    whole = torch.arange(12.0)
    torch.save({"all": whole, "part": whole[3:7], "turned": whole.view(3, 4).t()}, tmp_path / "m.pt")
    got = read_checkpoint(tmp_path / "m.pt").weights
    _assert_same(got, {"all": whole, "part": whole[3:7], "turned": whole.view(3, 4).t()})
    assert got["part"].untyped_storage().data_ptr() == got["all"].untyped_storage().data_ptr()


@pytest.mark.parametrize("key", ["state_dict", "model", "ema"])
def test_state_dict_inside_a_dict(tmp_path: Path, key: str) -> None:
    torch.save({"epoch": 3, key: {"a": FOUR}}, tmp_path / "m.pt")
    _assert_same(read_checkpoint(tmp_path / "m.pt").weights, {"a": FOUR})


def test_state_dict_of_several_processes(tmp_path: Path) -> None:
    torch.save({"module.a": FOUR, "module.b": FOUR}, tmp_path / "m.pt")
    assert list(read_checkpoint(tmp_path / "m.pt").weights) == ["a", "b"]


def test_official_container(forge: Any, tmp_path: Path) -> None:
    """Names, settings, version, stride and the older definition come out; Detect.forward is noted and no more."""
    detect = forge.call(
        forge.name("__builtin__", "getattr"), forge.name("ultralytics.nn.modules.head", "Detect"), forge.text("forward")
    )
    settings = forge.dict(
        {
            "imgsz": forge.number(320),
            "data": forge.call(forge.name("pathlib", "PosixPath"), forge.text("/"), forge.text("data")),
            "lr": forge.real(0.5),
        }
    )
    path = forge.archive(
        tmp_path / "mine.pt",
        forge.official(
            about={"train_args": settings, "version": forge.text("8.0.0"), "date": forge.text("2023-01-01")},
            names=forge.list(forge.text("cat"), forge.text("dog")),
            yaml=forge.dict(
                {
                    "nc": forge.number(80),
                    "depth_multiple": forge.real(0.67),
                    "width_multiple": forge.real(0.75),
                    "head": forge.list(forge.text("None")),
                    "yaml_file": forge.text("C:\\models\\yolov8m-seg.yaml"),
                }
            ),
            detect_forward=detect,
        ),
    )
    with open_container(path) as container:
        assert container.kind == "official"
        assert container.info.names == {0: "cat", 1: "dog"}
        assert container.info.imgsz == (320, 320)
        assert container.info.variant == "yolov8m-seg"
        assert container.info.versions == {"ultralytics": "8.0.0"}
        assert container.info.settings == {"imgsz": 320, "data": "//data", "lr": 0.5}
        assert container.definition == {
            "nc": 2,
            "head": [None],
            "scales": {"m": [0.67, 0.75, 1 << 20]},
            "scale": "m",
        }
    _assert_same(read_checkpoint(path).weights, {"conv.weight": FOUR})


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_numpy_numbers_of_old_and_new_paths(forge: Any, module: str) -> None:
    raw = forge.call(
        forge.name("_codecs", "encode"), forge.text(struct.pack("<d", 0.5).decode("latin1")), forge.text("latin1")
    )
    kind = forge.call(forge.name("numpy", "dtype"), forge.text("f8"), b"\x89", b"\x88")
    kind += forge.tuple(forge.number(3), forge.text("<"), b"N", b"N", b"N") + b"b"
    assert read_pickle(forge.pickle(forge.call(forge.name(module, "scalar"), kind, raw)), where="x") == 0.5


def test_numpy_numbers_as_numpy_pickles_them() -> None:
    import pickle

    for value in (
        np.float64(1.5),
        np.float32(1.5),
        np.float16(1.5),
        np.int64(-3),
        np.int32(7),
        np.uint8(9),
        np.bool_(True),
    ):
        for protocol in (2, 3, 4, 5):
            assert read_pickle(pickle.dumps(value, protocol=protocol), where="x") == value.item()


def test_hidden_buffers_are_not_weights(forge: Any, tmp_path: Path) -> None:
    tensor = forge.tensor(forge.storage("0", 4), (4,), (1,))
    hidden = forge.call(forge.name("__builtin__", "set"), forge.list(forge.text("grid")))
    extra = {"_buffers": forge.dict({"grid": tensor, "kept": tensor}), "_non_persistent_buffers_set": hidden}
    path = forge.archive(tmp_path / "m.pt", forge.official(**extra))
    assert list(read_checkpoint(path).weights) == ["kept", "conv.weight"]


def test_reading_info_takes_no_torch(tmp_path: Path) -> None:
    for suffix in ("pt", "safetensors"):
        write_checkpoint(tmp_path / f"m.{suffix}", _checkpoint())
    code = """
        import json, sys
        sys.modules["torch"] = None
        from pathlib import Path
        from segx.artifact import Artifact
        from segx_torch.backend import TorchBackend
        infos = [TorchBackend().read_info(Artifact(path=Path(path), format="pt")) for path in sys.argv[1:]]
        print(json.dumps([info.names for info in infos]))
    """
    names = run_fresh(code, str(tmp_path / "m.pt"), str(tmp_path / "m.safetensors"))
    assert names == [{"0": "a", "1": "it's"}] * 2


def test_failure_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.pt"
    write_checkpoint(path, _checkpoint())
    before = path.read_bytes()

    def half_written(content: Any, file: Any) -> None:
        file.write(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file\n(no space)")

    monkeypatch.setattr(torch, "save", half_written)
    with pytest.raises(DataError, match="cannot be written"):
        write_checkpoint(path, _checkpoint(weights={"b": FOUR}))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_is_one_line(tmp_path: Path) -> None:
    """A limit on the size of files is met as a full disk is: in the middle of writing."""
    code = """
        import json, resource, sys
        from pathlib import Path
        import torch
        from segx.artifact import ArtifactInfo
        from segx.errors import DataError
        from segx_torch.checkpoint import Checkpoint, write_checkpoint
        path = Path(sys.argv[1])
        def write(size):
            write_checkpoint(path, Checkpoint(info=ArtifactInfo(), definition=None, weights={"a": torch.ones(size)}))
        write(10)
        before = path.read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        try:
            write(1_000_000)
        except DataError as error:
            print(json.dumps([str(error), path.read_bytes() == before, [item.name for item in path.parent.iterdir()]]))
    """
    message, kept, names = run_fresh(code, str(tmp_path / "last.pt"), warnings="default")
    assert "cannot be written" in message
    assert kept
    assert names == ["last.pt"]


@pytest.mark.parametrize("delay", [0.0, 0.03])
def test_killed_while_writing_leaves_a_whole_file(tmp_path: Path, delay: float) -> None:
    """A process that writes again and again is killed at some moment: the file is one of those it wrote."""
    path = tmp_path / "last.pt"
    code = f"""
        from pathlib import Path
        import torch
        from segx.artifact import ArtifactInfo
        from segx_torch.checkpoint import Checkpoint, write_checkpoint
        for index in range(10_000):
            weights = {{"a": torch.full((300_000,), float(index))}}
            write_checkpoint(Path({str(path)!r}), Checkpoint(info=ArtifactInfo(), definition=None, weights=weights))
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], env=environment)
    try:
        while not path.exists():
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(delay)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    values = read_checkpoint(path).weights["a"]
    assert values.shape == (300_000,)
    assert (values == values[0]).all()


def test_unreadable_path_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        read_checkpoint(tmp_path)
    with pytest.raises(ModelError, match=r"absent\.pt"):
        read_checkpoint(tmp_path / "absent.pt")


def test_definition_of_safetensors_is_json(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "m.safetensors", _checkpoint())
    raw = (tmp_path / "m.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert json.loads(header["__metadata__"]["definition"]) == _checkpoint().definition


@pytest.mark.real
@pytest.mark.parametrize("name", ["yolov8n-seg.pt", "yolov8n-seg.state_dict.pt"])
def test_real_weights_are_those_of_the_architecture(real_data: Path, name: str) -> None:
    """Names, shapes and order are those of YOLOv8n-seg as we build it, as float32."""
    checkpoint = read_checkpoint(real_data / "weights" / name)
    architecture = get_registry().architectures.load("yolov8-seg")
    with torch.device("meta"):
        model = architecture.build(architecture.read_config("yolov8n-seg"))
    wanted = {key: tensor.shape for key, tensor in model.state_dict().items()}
    assert [(key, tensor.shape) for key, tensor in checkpoint.weights.items()] == list(wanted.items())
    floats = [tensor for tensor in checkpoint.weights.values() if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in floats} == {torch.float32}
    assert all(torch.isfinite(tensor).all() for tensor in floats)


@pytest.mark.real
def test_real_container_says_what_it_is(real_data: Path) -> None:
    with open_container(real_data / "weights" / "yolov8n-seg.pt") as container:
        info = container.info
        assert info.task == "segment"
        assert info.variant == "yolov8n-seg"
        assert (len(info.names), info.names[0], info.names[79]) == (80, "person", "toothbrush")
        assert info.stride == 32
        assert info.imgsz == (640, 640)
        assert info.settings["data"] == "coco.yaml"
        assert info.settings["epochs"] == 500
        assert container.definition is not None
        assert container.definition["scale"] == "n"
        assert len(container.definition["backbone"]) == 10
