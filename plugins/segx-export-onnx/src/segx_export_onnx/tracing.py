"""Has torch write the graph, by the route that is right for the operator set asked for."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import TYPE_CHECKING, Any

import onnx
import torch

from segx.errors import ExportError
from segx.plugin.base import INPUT_AXES, reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segx.plugin.jobs import ExportModule

INPUT = "images"

LAST_LEGACY_OPSET = 17
"""torch.export's graphs are valid from 18 on; below, only the older route writes what it says."""

_NOISE = (
    # torch about itself; nothing that whoever exports a model can act on
    r".*isinstance\(treespec, LeafSpec\).*",
    r".*You are using the legacy TorchScript-based ONNX export.*",
    r".*The feature will be removed\. Please remove usage of this function.*",
)


def trace(source: ExportModule, *, opset: int, dynamic: bool) -> onnx.ModelProto:
    """Return the graph of a module.

    Raises:
        ExportError: torch cannot write it.
    """
    example = torch.from_numpy(source.example)
    if dynamic and len(example) == 1:
        example = example.repeat(2, 1, 1, 1)  # torch.export takes a length of 1 for a constant
    route = _trace_legacy if opset <= LAST_LEGACY_OPSET else _trace_program
    try:
        with _quiet(), torch.no_grad():
            return route(source, example, opset, dynamic=dynamic)
    except (torch.onnx.OnnxExporterError, RuntimeError, ValueError, TypeError) as error:
        msg = f"torch {torch.__version__} cannot write opset {opset} of this model ({reason(error)})"
        raise ExportError(msg, hint="another opset may work: opset=17 takes torch's other route") from error


def _trace_program(source: ExportModule, example: torch.Tensor, opset: int, *, dynamic: bool) -> onnx.ModelProto:
    shapes: Any = (dict.fromkeys(INPUT_AXES, torch.export.Dim.DYNAMIC),) if dynamic else None
    program = torch.onnx.export(
        source.module,
        (example,),
        dynamo=True,
        opset_version=opset,
        external_data=False,
        dynamic_shapes=shapes,
        input_names=[INPUT],
        output_names=list(source.info.outputs),
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    model: onnx.ModelProto = program.model_proto
    return model


def _trace_legacy(source: ExportModule, example: torch.Tensor, opset: int, *, dynamic: bool) -> onnx.ModelProto:
    outputs = source.info.outputs
    axes = {INPUT: dict(INPUT_AXES)}
    axes.update({name: dict(open_) for name, open_ in zip(outputs, source.output_axes, strict=True)})
    buffer: Any = io.BytesIO()  # this route takes one, though the signature it shares with the other does not say so
    torch.onnx.export(
        source.module,
        (example,),
        buffer,
        dynamo=False,
        opset_version=opset,
        dynamic_axes=axes if dynamic else None,
        input_names=[INPUT],
        output_names=list(outputs),
        verbose=False,
    )
    return onnx.load_from_string(buffer.getvalue())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's remarks about its own insides away from people who export a model."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [item.level for item in loggers]
    with warnings.catch_warnings():
        for message in _NOISE:
            warnings.filterwarnings("ignore", message=message)
        for item in loggers:
            item.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for item, level in zip(loggers, levels, strict=True):
                item.setLevel(level)
