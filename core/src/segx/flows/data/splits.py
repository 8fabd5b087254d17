"""All splits of a data set, opened."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from segx.data import open_splits
from segx.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segx.data import OpenSplits
    from segx.interfaces import Dataset
    from segx.registry import Registry

_PART = ".part"


def open_data(options: DataOptions, registry: Registry, *, only: str | None = None) -> OpenSplits:
    """Return all splits of a data set that are there, or one.

    Raises:
        UsageError: No data set is named.
        DataError: It is missing, or the split that is asked for is.
    """
    if not options.data:
        raise UsageError("no data set is named", hint="data=coco8-seg.yaml")
    wanted = None if only is None else (only,)
    crowds = options.crowds == "objects"
    return open_splits(options.data, wanted, images=options.images, registry=registry, crowds=crowds)


class DataOptions(Protocol):
    """Options that say which data set is meant, and how it is taken."""

    @property
    def data(self) -> str:
        """The data set, as it is named."""
        ...

    @property
    def images(self) -> Path | None:
        """Folder of the images, when it has to be said."""
        ...

    @property
    def crowds(self) -> str:
        """Whether crowds are objects."""
        ...


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a folder to write into that becomes ``path`` when the block ends well, else it is removed.

    ``path`` must not exist yet, or be empty.

    Raises:
        UsageError: None is named.
        DataError: It holds something already, or cannot be written.
    """
    if path == Path():
        raise UsageError("no folder to write is named", hint="output=FOLDER")
    folder = path.expanduser().absolute()
    try:
        there = folder.exists()
        work = folder / _PART if there else folder.with_name(f".{folder.name}{_PART}")
        if there and (not folder.is_dir() or any(item.name != _PART for item in folder.iterdir())):
            what = "holds something already" if folder.is_dir() else "is a file"
            raise DataError(f"{path} {what}", hint="name a folder that does not exist yet")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error
    try:
        yield work
        if there:
            for item in work.iterdir():
                item.rename(folder / item.name)
        else:
            work.rename(folder)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error
    except DataError as error:
        raise DataError(error.message.replace(str(work), str(folder)), hint=error.hint) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def stems(dataset: Dataset) -> list[str]:
    """Return a file stem for each picture, all different, without folders."""
    paths = dataset.paths()
    short = [path.stem for path in paths]
    if len(set(short)) == len(short):
        return short
    common = os.path.commonpath([path.parent for path in paths])
    return [os.path.relpath(path, common).replace(os.sep, "_").replace(".", "_") for path in paths]
