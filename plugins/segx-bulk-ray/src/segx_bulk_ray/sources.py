"""Divides a source into shards: pieces of work that one worker does and one file holds the results of."""

from __future__ import annotations

import glob
import hashlib
import io
import json
import re
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from segx.errors import DataError, MissingDataError, UsageError
from segx.io.names import IMAGE_SUFFIXES
from segx_bulk_ray import places

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_TAR = (".tar",)
_PARQUET = (".parquet",)
_LIST = (".txt",)
_WILD = re.compile(r"[*?\[]")
_NAMES = ("path", "name", "address", "url", "file_name", "image")
_LARGEST = 1 << 30
"""Bytes of one member of a tar file that are read."""


@dataclass(frozen=True)
class Shard:
    """A piece of a source.

    Attributes:
        kind: ``"files"``, ``"tar"`` or ``"parquet"``.
        items: The addresses of images, or of the one file that holds them.
        group: Of a Parquet file the row group.
        images: How many there are, where that is known without reading.
    """

    kind: str
    items: tuple[str, ...]
    group: int = 0
    images: int | None = None

    def row(self, index: int) -> dict[str, Any]:
        """Return what is sent to a worker."""
        return {"index": index, "kind": self.kind, "items": list(self.items), "group": self.group}

    def __iter__(self) -> Iterator[tuple[str, bytes | DataError]]:
        """Yield address and content of each image, or why it cannot be read."""
        reader = {"files": self._files, "tar": self._tar, "parquet": self._parquet}[self.kind]
        return reader()

    def _files(self) -> Iterator[tuple[str, bytes | DataError]]:
        for address in self.items:
            yield address, _content(address)

    def _tar(self) -> Iterator[tuple[str, bytes | DataError]]:
        address = self.items[0]
        system, path = places.resolve(address)
        try:
            with system.open_input_stream(path) as stream, tarfile.open(fileobj=stream, mode="r|*") as archive:
                for member in archive:
                    if not (member.isfile() and _is_image(member.name)):
                        continue
                    name = f"{address}/{member.name.removeprefix('./')}"
                    file = archive.extractfile(member)
                    if file is None or member.size > _LARGEST:
                        yield name, DataError("it is too large for a member of a tar file")
                    else:
                        yield name, file.read()
        except (OSError, tarfile.TarError, pa.ArrowException, EOFError) as error:
            yield address, DataError(f"the tar file cannot be read on: {' '.join(str(error).split())}")

    def _parquet(self) -> Iterator[tuple[str, bytes | DataError]]:
        address = self.items[0]
        try:
            with _opened(address) as file:
                parquet = pq.ParquetFile(file)
                named, held = _columns(parquet.schema_arrow, address)
                columns = [column for column in (named, held) if column]
                table = parquet.read_row_group(self.group, columns=columns, use_threads=False)
        except (OSError, pa.ArrowException, DataError) as error:
            yield address, DataError(f"row group {self.group} cannot be read: {' '.join(str(error).split())}")
            return
        for number, row in enumerate(table.to_pylist()):
            content = row.get(held) if held else None
            inner = content if isinstance(content, dict) else {"bytes": content}
            name = (row.get(named) if named else None) or inner.get("path")
            label = str(name) if name else f"{address}#{self.group}/{number}"
            if held:
                yield label, inner.get("bytes") or DataError("it is empty")
            elif name is None:
                yield label, DataError("the row names no image")
            else:
                yield label, _content(label)


def divide(source: str | Sequence[str], *, size: int) -> list[Shard]:
    """Return the shards of a source; the same source gives the same shards.

    Args:
        source: A folder of images, of ``.tar`` files or of Parquet files, one of these files, a glob, a ``.txt`` list
            of addresses, or a sequence of addresses; on this machine or ``s3://...``.
        size: Images for each shard, where the source does not come in pieces of its own.

    Raises:
        DataError: There is nothing, or nothing in it.
    """
    if not isinstance(source, str):
        addresses = [places.absolute(address) for address in source]
    elif _WILD.search(source):
        addresses = _matching(source)
    else:
        addresses = _within(source)
    pieces: list[Shard] = []
    for suffixes, split in ((_TAR, _tar_shards), (_PARQUET, _parquet_shards)):
        if some := [address for address in addresses if address.lower().endswith(suffixes)]:
            pieces += split(some)
    # What is named is meant, whatever its suffix.
    named = not isinstance(source, str) or source.lower().endswith(_LIST)
    others = [address for address in addresses if not address.lower().endswith((*_TAR, *_PARQUET))]
    files = others if named else [address for address in others if _is_image(address)]
    if pieces and files:
        raise UsageError(f"{_named(source)} mixes images with tar or Parquet files", hint="name one kind: FOLDER/*.tar")
    pieces += [
        Shard("files", tuple(files[first : first + size]), images=len(files[first : first + size]))
        for first in range(0, len(files), size)
    ]
    if not pieces:
        raise DataError(f"{_named(source)} holds no images", hint="a folder, a glob, a .txt list, .parquet or .tar")
    return pieces


