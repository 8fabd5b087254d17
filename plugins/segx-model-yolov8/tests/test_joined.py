"""The doubling of the prototypes and the convolution behind it as one: the same numbers, up to the edges."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from segx.options.verbs import SessionOptions
from segx.plugin.registry import get_registry
from segx.testing.models import TINY_YOLOV8
from segx_model_yolov8.joined import JoinedProto, join_prototypes
from segx_model_yolov8.layers import Proto
from segx_model_yolov8.weights import fuse

if TYPE_CHECKING:
    from pathlib import Path

    from segx_model_yolov8.network import SegmentationModel


def a_model() -> SegmentationModel:
    """A small model whose layers all do something, a bias of the doubling that shows at the edges among them."""
    import yaml

    architecture = get_registry().architectures.load("yolov8-seg")
    torch.manual_seed(3)
    model = architecture.build(architecture.config_from_definition(yaml.safe_load(TINY_YOLOV8), variant="tinyn-seg"))
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.5, 2)
                layer.bias.normal_(0, 0.5)
        model.head.proto.upsample.bias.normal_(0, 2)
    return model.eval()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(1, 8, 12), (3, 5, 4), (2, 1, 1), (1, 1, 7)])
def test_prototypes_are_the_same(size: tuple[int, int, int], layout: torch.memory_format) -> None:
    proto = fuse(a_model()).head.proto
    joined = JoinedProto(fuse(a_model()).head.proto)
    count, height, width = size
    x = torch.randn(count, proto.cv1.conv.in_channels, height, width).contiguous(memory_format=layout)
    with torch.inference_mode():
        wanted, found = proto(x), joined(x)
    assert found.shape == wanted.shape == (count, 32, 2 * height, 2 * width)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_nothing_of_the_program_s_own_is_taken_or_asked() -> None:
    """A prediction must not change what a training draws after it; a default device or type is for other layers."""
    fused = fuse(a_model())
    before = torch.random.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.inference_mode(), torch.device("meta"):
            joined = JoinedProto(fused.head.proto)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.random.get_rng_state(), before)
    tensors = [*joined.parameters(), *joined.buffers()]
    assert {(tensor.device.type, tensor.dtype) for tensor in tensors} == {("cpu", torch.float32)}


def test_numbers_that_numpy_does_not_have() -> None:
    joined = join_prototypes(fuse(a_model()).to(torch.bfloat16)).head.proto
    assert isinstance(joined, JoinedProto)
    assert joined.conv.weight.dtype == torch.bfloat16


def test_infinities_are_computed_with_in_silence() -> None:
    proto = fuse(a_model()).head.proto
    with torch.no_grad():
        proto.upsample.weight[0, 0], proto.cv2.conv.weight[0, 0] = torch.inf, 0
    assert not torch.isfinite(JoinedProto(proto).conv.weight).all()


def test_the_edges_are_not_those_of_cells_of_nothing() -> None:
    """What is taken off there is no rounding: without it the outermost prototypes are others."""
    proto = fuse(a_model()).head.proto
    joined = JoinedProto(fuse(a_model()).head.proto)
    x = torch.randn(1, proto.cv1.conv.in_channels, 6, 6)
    for name in ("rows", "columns", "corners"):
        joined.get_buffer(name).zero_()
    with torch.inference_mode():
        off = (joined(x) - proto(x)).abs().amax((0, 1))
    assert off[1:-1, 1:-1].max() < 1e-5
    for edge in (off[0], off[-1], off[:, 0], off[:, -1]):
        assert edge.min() > 1e-3


@pytest.mark.parametrize(
    "change",
    [
        lambda proto: setattr(proto, "upsample", nn.ConvTranspose2d(16, 16, 2, stride=2, bias=False)),
        lambda proto: setattr(proto, "upsample", nn.ConvTranspose2d(16, 16, 2, stride=2, groups=2)),
        lambda proto: setattr(proto, "upsample", nn.Upsample(scale_factor=2)),
        lambda proto: setattr(proto.cv2, "conv", nn.Conv2d(16, 16, 5, padding=2)),
        lambda proto: setattr(proto.cv2, "bn", nn.BatchNorm2d(16)),
    ],
)
def test_other_layers_stay(change: Any) -> None:
    fused = fuse(a_model())
    change(fused.head.proto)
    assert type(join_prototypes(fused).head.proto) is Proto


def test_a_pt_on_a_cpu_runs_them_joined(tmp_path: Path) -> None:
    """But not where a program holds the module, whose layers it may look at."""
    from segx import YOLO

    (tmp_path / "tiny-seg.yaml").write_text(TINY_YOLOV8)
    session = YOLO(tmp_path / "tiny-seg.yaml")._sessions.get(SessionOptions(device="cpu"))
    images = np.random.default_rng(0).random((2, 3, 64, 96), np.float32)
    with torch.inference_mode():
        wanted = session.module.eval()(torch.from_numpy(images))
    for one, other in zip(session.run(images), wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    assert type(session._runner._model.head.proto) is JoinedProto
    session.share_module()
    session.run(images)
    assert type(session._runner._model.head.proto) is Proto
    assert type(session.module.head.proto) is Proto
