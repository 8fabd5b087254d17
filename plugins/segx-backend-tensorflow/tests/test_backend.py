"""What is special to TensorFlow's files: headers read without it, damage, and files that other tools wrote."""

from __future__ import annotations

import json
import random
import shutil
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import yaml

from segx.artifact import Artifact
from segx.errors import ModelError, UsageError
from segx.io import sidecar
from segx.options.verbs import SessionOptions
from segx.plugin.registry import get_registry
from segx.testing.interpreter import run_fresh
from segx.testing.models import export_file, tiny_info, tiny_module
from segx_backend_tensorflow.protobuf import read_graph, read_saved_model

if TYPE_CHECKING:
    from pathlib import Path

    from segx.plugin.interfaces import Backend

CPU = SessionOptions(device="cpu")
FOREIGN = {
    "description": "somebody's model",
    "author": "somebody",
    "stride": 32,
    "task": "segment",
    "batch": 1,
    "imgsz": [64, 96],
    "names": {0: "person", 1: "it's a dog", 2: "cat"},
}

WRITE_FOREIGN = """
import json, os, sys
os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", KERAS_HOME=os.devnull + "/keras")
from pathlib import Path
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
folder = Path(sys.argv[1])
class Model(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec((1, 64, 96, 3), tf.float32, "x")], autograph=False)
    def serve(self, x):
        maps = tf.tile(x[:, ::4, ::4], (1, 1, 1, 11))[..., :32]
        rows = tf.reshape(tf.transpose(x[:, ::8, ::8, :1], (0, 3, 1, 2)), (1, 1, 96))
        return {"zz_flat": tf.tile(rows, (1, 39, 1)), "aa_maps": maps}
model = Model()
function = model.serve.get_concrete_function()
tf.saved_model.save(model, str(folder / "other_saved_model"), signatures=function)
frozen = convert_variables_to_constants_v2(function)
(folder / "other.pb").write_bytes(frozen.graph.as_graph_def().SerializeToString())
print(json.dumps("written"))
"""


@pytest.fixture(scope="module")
def backend() -> Backend:
    loaded: Backend = get_registry().backends.load("tensorflow")
    return loaded


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A frozen graph with the info beside it."""
    artifact, _ = export_file("pb", tmp_path_factory.mktemp("pb"), tiny_module(tiny_info()))
    return artifact.path


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files as another tool might write them: other names, and metadata of its own."""
    folder = tmp_path_factory.mktemp("foreign")
    assert run_fresh(WRITE_FOREIGN, str(folder), warnings="default") == "written"
    (folder / "other_saved_model" / "metadata.yaml").write_text(yaml.safe_dump(FOREIGN))
    (folder / "other.pb.segx.json").write_text(json.dumps(FOREIGN))
    return folder


def test_header_of_a_graph(graph: Path) -> None:
    header = read_graph(graph)
    assert (header.input, header.shape, header.outputs) == ("x", (1, 64, 96, 3), ("output0", "output1"))


@pytest.mark.parametrize("kind", ["saved_model", "pb"])
def test_who_opens_a_strangers_file_is_warned(kind: str) -> None:
    """An operation of TensorFlow's writes any file; nothing keeps it from that."""
    assert "can read and write files" in get_registry().backend_for(kind).caution


def test_no_file_of_this_process_is_tensorflow(backend: Backend, graph: Path) -> None:
    backend.read_info(Artifact(path=graph, format="pb"))
    session = backend.open(Artifact(path=graph, format="pb"), CPU)
    session.run(np.zeros((1, 3, 64, 96), np.float32))
    session.close()
    assert "tensorflow" not in sys.modules


def test_every_cut_of_a_graph_is_reported_as_damage(backend: Backend, graph: Path, tmp_path: Path) -> None:
    whole, cut = graph.read_bytes(), tmp_path / "cut.pb"
    shutil.copy(sidecar.sidecar_path(graph), sidecar.sidecar_path(cut))
    for length in [0, *range(1, len(whole), 211)]:
        cut.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"cut\.pb"):
            backend.read_info(Artifact(path=cut, format="pb"))


