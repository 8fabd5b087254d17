"""What is special to TorchScript: foreign metadata, what a file may hold, and shapes that were traced."""

from __future__ import annotations

import io
import json
import os
import random
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from segx import YOLO
from segx.artifact import Artifact
from segx.errors import ModelError, UsageError
from segx.io import sidecar
from segx.options.verbs import SessionOptions
from segx.plugin.registry import get_registry
from segx.testing.interpreter import run_fresh
from segx.testing.models import run_module, tiny_info, tiny_module
from segx.testing.parity import assert_same_outputs
from segx.testing.scenes import noise_images
from segx_backend_torchscript.backend import TorchScriptBackend

if TYPE_CHECKING:
    from pathlib import Path

CPU = SessionOptions(device="cpu")
FOREIGN = {
    "description": "somebody's model",
    "author": "somebody",
    "version": "8.1.0",
    "stride": 32,
    "task": "segment",
    "batch": 1,
    "imgsz": [64, 96],
    "names": {"0": "person", "1": "it's a dog", "2": "cat"},
    "args": {"half": False, "dynamic": False},
}


def test_gives_what_the_source_gives(write_torchscript: Any, tmp_path: Path) -> None:
    info = tiny_info()
    session = TorchScriptBackend().open(write_torchscript(tmp_path / "m.torchscript", info), CPU)
    images = noise_images((1, 3, 64, 96))
    wanted = run_module(tiny_module(info), images)
    assert_same_outputs(session.run(images), wanted, names=info.outputs)
    assert session.info == info


def test_file_of_another_tool_opens(write_torchscript: Any, tmp_path: Path) -> None:
    artifact = write_torchscript(tmp_path / "m.torchscript", tiny_info(), FOREIGN)
    session = TorchScriptBackend().open(artifact, CPU)
    assert session.info.names == {0: "person", 1: "it's a dog", 2: "cat"}
    assert session.info.imgsz == (64, 96)
    assert session.info.dynamic == frozenset()
    assert session.info.extra["version"] == "8.1.0"
    assert len(session.run(noise_images((1, 3, 64, 96)))) == 2
    with pytest.raises(ModelError, match=r"m\.torchscript: takes images 1x3x64x96, got 1x3x96x96"):
        session.run(noise_images((1, 3, 96, 96)))


def test_dynamic_file_of_another_tool(write_torchscript: Any, tmp_path: Path) -> None:
    metadata = {**FOREIGN, "args": {"dynamic": True}}
    session = TorchScriptBackend().open(write_torchscript(tmp_path / "m.torchscript", tiny_info(), metadata), CPU)
    assert len(session.run(noise_images((2, 3, 96, 128)))) == 2
    with pytest.raises(ModelError, match="multiples of 32"):
        session.run(noise_images((1, 3, 65, 96)))


