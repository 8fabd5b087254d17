"""Which operators of a graph the Edge TPU takes, looked up before its compiler is asked.

The compiler maps a graph up to the first operator that it does not know; all that follows runs on the host's processor.
Of a version of an operator that is newer than it knows it makes an error, without saying which one it is.

Source: coral.ai/docs/edgetpu/models-intro, "Supported operations"; the highest versions are those that compiler 16 was
reported to take, or that graphs of ours have which it takes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ai_edge_litert import schema_py_generated as schema

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_ANY = 99
KNOWN: Mapping[str, int] = {
    **dict.fromkeys(
        (
            *("AVERAGE_POOL_2D", "DEPTHWISE_CONV_2D", "EXPAND_DIMS", "FULLY_CONNECTED", "L2_NORMALIZATION", "LSTM"),
            *(
                "MAXIMUM",
                "MEAN",
                "MINIMUM",
                "PACK",
                "PRELU",
                "REDUCE_MAX",
                "REDUCE_MIN",
                "RELU",
                "RELU6",
                "RELU_N1_TO_1",
            ),
            *("RESIZE_BILINEAR", "RSQRT", "SOFTMAX", "SPACE_TO_DEPTH", "SPLIT", "SQUARED_DIFFERENCE", "SQUEEZE"),
            *("STRIDED_SLICE", "SUB", "SUM", "TANH", "TRANSPOSE", "UNIDIRECTIONAL_SEQUENCE_LSTM"),
        ),
        _ANY,
    ),
    **dict.fromkeys(("ADD", "CONCATENATION", "LOGISTIC", "MAX_POOL_2D", "MUL", "PAD", "SLICE"), _ANY),
    "CONV_2D": 5,
    "QUANTIZE": 2,
    "RESHAPE": _ANY,
    "RESIZE_NEAREST_NEIGHBOR": _ANY,
    "TRANSPOSE_CONV": 3,
}
"""Operator to the highest version that the compiler takes."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What of a graph the accelerator takes.

    Attributes:
        operators: Operator and version to how often it occurs.
        too_new: Operators of versions that the compiler does not take.
        on_host: Operators that the accelerator has not.
        inputs: What the graph is fed: ``"UINT8"``.
        open_sizes: Names of tensors whose sizes are open.
    """

    operators: Mapping[tuple[str, int], int]
    too_new: tuple[str, ...]
    on_host: tuple[str, ...]
    inputs: tuple[str, ...]
    open_sizes: tuple[str, ...]


def look(path: Path) -> Report:
    """Return what of a ``.tflite`` file the accelerator takes.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no such model; struct.error and IndexError likewise.
    """
    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    names = _names(schema.BuiltinOperator)
    types = _names(schema.TensorType)
    graph = model.Subgraphs(0)
    counted: Counter[tuple[str, int]] = Counter()
    for index in range(graph.OperatorsLength()):
        code = model.OperatorCodes(graph.Operators(index).OpcodeIndex())
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        counted[names[number], code.Version()] += 1
    tensors = [graph.Tensors(index) for index in range(graph.TensorsLength())]
    return Report(
        operators=dict(sorted(counted.items())),
        too_new=tuple(f"{name} {version}" for name, version in sorted(counted) if version > KNOWN.get(name, version)),
        on_host=tuple(sorted({name for name, _ in counted if name not in KNOWN})),
        inputs=tuple(types[tensors[graph.Inputs(place)].Type()] for place in range(graph.InputsLength())),
        open_sizes=tuple(
            tensor.Name().decode()
            for tensor in tensors
            if any(tensor.ShapeSignature(axis) < 0 for axis in range(tensor.ShapeSignatureLength()))
        ),
    )


def _names(enumeration: Any) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}
