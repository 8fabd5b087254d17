"""What is special to TensorFlow.js: folders that are damaged or another tool's, and processes that end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

from segx.artifact import Artifact
from segx.errors import ModelError, UsageError
from segx.options.verbs import SessionOptions
from segx.plugin.registry import get_registry
from segx.testing.models import export_file, tiny_info, tiny_module
from segx.testing.scenes import noise_images
from segx_tfjs.runtime import VARIABLE, problem

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from segx.plugin.interfaces import Backend

CPU = SessionOptions(device="cpu")


@pytest.fixture(scope="module")
def backend() -> Backend:
    from segx_backend_tfjs.backend import TfjsBackend

    return TfjsBackend()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tfjs")
    return export_file("tfjs", place, tiny_module(tiny_info()))[0].path


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Artifact:
    """The folder, to be damaged; what lies in it is not listed, as in those of other tools."""
    path = tmp_path / "m_web_model"
    shutil.copytree(folder, path)
    metadata = yaml.safe_load((path / "metadata.yaml").read_text())
    metadata.get("segx", {}).pop("files", None)
    (path / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    return Artifact(path=path, format="tfjs")


def _set_shape(document: dict[str, Any], shape: list[Any]) -> None:
    document["weightsManifest"][0]["weights"][0]["shape"] = shape


@pytest.fixture
def runs() -> None:
    if problem():
        pytest.skip(f"tfjs {problem()}")


def changed(artifact: Artifact, change: Callable[[dict[str, Any]], object]) -> Artifact:
    path = artifact.path / "model.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return Artifact(path=artifact.path, format="tfjs")


def test_info_is_read_without_node(
    backend: Backend, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    info = backend.read_info(Artifact(path=folder, format="tfjs"))
    assert (info.imgsz, info.batch, info.dynamic) == ((64, 96), 1, frozenset())


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    registry = get_registry()
    (spec,) = [spec for spec in registry.backends.specs if spec.name == "tfjs"]
    assert spec.problem()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "Node.js" in spec.problem()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda document: document.update(format="layers-model"), "layers-model"),
        (
            lambda document: document["signature"]["inputs"].clear() or document["modelTopology"]["node"].clear(),
            "0 inputs",
        ),
        (lambda document: document["weightsManifest"][0]["paths"].append("more.bin"), "more.bin|cannot be read"),
        (lambda document: document["weightsManifest"][0].update(paths=["../elsewhere.bin"]), "no file of the folder"),
        (lambda document: document["weightsManifest"][0]["weights"].pop(), "bytes of weights"),
        (lambda document: _set_shape(document, ["x" * 1000, 10**10]), "the shape of .* is none"),
        (lambda document: _set_shape(document, [10**400] * 2000), "the shape of .* is none"),
        (lambda document: _set_shape(document, [-1]), "the shape of .* is none"),
        (lambda document: document.pop("weightsManifest"), "damaged"),
    ],
)
def test_damage_is_reported(backend: Backend, copy: Artifact, change: Any, said: str) -> None:
    with pytest.raises(ModelError, match=said) as refusal:
        backend.read_info(changed(copy, change))
    assert "m_web_model" in refusal.value.message
    assert "\n" not in refusal.value.message


def test_weights_cut_short_are_reported(backend: Backend, copy: Artifact) -> None:
    shard = next(copy.path.glob("*.bin"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ModelError, match="bytes of weights"):
        backend.read_info(copy)


@pytest.mark.usefixtures("runs")
def test_other_names_and_order_of_outputs(backend: Backend, copy: Artifact) -> None:
    wanted = backend.open(copy, CPU)
    images = noise_images((1, 3, 64, 96))
    expected = [np.array(output) for output in wanted.run(images)]
    wanted.close()

    def rename(document: dict[str, Any]) -> None:
        outputs = document["signature"]["outputs"]
        document["signature"]["outputs"] = {"Identity": outputs["output1"], "Identity_1": outputs["output0"]}

    session = backend.open(changed(copy, rename), CPU)
    for output, one in zip(session.run(images), expected, strict=True):
        np.testing.assert_array_equal(output, one)
    session.close()


@pytest.mark.usefixtures("runs")
def test_unknown_operator_is_named(backend: Backend, copy: Artifact) -> None:
    def replace(document: dict[str, Any]) -> None:
        node = next(node for node in document["modelTopology"]["node"] if node["op"] == "Sigmoid")
        node["op"] = "NoSuchThing"

    session = backend.open(changed(copy, replace), CPU)
    with pytest.raises(ModelError, match="NoSuchThing"):
        session.run(noise_images((1, 3, 64, 96)))
    session.close()


@pytest.mark.usefixtures("runs")
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_process_that_ends_is_an_error_not_a_wait(backend: Backend, folder: Path) -> None:
    session = backend.open(Artifact(path=folder, format="tfjs"), CPU)
    images = noise_images((1, 3, 64, 96))
    session.run(images)
    (runner,) = session._model._all  # type: ignore[attr-defined]
    os.kill(runner._process.pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(ModelError, match=r"Node\.js has ended"):
            session.run(images)
    session.close()


@pytest.mark.usefixtures("runs")
def test_each_stream_has_a_process_and_closing_ends_them(backend: Backend, folder: Path) -> None:
    session = backend.open(Artifact(path=folder, format="tfjs"), SessionOptions(device="cpu", streams=2))
    processes = [runner._process for runner in session._model._all]  # type: ignore[attr-defined]
    assert len(processes) == 2
    images = noise_images((1, 3, 64, 96))
    threads = [threading.Thread(target=session.run, args=(images,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    session.close()
    assert [process.poll() for process in processes] == [0, 0]


@pytest.mark.usefixtures("runs")
def test_half_of_a_full_precision_file_is_refused(backend: Backend, folder: Path) -> None:
    with pytest.raises(UsageError, match="half=True"):
        backend.open(Artifact(path=folder, format="tfjs"), SessionOptions(device="cpu", half=True))
