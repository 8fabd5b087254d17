"""What the operations of a Core ML program compute, in NumPy.

Arrays of floats are float32 throughout; the executor rounds what a program holds in 16 bits. Arguments have the names
and defaults that MIL gives them. Source: the operations' reference in coremltools
(``coremltools.converters.mil.mil.ops.defs``), iOS 15 to 18.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from segx.ops.nms import nms

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Numbers = NDArray[Any]

_CHUNK = 1 << 21
"""Most numbers of unfolded input that a convolution holds at a time: they stay in the cache."""


# Layers


def conv(
    x: Floats,
    weight: Floats,
    *,
    bias: Floats | None = None,
    strides: Sequence[int] = (1, 1),
    pad_type: str = "valid",
    pad: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Floats:
    """Convolve (N, C, H, W) with (O, C / groups, kh, kw)."""
    _two_sides(x, weight)
    count, channels = x.shape[:2]
    many, kernel = weight.shape[0], weight.shape[2:]
    x = _padded(x, _pads(x.shape[2:], kernel, strides=strides, dilations=dilations, pad_type=pad_type, pad=pad))
    size = tuple(
        (side - (k - 1) * d - 1) // s + 1 for side, k, d, s in zip(x.shape[2:], kernel, dilations, strides, strict=True)
    )
    out = np.empty((count, many, *size), np.float32)
    inside, outside = channels // groups, many // groups
    for image in range(count):
        for group in range(groups):
            part = x[image, group * inside : (group + 1) * inside]
            rows = weight[group * outside : (group + 1) * outside].reshape(outside, -1)
            target = out[image, group * outside : (group + 1) * outside]
            _convolved(part, rows, target, kernel=kernel, strides=strides, dilations=dilations)
    if bias is not None:
        out += bias.reshape(1, -1, 1, 1)
    return out


def _convolved(
    x: Floats, rows: Floats, out: Floats, *, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> None:
    """Fill ``out`` (O, h, w) with the convolution of one padded image (C, H, W), a few rows at a time."""
    channels, (height, width) = x.shape[0], out.shape[1:]
    if tuple(kernel) == (1, 1) and tuple(strides) == (1, 1):
        np.matmul(rows, x.reshape(channels, -1), out=out.reshape(len(rows), -1))
        return
    c, h, w = x.strides
    view = np.lib.stride_tricks.as_strided(
        x,
        (channels, *kernel, height, width),
        (c, h * dilations[0], w * dilations[1], h * strides[0], w * strides[1]),
        writeable=False,
    )
    step = max(1, _CHUNK // max(1, rows.shape[1] * width))
    for top in range(0, height, step):
        some = view[:, :, :, top : top + step]
        out[:, top : top + step] = (rows @ some.reshape(rows.shape[1], -1)).reshape(len(rows), -1, width)


def conv_transpose(
    x: Floats,
    weight: Floats,
    *,
    bias: Floats | None = None,
    strides: Sequence[int] = (1, 1),
    pad_type: str = "valid",
    pad: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1),
    groups: int = 1,
    output_shape: Sequence[int] | None = None,
) -> Floats:
    """Undo a convolution's shape: (N, C, H, W) with (C, O / groups, kh, kw)."""
    _two_sides(x, weight)
    if pad_type == "same_lower" or (pad_type == "same" and output_shape is None):
        raise ValueError(f"conv_transpose with pad_type {pad_type} is not run here")
    count, channels, height, width = x.shape
    outside, kernel = weight.shape[1], weight.shape[2:]
    full = [
        (side - 1) * s + (k - 1) * d + 1
        for side, s, k, d in zip((height, width), strides, kernel, dilations, strict=True)
    ]
    out = np.zeros((count, outside * groups, *full), np.float32)
    inside = channels // groups
    for image in range(count):
        for group in range(groups):
            part = x[image, group * inside : (group + 1) * inside].reshape(inside, -1)
            rows = weight[group * inside : (group + 1) * inside].reshape(inside, -1)
            pieces = (rows.T @ part).reshape(outside, *kernel, height, width)
            target = out[image, group * outside : (group + 1) * outside]
            for i in range(kernel[0]):
                for j in range(kernel[1]):
                    top, left = i * dilations[0], j * dilations[1]
                    target[
                        :,
                        top : top + (height - 1) * strides[0] + 1 : strides[0],
                        left : left + (width - 1) * strides[1] + 1 : strides[1],
                    ] += pieces[:, i, j]
    if pad_type == "custom":
        top, bottom, left, right = pad
        out = out[:, :, top : full[0] - bottom, left : full[1] - right]
    if output_shape is not None and out.shape[2:] != tuple(output_shape)[2:]:
        raise ValueError(f"conv_transpose to {tuple(output_shape)} is not run here")
    return np.ascontiguousarray(out if bias is None else out + bias.reshape(1, -1, 1, 1))


