"""What is special to SavedModel: from an .onnx file without torch, over itself, and for Keras."""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnxruntime
import pytest

from segx.artifact import Artifact
from segx.errors import ExportError
from segx.flows.export import export
from segx.testing.interpreter import run_fresh
from segx.testing.models import export_file, real_module, tiny_info

if TYPE_CHECKING:
    from segx.flows.export import ExportResult

WITHOUT_TORCH = """
import json, sys
from pathlib import Path
sys.modules["torch"] = None
from segx.artifact import Artifact
from segx.flows.export import export
made = export(Artifact(path=Path(sys.argv[1]), format="onnx"), "saved_model", {"keras": True})
print(json.dumps({"path": str(made), "matched": made.parity is not None and made.parity.matched}))
"""

RUN_KERAS = """
import json, os, sys
os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", KERAS_HOME=os.devnull + "/keras")
import keras, numpy as np
model = keras.saving.load_model(sys.argv[1])
found = {name: np.asarray(value) for name, value in model(np.load(sys.argv[2])).items()}
np.savez(sys.argv[3], **found)
print(json.dumps(type(model).__module__))
"""

AS_OTHERS_CALL_IT = """
import json, os, sys
os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", KERAS_HOME=os.devnull + "/keras")
import tensorflow as tf
model = tf.saved_model.load(sys.argv[1])
images = tf.random.uniform((1, 64, 96, 3))
named = model.signatures["serving_default"](images=images)
same = [bool(tf.reduce_all(named[name] == output)) for name, output in
        zip(("output0", "output1"), model.serving_default(images), strict=True)]
print(json.dumps(same))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    artifact, _ = export_file("onnx", tmp_path_factory.mktemp("source"), real_module(tiny_info()))
    return artifact.path


@pytest.fixture(scope="module")
def folder(source: Path) -> Path:
    said = run_fresh(WITHOUT_TORCH, str(source), warnings="default")
    assert said["matched"] is not False
    return Path(said["path"])


def test_is_made_of_an_onnx_file_without_torch(folder: Path) -> None:
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert files == [
        *("fingerprint.pb", "metadata.yaml", "model.keras", "saved_model.pb"),
        *("variables/variables.data-00000-of-00001", "variables/variables.index"),
    ]


def test_the_model_itself_is_called_as_its_signature_is(folder: Path) -> None:
    """Other tools do, and take the outputs by their order."""
    assert run_fresh(AS_OTHERS_CALL_IT, str(folder), warnings="default") == [True, True]


def test_nothing_of_this_machine_is_in_the_files(folder: Path) -> None:
    private = {str(Path(__file__).parents[3]), sys.prefix, str(folder.parent), "site-packages", "Traceback"}
    for file in (path for path in folder.rglob("*") if path.is_file()):
        content = file.read_bytes()
        if file.suffix == ".keras":
            with zipfile.ZipFile(file) as archive:
                content += b"".join(archive.read(name) for name in archive.namelist())
        for text in private:
            assert text.encode() not in content, f"{text} in {file.name}"


def test_keras_loads_its_file_and_says_the_same(folder: Path, source: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((1, 3, 64, 96), dtype=np.float32)
    np.save(tmp_path / "images.npy", images.transpose(0, 2, 3, 1))
    arguments = (str(folder / "model.keras"), str(tmp_path / "images.npy"), str(tmp_path / "found.npz"))
    assert run_fresh(RUN_KERAS, *arguments, warnings="default").startswith("keras.")
    found = np.load(tmp_path / "found.npz")
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    flat, maps = session.run(["output0", "output1"], {"images": images})
    np.testing.assert_allclose(found["output0"], flat, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["output1"].transpose(0, 3, 1, 2), maps, rtol=1e-4, atol=1e-4)


def test_an_export_over_it_leaves_nothing_of_the_old_one(folder: Path, source: Path) -> None:
    made: ExportResult = export(Artifact(path=source, format="onnx"), "saved_model")
    assert made.path == folder
    assert made.parity is not None
    assert not (folder / "model.keras").exists()
    assert set(made.info.versions) >= {"segx", "tensorflow"}


def test_operators_without_translation_are_named(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [
            helper.make_node("Einsum", ["images"], ["output0"], equation="nchw->nch"),
            helper.make_node("Sin", ["images"], ["output1"]),
        ],
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, (1, 3, 64, 96))],
        [helper.make_tensor_value_info(f"output{i}", TensorProto.FLOAT, None) for i in (0, 1)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, tiny_info().to_metadata())
    path = tmp_path / "odd.onnx"
    onnx.save(model, path)
    with pytest.raises(ExportError, match="no translation of the operators Einsum, Sin"):
        export(Artifact(path=path, format="onnx"), "saved_model")
    assert [item.name for item in tmp_path.iterdir()] == ["odd.onnx"]


def test_metadata_are_what_other_tools_read(folder: Path) -> None:
    import yaml

    metadata = yaml.safe_load((folder / "metadata.yaml").read_text())
    assert (metadata["task"], metadata["stride"], metadata["batch"]) == ("segment", 32, 1)
    assert list(metadata["imgsz"]) == [64, 96]
    assert json.dumps(metadata["names"])
