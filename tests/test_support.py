"""``scripts/support.py``: what it measures, keeps of earlier figures, and measures again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from segx.testing.models import TINY_YOLOV8

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")


@pytest.fixture
def support(script: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script, as a module that writes into a folder of the test's."""
    module = script("support")
    monkeypatch.setattr(module, "REFERENCE", tmp_path)
    monkeypatch.setattr(module, "FIGURES", tmp_path / "support.json")
    monkeypatch.setattr(module, "take_process", lambda: None)
    return module


def test_a_size_without_weights_is_measured_and_only_its_speeds_again(support: Any, tmp_path: Path) -> None:
    from segx_data_synth.dataset import write_dataset

    write_dataset(tmp_path / "shapes", images=2, val_images=2, imgsz=64)
    data = next((tmp_path / "shapes").glob("*.yaml"))
    (tmp_path / "tinyn-seg.yaml").write_text(TINY_YOLOV8.replace("nc: 3", "nc: 6"))
    kept = tmp_path / "kept"
    kept.mkdir()
    how = (f"data={data}", "imgsz=64", "most=2", "cold=false")
    support.main([str(tmp_path / "tinyn-seg.yaml"), *how, "formats=pt,torchscript", f"keep={kept}"])
    first = json.loads(support.FIGURES.read_text())["tinyn-seg"]
    assert first["settings"]["weights"] == "random"
    assert {path.name for path in kept.iterdir()} == {"tinyn-seg.pt", "tinyn-seg.torchscript"}

    support.main([str(tmp_path / "tinyn-seg.yaml"), *how, "formats=onnx", f"keep={kept}"])
    second = json.loads(support.FIGURES.read_text())["tinyn-seg"]
    assert [row["format"] for row in second["rows"]] == [*("pt", "torchscript", "torchscript", "onnx", "onnx", "onnx")]
    assert second["rows"][:3] == first["rows"]
    assert second["settings"] == first["settings"]
    assert second["rows"][3]["parity"]["objects"] > 0

    support.main([str(kept / "tinyn-seg.pt"), *how, f"speed={kept}"])
    third = json.loads(support.FIGURES.read_text())["tinyn-seg"]
    for before, after in zip(second["rows"], third["rows"], strict=True):
        changed = {name for name in before if before[name] != after[name]}
        assert changed == ({"latency", "network", "throughput"} if before["state"] == "ok" else set())


def test_weights_are_drawn_into_a_folder_that_is_named(support: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="keep=FOLDER"):
        support.main([str(tmp_path / "tinyn-seg.yaml"), "data=x"])
    assert not support.FIGURES.exists()
