"""Turns the convolutions of an ncnn model into 8-bit ones, with ranges taken from images.

A convolution of ncnn takes whole numbers where it finds a scale for each of its output channels and one for its input
behind its weights: it multiplies the input by that scale, rounds, computes in whole numbers, and goes back to 32-bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ncnn
import numpy as np

from segx.errors import ExportError

from segx_export_ncnn import model as files

if TYPE_CHECKING:
    from numpy.typing import NDArray

_TOP = 127
_BINS = 2048
_SAMPLE = 1 << 17

def sources(layers):
    of = {}
    for l in layers:
        if l.kind == "Split":
            for o in l.outputs: of[o] = of.get(l.inputs[0], l.inputs[0])
    return of


class Histogram:
    def __init__(self):
        self.top = 0.0
        self.counts = np.zeros(_BINS, np.int64)
        self.most = 0.0

    def add(self, values):
        v = np.abs(np.asarray(values)).ravel()
        most = float(v.max())
        self.most = max(self.most, most)
        if not self.top:
            self.top = most or 0.0
            if not self.top: return
        while most > self.top:
            self.top *= 2
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(_BINS // 2, np.int64)])
        v = v[:: max(1, v.size // _SAMPLE) | 1]
        idx = np.minimum((v * np.float32(_BINS / self.top)).astype(np.int32), _BINS - 1)
        self.counts += np.bincount(idx, minlength=_BINS)

    def mse(self, power=2.0):
        centres = (np.arange(_BINS) + .5) * self.top / _BINS
        best = None
        for share in np.linspace(.1, 1, 91):
            t = self.most * share
            step = t / _TOP
            q = np.minimum(np.round(centres / step), _TOP) * step
            e = float((self.counts * np.abs(q - centres) ** power).sum())
            if best is None or e < best[0]: best = (e, t)
        return best[1]

    def percentile(self, p):
        c = np.cumsum(self.counts); i = int(np.searchsorted(c, p * c[-1]))
        return (i + 1) * self.top / _BINS

    def kl(self):
        counts = self.counts.astype(np.float64)
        best=None
        for end in range(128, _BINS+1, 8):
            p = counts[:end].copy(); outl = counts[end:].sum(); p[-1] += outl
            q0 = counts[:end]
            edges = (np.arange(end) * 128) // end
            s = np.bincount(edges, q0, 128); nz = np.bincount(edges, q0 > 0, 128)
            q = np.where(q0 > 0, (s / np.maximum(nz, 1))[edges], 0)
            m = p > 0
            pp = p / p.sum(); qq = q / max(q.sum(), 1e-12)
            d = float((pp[m] * np.log(pp[m] / np.maximum(qq[m], 1e-9))).sum())
            if best is None or d < best[0]: best = (d, (end) * self.top / _BINS)
        return best[1]


def observe(text, weights, wanted, images, notify=None):
    net = ncnn.Net(); net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    assert not net.load_param(str(text)) and not net.load_model(str(weights))
    seen = {b: Histogram() for b in wanted}
    for n, batch in enumerate(images):
        for image in batch:
            with net.create_extractor() as ex:
                ex.set_light_mode(False)
                ex.input("in0", ncnn.Mat(np.ascontiguousarray(image)).clone())
                for b in wanted:
                    r, o = ex.extract(b)
                    seen[b].add(np.asarray(o))
    return seen
