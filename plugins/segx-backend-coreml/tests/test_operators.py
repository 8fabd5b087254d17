"""Each operation of the executor computes what torch computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from segx.ops.nms import nms
from segx_backend_coreml import operators

if TYPE_CHECKING:
    from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="what the operations are compared with")
functional = torch.nn.functional


def drawn(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def same(got: Any, wanted: Any) -> None:
    wanted = np.asarray(wanted)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize(
    ("kernel", "strides", "dilations"), [(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 2), (5, 3, 1)]
)
def test_convolution(kernel: int, strides: int, dilations: int, groups: int) -> None:
    x, weight, bias = drawn(2, 8, 17, 21), drawn(16, 8 // groups, kernel, kernel, seed=1), drawn(16, seed=2)
    wanted = functional.conv2d(
        *map(torch.from_numpy, (x, weight, bias)), stride=strides, padding=1, dilation=dilations, groups=groups
    )
    got = operators.conv(
        x,
        weight,
        bias=bias,
        strides=[strides] * 2,
        pad_type="custom",
        pad=[1] * 4,
        dilations=[dilations] * 2,
        groups=groups,
    )
    same(got, wanted)


def test_convolution_in_several_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit into the cache at once is done a few rows at a time."""
    monkeypatch.setattr(operators, "_CHUNK", 1000)
    x, weight = drawn(1, 8, 30, 20), drawn(4, 8, 3, 3, seed=1)
    same(operators.conv(x, weight), functional.conv2d(torch.from_numpy(x), torch.from_numpy(weight)))


@pytest.mark.parametrize(("side", "kernel", "stride"), [(16, 3, 2), (17, 3, 2), (15, 4, 2), (16, 5, 1)])
def test_padding_that_is_found_out(side: int, kernel: int, stride: int) -> None:
    """``same`` gives as many rows as the stride leaves; what is odd goes to the end, or to the front."""
    x, weight = drawn(1, 2, side, side), drawn(3, 2, kernel, kernel, seed=1)
    total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    for pad_type, first in (("same", total // 2), ("same_lower", total - total // 2)):
        padded = functional.pad(torch.from_numpy(x), (first, total - first) * 2)
        wanted = functional.conv2d(padded, torch.from_numpy(weight), stride=stride)
        same(operators.conv(x, weight, strides=[stride] * 2, pad_type=pad_type), wanted)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (4, 1, 2)])
def test_transposed_convolution(kernel: int, stride: int, padding: int, groups: int) -> None:
    x, weight, bias = drawn(2, 8, 5, 7), drawn(8, 6 // groups, kernel, kernel, seed=1), drawn(6, seed=2)
    wanted = functional.conv_transpose2d(
        *map(torch.from_numpy, (x, weight, bias)), stride=stride, padding=padding, groups=groups
    )
    got = operators.conv_transpose(
        *(x, weight),
        bias=bias,
        strides=[stride] * 2,
        pad_type="custom",
        pad=[padding] * 4,
        groups=groups,
        output_shape=wanted.shape,
    )
    same(got, wanted)
    with pytest.raises(ValueError, match="is not run here"):
        operators.conv_transpose(x, weight, strides=[stride] * 2, groups=groups, output_shape=[2, 6, 99, 99])


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(5, 1, 2), (2, 2, 0), (3, 2, 1)])
def test_largest_under_a_window(kernel: int, stride: int, padding: int) -> None:
    x = drawn(2, 3, 12, 17) - 5  # below zero: what is padded must not win
    wanted = functional.max_pool2d(torch.from_numpy(x), kernel, stride, padding)
    got = operators.max_pool(x, [kernel] * 2, strides=[stride] * 2, pad_type="custom", pad=[padding] * 4)
    same(got, wanted)


X, Y = drawn(2, 3, 4, 5), drawn(2, 3, 4, 5, seed=1)
PLACES = np.random.default_rng(2).integers(0, 3, (2, 2, 4, 5))
TX, TY = torch.from_numpy(X), torch.from_numpy(Y)


