"""Reads the zip container of ``torch.save`` with every length checked before it is believed."""

from __future__ import annotations

import struct
import zipfile
import zlib
from typing import TYPE_CHECKING

from segx.errors import ModelError

if TYPE_CHECKING:
    from io import BufferedReader
    from pathlib import Path

MAX_ENTRIES = 200_000
MAX_PICKLE = 4 << 20
"""Bytes of the pickle that describes the tensors; a 72-million-parameter model needs about 200 thousand."""

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_ENCRYPTED, _DATA_DESCRIPTOR = 0x1, 0x8
_ZIP64 = 0xFFFFFFFF


class Archive:
    """An open container: one pickle, and one stored (never compressed) entry for each storage.

    Args:
        path: The file, for messages.
        file: It, open; closed with this.

    Raises:
        ModelError: The file is not a zip, or its directory says something that cannot be.
    """

    def __init__(self, path: Path, file: BufferedReader) -> None:
        self.path = path
        self._file = file
        try:
            self._entries = self._checked(zipfile.ZipFile(self._file).infolist())
            self.root = self._root()
        except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError) as error:
            self.close()
            raise self._damaged(f"the zip directory cannot be read ({error})") from error
        except ModelError:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def pickle(self) -> bytes:
        """Return the pickle that describes what the container holds."""
        size = self._entry("data.pkl").file_size
        if size > MAX_PICKLE:
            raise self._damaged(f"its pickle is {size} bytes, more than the {MAX_PICKLE} a model needs")
        buffer = bytearray(size)
        self._read("data.pkl", memoryview(buffer))
        return bytes(buffer)

    def check_byte_order(self) -> None:
        """Refuse a file written on a big-endian machine."""
        if f"{self.root}/byteorder" not in self._entries:
            return
        size = self._entry("byteorder").file_size
        buffer = bytearray(min(size, 16))
        if size <= 16:
            self._read("byteorder", memoryview(buffer))
        if bytes(buffer) != b"little":
            raise self._damaged("its numbers are not little-endian")

    def size(self, key: str) -> int:
        """Return the length in bytes of a storage."""
        return self._entry(f"data/{key}").file_size

    def read_into(self, key: str, buffer: memoryview) -> None:
        """Fill a buffer of exactly the storage's size with its bytes.

        Raises:
            ModelError: The bytes are missing or their checksum differs.
        """
        self._read(f"data/{key}", buffer)

    def _read(self, name: str, buffer: memoryview) -> None:
        entry = self._entry(name)
        self._file.seek(self._data_offset(entry))
        target = buffer.cast("B")
        if len(target) != entry.file_size or not _fill(self._file, target):
            raise self._damaged(f"entry {entry.filename!r} is cut short")
        if zlib.crc32(target) != entry.CRC:
            raise self._damaged(f"the checksum of entry {entry.filename!r} differs")

    def _entry(self, name: str) -> zipfile.ZipInfo:
        try:
            return self._entries[f"{self.root}/{name}"]
        except KeyError:
            raise self._damaged(f"entry {name!r} is missing") from None

    def _checked(self, entries: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
        if len(entries) > MAX_ENTRIES:
            raise self._damaged(f"it has {len(entries)} entries, more than the {MAX_ENTRIES} allowed")
        end = self.path.stat().st_size
        checked: dict[str, zipfile.ZipInfo] = {}
        for entry in sorted(entries, key=lambda item: item.header_offset, reverse=True):
            self._check_entry(entry, end)
            if entry.filename in checked:
                raise self._damaged(f"entry {entry.filename!r} is there twice")
            checked[entry.filename] = entry
            end = entry.header_offset
        if end != 0:
            raise self._damaged("something stands before its first entry")
        return checked

    def _check_entry(self, entry: zipfile.ZipInfo, end: int) -> None:
        name = entry.orig_filename
        parts = name.split("/")
        if entry.filename != name or "\\" in name or not name.isprintable() or {"", ".", ".."} & set(parts):
            raise self._damaged(f"entry name {name[:80]!r} is not allowed")
        if entry.flag_bits & _ENCRYPTED:
            raise self._damaged(f"entry {name!r} is encrypted")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise self._damaged(f"entry {name!r} is compressed, which torch.save never does")
        if entry.header_offset < 0 or entry.header_offset + _LOCAL_HEADER.size + entry.file_size > end:
            raise self._damaged(f"entry {name!r} says it has {entry.file_size} bytes, which are not there")

    def _root(self) -> str:
        roots = {name.split("/", 1)[0] for name in self._entries}
        if len(roots) != 1:
            raise self._damaged("it is a zip, but not one written by torch.save")
        root = roots.pop()
        if f"{root}/constants.pkl" in self._entries:
            msg = f"{self.path}: this is a TorchScript model, not a checkpoint"
            raise ModelError(msg, hint="give it the suffix .torchscript and open it again")
        if f"{root}/data.pkl" not in self._entries:
            raise self._damaged("it is a zip, but not one written by torch.save")
        return root

    def _data_offset(self, entry: zipfile.ZipInfo) -> int:
        """Return where the bytes begin, after holding the entry's own header against the directory."""
        expected = entry.filename.encode()
        self._file.seek(entry.header_offset)
        raw = self._file.read(_LOCAL_HEADER.size + len(expected)) or b""
        if len(raw) != _LOCAL_HEADER.size + len(expected):
            raise self._damaged(f"entry {entry.filename!r} is cut short")
        magic, _, flags, method, _, _, _, packed, plain, name_length, extra_length = _LOCAL_HEADER.unpack_from(raw)
        same_name = name_length == len(expected) and raw.endswith(expected)
        unsized = bool(flags & _DATA_DESCRIPTOR)
        sizes_agree = all(size in {entry.file_size, _ZIP64} or (unsized and size == 0) for size in (packed, plain))
        if magic != b"PK\x03\x04" or method != zipfile.ZIP_STORED or not same_name or not sizes_agree:
            raise self._damaged(f"the header of entry {entry.filename!r} contradicts the directory")
        return int(entry.header_offset + _LOCAL_HEADER.size + name_length + extra_length)

    def _damaged(self, reason: str) -> ModelError:
        return ModelError(f"{self.path}: not a sound checkpoint: {reason}", hint="download or save the file again")


def _fill(file: BufferedReader, target: memoryview) -> bool:
    """Read until the target is full; a system call may give less than it was asked for."""
    filled = 0
    while filled < len(target):
        count = file.readinto(target[filled:])
        if not count:
            return False
        filled += count
    return True
