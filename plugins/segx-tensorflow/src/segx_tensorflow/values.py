"""Tensors with channels last that know which of ONNX's axes each of their own is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def channels_last(rank: int) -> tuple[int, ...]:
    """Return ONNX's axes in TensorFlow's order: (0, 2, 3, 1) for images."""
    return (0, *range(2, rank), 1) if rank > 2 else tuple(range(rank))


def as_in_onnx(rank: int) -> tuple[int, ...]:
    """Return ONNX's axes in their own order."""
    return tuple(range(rank))


@dataclass(frozen=True)
class Value:
    """A tensor, and how it lies: a transposed graph is written by renaming axes, not by moving numbers.

    Attributes:
        tensor: TensorFlow's or Keras' own.
        axes: Axis i of the tensor is ONNX's axis ``axes[i]``.
    """

    tensor: Any
    axes: tuple[int, ...]

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.axes)

    def place(self, axis: int) -> int:
        """Return which axis of the tensor an axis of ONNX's is; -1 is ONNX's last."""
        return self.axes.index(axis % self.rank)

    def moved_to(self, axes: Sequence[int]) -> list[int]:
        """Return the order that brings the tensor's axes into another layout."""
        return [self.axes.index(axis) for axis in axes]
