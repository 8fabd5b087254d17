"""Names of types that several rooms write in their signatures, and of devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    Images = NDArray[np.float32]
    Array = Any


class Device(str):
    """The name of a device, ``"cpu"`` or ``"cuda:0"``, that also answers as a ``torch.device`` does."""

    __slots__ = ()

    @property
    def type(self) -> str:
        """Its kind: ``"cuda"``."""
        return self.partition(":")[0]

    @property
    def index(self) -> int | None:  # type: ignore[override]  # nobody looks for a letter of it
        """Its number; None where it has none."""
        number = self.partition(":")[2]
        return int(number) if number.isdecimal() else None

    def __eq__(self, other: object) -> bool:  # a torch.device is no text, and equals none
        return str.__eq__(self, other if isinstance(other, str) or not hasattr(other, "type") else str(other)) is True

    __hash__ = str.__hash__
