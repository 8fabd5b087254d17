"""Reads the header of a safetensors file, checked, without torch; format: https://github.com/huggingface/safetensors."""

from __future__ import annotations

import json
import math
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO

from segx.errors import ModelError
from segx_torch.unpickle import ITEM_SIZE, MAX_DIMENSIONS, StorageRef, TensorRef

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MAX_HEADER = 16 << 20
MAX_TENSORS = 200_000
CHECKSUMS, DEFINITION = "crc32", "definition"
"""Keys of segx's own metadata: the CRC-32 of each tensor, and the content of the model's YAML; both JSON."""

_DTYPES: Mapping[str, str] = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


class SafetensorsFile:
    """An open safetensors file.

    Attributes:
        path: The file.
        metadata: Text keys and values of its ``__metadata__``.
        tensors: Name to where its numbers are; the storage's key is the tensor's name.

    Raises:
        ModelError: The header is not valid.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO = path.open("rb")
        self._ranges: dict[str, tuple[int, int]] = {}
        try:
            header = self._header()
            self.metadata = self._metadata(header.pop("__metadata__", {}))
            self.tensors = {name: self._tensor(name, entry) for name, entry in header.items()}
            self._check_ranges()
            self._checksums = self._own_checksums()
        except ModelError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def size(self, key: str) -> int:
        """Return the length in bytes of a tensor's numbers."""
        begin, end = self._ranges[key]
        return end - begin

    def read_into(self, key: str, buffer: memoryview) -> None:
        """Fill a buffer of exactly the tensor's size with its numbers."""
        begin, end = self._ranges[key]
        self._file.seek(self._start + begin)
        if self._file.readinto(buffer.cast("B")) != end - begin:  # type: ignore[attr-defined]
            raise self._damaged(f"tensor {key!r} is cut short")
        if key in self._checksums and zlib.crc32(buffer) != self._checksums[key]:
            raise self._damaged(f"the checksum of tensor {key!r} differs")

    def _header(self) -> dict[str, Any]:
        total = self.path.stat().st_size
        length = int.from_bytes(self._file.read(8), "little")
        self._start = 8 + length
        self._data_size = total - self._start
        if length > min(MAX_HEADER, total - 8):
            raise self._damaged(f"its header says it has {length} bytes")
        try:
            header = json.loads(self._file.read(length), object_pairs_hook=self._without_duplicates)
        except (ValueError, RecursionError) as error:
            raise self._damaged(f"its header is not JSON ({type(error).__name__})") from error
        if not isinstance(header, dict) or len(header) > MAX_TENSORS:
            raise self._damaged("its header is not a list of tensors")
        return header

    def _without_duplicates(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise self._damaged("a name stands twice in its header")
        return result

    def _metadata(self, metadata: Any) -> dict[str, str]:
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise self._damaged("its metadata are not text")
        return metadata

    def _own_checksums(self) -> dict[str, int]:
        """Return the CRC-32 of each tensor, which segx writes because the format has none of its own."""
        try:
            checksums = json.loads(self.metadata.get(CHECKSUMS, "{}"))
        except (ValueError, RecursionError) as error:
            raise self._damaged("its checksums are not JSON") from error
        if not isinstance(checksums, dict):
            raise self._damaged("its checksums are not a table")
        return checksums

    def _tensor(self, name: str, entry: Any) -> TensorRef:
        match entry:
            case {"dtype": str(kind), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if len(entry) == 3:
                pass
            case _:
                raise self._damaged(f"tensor {name[:80]!r} is not described as dtype, shape, data_offsets")
        if kind not in _DTYPES:
            raise self._damaged(f"tensor {name[:80]!r} has the type {kind[:20]!r}, which is not read")
        if len(shape) > MAX_DIMENSIONS or not all(type(n) is int and 0 <= n < 2**40 for n in shape):
            raise self._damaged(f"tensor {name[:80]!r} has a bad shape")
        dtype, count = _DTYPES[kind], math.prod(shape)
        if not 0 <= begin <= end <= self._data_size or end - begin != count * ITEM_SIZE[dtype]:
            raise self._damaged(f"tensor {name[:80]!r} has {count} elements, which do not fit its place in the file")
        self._ranges[name] = (begin, end)
        stride = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        return TensorRef(StorageRef(dtype, name, count), 0, tuple(shape), stride)

    def _check_ranges(self) -> None:
        position = 0
        for begin, end in sorted(self._ranges.values()):
            if begin != position:
                raise self._damaged("its tensors overlap or leave gaps")
            position = end
        if position != self._data_size:
            raise self._damaged("its tensors do not fill the file")

    def _damaged(self, reason: str) -> ModelError:
        return ModelError(
            f"{self.path}: not a sound safetensors file: {reason}", hint="download or save the file again"
        )
