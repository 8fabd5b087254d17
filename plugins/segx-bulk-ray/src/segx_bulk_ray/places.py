"""Files by address, on this machine or in an object store: what ``pyarrow.fs`` opens, else what fsspec does."""

from __future__ import annotations

import contextlib
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import fs

from segx.errors import DataError, MissingPluginError
from segx.io.files import read_regular, replacing

if TYPE_CHECKING:
    from collections.abc import Iterator

_WHOLE_ADDRESS = ("http", "https")
"""Schemes whose file systems want the whole address, not what stands behind the scheme."""

_LARGEST = 2 << 30
"""Bytes of an image, a list or a record on this machine."""


def resolve(address: str | os.PathLike[str]) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it.

    Args:
        address: A path of this machine, or ``scheme://...``. ``s3://`` takes endpoint, region and credentials from the
            variables that AWS's own tools read (``AWS_ENDPOINT_URL``, ``AWS_REGION``, ...).

    Raises:
        MissingPluginError: Nothing installed opens such addresses.
    """
    text = os.fspath(address)
    scheme, separator, rest = text.partition("://")
    if not separator or scheme == "file":
        return fs.LocalFileSystem(), os.path.abspath(rest if separator else text)  # noqa: PTH100 - text in, text out
    host = rest.partition("/")[0]
    return _file_system(scheme, host), text if scheme in _WHOLE_ADDRESS else rest


@lru_cache(maxsize=64)
def _file_system(scheme: str, host: str) -> Any:
    """Return the file system; it is kept, for it holds open connections."""
    try:
        return fs.FileSystem.from_uri(f"{scheme}://{host}")[0]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass  # not one of pyarrow's own
    try:
        import fsspec  # noqa: PLC0415 - needed for such addresses only

        return fs.PyFileSystem(fs.FSSpecHandler(fsspec.filesystem(scheme)))
    except (ImportError, ValueError) as error:
        raise MissingPluginError(
            f"{scheme}:// cannot be opened: {error}", hint=f"pip install the package of fsspec that knows {scheme}://"
        ) from None


def is_local(address: str | os.PathLike[str]) -> bool:
    """Return True for a path of this machine."""
    return isinstance(resolve(address)[0], fs.LocalFileSystem)


def absolute(address: str | os.PathLike[str]) -> str:
    """Return an address that means the same in a process that stands in another folder."""
    return resolve(address)[1] if is_local(address) else os.fspath(address)


def join(address: str, *names: str) -> str:
    """Return the address of something within a folder."""
    return "/".join([address.rstrip("/"), *names])


def like(address: str, path: str) -> str:
    """Return the address of a path in the file system of another address."""
    scheme, separator, _ = address.partition("://")
    return path if not separator or scheme == "file" or "://" in path else f"{scheme}://{path}"


def read_bytes(address: str) -> bytes:
    """Return what a file holds.

    Raises:
        DataError: With the reason alone; whoever asks knows the name.
    """
    system, path = resolve(address)
    try:
        if isinstance(system, fs.LocalFileSystem):
            return read_regular(path, limit=_LARGEST)
        with system.open_input_stream(path) as file:
            return bytes(file.read())
    except (OSError, pa.ArrowException) as error:
        raise DataError(_reason(error)) from None


@contextlib.contextmanager
def writing(address: str) -> Iterator[Any]:
    """Give a stream for what becomes a file, over one that is there, when the block ends well: whole or not at all.

    An object store shows an object once it is complete; on a disk it is written beside its place and then moved.

    Raises:
        DataError: It cannot be written.
    """
    system, path = resolve(address)
    with contextlib.ExitStack() as stack:
        if isinstance(system, fs.LocalFileSystem):
            path = str(stack.enter_context(replacing(Path(path))))
        try:
            with system.open_output_stream(path) as file:
                yield file
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{address} cannot be written: {_reason(error)}") from None


def listed(address: str) -> list[tuple[str, int]]:
    """Return the files below a folder, with their sizes, by name; none where there is no such folder.

    Raises:
        DataError: The folder cannot be listed.
    """
    system, path = resolve(address)
    try:
        found = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{address} cannot be listed: {_reason(error)}") from None
    return sorted((like(address, item.path), item.size or 0) for item in found if item.type == fs.FileType.File)


def kind(address: str) -> str:
    """Return ``"file"``, ``"folder"`` or ``"nothing"``.

    Raises:
        DataError: The store cannot be asked.
    """
    system, path = resolve(address)
    try:
        found = system.get_file_info(path).type
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{address} cannot be reached: {_reason(error)}") from None
    return {fs.FileType.File: "file", fs.FileType.Directory: "folder"}.get(found, "nothing")


def _reason(error: BaseException) -> str:
    strerror = getattr(error, "strerror", None)
    return " ".join(str(strerror or error).split()) or type(error).__name__
