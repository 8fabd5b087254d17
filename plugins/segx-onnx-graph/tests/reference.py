"""A translator to NumPy: slow and plain, to hold reader and walk against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np

from segx_onnx_graph import REPEATS, Translator, fill_value, reshaped, settled


class ToNumpy(Translator):
    """Computes a graph at once. Lengths that the reader left open are read off the arrays."""

    title = "NumPy"

    def shape(self, value):
        return list(value.shape)

    def Add(self, a, b):
        return a + b

    def Sub(self, a, b):
        return a - b

    def Mul(self, a, b):
        return a * b

    def Div(self, a, b):
        return a / b if np.asarray(a).dtype.kind == "f" else a // b

    def Sigmoid(self, x):
        return 1 / (1 + np.exp(-x))

    def Softmax(self, x, axis):
        e = np.exp(x - x.max(axis, keepdims=True))
        return e / e.sum(axis, keepdims=True)

    def Cast(self, x, to, **_):
        from onnx import helper

        return settled(x).astype(helper.tensor_dtype_to_np_dtype(to))

    def Transpose(self, x, perm=None):
        return x.transpose(perm)

    def Concat(self, *xs, axis):
        return np.concatenate(xs, axis)

    def Unsqueeze(self, x, axes):
        return np.expand_dims(x, tuple(axes.tolist()))

    def Squeeze(self, x, axes=None):
        return np.squeeze(x, None if axes is None else tuple(axes.tolist()))

    def Reshape(self, x, shape, allowzero=0):
        groups, new = reshaped(list(x.shape), list(shape), allow_zero=bool(allowzero), keeps_first=self.keeps_first)
        assert [axis for old, _ in groups for axis in old] == list(range(x.ndim))
        assert [axis for _, now in groups for axis in now] == list(range(len(new)))
        for old, now in groups:
            if all(int(new[axis]) != -1 for axis in now):
                assert np.prod([x.shape[axis] for axis in old]) == np.prod([int(new[axis]) for axis in now])
        return x.reshape([int(n) for n in new])

    def Split(self, x, split=None, *, axis, num_outputs=None):
        if split is None:
            each = -(-x.shape[axis] // num_outputs)
            return np.split(x, [each * i for i in range(1, num_outputs)], axis)
        return np.split(x, np.cumsum(split)[:-1], axis)

    def Slice(self, x, starts, ends, axes=None, steps=None):
        cut = [slice(None)] * x.ndim
        axes = range(len(starts)) if axes is None else axes
        for i, axis in enumerate(axes):
            cut[int(axis)] = slice(int(starts[i]), int(ends[i]), None if steps is None else int(steps[i]))
        return x[tuple(cut)]

    def Gather(self, x, index, axis):
        return np.take(x, index, axis)

    def Expand(self, x, shape):
        return np.asarray(x) * np.ones([int(n) for n in shape], np.asarray(x).dtype)

    def Range(self, start, limit, delta):
        return np.arange(_one(start), _one(limit), _one(delta))

    def ConstantOfShape(self, shape, value=None):
        return np.full([int(n) for n in shape], fill_value(value))

    def Resize(self, x, roi=None, scales=None, sizes=None, *, mode, **how):
        assert mode == "nearest"
        assert (how["coordinate_transformation_mode"], how["nearest_mode"]) in REPEATS
        scales = [int(n) / m for n, m in zip(sizes, x.shape, strict=True)] if scales is None else scales
        for axis, scale in enumerate(scales):
            x = np.repeat(x, round(float(scale)), axis)
        return x

    def MaxPool(self, x, *, kernel_shape, strides, pads=None, **_):
        windows, _ = _windows(x, kernel_shape, strides, pads, -np.inf)
        return windows.max((-2, -1))

    def Conv(self, x, w, b=None, *, group, strides=None, pads=None, **_):
        windows, _ = _windows(x, w.shape[2:], strides or (1, 1), pads, 0)
        parts = zip(np.split(windows, group, 1), np.split(w, group), strict=True)
        y = np.concatenate([np.einsum("nchwij,ocij->nohw", part, kernel, optimize=True) for part, kernel in parts], 1)
        return y if b is None else y + b[:, None, None]

    def ConvTranspose(self, x, w, b=None, *, strides, **_):
        assert list(strides) == list(w.shape[2:]) == [2, 2]
        n, _, height, width = x.shape
        y = np.einsum("nchw,coij->nohiwj", x, w, optimize=True).reshape(n, w.shape[1], 2 * height, 2 * width)
        return y if b is None else y + b[:, None, None]


def _one(value: Any) -> Any:
    return np.asarray(settled(value)).item()


def _windows(x, kernel, strides, pads, fill):
    top, left, bottom, right = pads or (0, 0, 0, 0)
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    windows = np.lib.stride_tricks.sliding_window_view(x, tuple(kernel), (2, 3))
    return windows[:, :, :: strides[0], :: strides[1]], x
