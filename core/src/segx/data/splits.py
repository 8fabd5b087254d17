"""All splits of a data set, opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from segx.data.definition import open_splits
from segx.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from segx.data.definition import OpenSplits
    from segx.plugin.registry import Registry


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