def test_nested_outputs_are_taken_in_order(write_torchscript: Any, tmp_path: Path) -> None:
    class Nested(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
            return images[:, :1], (images[:, 1:], images[:, :2] * 2)

    info = tiny_info().replace(outputs=("a", "b", "c"))
    session = TorchScriptBackend().open(write_torchscript(tmp_path / "m.torchscript", info, module=Nested()), CPU)
    assert [output.shape[1] for output in session.run(noise_images((1, 3, 64, 96)))] == [1, 2, 2]


def test_other_outputs_than_promised_are_reported(write_torchscript: Any, tmp_path: Path) -> None:
    info = tiny_info().replace(outputs=("output0",))
    session = TorchScriptBackend().open(write_torchscript(tmp_path / "m.torchscript", info), CPU)
    with pytest.raises(ModelError, match="gave 2 outputs"):
        session.run(noise_images((1, 3, 64, 96)))


def test_file_without_metadata_is_reported(write_torchscript: Any, tmp_path: Path) -> None:
    artifact = write_torchscript(tmp_path / "m.torchscript", tiny_info(), {})
    with pytest.raises(ModelError, match="carries no metadata") as refusal:
        TorchScriptBackend().read_info(artifact)
    assert sidecar.sidecar_path(artifact.path).name in refusal.value.hint


def test_metadata_beside_the_file_are_taken(write_torchscript: Any, tmp_path: Path) -> None:
    artifact = write_torchscript(tmp_path / "m.torchscript", tiny_info(), {})
    sidecar.write(artifact.path, tiny_info())
    assert TorchScriptBackend().read_info(artifact) == tiny_info()


@pytest.mark.parametrize("metadata", ["text", ["a"], {"task": "segment", "names": "__import__('os')"}])
def test_broken_metadata_are_reported(write_torchscript: Any, tmp_path: Path, metadata: Any) -> None:
    artifact = write_torchscript(tmp_path / "m.torchscript", tiny_info(), metadata)
    with pytest.raises(ModelError, match=r"m\.torchscript"):
        TorchScriptBackend().read_info(artifact)


def test_whatever_bytes_are_changed_it_is_read_or_refused_in_one_line(write_torchscript: Any, tmp_path: Path) -> None:
    artifact = write_torchscript(tmp_path / "m.torchscript", tiny_info())
    whole, chance = artifact.path.read_bytes(), random.Random(5)
    config = whole.index(b"extra/config.txt")
    refused = 0
    for number in range(400):
        changed = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            places = (0, 200), (config - 60, config + 900), (len(whole) - 1500, len(whole))
            changed[chance.randrange(*chance.choice(places))] = chance.randrange(256)
        artifact.path.write_bytes(changed[: chance.randrange(len(whole))] if number % 10 == 0 else changed)
        try:
            TorchScriptBackend().read_info(artifact)
        except ModelError as error:
            refused += "\n" not in error.message
    assert refused > 100


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.torchscript")
    with pytest.raises(ModelError, match="not a regular file"):
        TorchScriptBackend().read_info(Artifact(path=tmp_path / "m.torchscript", format="torchscript"))


@pytest.mark.parametrize(("said", "precision"), [({"half": True}, "fp16"), ({"quantize": 16}, "fp16"), ({}, "fp32")])
def test_what_other_tools_say_in_args(write_torchscript: Any, tmp_path: Path, said: Any, precision: str) -> None:
    metadata = {"task": "segment", "names": {"0": "a"}, "stride": 32, "args": {**said, "dynamic": True}}
    info = TorchScriptBackend().read_info(write_torchscript(tmp_path / "m.torchscript", tiny_info(), metadata))
    assert (info.precision, info.dynamic) == (precision, {"batch", "height", "width"})


def test_checkpoint_under_this_suffix_is_reported(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(3)}, tmp_path / "m.torchscript")
    with pytest.raises(ModelError, match="not a TorchScript model") as refusal:
        TorchScriptBackend().read_info(Artifact(path=tmp_path / "m.torchscript", format="torchscript"))
    assert ".pt" in refusal.value.hint


def test_metadata_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.torchscript"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/constants.pkl", b"x")
        archive.writestr("m/extra/config.txt", b" " * (5 << 20))
    path.write_bytes(buffer.getvalue())
    with pytest.raises(ModelError, match="more than they can need"):
        TorchScriptBackend().read_info(Artifact(path=path, format="torchscript"))


def test_half_precision_is_the_files_own(write_torchscript: Any, tmp_path: Path) -> None:
    full = write_torchscript(tmp_path / "full.torchscript", tiny_info())
    with pytest.raises(UsageError, match="holds fp32 numbers") as refusal:
        TorchScriptBackend().open(full, SessionOptions(device="cpu", half=True))
    assert "half=True" in refusal.value.hint
    half = write_torchscript(tmp_path / "half.torchscript", tiny_info().replace(precision="fp16"))
    with pytest.raises(UsageError, match="on a GPU only"):
        TorchScriptBackend().open(half, CPU)


