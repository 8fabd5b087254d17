"""What is special to Core ML: types of inputs, outputs and weights, suppression in the package, what is embedded."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from segx.artifact import Artifact
from segx.errors import ExportError, UsageError
from segx.flows.export import check
from segx.ops.nms import nms
from segx.options.verbs import SessionOptions
from segx.plugin.registry import get_registry
from segx.testing.interpreter import run_fresh
from segx.testing.models import export_file, export_with, tiny_info, tiny_module
from segx.testing.scenes import noise_images
from segx_export_coreml.exporter import CoreMLExporter
from segx_export_coreml.options import CoreMLOptions

if TYPE_CHECKING:
    from collections.abc import Callable

pytest.importorskip("torch")

SHAPE = (1, 3, 64, 96)
OPTIONS = {"fp32": {}, "fp16": {"half": True}, "int8": {"int8": True}}

_LOOK = """
    import json, sys
    sys.modules["tensorflow"] = None
    import coremltools
    spec = coremltools.utils.load_spec(sys.argv[1])
    main = spec.mlProgram.functions["main"]
    operations = main.block_specializations[main.opset].operations
    kinds = {10: "fp16", 11: "fp32"}
    def name(feature):
        return [feature.name, list(feature.type.multiArrayType.shape), feature.type.multiArrayType.dataType]
    print(json.dumps({
        "version": spec.specificationVersion,
        "inputs": [name(feature) for feature in spec.description.input],
        "outputs": [name(feature) for feature in spec.description.output],
        "metadata": dict(spec.description.metadata.userDefined),
        "about": spec.description.metadata.shortDescription,
        "operations": [[op.type, kinds.get(op.outputs[0].type.tensorType.dataType, "")] for op in operations],
    }))
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Artifact]:
    """The tiny model in each precision, written once."""
    made: dict[str, Artifact] = {}

    def get(precision: str) -> Artifact:
        if precision not in made:
            folder = tmp_path_factory.mktemp(precision)
            made[precision], _ = export_file("coreml", folder, tiny_module(tiny_info()), **OPTIONS[precision])
        return made[precision]

    return get


def look(path: Path) -> Any:
    """Return what coremltools itself reads."""
    return run_fresh(_LOOK, str(path), warnings="ignore")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_what_coremltools_reads(package: Any, precision: str) -> None:
    """In every precision what goes in and comes out is float32, and the arithmetic is what was asked for."""
    seen, float32 = look(package(precision).path), 65568
    assert seen["inputs"] == [["images", [1, 3, 64, 96], float32]]
    assert seen["outputs"] == [["output0", [1, 39, 6], float32], ["output1", [1, 32, 16, 24], float32]]
    convolutions = {kind for name, kind in seen["operations"] if name == "conv"}
    assert convolutions == {"fp32" if precision == "fp32" else "fp16"}
    behind = {kind for name, kind in seen["operations"] if name in {"exp", "sigmoid"}}
    assert behind == {"fp32"}, "boxes are not formed in 16 bits"
    small = [kind for name, kind in seen["operations"] if name == "constexpr_affine_dequantize"]
    assert len(small) == (2 if precision == "int8" else 0), "of four layers the two with more than 512 weights"


def test_what_other_tools_need_is_embedded(package: Any) -> None:
    seen = look(package("fp32").path)
    assert seen["version"] == 7, "iOS 16, macOS 13"
    assert seen["metadata"]["task"] == "segment"
    assert seen["metadata"]["stride"] == "32"
    assert seen["metadata"]["names"] == str(dict(tiny_info().names))
    assert "tiny-seg" in seen["about"]