def linear(x: Floats, weight: Floats, bias: Floats | None = None) -> Floats:
    """Multiply (..., D) by (O, D)."""
    out: Floats = x @ weight.T
    return out if bias is None else out + bias


def matmul(x: Floats, y: Floats, *, transpose_x: bool = False, transpose_y: bool = False) -> Floats:
    """Multiply matrices, either of them turned."""
    out: Floats = (np.swapaxes(x, -1, -2) if transpose_x else x) @ (np.swapaxes(y, -1, -2) if transpose_y else y)
    return out


def max_pool(
    x: Floats,
    kernel_sizes: Sequence[int],
    *,
    strides: Sequence[int] = (1, 1),
    pad_type: str = "valid",
    pad: Sequence[int] = (0, 0, 0, 0),
    ceil_mode: bool = False,
) -> Floats:
    """Return the largest number under a window; rows and columns are looked at one after the other."""
    if ceil_mode:
        raise ValueError("max_pool with ceil_mode is not run here")
    pads = _pads(x.shape[2:], kernel_sizes, strides=strides, dilations=(1, 1), pad_type=pad_type, pad=pad)
    x = _padded(x, pads, value=-np.inf)
    for axis in (2, 3):
        kernel, stride = int(kernel_sizes[axis - 2]), int(strides[axis - 2])
        count = (x.shape[axis] - kernel) // stride + 1
        out: Floats | None = None
        for begins in range(kernel):
            places: list[slice] = [slice(None)] * 4
            places[axis] = slice(begins, begins + (count - 1) * stride + 1, stride)
            part = x[tuple(places)]
            out = part.copy() if out is None else np.maximum(out, part, out=out)
        x = x if out is None else out
    return x


def upsample_nearest_neighbor(x: Floats, scale_factor_height: float = 1, scale_factor_width: float = 1) -> Floats:
    """Repeat rows and columns a whole number of times."""
    if scale_factor_height % 1 or scale_factor_width % 1:
        raise ValueError("upsample_nearest_neighbor by a fraction is not run here")
    out: Floats = x.repeat(int(scale_factor_height), axis=-2).repeat(int(scale_factor_width), axis=-1)
    return out


def sigmoid(x: Floats) -> Floats:
    """Return 1 / (1 + exp(-x))."""
    out: Floats = np.negative(x)
    np.exp(out, out=out)
    out += 1
    return np.reciprocal(out, out=out)


def silu(x: Floats) -> Floats:
    """Return x * sigmoid(x)."""
    out = np.negative(x)
    np.exp(out, out=out)
    out += 1
    return np.divide(x, out, out=out)


def relu(x: Floats) -> Floats:
    """Return what is above zero."""
    out: Floats = np.maximum(x, 0)
    return out


def clip(x: Floats, alpha: float, beta: float) -> Floats:
    """Return numbers from ``alpha`` to ``beta``."""
    out: Floats = np.clip(x, alpha, beta)
    return out


def softmax(x: Floats, axis: int = -1) -> Floats:
    """Return exp(x) as shares along an axis."""
    out: Floats = x - x.max(axis=axis, keepdims=True)
    np.exp(out, out=out)
    out /= out.sum(axis=axis, keepdims=True)
    return out


# Arithmetic


def add(x: Numbers, y: Numbers) -> Numbers:
    """Return x + y."""
    return np.add(x, y)


def sub(x: Numbers, y: Numbers) -> Numbers:
    """Return x - y."""
    return np.subtract(x, y)


def mul(x: Numbers, y: Numbers) -> Numbers:
    """Return x * y."""
    return np.multiply(x, y)


def real_div(x: Numbers, y: Numbers) -> Numbers:
    """Return x / y."""
    return np.divide(x, y)


def less(x: Numbers, y: Numbers) -> Numbers:
    """Return where x < y."""
    return np.less(x, y)


def exp(x: Floats) -> Floats:
    """Return e to the power of x."""
    out: Floats = np.exp(x)
    return out


def reduce_max(x: Numbers, axes: Sequence[int] | None = None, *, keep_dims: bool = False) -> Numbers:
    """Return the largest number along axes."""
    return np.asarray(x.max(axis=None if axes is None else _whole(axes), keepdims=keep_dims))


def reduce_argmax(x: Numbers, axis: int = -1, *, keep_dims: bool = True) -> Numbers:
    """Return where along an axis the largest number stands first."""
    places: Numbers = x.argmax(axis=axis, keepdims=keep_dims).astype(np.int32)
    return places


def cast(x: Numbers, dtype: str) -> Numbers:
    """Return numbers of another type."""
    if dtype not in _CASTS:
        raise ValueError(f"cast to {dtype} is not run here")
    return np.asarray(x).astype(_CASTS[dtype])


