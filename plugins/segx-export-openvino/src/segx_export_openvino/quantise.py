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

from segx.flows.calibration import Calibration
from segx.runtime import child
from segx_export_openvino import graph

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import openvino as ov

    from segx.structures.types import Images

_HEAVY = frozenset({"Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul"})
_FEW_WEIGHTS = 256
"""A layer of fewer weights is arithmetic in disguise, like the expectation over 16 bins of a box's side."""
_NOT_COMPUTED = frozenset({"Parameter", "Constant", "Result", "Convert"})


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
    model = quantise(graph.read(Path(source)), _Told(Calibration.from_dict(images)))
    graph.save(model, Path(destination), metadata, small=False)


class _Told:
    """Images to calibrate on that tell how many have been looked at, the first time."""

    def __init__(self, images: Calibration) -> None:
        self._images = images
        self._most = 0

    def __len__(self) -> int:
        return math.ceil(len(self._images) / self._images.batch)

    def __iter__(self) -> Iterator[Images]:
        for number, one in enumerate(self._images, 1):
            yield one
            if number > self._most:
                self._most = number
                child.notify("calibrating", min(number * self._images.batch, len(self._images)), len(self._images))


def quantise(model: ov.Model, images: _Told) -> ov.Model:
    """Return a graph with 8-bit weights and activations up to the last layers with weights."""
    return nncf.quantize(
        model,
        nncf.Dataset(images),
        preset=nncf.QuantizationPreset.MIXED,  # SiLU is not symmetric
        subset_size=max(len(images), 1),
        ignored_scope=nncf.IgnoredScope(names=tail(model), validate=False),
    )


def tail(model: ov.Model) -> list[str]:
    """Return the names of the operations after which no layer with weights comes."""
    ahead: set[str] = set()
    after: list[str] = []
    for node in reversed(model.get_ordered_ops()):
        name = node.get_friendly_name()
        readers = {end.get_node().get_friendly_name() for out in node.outputs() for end in out.get_target_inputs()}
        if _is_heavy(node) or readers & ahead:
            ahead.add(name)
        elif node.get_type_name() not in _NOT_COMPUTED:
            after.append(name)
    return after


def _is_heavy(node: ov.Node) -> bool:
    if node.get_type_name() not in _HEAVY:
        return False
    shape = node.input_value(1).get_partial_shape()
    if shape.is_dynamic:
        return True
    count = 1
    for length in shape.to_shape():
        count *= int(length)
    return count >= _FEW_WEIGHTS