def test_whatever_bytes_are_changed_it_is_read_or_refused_in_one_line(
    backend: Backend, graph: Path, tmp_path: Path
) -> None:
    whole, chance, path = graph.read_bytes(), random.Random(5), tmp_path / "m.pb"
    shutil.copy(sidecar.sidecar_path(graph), sidecar.sidecar_path(path))
    refused = 0
    for _ in range(300):
        changed = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            changed[chance.randrange(600)] = chance.randrange(256)
        path.write_bytes(changed)
        try:
            backend.read_info(Artifact(path=path, format="pb"))
        except ModelError as error:
            refused += "\n" not in error.message
    assert refused > 100


@pytest.mark.parametrize("content", [b"\xff\xd8\xff\xe0 a JPEG", b"PK\x03\x04 a zip", b"\x00" * 64, b"{}"])
def test_other_files_are_no_models(backend: Backend, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.pb"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="damaged or no TensorFlow model"):
        backend.read_info(Artifact(path=path, format="pb"))


def test_folder_that_is_no_saved_model(backend: Backend, tmp_path: Path) -> None:
    folder = tmp_path / "m_saved_model"
    folder.mkdir()
    with pytest.raises(ModelError, match="m_saved_model"):
        backend.read_info(Artifact(path=folder, format="saved_model"))


def test_graph_without_what_lay_beside_it(backend: Backend, graph: Path, tmp_path: Path) -> None:
    path = tmp_path / "alone.pb"
    shutil.copy(graph, path)
    with pytest.raises(ModelError, match="carries no metadata") as refusal:
        backend.read_info(Artifact(path=path, format="pb"))
    assert "alone.pb.segx.json" in refusal.value.hint


def test_graph_is_described_by_the_saved_model_of_its_name(
    backend: Backend, graph: Path, foreign: Path, tmp_path: Path
) -> None:
    shutil.copy(graph, tmp_path / "other.pb")
    shutil.copytree(foreign / "other_saved_model", tmp_path / "other_saved_model")
    assert dict(backend.read_info(Artifact(path=tmp_path / "other.pb", format="pb")).names) == FOREIGN["names"]
    shutil.copy(sidecar.sidecar_path(graph), sidecar.sidecar_path(tmp_path / "other.pb"))
    assert backend.read_info(Artifact(path=tmp_path / "other.pb", format="pb")).names == tiny_info().names


def test_half_of_a_full_precision_file_is_refused(backend: Backend, graph: Path) -> None:
    with pytest.raises(UsageError, match="half=True"):
        backend.open(Artifact(path=graph, format="pb"), SessionOptions(device="cpu", half=True))


def test_header_of_a_folder_of_another_tool(foreign: Path) -> None:
    header = read_saved_model(foreign / "other_saved_model" / "saved_model.pb")
    assert (header.input, header.shape, header.outputs) == ("x", (1, 64, 96, 3), ("aa_maps", "zz_flat"))


@pytest.mark.parametrize(("name", "kind"), [("other_saved_model", "saved_model"), ("other.pb", "pb")])
def test_file_of_another_tool_opens(backend: Backend, foreign: Path, name: str, kind: str) -> None:
    session = backend.open(Artifact(path=foreign / name, format=kind), CPU)
    assert session.info.names == {0: "person", 1: "it's a dog", 2: "cat"}
    assert (session.info.imgsz, session.info.dynamic) == ((64, 96), frozenset())
    images = np.random.default_rng(0).random((1, 3, 64, 96), dtype=np.float32)
    flat, maps = (np.asarray(output) for output in session.run(images))
    np.testing.assert_allclose(flat, np.tile(images[:, :1, ::8, ::8].reshape(1, 1, 96), (1, 39, 1)), rtol=1e-6)
    np.testing.assert_allclose(maps, np.tile(images[:, :, ::4, ::4], (1, 11, 1, 1))[:, :32], rtol=1e-6)
    with pytest.raises(ModelError, match="takes images 1x3x64x96, got 1x3x96x96"):
        session.run(np.zeros((1, 3, 96, 96), np.float32))
    session.close()


def test_other_outputs_than_promised_are_reported(backend: Backend, foreign: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other_saved_model"
    shutil.copytree(foreign / "other_saved_model", folder)
    info: dict[str, Any] = tiny_info().replace(outputs=("a", "b", "c")).to_metadata()
    (folder / "metadata.yaml").write_text(yaml.safe_dump(info))
    with pytest.raises(ModelError, match="gives aa_maps, zz_flat; its metadata name a, b, c"):
        backend.open(Artifact(path=folder, format="saved_model"), CPU)