def fingerprint(shards: Sequence[Shard]) -> str:
    """Return a hash of what shards name."""
    digest = hashlib.sha256()
    for shard in shards:
        digest.update(json.dumps([shard.kind, shard.items, shard.group]).encode())
    return digest.hexdigest()


def _named(source: str | Sequence[str]) -> str:
    return source if isinstance(source, str) else f"a list of {len(source)}"


def _is_image(address: str) -> bool:
    return f".{address.rpartition('.')[2].lower()}" in IMAGE_SUFFIXES


def _content(address: str) -> bytes | DataError:
    try:
        return places.read_bytes(address)
    except DataError as error:
        return error


def _opened(address: str) -> Any:
    system, path = places.resolve(address)
    return system.open_input_file(path)


def _within(source: str) -> list[str]:
    """Return what a folder, a list or a single file names."""
    address = places.absolute(source)
    found = places.kind(address)
    if found == "nothing":
        raise MissingDataError(f"{source}: no such file or folder")
    if found == "folder":
        hidden = re.compile(r"(^|/)[._][^/]*$")
        return [name for name, _ in places.listed(address) if not hidden.search(name)]
    if source.lower().endswith(_LIST):
        return _lines(address)
    if not (_is_image(address) or address.lower().endswith((*_TAR, *_PARQUET))):
        raise UsageError(f"{source} is no image and no list", hint="a folder, a glob, a .txt list, .parquet or .tar")
    return [address]


def _lines(address: str) -> list[str]:
    """Return the addresses a list names, one a line; paths are meant from the list's folder."""
    try:
        text = places.read_bytes(address).decode("utf-8-sig")
    except DataError as error:
        raise DataError(f"{address} cannot be read: {error.message}") from None
    except UnicodeDecodeError:
        raise DataError(f"{address} is no text in UTF-8") from None
    folder = address.rpartition("/")[0]
    lines = [line.strip() for line in io.StringIO(text)]
    named = [line for line in lines if line and not line.startswith("#")]
    return [line if "://" in line or line.startswith("/") else places.join(folder, line) for line in named]


def _matching(pattern: str) -> list[str]:
    if places.is_local(pattern):
        return sorted(places.absolute(path) for path in glob.glob(pattern, recursive=True))  # noqa: PTH207 - text
    fixed = pattern[: _WILD.search(pattern).start()].rpartition("/")[0]  # type: ignore[union-attr]  # it has one
    translated = re.escape(pattern).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
    wanted = re.compile(translated)
    return [name for name, _ in places.listed(fixed) if wanted.fullmatch(name)]


def _tar_shards(addresses: Sequence[str]) -> list[Shard]:
    return [Shard("tar", (address,)) for address in addresses]


def _parquet_shards(addresses: Sequence[str]) -> list[Shard]:
    pieces = []
    for address in addresses:
        try:
            with _opened(address) as file:
                parquet = pq.ParquetFile(file)
                _columns(parquet.schema_arrow, address)
                rows = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{address} cannot be read: {' '.join(str(error).split())}") from None
        pieces += [Shard("parquet", (address,), group, images=count) for group, count in enumerate(rows)]
    return pieces


def _columns(schema: pa.Schema, address: str) -> tuple[str, str]:
    """Return the column of names and that of contents, each empty where there is none.

    Raises:
        DataError: There is neither.
    """

    def holds(kind: pa.DataType) -> bool:
        inner = pa.types.is_struct(kind) and any(field.name == "bytes" for field in kind)
        return inner or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    held = next((field.name for field in schema if holds(field.type)), "")
    texts = {field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)}
    named = next((name for name in _NAMES if name in texts), "")
    if not (held or named):
        has = ", ".join(schema.names)
        raise DataError(f"{address} has no column of images: {has}", hint="a binary column, or text: image, path, url")
    return named, held