def test_outputs_of_half_models_are_float(write_torchscript: Any, tmp_path: Path) -> None:
    session = TorchScriptBackend().open(write_torchscript(tmp_path / "m.torchscript", tiny_info()), CPU)
    assert {output.dtype for output in session.run(noise_images((1, 3, 64, 96)))} == {np.dtype(np.float32)}


def test_that_the_file_is_a_program_is_said_where_it_is_opened(
    write_torchscript: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_torchscript(tmp_path / "tiny.torchscript", tiny_info()).path
    model = YOLO(path)
    model._sessions.get(SessionOptions())
    assert f"{path} is a program that can read and write files" in caplog.text
    assert get_registry().backend_for("torchscript").caution


TORCHVISION = """
import torch
library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.impl("nms", lambda dets, scores, iou_threshold: torch.arange(len(dets)), "CPU")
"""


def test_a_file_that_suppresses_by_an_operator_of_torchvision(tmp_path: Path) -> None:
    """As the incumbent's do with ``nms=True``; who opens one has not imported torchvision, which stands in here."""
    (tmp_path / "torchvision.py").write_text(TORCHVISION)
    code = """
        import json, pathlib, sys, torch
        from segx.artifact import Artifact
        from segx.errors import ModelError
        from segx.options.verbs import SessionOptions
        from segx.testing.scenes import noise_images
        from segx_backend_torchscript.backend import TorchScriptBackend

        class Suppressing(torch.nn.Module):
            def forward(self, images):
                kept = torch.ops.torchvision.nms(images[0, 0, :8, :4], images[0, 0, :8, 5], 0.5)
                return images[:, 0, kept, :38], images

        folder, metadata = pathlib.Path(sys.argv[1]), sys.argv[2]
        sys.path.insert(0, str(folder))
        import torchvision
        traced = torch.jit.trace(Suppressing(), torch.rand(1, 3, 64, 96), check_trace=False)
        traced.save(str(folder / "m.torchscript"), _extra_files={"config.txt": metadata})
        torchvision.library._destroy()
        artifact = Artifact(path=folder / "m.torchscript", format="torchscript")
        sys.modules["torchvision"] = None
        try:
            TorchScriptBackend().open(artifact, SessionOptions(device="cpu"))
        except ModelError as error:
            said = [error.message, error.hint]
        del sys.modules["torchvision"]
        session = TorchScriptBackend().open(artifact, SessionOptions(device="cpu"))
        print(json.dumps([said, len(session.run(noise_images((1, 3, 64, 96))))]))
    """
    metadata = json.dumps({**FOREIGN, "args": {"nms": True}})
    (message, hint), outputs = run_fresh(code, str(tmp_path), metadata, warnings="ignore")
    assert "uses an operator of torchvision, which is not installed" in message
    assert "pip install torchvision" in hint
    assert outputs == 2


def test_code_that_relies_on_how_numbers_lie_runs(write_torchscript: Any, tmp_path: Path) -> None:
    """``view`` over channels and pixels wants them as they were traced; channels last is a wish, not the file's."""

    class Flat(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 4, 3)
            self.register_buffer("grid", torch.ones(1, 1, 2, 2, 2))  # of five axes, as anchors are in some files

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            found = self.layer(images) * self.grid.mean()
            return found.view(found.shape[0], -1)

    module, images = Flat().eval(), noise_images((1, 3, 64, 96))
    info = tiny_info().replace(outputs=("flat",))
    session = TorchScriptBackend().open(write_torchscript(tmp_path / "m.torchscript", info, module=module), CPU)
    with torch.inference_mode():
        wanted = module(torch.from_numpy(images)).numpy()
    for given in (images, np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)):
        np.testing.assert_allclose(session.run(given)[0], wanted, atol=1e-5)
    assert not session.channels_last  # type: ignore[attr-defined]
