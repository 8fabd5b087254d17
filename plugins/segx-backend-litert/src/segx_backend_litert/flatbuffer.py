"""Reads what is asked of a ``.tflite`` file before it is opened: its metadata, and what its graph takes and gives.

The file is a flatbuffer, with a zip archive of texts appended to it. The reader that LiteRT brings for its own schema
takes a tenth of a second to import, and nothing of the runtime.
"""

from __future__ import annotations

import ast
import json
import math
import mmap
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ai_edge_litert import schema_py_generated as schema

from segx.io.files import open_regular
from segx.metadata import MAX_TEXT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

METADATA = "metadata.json"
"""The first file of the archive: the names other tools read, and everything of ours under ``segx``."""
_OLDER_METADATA = ("temp_meta.txt",)
_IDENTIFIER = b"TFL3"
_EDGE_TPU = b"edgetpu-custom-op"
_BYTES = {0: 4, 1: 2, 2: 4, 3: 1, 4: 8, 7: 2, 9: 1}
"""``TensorType`` to the bytes of a number: float32, float16, int32, uint8, int64, int16, int8."""
_QUANTISED = (3, 9)
_MAX_PARTS = 100_000
"""Tensors and operators of a graph, and what its operators take and give; the largest models have a few thousand."""
_MAX_AXES = 16
TYPES = {0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 7: "int16", 9: "int8"}


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a graph takes and gives.

    Attributes:
        shape: Lengths of its one input, (N, H, W, 3).
        type: What the input's numbers are: ``"float32"``, ``"uint8"``.
        outputs: Names of its outputs, as the signature gives them; none where it has no signature.
        precision: ``"int8"`` or ``"fp16"`` where the weights are that, else ``"fp32"``.
        compiled: It is mapped onto an Edge TPU, and nothing else runs it.
    """

    shape: tuple[int, ...]
    type: str
    outputs: tuple[str, ...]
    precision: str
    compiled: bool


def read_metadata(path: Path) -> Mapping[str, Any] | None:
    """Return what the archive at the end of a file says; None: there is no archive, or no metadata in it.

    Raises:
        OSError: The file is missing, or is none.
        ValueError: It is no mapping.
    """
    with open_regular(path) as file:
        try:
            archive = zipfile.ZipFile(file)
        except zipfile.BadZipFile:
            return None
        with archive:
            name = next((name for name in (METADATA, *_OLDER_METADATA) if name in archive.namelist()), None)
            if name is None:
                return None
            if archive.getinfo(name).file_size > 4 * MAX_TEXT:
                raise ValueError(f"{name} in it is too long")
            text = archive.read(name).decode("utf-8")
    metadata = json.loads(text) if name == METADATA else ast.literal_eval(text)
    if not isinstance(metadata, dict):
        raise ValueError(f"{name} in it holds no keys and values")  # noqa: TRY004 - damage, not a caller's mistake
    return {str(key): value if isinstance(value, str) else str(value) for key, value in metadata.items()}


def read_header(path: Path) -> Header:
    """Return what a file's graph takes and gives, having looked whether all of it is there.

    Raises:
        OSError: The file is missing, or is none.
        ValueError: It is empty, cut short, or no such model; IndexError, TypeError and struct.error likewise.
    """
    with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[4:8] != _IDENTIFIER:
            raise ValueError("it does not begin as a .tflite file does")
        model = schema.Model.GetRootAs(data, 0)
        if model.SubgraphsLength() != 1:
            raise ValueError(f"it has {model.SubgraphsLength()} graphs, not one")
        graph = model.Subgraphs(0)
        _check_counts(model, graph)
        kinds = [_check_tensor(model, graph.Tensors(index), len(data)) for index in range(graph.TensorsLength())]
        if not graph.OperatorsLength() or graph.InputsLength() != 1:
            raise ValueError(f"its graph has {graph.OperatorsLength()} operators and {graph.InputsLength()} inputs")
        for index in range(graph.OperatorsLength()):
            _check_operator(graph.Operators(index), graph.TensorsLength(), model.OperatorCodesLength())
        source = graph.Tensors(graph.Inputs(0))
        weights = [kind for kind in kinds if kind]
        precision = (
            "int8" if "int8" in weights or source.Type() in _QUANTISED else "fp16" if "float16" in weights else "fp32"
        )
        custom = {model.OperatorCodes(index).CustomCode() for index in range(model.OperatorCodesLength())}
        return Header(
            shape=tuple(int(source.Shape(axis)) for axis in range(source.ShapeLength())),
            type=TYPES.get(source.Type(), "?"),
            outputs=_signature(model),
            precision=precision,
            compiled=_EDGE_TPU in custom,
        )


def _check_counts(model: Any, graph: Any) -> None:
    """Refuse a graph of more than models have: its parts may all lie at one place, so that a small file names millions.

    Raises:
        ValueError: It is one.
    """
    tensors, operators = graph.TensorsLength(), graph.OperatorsLength()
    if tensors + operators + model.OperatorCodesLength() <= _MAX_PARTS:
        ends = sum(item.InputsLength() + item.OutputsLength() for item in map(graph.Operators, range(operators)))
        axes = max((item.ShapeLength() for item in map(graph.Tensors, range(tensors))), default=0)
        if ends <= _MAX_PARTS and axes <= _MAX_AXES:
            return
    raise ValueError(f"its graph has more than {_MAX_PARTS:,} parts, or tensors of more than {_MAX_AXES} axes")


def _check_tensor(model: Any, tensor: Any, size: int) -> str:
    """Return what the numbers of a constant of more than a few elements are, nothing for other tensors.

    Raises:
        ValueError: Its numbers do not lie in the file, or are not as many as its shape says.
    """
    buffer = model.Buffers(tensor.Buffer())
    length = buffer.DataLength()
    if not length:
        return ""
    # Where the bytes of a vector lie is not told by the reader's own functions; its first byte's place is.
    begin = buffer._tab.Vector(buffer._tab.Offset(4))  # noqa: SLF001
    wanted = math.prod(int(tensor.Shape(axis)) for axis in range(tensor.ShapeLength())) * _BYTES.get(tensor.Type(), 0)
    if begin + length > size or (wanted and wanted != length):
        raise ValueError(f"{length} bytes of numbers are not as many as they should be, or not all there")
    return TYPES.get(tensor.Type(), "") if length > 256 else ""


def _check_operator(operator: Any, tensors: int, codes: int) -> None:
    """Refuse an operator that reads or writes what is not there.

    Raises:
        ValueError: It does.
    """
    read = [operator.Inputs(place) for place in range(operator.InputsLength())]
    written = [operator.Outputs(place) for place in range(operator.OutputsLength())]
    if not written or any(not -1 <= index < tensors for index in read + written) or operator.OpcodeIndex() >= codes:
        raise ValueError("an operator reads or writes what is not there")


def _signature(model: Any) -> tuple[str, ...]:
    if not model.SignatureDefsLength():
        return ()
    signature = model.SignatureDefs(0)
    return tuple(signature.Outputs(place).Name().decode() for place in range(signature.OutputsLength()))


def channels_first(shape: Sequence[int]) -> bool:
    """Say whether a file takes images (N, 3, H, W), as some converters of PyTorch models write it."""
    return shape[1] == 3 and shape[3] != 3
