"""Gives a graph 8-bit weights and activations, as QuantizeLinear and DequantizeLinear pairs (QDQ).

Source: onnxruntime.quantization (ONNX Runtime, MIT), with ranges of the calibration images. Weights are int8 for each
channel, activations int8, both symmetric. What follows the last layers with weights (softmax
over distances, boxes in pixels, scores) stays float32: 8 bits leave steps of several pixels there. So the graph ends in
what it ended in before.

Runs in a process of its own (:mod:`segx.runtime.child`): the tool writes temporary files, and logs on its own.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from segx.errors import ExportError
from segx.plugin.calibration import Calibration
from segx.runtime import child, variables
from segx_export_onnx import graph
from segx_export_onnx.graph import INPUT
from segx_export_onnx.half import lift_constants, nodes_before_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from segx.plugin.jobs import ExportJob

LAYERS = ("Conv", "ConvTranspose", "MatMul", "Gemm")
"""What is computed in 8 bits: nearly all of the work. Activation functions between take in more precision than ranges
of 8 bits leave them, and runtimes fuse them with the layer before."""


def quantised(model: onnx.ModelProto, job: ExportJob) -> onnx.ModelProto:
    """Return a graph with 8-bit numbers.

    Raises:
        ExportError: There are no images to calibrate on, or the tool fails.
    """
    if job.images is None:
        raise ExportError("int8=True needs images to calibrate on", hint="data=coco8-seg.yaml")
    source, target = job.scratch / "float.onnx", job.scratch / "int8.onnx"
    onnx.save(model, source)
    child.call(
        "segx_export_onnx.quantise:run",
        {"source": str(source), "target": str(target), "images": job.images.to_dict()},
        what="ONNX Runtime's quantisation",
        notify=job.notify,
        environment={"PYTHONHASHSEED": "0"},  # it goes through sets: the same model is to give the same file
    )
    made = onnx.load(target)
    graph.strip(made)
    return made


def run(source: str, target: str, images: Mapping[str, Any]) -> None:
    """Write the quantised form of a graph.

    Args:
        source: A float32 graph, a file.
        target: The file to write, in an empty folder, where temporary files go too.
        images: What :meth:`segx.plugin.calibration.Calibration.to_dict` has written.
    """
    logging.getLogger().setLevel(logging.ERROR)  # it recommends a simplification that has been done
    tempfile.tempdir = str(Path(target).parent)
    with variables(ORT_DISABLE_TELEMETRY="1"):
        from onnxruntime import quantization

    model = onnx.load(source)
    lift_constants(model.graph)
    inside = nodes_before_weights(model)
    tail = [node.name for position, node in enumerate(model.graph.node) if position not in inside]
    quantization.quantize_static(
        model,
        target,
        _Reader(Calibration.from_dict(images)),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=list(LAYERS),
        nodes_to_exclude=tail,
        per_channel=True,
        activation_type=quantization.QuantType.QInt8,
        weight_type=quantization.QuantType.QInt8,
        calibrate_method=quantization.CalibrationMethod.MinMax,
        extra_options={
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "CalibMovingAverage": True,  # the mean of the images' ranges: the widest of many leaves coarse steps to all
            "OpTypesToExcludeOutputQuantization": list(LAYERS),
        },
    )


class _Reader:
    """Hands calibration images over, one batch after the other: onnxruntime's ``CalibrationDataReader``."""

    def __init__(self, images: Calibration) -> None:
        self.total = len(images)
        self.batches = iter(images)
        self.done = 0

    def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
        """Return the next input by its name, None at the end."""
        batch = next(self.batches, None)
        if batch is None:
            return None
        self.done = min(self.total, self.done + len(batch))
        child.notify("calibrating", self.done, self.total)
        return {INPUT: batch}
