"""What is special to folders for TensorFlow.js: how weights are stored, the page beside them, and use without segx."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segx.artifact import Artifact
from segx.flows.export import export
from segx.testing.models import export_file, real_module, tiny_info
from segx_tfjs import runtime

ROOT = Path(__file__).parents[3]
BYTES = {"float32": 4, "int32": 4, "bool": 1, "float16": 2, "uint8": 1}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    artifact, _ = export_file("onnx", tmp_path_factory.mktemp("source"), real_module(tiny_info()))
    return artifact.path


@pytest.fixture(scope="module")
def made(source: Path) -> dict[str, Path]:
    """Folders in each precision, not run: these tests look at files."""
    options: dict[str, dict[str, Any]] = {"fp32": {}, "fp16": {"half": True}, "int8": {"int8": True}}
    artifact = Artifact(path=source, format="onnx")
    return {name: export(artifact, "tfjs", {"verify": False, **one}).path for name, one in options.items()}


def weights(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Return the weights as TensorFlow.js reads them."""
    (group,) = json.loads((folder / "model.json").read_text())["weightsManifest"]
    data, at, found = b"".join((folder / name).read_bytes() for name in group["paths"]), 0, {}
    for entry in group["weights"]:
        stored = entry.get("quantization", {"dtype": entry["dtype"]})
        count = int(np.prod(entry["shape"], dtype=np.int64))
        value = np.frombuffer(data, stored["dtype"], count, at).reshape(entry["shape"])
        at += count * BYTES[stored["dtype"]]
        found[entry["name"]] = value * stored["scale"] + stored["min"] if "scale" in stored else value
    assert at == len(data)
    return found


def test_signature_and_names_are_in_the_model(made: dict[str, Path]) -> None:
    document = json.loads((made["fp32"] / "model.json").read_text())
    (images,) = document["signature"]["inputs"].values()
    assert [int(axis["size"]) for axis in images["tensorShape"]["dim"]] == [1, 64, 96, 3]
    assert list(document["signature"]["outputs"]) == ["output0", "output1"]
    assert dict(document["userDefinedMetadata"]["names"]) == tiny_info().names
    operators = {node["op"] for node in document["modelTopology"]["node"]}
    assert "_FusedConv2D" in operators
    assert "BiasAdd" not in {
        node["op"]
        for node in document["modelTopology"]["node"]
        if any("Conv2D" in source and "Backprop" not in source for source in node.get("input", [])[:1])
    }


def test_weights_are_stored_as_asked(made: dict[str, Path]) -> None:
    exact, half, eighth = (weights(made[precision]) for precision in ("fp32", "fp16", "int8"))
    size = {name: sum(file.stat().st_size for file in folder.glob("*.bin")) for name, folder in made.items()}
    assert size["fp16"] < 0.55 * size["fp32"]
    assert size["int8"] < 0.35 * size["fp32"]
    kernels = 0
    for name, value in exact.items():
        np.testing.assert_allclose(half[name], value, rtol=1e-3, atol=1e-6)
        if f"{name}/scale" in eighth:
            scale = eighth[f"{name}/scale"].astype(np.float32)
            assert (np.abs(eighth[name] * scale - value) <= scale * (2 / 255) * 0.51 + 1e-6 + scale * 1e-3).all(), name
            kernels += 1
    assert kernels > 10


def test_page_lies_beside_the_model(made: dict[str, Path]) -> None:
    folder = made["fp32"]
    assert {"index.html", "page.js", "segment.js", "style.css"} <= {item.name for item in folder.iterdir()}
    if runtime.for_a_page() is not None:
        assert {"tf.min.js", "tf-backend-wasm.min.js", "LICENSE"} <= {item.name for item in (folder / "tfjs").iterdir()}


def test_page_asks_for_nothing_outside_its_folder(made: dict[str, Path]) -> None:
    for name in ("index.html", "page.js", "segment.js", "style.css"):
        found = re.findall(r"https?://[^\s\"'<`]+", (made["fp32"] / name).read_text())
        assert set(found) <= {"http://localhost:8000"}, name


def test_nothing_of_this_machine_is_in_the_folder(made: dict[str, Path]) -> None:
    files = [*made["fp32"].glob("*.json"), *made["fp32"].glob("*.yaml"), *made["fp32"].glob("*.bin")]
    content = b"".join(file.read_bytes() for file in files)
    for text in {str(ROOT), sys.prefix, str(made["fp32"].parent), "site-packages", "Traceback"}:
        assert text.encode() not in content, text


def test_snippet_of_the_page_runs_without_segx(made: dict[str, Path], tmp_path: Path) -> None:
    if shutil.which("node") is None or runtime.problem():
        pytest.skip(f"tfjs {runtime.problem()}")
    text = (ROOT / "docs" / "reference" / "formats" / "tfjs.md").read_text(encoding="utf-8")
    (snippet,) = [block for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) if "run.cjs" in block]
    shutil.copytree(made["fp32"], tmp_path / "yolov8n-seg_web_model")
    environment = {**os.environ, "NODE_PATH": str(runtime.modules())}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", snippet],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "[ 1, 16, 24, 32 ]" in done.stdout
