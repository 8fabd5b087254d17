"""The boxes of the objects in one image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np

from segx.ops.arrays import to_numpy
from segx.structures.arrays import OnHost, ResultArray

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


class Boxes(OnHost):
    """The boxes of the objects in one image, best first.

    Args:
        data: (N, 6): x1, y1, x2, y2 in pixels of the image, score, class number; or (N, 7), with a track id before the
            score. Any array; one row may come without its axis of one.
        orig_shape: (height, width) of the image.

    Attributes:
        data: float32 (N, 6) or (N, 7).
        orig_shape: (height, width) of the image.
    """

    def __init__(self, data: Any, orig_shape: tuple[int, int]) -> None:
        self.data = ResultArray.of(np.atleast_2d(np.asarray(to_numpy(data), np.float32)))
        self.orig_shape = orig_shape
        if self.data.ndim != 2 or self.data.shape[1] not in {6, 7}:
            raise ValueError(f"boxes have the shape (N, 6), or (N, 7) with track ids, not {self.data.shape}")

    @classmethod
    def empty(cls, orig_shape: tuple[int, int]) -> Self:
        """Return boxes of no objects."""
        return cls(np.zeros((0, 6), np.float32), orig_shape)

    @property
    def xyxy(self) -> ResultArray:
        """float32 (N, 4): x1, y1, x2, y2 in pixels."""
        return self.data[:, :4]  # type: ignore[no-any-return]

    @property
    def xywh(self) -> ResultArray:
        """float32 (N, 4): centre x, centre y, width, height in pixels."""
        low, high = self.data[:, :2], self.data[:, 2:4]
        return ResultArray.of(np.concatenate([(low + high) / 2, high - low], axis=1))

    @property
    def xyxyn(self) -> ResultArray:
        """:attr:`xyxy` divided by the width and height of the image."""
        return ResultArray.of(self.xyxy / self._size)

    @property
    def xywhn(self) -> ResultArray:
        """:attr:`xywh` divided by the width and height of the image."""
        return ResultArray.of(self.xywh / self._size)

    @property
    def conf(self) -> ResultArray:
        """float32 (N,): scores in 0..1."""
        return self.data[:, -2]  # type: ignore[no-any-return]

    @property
    def cls(self) -> ResultArray:
        """float32 (N,): class numbers."""
        return self.data[:, -1]  # type: ignore[no-any-return]

    @property
    def id(self) -> ResultArray | None:
        """float32 (N,): track ids; None where nothing was tracked."""
        return self.data[:, 4] if self.is_track else None

    @property
    def is_track(self) -> bool:
        """Whether there are track ids."""
        return bool(self.data.shape[1] == 7)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, 6) or (N, 7)."""
        return tuple(self.data.shape)

    @property
    def _size(self) -> ResultArray:
        height, width = self.orig_shape
        return ResultArray.of(np.array([width, height, width, height], np.float32))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: FBT001 - NumPy's protocol
        """Return :attr:`data`, for ``np.asarray(boxes)``."""
        return np.array(self.data, dtype, copy=copy)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: Any) -> Self:
        """Return the boxes an index, a slice, a list of numbers or a boolean array picks."""
        return type(self)(self.data[index], self.orig_shape)

    def __iter__(self) -> Iterator[Self]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"Boxes({len(self)})"