_CASTS: Mapping[str, Any] = {"fp16": np.float32, "fp32": np.float32, "int32": np.int32, "bool": np.bool_}


# Moving


def concat(values: Sequence[Numbers], axis: int, *, interleave: bool = False) -> Numbers:
    """Join arrays along an axis."""
    if interleave:
        raise ValueError("concat with interleave is not run here")
    return np.concatenate([np.atleast_1d(value) for value in values], axis)


def split(
    x: Numbers, axis: int, num_splits: int | None = None, split_sizes: Sequence[int] | None = None
) -> list[Numbers]:
    """Cut an array along an axis into parts of these sizes, or into so many of one size."""
    if split_sizes is None:
        return np.split(x, int(num_splits or 1), axis)
    return np.split(x, np.cumsum(split_sizes)[:-1], axis)


def reshape(x: Numbers, shape: Sequence[int]) -> Numbers:
    """Return the same numbers in another shape; 0 keeps a length, -1 is what is left."""
    return x.reshape([x.shape[axis] if length == 0 else int(length) for axis, length in enumerate(shape)])


def transpose(x: Numbers, perm: Sequence[int]) -> Numbers:
    """Return the same numbers with axes in another order."""
    return np.ascontiguousarray(x.transpose(_whole(perm)))


def expand_dims(x: Numbers, axes: Sequence[int]) -> Numbers:
    """Add axes of length one."""
    return np.expand_dims(np.asarray(x), _whole(axes))


def squeeze(x: Numbers, axes: Sequence[int] | None = None) -> Numbers:
    """Take axes of length one away."""
    return np.squeeze(x, None if axes is None else _whole(axes))


def slice_by_index(
    x: Numbers,
    begin: Sequence[int],
    end: Sequence[int],
    *,
    stride: Sequence[int] | None = None,
    begin_mask: Sequence[bool] | None = None,
    end_mask: Sequence[bool] | None = None,
    squeeze_mask: Sequence[bool] | None = None,
) -> Numbers:
    """Cut a part out; a mask says which ends are those of the array, and which axes go away."""
    rank = x.ndim
    places: list[slice | int] = []
    for axis in range(rank):
        if squeeze_mask is not None and squeeze_mask[axis]:
            places.append(int(begin[axis]))
            continue
        first = None if begin_mask is not None and begin_mask[axis] else int(begin[axis])
        last = None if end_mask is not None and end_mask[axis] else int(end[axis])
        places.append(slice(first, last, None if stride is None else int(stride[axis])))
    return np.asarray(x[tuple(places)])


def tile(x: Numbers, reps: Sequence[int]) -> Numbers:
    """Repeat an array along its axes."""
    return np.tile(x, _whole(reps))


def gather_along_axis(x: Numbers, indices: Numbers, axis: int = 0, *, validate_indices: bool = False) -> Numbers:  # noqa: ARG001 - for a runtime
    """Take the numbers that stand at these places along an axis."""
    return np.take_along_axis(x, indices, axis)


def identity(x: Numbers) -> Numbers:
    """Return what is given."""
    return x


# Weights that are stored in fewer bits


def constexpr_affine_dequantize(quantized_data: Numbers, zero_point: Numbers, scale: Numbers, axis: int) -> Floats:
    """Return weights of 8 bits as floats: one scale and zero for each channel, or for all."""

    def along(value: Any) -> Floats:
        numbers = np.asarray(value, np.float32)
        return (
            numbers.reshape([-1 if place == axis else 1 for place in range(quantized_data.ndim)])
            if numbers.ndim
            else numbers
        )

    return (quantized_data.astype(np.float32) - along(zero_point)) * along(scale)


def constexpr_lut_to_dense(indices: Numbers, lut: Numbers, shape: Sequence[int] | None = None) -> Floats:
    """Return weights that are places in a table: of iOS 16, packed, with the shape beside them; or of iOS 18."""
    if shape is not None:
        count, bits = int(np.prod(_whole(shape))), max(1, int(np.log2(lut.size)))
        spread = np.unpackbits(indices.view(np.uint8), bitorder="little")[: count * bits].reshape(count, bits)
        places = (spread << np.arange(bits, dtype=np.uint8)).sum(1, dtype=np.uint8)
        unpacked: Floats = lut.astype(np.float32)[places].reshape(_whole(shape))
        return unpacked
    if lut.shape[-1] != 1 or any(length != 1 for length in lut.shape[:-2]):
        raise ValueError("constexpr_lut_to_dense with several tables is not run here")
    return lut.astype(np.float32).reshape(-1)[indices]


