"""The graph that torch writes, and what is done to it: private traces out, constants folded, axes named, info in."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import TYPE_CHECKING, Any

import onnx
import torch

from segx.errors import ExportError, reason
from segx.io.files import write_bytes
from segx.plugin.base import INPUT_AXES
from segx.runtime import variables

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from segx.artifact import ArtifactInfo
    from segx.plugin.jobs import ExportModule

logger = logging.getLogger(__name__)

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


def strip(model: onnx.ModelProto) -> None:
    """Remove what torch notes for its own debugging: paths of local sources, stack traces, doc strings."""
    for part in _parts(model):
        for field in ("doc_string", "metadata_props"):
            if field in part.DESCRIPTOR.fields_by_name:
                part.ClearField(field)


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with constants folded and idle nodes dropped.

    Source: onnxslim (github.com/inisis/OnnxSlim).

    Raises:
        ExportError: onnxslim fails.
    """
    with variables(ORT_DISABLE_TELEMETRY="1"):  # it imports onnxruntime at work, where that is installed
        import onnxslim

        try:
            slim: onnx.ModelProto = onnxslim.slim(model)
        except Exception as error:  # a graph optimiser can fail in any way; the graph itself is sound
            msg = f"onnxslim {onnxslim.__version__} cannot simplify this graph ({error})"
            raise ExportError(msg, hint="simplify=False leaves it out") from error
    strip(slim)
    return slim


def name_axes(model: onnx.ModelProto, outputs: Mapping[str, Mapping[int, str]], info: ArtifactInfo) -> None:
    """Give open axes the names other tools know, and make sure that they are open, and the others fixed.

    Args:
        model: The graph.
        outputs: Name of each output to its axes that may be open, and what these are called.
        info: Whether any are.

    Raises:
        ExportError: An axis that was to stay open has become fixed.
    """
    dynamic = bool(info.dynamic)
    values = {INPUT: INPUT_AXES, **outputs}
    _keep_names(model, values)
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in values[value.name].items():
            dimension = value.type.tensor_type.shape.dim[axis]
            if not dynamic:
                continue
            if dimension.HasField("dim_value"):
                msg = f"axis {name} of {value.name} was to stay open but torch fixed it to {dimension.dim_value}"
                raise ExportError(msg, hint="dynamic=False, or another opset")
            dimension.dim_param = name
    if dynamic:
        model.graph.ClearField("value_info")  # it speaks of axes by their old names


def embed(model: onnx.ModelProto, info: ArtifactInfo) -> None:
    """Replace the model's metadata with this info."""
    model.ClearField("metadata_props")
    onnx.helper.set_model_props(model, info.to_metadata())


def write_info(path: Path, info: ArtifactInfo) -> None:
    """Append the metadata to a file; only one that has some already is written anew, atomically."""
    model = onnx.load(path, load_external_data=False)
    if model.metadata_props:
        embed(model, info)
        write_bytes(path, serialise(model))
        return
    rest = onnx.ModelProto()
    embed(rest, info)
    with path.open("ab") as file:
        file.write(serialise(rest))


def serialise(model: onnx.ModelProto) -> bytes:
    """Return the file's bytes; the same model gives the same bytes."""
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def check(model: onnx.ModelProto) -> None:
    """Make sure that types and shapes agree from end to end.

    Raises:
        ExportError: They do not.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the graph is not valid ONNX ({reason(error)})", hint="another opset may work") from error


def _keep_names(model: onnx.ModelProto, values: Mapping[str, Any]) -> None:
    found = [value.name for value in (*model.graph.input, *model.graph.output)]
    if found != list(values):
        raise ExportError(f"the graph has {', '.join(found)} where {', '.join(values)} were asked for")


def _parts(model: onnx.ModelProto) -> Iterator[Any]:
    """Yield every message that may carry text beside the mathematics."""
    yield model
    for function in model.functions:
        yield function
        yield from _nodes(function.node)
    yield from _graph_parts(model.graph)


def _graph_parts(graph: onnx.GraphProto) -> Iterator[Any]:
    yield graph
    yield from graph.input
    yield from graph.output
    yield from graph.value_info
    yield from graph.initializer
    yield from _nodes(graph.node)


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[Any]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            yield attribute
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g"):
                yield from _graph_parts(attribute.g)
            for graph in attribute.graphs:
                yield from _graph_parts(graph)
