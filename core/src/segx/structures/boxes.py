"""The boxes of the objects in one image."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Boxes:
    """The boxes of the objects in one image, best first.

    Attributes:
        data: float32 (N, 6): x1, y1, x2, y2 in pixels of the image, score, class number.
        orig_shape: (height, width) of the image.
    """

    data: NDArray[np.float32]
    orig_shape: tuple[int, int]

    def __post_init__(self) -> None:
        if self.data.ndim != 2 or self.data.shape[1] != 6:
            msg = f"boxes have the shape (N, 6), not {self.data.shape}"
            raise ValueError(msg)

    @classmethod
    def empty(cls, orig_shape: tuple[int, int]) -> Boxes:
        """Return boxes of no objects."""
        return cls(np.zeros((0, 6), np.float32), orig_shape)

    @property
    def xyxy(self) -> NDArray[np.float32]:
        """float32 (N, 4): x1, y1, x2, y2 in pixels."""
        return self.data[:, :4]

    @property
    def xywh(self) -> NDArray[np.float32]:
        """float32 (N, 4): centre x, centre y, width, height in pixels."""
        low, high = self.data[:, :2], self.data[:, 2:4]
        return np.concatenate([(low + high) / 2, high - low], axis=1)

    @property
    def xyxyn(self) -> NDArray[np.float32]:
        """:attr:`xyxy` divided by the width and height of the image."""
        return self.xyxy / self._size

    @property
    def xywhn(self) -> NDArray[np.float32]:
        """:attr:`xywh` divided by the width and height of the image."""
        return self.xywh / self._size

    @property
    def conf(self) -> NDArray[np.float32]:
        """float32 (N,): scores in 0..1."""
        return self.data[:, 4]

    @property
    def cls(self) -> NDArray[np.float32]:
        """float32 (N,): class numbers."""
        return self.data[:, 5]

    @property
    def id(self) -> None:
        """Track ids: always None, nothing here tracks."""
        return None

    @property
    def is_track(self) -> bool:
        """Whether there are track ids: never."""
        return False

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, 6)."""
        return self.data.shape

    @property
    def _size(self) -> NDArray[np.float32]:
        height, width = self.orig_shape
        return np.array([width, height, width, height], np.float32)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: Any) -> Boxes:
        """Return the boxes an index, a slice, a list of numbers or a boolean array picks."""
        return dataclasses.replace(self, data=np.atleast_2d(self.data[index]))

    def __iter__(self) -> Iterator[Boxes]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"Boxes({len(self)})"

    def cpu(self) -> Boxes:
        """Return these boxes: they are NumPy arrays already."""
        return self

    numpy = cpu

    def to(self, *_args: Any, **_kwargs: Any) -> Boxes:
        """Return these boxes: they are NumPy arrays already."""
        return self