def constexpr_blockwise_shift_scale(data: Numbers, scale: Numbers, offset: Numbers | None = None) -> Floats:
    """Return weights of 8 bits or fewer as floats: one scale for each block."""

    def spread(value: Numbers) -> Numbers:
        for axis, (length, blocks) in enumerate(zip(data.shape, value.shape, strict=True)):
            value = value.repeat(length // blocks, axis=axis)
        return value.astype(np.float32)

    shifted = data.astype(np.float32)
    return (shifted if offset is None else shifted - spread(offset)) * spread(scale)


# Suppression


def non_maximum_suppression(
    boxes: Floats,
    scores: Floats,
    *,
    iou_threshold: float,
    score_threshold: float,
    max_boxes: int,
    per_class_suppression: bool = False,
) -> tuple[Floats, Floats, Numbers, Numbers]:
    """Choose boxes (N, A, 4) xywh by scores (N, A, 1), the highest first.

    Returns:
        Boxes (N, M, 4), scores (N, M, 1), places (N, M), -1 where there is none, and how many there are (N,).
    """
    if scores.shape[2] != 1 or per_class_suppression:
        raise ValueError("non_maximum_suppression over several classes at once is not run here")
    count = len(boxes)
    places = np.full((count, max_boxes), -1, np.int32)
    lengths = np.zeros(count, np.int32)
    for image in range(count):
        kept = _kept(boxes[image], scores[image, :, 0], iou_threshold, score_threshold, max_boxes)
        places[image, : len(kept)] = kept
        lengths[image] = len(kept)
    held = (places >= 0)[:, :, None]
    rows = np.maximum(places, 0)[:, :, None]
    return np.take_along_axis(boxes, rows, 1) * held, np.take_along_axis(scores, rows, 1) * held, places, lengths


def _kept(boxes: Floats, scores: Floats, iou: float, conf: float, most: int) -> NDArray[np.int64]:
    candidates = np.flatnonzero(scores > conf)
    # In 64 bits: boxes of other classes may have been moved far away, where 32 are coarse.
    centres, sizes = np.split(boxes[candidates].astype(np.float64), 2, axis=1)
    corners: Any = np.concatenate((centres - sizes / 2, centres + sizes / 2), 1)
    return candidates[nms(corners, scores[candidates], iou=iou, max_det=most)]


# What several share


def _whole(values: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _two_sides(x: Floats, weight: Floats) -> None:
    if x.ndim != 4 or weight.ndim != 4:
        raise ValueError(f"convolutions of {x.ndim - 2} sides are not run here")


def _pads(
    sides: Sequence[int],
    kernel: Sequence[int],
    *,
    strides: Sequence[int],
    dilations: Sequence[int],
    pad_type: str,
    pad: Sequence[int],
) -> tuple[int, int, int, int]:
    """Return rows above and below, columns left and right."""
    if pad_type == "valid":
        return 0, 0, 0, 0
    if pad_type == "custom":
        top, bottom, left, right = _whole(pad)
        return top, bottom, left, right
    if pad_type not in {"same", "same_lower"}:
        raise ValueError(f"pad_type {pad_type} is not run here")
    ends: list[int] = []
    for side, k, s, d in zip(sides, kernel, strides, dilations, strict=True):
        total = max((-(-side // s) - 1) * s + (k - 1) * d + 1 - side, 0)
        less_, more = total // 2, total - total // 2
        ends += [less_, more] if pad_type == "same" else [more, less_]
    return int(ends[0]), int(ends[1]), int(ends[2]), int(ends[3])


def _padded(x: Floats, pads: tuple[int, int, int, int], value: float = 0) -> Floats:
    top, bottom, left, right = pads
    if not any(pads):
        return np.ascontiguousarray(x)
    count, channels, height, width = x.shape
    out = np.full((count, channels, height + top + bottom, width + left + right), value, np.float32)
    out[:, :, top : top + height, left : left + width] = x
    return out


OPERATORS: Mapping[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        *(conv, conv_transpose, linear, matmul, max_pool, upsample_nearest_neighbor),
        *(sigmoid, silu, relu, clip, softmax, exp),
        *(add, sub, mul, real_div, less, reduce_max, reduce_argmax, cast),
        *(concat, split, reshape, transpose, expand_dims, squeeze, slice_by_index, tile, gather_along_axis, identity),
        *(constexpr_affine_dequantize, constexpr_lut_to_dense, constexpr_blockwise_shift_scale),
        non_maximum_suppression,
    )
}
"""Name of each operation that is run here, to what it computes."""

EXACT = frozenset(
    {
        *("max_pool", "upsample_nearest_neighbor", "relu", "concat", "split", "reshape", "transpose", "expand_dims"),
        *("squeeze", "slice_by_index", "tile", "gather_along_axis", "identity", "reduce_max"),
    }
)
"""Operations that give numbers they were given: there is nothing to round."""
