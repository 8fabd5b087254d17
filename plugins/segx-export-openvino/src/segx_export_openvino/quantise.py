"""Lowers a graph to 8 bits with NNCF: all but what follows the last layers with weights.

What follows is arithmetic on boxes in pixels, which 8 bits hold badly: quantised too, it costs two points of box AP.
OpenVINO mixes precisions within a graph, so it stays there in 32 bits, and the file keeps the head that its source has.
Runs in a process of its own: NNCF prints on standard output, and loads torch where there is one.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nncf

from segx.plugin.calibration import Calibration
from segx.runtime import child
from segx_export_openvino import graph

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import openvino as ov

    from segx.structures.types import Images


def convert(source: str, destination: str, metadata: Mapping[str, str], images: Mapping[str, Any]) -> None:
    """Write an ONNX file as IR in 8 bits.

    Args:
        source: The ``.onnx``.
        destination: The ``.xml``.
        metadata: What is to travel with it.
        images: What to calibrate on, as :meth:`Calibration.to_dict` gives it.

    Raises:
        ExportError: OpenVINO cannot read or write it.
    """
    model = quantise(graph.read(Path(source)), _Logged(Calibration.from_dict(images)))
    graph.save(model, Path(destination), metadata, small=False)


class _Logged:
    """Images to calibrate on that log how many have been looked at, the first time."""

    def __init__(self, images: Calibration) -> None:
        self._images = images
        self._most = 0

    def __len__(self) -> int:
        return math.ceil(len(self._images) / self._images.batch)

    def __iter__(self) -> Iterator[Images]:
        for number, one in enumerate(self._images, 1):
            if number > self._most:  # NNCF goes through them several times
                self._most = number
                child.notify("calibrating", min(number * self._images.batch, len(self._images)), len(self._images))
            yield one


def quantise(model: ov.Model, images: _Logged) -> ov.Model:
    """Return a graph with 8-bit weights and activations up to the last layers with weights."""
    return nncf.quantize(
        model,
        nncf.Dataset(images),
        preset=nncf.QuantizationPreset.MIXED,  # SiLU is not symmetric
        subset_size=max(len(images), 1),
        ignored_scope=nncf.IgnoredScope(names=graph.tail(model), validate=False),
    )
