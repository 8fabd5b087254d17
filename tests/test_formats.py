"""The promise that no package can test alone: the same call on every format finds the same objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest

from segx import YOLO
from segx.plugin.registry import get_registry
from segx.testing.models import TINY_YOLOV8
from segx.testing.scenes import draw_scene

if TYPE_CHECKING:
    from pathlib import Path

FORMATS = sorted(get_registry().exporters)
EIGHT_BITS = [kind for kind in FORMATS if get_registry().exporters.get(kind).precisions == ("int8",)]
"""What has no numbers but these. Weights that nobody has trained say less than one step of them, so only a real model
can show that objects stay."""
ON_A_CPU = {"edgetpu": {"compile": False}}
"""Options with which a format that is for other hardware can be run here."""
FIND_ALL = {"conf": 0.0, "max_det": 20, "rect": False, "device": "cpu", "verbose": False}


@pytest.fixture(autouse=True)
def one_thread():
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny model and two images."""
    folder = tmp_path_factory.mktemp("formats")
    (folder / "tinyn-seg.yaml").write_text(TINY_YOLOV8)
    model = YOLO(folder / "tinyn-seg.yaml")
    wake(model._sessions.model("save").module)
    model.save(folder / "tiny.pt")
    for number, shape in enumerate([(64, 96), (90, 60)]):
        cv2.imwrite(str(folder / f"{number}.png"), draw_scene(*shape).image)
    return folder


def wake(module: Any) -> None:
    """Give a new model weights with which its scores differ from anchor to anchor, as a trained one's do."""
    import torch

    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1, generator=generator)
            elif parameter.ndim == 4 and "dfl" not in name:
                parameter.normal_(0, 1.4 / parameter[0].numel() ** 0.5, generator=generator)


def device_of(kind: str) -> str | None:
    """Return the CPU where a format runs on one, else whatever it runs on; skip a format that cannot be had here."""
    registry = get_registry()
    why = registry.unavailable(registry.exporters.get(kind))
    if why is not None:
        pytest.skip(f"{kind}: {why.reason}")
    backends = registry.backends_for(kind)
    if not backends.usable:
        pytest.skip(f"{kind}: {'; '.join(problem.message for problem in backends.unavailable)}")
    return "cpu" if "cpu" in backends.usable[0].devices else None


@pytest.mark.parametrize("kind", [kind for kind in FORMATS if kind not in EIGHT_BITS])
def test_every_format_is_proven_and_finds_the_same(kind: str, folder: Path) -> None:
    device = device_of(kind)
    images = [folder / "0.png", folder / "1.png"]
    model = YOLO(folder / "tiny.pt")
    expected = model.predict(images, imgsz=64, **FIND_ALL)
    exported = YOLO(model.export(kind, imgsz=64))
    assert exported.path is not None
    assert exported.path.parent == folder
    assert exported.metadata.parity is not None
    assert exported.names == model.names
    found = exported.predict(images, imgsz=64, **{**FIND_ALL, "device": device})
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs) >= 10
        np.testing.assert_allclose(ours.boxes.data, theirs.boxes.data, atol=2e-3)
    assert not list(folder.glob(".segx-*"))


@pytest.mark.real
@pytest.mark.parametrize("kind", FORMATS)
def test_real_photographs_have_the_same_objects_in_every_format(kind: str, real_data: Path, tmp_path: Path) -> None:
    device = device_of(kind)
    photographs = sorted((real_data / "coco-mini" / "images" / "val2017").glob("*.jpg"))[:6]
    model = YOLO(real_data / "weights" / "yolov8n-seg.pt")
    settings = {"imgsz": 320, "rect": False, "verbose": False}
    options = dict(ON_A_CPU.get(kind, {}))
    if kind in EIGHT_BITS:
        options |= {"images": photographs[0].parent, "most": 20}
    exported = YOLO(model.export(kind, imgsz=320, output=tmp_path, **options))
    expected = model.predict(photographs, device="cpu", **settings)
    found = exported.predict(photographs, device=device, **settings)
    parity = get_registry().tasks.load("segment").parity(expected, found)
    assert parity.objects > 10
    if kind in EIGHT_BITS:
        assert parity.matched > 0.75
        assert parity.typical_box < 3
        assert parity.typical_mask_iou > 0.6
        return
    assert parity.matched == 1
    assert parity.box < 0.05
    assert parity.score < 1e-4
    assert parity.mask_iou > 0.999