def test_nothing_of_this_machine_is_in_the_package(package: Any) -> None:
    repository = str(Path(__file__).parents[3]).encode()
    files = [file for file in package("fp32").path.rglob("*") if file.is_file()]
    assert len(files) == 4
    for file in files:
        assert repository not in file.read_bytes(), file
        assert b"site-packages" not in file.read_bytes(), file
        assert os.fsencode(os.environ.get("TMPDIR", "/tmp")) not in file.read_bytes(), file


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_whoever_may_read_new_files_may_read_it(package: Any, tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    usual = stat.S_IMODE((tmp_path / "new").stat().st_mode)
    files = [file for file in (package("fp32").path / "Data").rglob("*") if file.is_file()]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {usual}


def test_sizes(package: Any) -> None:
    weights = {p: package(p).path / "Data/com.apple.CoreML/weights/weight.bin" for p in OPTIONS}
    full, half, small = (weights[p].stat().st_size for p in OPTIONS)
    assert half < 0.6 * full
    assert small < 0.75 * half


@pytest.mark.parametrize("batch", [1, 2])
def test_suppression_in_the_package_is_ours(batch: int, tmp_path: Path) -> None:
    """Rows are the objects that our own suppression keeps of the same model's boxes, classes apart."""
    settings = {"batch": batch, "conf": 0.3, "iou": 0.2, "max_det": 5}
    module = tiny_module(tiny_info(batch=batch))
    (tmp_path / "plain").mkdir()
    plain, _ = export_file("coreml", tmp_path / "plain", module, batch=batch)
    info = module.info.replace(
        head="yolov8-seg-final/1",
        outputs=("detections", "prototypes"),
        decoding={"conf": 0.3, "iou": 0.2, "max_det": 5},
    )
    path = tmp_path / "final.mlpackage"
    info = export_with(CoreMLExporter(), module, info, CoreMLOptions(nms=True, **settings), path)
    images = np.concatenate([noise_images(SHAPE, seed=seed) for seed in range(batch)])
    rows, prototypes = _run(path, images)
    found, wanted_prototypes = _run(plain.path, images)
    assert rows.shape == (batch, 5, 6 + 32)
    np.testing.assert_array_equal(prototypes, wanted_prototypes)
    for got, wanted in zip(rows, found, strict=True):
        boxes, scores, coefficients = np.split(wanted.T, (4, 4 + len(info.names)), axis=1)
        corners = np.concatenate((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), 1)
        high = np.flatnonzero(scores.max(1) > 0.3)
        kinds = scores.argmax(1)
        kept = high[nms(corners[high], scores.max(1)[high], kinds[high], iou=0.2, max_det=5)]
        assert len(kept) >= 2
        expected = np.concatenate((corners, scores.max(1)[:, None], kinds[:, None], coefficients), 1)[kept]
        np.testing.assert_allclose(got[: len(kept)], expected, rtol=1e-4, atol=1e-4)
        assert not got[len(kept) :].any()


def _run(path: Path, images: Any) -> Any:
    registry = get_registry()
    backend = registry.backends.load(registry.backend_for("coreml"))
    session = backend.open(Artifact(path=path, format="coreml"), SessionOptions(device="cpu"))
    try:
        return session.run(images)
    finally:
        session.close()


def test_core_plans_suppression() -> None:
    info = tiny_info()
    check(info, "coreml", {"nms": True, "conf": 0.5})
    with pytest.raises(UsageError, match=r"conf=0\.5"):
        check(info, "coreml", {"conf": 0.5})
    with pytest.raises(UsageError, match="dynamic"):
        check(info, "coreml", {"dynamic": True})


def test_what_coremltools_cannot_convert_is_told(tmp_path: Path) -> None:
    """In one line that names it; nothing half-written stays."""
    import torch

    class Strange(torch.nn.Module):
        def forward(self, images: Any) -> tuple[Any, Any]:
            return torch.special.i0(images), images

    module = tiny_module(tiny_info())
    module.module.forward = Strange().forward
    path = tmp_path / "m.mlpackage"
    with pytest.raises(ExportError, match="i0") as refusal:
        export_with(CoreMLExporter(), module, module.info, CoreMLOptions(), path)
    assert "\n" not in refusal.value.message
    assert not list(tmp_path.iterdir())


def test_nothing_is_printed_and_no_coremltools_comes_in(tmp_path: Path) -> None:
    code = """
        import json, sys
        from pathlib import Path
        from segx.testing.models import export_file, tiny_info, tiny_module
        export_file("coreml", Path(sys.argv[1]), tiny_module(tiny_info()))
        print(json.dumps([name for name in ("coremltools", "tensorflow") if name in sys.modules]))
    """
    assert run_fresh(code, str(tmp_path)) == []