@pytest.mark.parametrize(
    ("name", "arguments", "wanted"),
    [
        ("silu", {"x": X * 50}, functional.silu(TX * 50)),
        ("sigmoid", {"x": X * 200}, torch.sigmoid(TX * 200)),
        ("relu", {"x": X}, TX.relu()),
        ("clip", {"x": X, "alpha": -0.5, "beta": 0.5}, TX.clip(-0.5, 0.5)),
        ("softmax", {"x": X * 100, "axis": 1}, (TX * 100).softmax(1)),
        ("exp", {"x": X}, TX.exp()),
        ("add", {"x": X, "y": Y}, TX + TY),
        ("sub", {"x": X, "y": 0.5}, TX - 0.5),
        ("mul", {"x": X, "y": Y}, TX * TY),
        ("real_div", {"x": X, "y": Y}, TX / TY),
        ("less", {"x": X, "y": Y}, TX < TY),
        ("matmul", {"x": X, "y": Y, "transpose_y": True}, TX @ TY.mT),
        ("matmul", {"x": X, "y": Y, "transpose_x": True}, TX.mT @ TY),
        ("linear", {"x": X, "weight": Y[0, 0], "bias": Y[0, 0, :, 0]}, functional.linear(TX, TY[0, 0], TY[0, 0, :, 0])),
        (
            "upsample_nearest_neighbor",
            {"x": X, "scale_factor_height": 2.0, "scale_factor_width": 3.0},
            functional.interpolate(TX, scale_factor=(2.0, 3.0)),
        ),
        ("reduce_max", {"x": X, "axes": [1, 2], "keep_dims": True}, TX.amax((1, 2), keepdim=True)),
        ("reduce_max", {"x": X, "axes": [3]}, TX.amax(3)),
        ("reduce_argmax", {"x": X, "axis": 2, "keep_dims": False}, TX.argmax(2)),
        ("cast", {"x": X * 9, "dtype": "int32"}, (TX * 9).int()),
        ("concat", {"values": [X, Y], "axis": 2}, torch.cat((TX, TY), 2)),
        ("reshape", {"x": X, "shape": [0, -1, 5]}, TX.reshape(2, -1, 5)),
        ("transpose", {"x": X, "perm": [0, 2, 3, 1]}, TX.permute(0, 2, 3, 1)),
        ("expand_dims", {"x": X, "axes": [0, 3]}, TX[None, :, :, None]),
        ("squeeze", {"x": X[:1], "axes": [0]}, TX[0]),
        ("tile", {"x": X, "reps": [1, 2, 1, 3]}, TX.repeat(1, 2, 1, 3)),
        (
            "slice_by_index",
            {"x": X, "begin": [0, 1, -3, 0], "end": [1, 3, 4, 5], "stride": [1, 1, 2, 1]},
            TX[0:1, 1:3, -3:4:2],
        ),
        (
            "slice_by_index",
            {
                "x": X,
                "begin": [1, 1, 0, 0],
                "end": [0, 0, 2, 0],
                "begin_mask": [False, False, True, True],
                "end_mask": [False, True, False, True],
                "squeeze_mask": [True, False, False, False],
            },
            TX[1, 1:, :2],
        ),
        ("gather_along_axis", {"x": X, "indices": PLACES, "axis": 1}, TX.gather(1, torch.from_numpy(PLACES))),
        ("identity", {"x": X}, TX),
    ],
)
def test_small_ones(name: str, arguments: dict[str, Any], wanted: Any) -> None:
    before = arguments["x"].copy() if "x" in arguments else None
    with np.errstate(over="ignore"):
        same(operators.OPERATORS[name](**arguments), wanted)
    if before is not None:
        np.testing.assert_array_equal(arguments["x"], before, err_msg="what is given is still needed by others")


def test_splitting() -> None:
    for got, wanted in zip(operators.split(X, 3, split_sizes=[1, 4]), TX.split([1, 4], 3), strict=True):
        same(got, wanted)
    for got, wanted in zip(operators.split(X, 2, num_splits=2), TX.chunk(2, 2), strict=True):
        same(got, wanted)


def test_suppression_keeps_what_ours_keeps() -> None:
    """Boxes of 3 classes, moved apart as the exporter does it: the same ones, in the same order."""
    chance = np.random.default_rng(3)
    centres, sizes = chance.uniform(0, 640, (2, 500, 2)), chance.uniform(30, 300, (2, 500, 2))
    scores, kinds = chance.random((2, 500)).astype(np.float32), chance.integers(0, 3, (2, 500))
    moved = np.concatenate((centres + kinds[:, :, None] * 1280.0, sizes), 2).astype(np.float32)
    _, best, places, counts = operators.non_maximum_suppression(
        moved, scores[:, :, None], iou_threshold=0.6, score_threshold=0.4, max_boxes=150
    )
    for image in range(2):
        corners = np.concatenate((centres - sizes / 2, centres + sizes / 2), 2)[image].astype(np.float32)
        high = np.flatnonzero(scores[image] > 0.4)
        wanted = high[nms(corners[high], scores[image, high], kinds[image, high], iou=0.6, max_det=150)]
        count = counts[image]
        assert 20 < count == len(wanted)
        np.testing.assert_array_equal(places[image, :count], wanted)
        np.testing.assert_array_equal(best[image, :count, 0], scores[image, wanted])
        assert (places[image, count:] == -1).all()
        assert not best[image, count:].any()


def test_suppression_ends_at_the_most_there_may_be() -> None:
    boxes = np.array([[[i * 100.0, 0, 10, 10] for i in range(9)]], np.float32)
    scores = np.linspace(0.9, 0.1, 9, dtype=np.float32)[None, :, None]
    limits: dict[str, Any] = {"iou_threshold": 0.5, "score_threshold": 0.05}
    _, _, places, counts = operators.non_maximum_suppression(boxes, scores, max_boxes=4, **limits)
    assert (places.tolist(), counts.tolist()) == ([[0, 1, 2, 3]], [4])
    with pytest.raises(ValueError, match="several classes"):
        operators.non_maximum_suppression(boxes, scores.repeat(2, 2), max_boxes=4, **limits)
