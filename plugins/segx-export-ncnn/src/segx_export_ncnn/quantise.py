"""Turns convolutions of an ncnn model into 8-bit ones, with ranges taken from images.

ncnn computes a convolution in whole numbers where a scale for each of its output channels and one for its input lie
behind its weights: input times scale is rounded to -127..127, and what comes out is 32-bit again. So it is one layer
after the other that changes, and the last ones, which say where and what things are, stay as they are.

Source: github.com/Tencent/ncnn/wiki/quantized-int8-inference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ncnn
import numpy as np

from segx.errors import ExportError
from segx_export_ncnn import model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from segx.structures.types import Array, Images
    from segx_export_ncnn.model import Layer

_TOP = 127
"""The largest whole number; -128 is not used, so that both sides are alike."""

_SCALES, _LEFT_OUT = 8, 31
"""Keys of the parameters that say that scales lie behind the weights, and, in bits, what ncnn is to do without."""
_WITHOUT_WINOGRAD = 1 << 6
"""Its sums of whole numbers can grow beyond 32 bits; the plain way is exact, and was faster here (47 against 54 ms)."""

_COARSEST = 0.25
"""The largest step from one whole number to the next, as a share of the mean size of the values: where a few are so
large that most become 0, the layer stays 32-bit. In YOLOv8n-seg that is one layer (0.36, the next has 0.21): without
it a third of the error in boxes is gone, and two thirds of that in masks."""

_BINS = 2048
_SAMPLE = 1 << 17
"""Values of a blob that are counted for each image."""
_SHARES = np.linspace(0.1, 1.0, 91)


def quantise(
    text: Path, weights: Path, images: Iterable[Images], *, notify: Callable[[int], object] | None = None
) -> list[Layer]:
    """Return a model's layers, those convolutions quantised that can be.

    Args:
        text: The layers.
        weights: The weights, 32-bit.
        images: float32 (N, 3, H, W) in 0..1, RGB.
        notify: Called with the number of images that are done.

    Raises:
        ExportError: There are no images or no such convolutions, or values are not finite.
    """
    layers = model.read(text, weights)
    chosen = choose(layers)
    if not chosen:
        raise ExportError("the model has no convolution that int8 is for", hint="int8=False")
    origin = _origins(layers)
    blobs = list(dict.fromkeys(origin[layer.inputs[0]] for layer in chosen))
    seen = observe(text, weights, blobs, images, notify=notify)
    for layer in chosen:
        values = seen[origin[layer.inputs[0]]]
        limit = values.limit()
        if limit / _TOP <= _COARSEST * values.mean:
            _quantise(layer, limit)
    return layers


def choose(layers: Sequence[Layer]) -> list[Layer]:
    """Return the convolutions to quantise: all but those after which no layer of many weights comes."""
    leads = model.leading_on(layers)
    return [
        layer
        for layer in layers
        if layer.kind == "Convolution" and model.is_heavy(layer) and not leads.isdisjoint(layer.outputs)
    ]


class Range:
    """How large the values of a blob are: a histogram of their sizes that grows with them."""

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(_BINS, np.int64)
        self.end = 0.0
        self.most = 0.0

    def add(self, values: Array) -> None:
        """Take the values of one image.

        Raises:
            ExportError: One of them is no number.
        """
        sizes = np.abs(values).ravel()
        most = float(sizes.max(initial=0.0))
        if not np.isfinite(most):
            raise ExportError("an image gives values that are not finite", hint="int8=False")
        self.most = max(self.most, most)
        self.end = self.end or most
        while most > self.end:
            self.end *= 2
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(_BINS // 2, np.int64)])
        if self.end:
            some = sizes[:: max(1, sizes.size // _SAMPLE) | 1]  # an odd step meets all columns
            places = np.minimum((some * (_BINS / self.end)).astype(np.int64), _BINS - 1)
            self.counts += np.bincount(places, minlength=_BINS)

    @property
    def centres(self) -> NDArray[np.floating[Any]]:
        """The middle of each bin."""
        return (np.arange(_BINS) + 0.5) * (self.end / _BINS)

    @property
    def mean(self) -> float:
        """The mean size."""
        return float(self.centres @ self.counts) / max(int(self.counts.sum()), 1)

    def limit(self) -> float:
        """Return the size that becomes 127: where rounding and cutting off together cost the least, in squares."""
        if not self.most:
            return 1.0
        steps = self.most * _SHARES[:, None] / _TOP
        errors = np.minimum(np.rint(self.centres / steps), _TOP) * steps - self.centres
        return float(steps[int((errors**2 @ self.counts).argmin()), 0]) * _TOP


def observe(
    text: Path,
    weights: Path,
    blobs: Sequence[str],
    images: Iterable[Images],
    *,
    notify: Callable[[int], object] | None = None,
) -> dict[str, Range]:
    """Return how large the values of blobs become when the model runs on images.

    Raises:
        ExportError: There are no images, or ncnn fails.
    """
    net = _open(text, weights)
    (start,) = net.input_names()
    seen = {blob: Range() for blob in blobs}
    done = 0
    for batch in images:
        for image in batch:
            with net.create_extractor() as extractor:
                extractor.set_light_mode(False)  # keep what is within
                extractor.input(start, ncnn.Mat(np.ascontiguousarray(image)).clone())
                for blob in blobs:
                    failed, values = extractor.extract(blob)
                    if failed:
                        raise ExportError(f"ncnn failed at {blob} (code {failed})")
                    seen[blob].add(np.asarray(values))
            done += 1
            if notify is not None:
                notify(done)
    if not done:
        raise ExportError("there is no image to calibrate on", hint="data=NAME")
    return seen


def _quantise(layer: Layer, limit: float) -> None:
    """Give a convolution 8-bit weights, and the scales that belong to them and to its input."""
    values = layer.weights[0].astype(np.float32).reshape(layer.number(0), -1)
    scales = _TOP / np.maximum(np.abs(values).max(axis=1), np.finfo(np.float32).tiny * _TOP)
    whole = np.rint(values * scales[:, None]).astype(np.int8)
    layer.weights = [whole.ravel(), *layer.weights[1:], scales, np.array([_TOP / limit], np.float32)]
    layer.settings |= {_SCALES: "2", _LEFT_OUT: str(layer.number(_LEFT_OUT) | _WITHOUT_WINOGRAD)}


def _origins(layers: Iterable[Layer]) -> Mapping[str, str]:
    """Return for each blob the one it is a copy of, itself if it is none: a blob that several take is handed on."""
    origin: dict[str, str] = {}
    for layer in layers:
        for blob in layer.outputs:
            origin[blob] = origin[layer.inputs[0]] if layer.kind == "Split" else blob
    return origin


def _open(text: Path, weights: Path) -> Any:
    net = ncnn.Net()
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_packed = net.opt.use_bf16_storage = False
    if net.load_param(str(text)) or net.load_model(str(weights)):
        raise ExportError("ncnn cannot load what pnnx has made", hint="pip install -U ncnn pnnx")
    return net
